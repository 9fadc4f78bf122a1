/**
 * All that a machine is, as plain data that can be compared: what the core keeps, what clients see, frames in use, and
 * what the IOMMUs would find in their tables. Where a table lies does not count, nor what queues remember.
 */
import { stateOfCore, textOf } from "../iommu/state.test-support.ts";
import type { PhysicalMemory, RegisterBlock } from "../memory/index.ts";
import type { Machine, MachineIommu } from "./index.ts";

export function stateOfMachine(machine: Machine): unknown {
  const { core, memory, files, devices, iommus } = machine;
  files.refresh();
  return {
    core: stateOfCore(core, devices),
    files: textOf(files.nodes),
    frames: [memory.usedFrames, memory.adoptedFrames, memory.pinnedFrames],
    tags: iommus.map(({ instance }) =>
      "vmids" in instance ? [instance.contexts.size, instance.vmids.size] : instance.domainIds.size,
    ),
    hardware: iommus.map((iommu) => tablesOf(memory, iommu, streamsOf(machine, iommu))),
  };
}

/** The stream ids behind an IOMMU: of its devices that are there, probed or not. */
function streamsOf({ devices }: Machine, { instance }: MachineIommu): number[] {
  return devices
    .filter(({ firmware }) => firmware?.instance === instance.name)
    .flatMap(({ firmware }) => [...firmware!.streamIds]);
}

/** What a virtio IOMMU keeps, which is nowhere in memory. */
interface DeviceDomains {
  readonly endpoints: ReadonlyMap<number, { readonly id: number } | undefined>;
  readonly domains: ReadonlyMap<
    number,
    {
      readonly id: number;
      readonly bypass: boolean;
      readonly mappings: Iterable<{ readonly start: bigint; readonly last: bigint; readonly value: object }>;
    }
  >;
}

function tablesOf(memory: PhysicalMemory, iommu: MachineIommu, streams: readonly number[]): unknown {
  if (iommu.description.kind === "smmuv3") {
    const tables = new SmmuTables(memory, iommu.hardware);
    return Object.fromEntries(streams.map((stream) => [stream, tables.stream(stream)]));
  }
  const { endpoints, domains } = (iommu.hardware as unknown as { domains: DeviceDomains }).domains;
  return {
    endpoints: [...endpoints].map(([endpoint, domain]) => [endpoint, domain?.id]),
    domains: [...domains.values()].map(({ id, bypass, mappings }) => ({
      id,
      bypass,
      mappings: [...mappings].map(({ start, last, value }) => ({ start, last, ...value })),
    })),
  };
}

const STRTAB_BASE = 0x80;
const STRTAB_BASE_CFG = 0x88;
const ADDRESS = 0x000f_ffff_ffff_f000n;
/** The bits of V and Config in an STE. */
const STAGE1 = 0b1011n;
const STAGE2 = 0b1101n;
/** Substreams that tests use. */
const SUBSTREAMS = 8n;

/** What an SMMU finds from a stream on, read as the architecture says, with pointers followed and left out. */
class SmmuTables {
  private readonly memory: PhysicalMemory;
  private readonly registers: RegisterBlock;

  constructor(memory: PhysicalMemory, registers: RegisterBlock) {
    this.memory = memory;
    this.registers = registers;
  }

  stream(streamId: number): unknown {
    const base = this.registers.read64(STRTAB_BASE) & ADDRESS;
    const configuration = this.registers.read32(STRTAB_BASE_CFG);
    const split = (configuration >>> 6) & 0x1f;
    const isTwoLevel = ((configuration >>> 16) & 3) === 1;
    let address = base + BigInt(streamId) * 64n;
    if (isTwoLevel) {
      const level1 = this.word(base + BigInt(Math.floor(streamId / 2 ** split)) * 8n);
      if ((level1 & 0x1fn) === 0n) return "no second level";
      address = (level1 & ADDRESS) + BigInt(streamId % 2 ** split) * 64n;
    }
    const ste = this.words(address, 8);
    const pointer = ste[0] & ADDRESS;
    const root = ste[3] & ADDRESS;
    const shown = [ste[0] & ~ADDRESS, ste[1], ste[2], ste[3] & ~ADDRESS, ...ste.slice(4)].map(hex);
    if ((ste[0] & STAGE1) === STAGE1) return { ste: shown, contexts: this.contexts(ste[0], pointer) };
    return (ste[0] & STAGE2) === STAGE2 ? { ste: shown, leaves: this.leaves(root) } : { ste: shown };
  }

  /** Of the first substreams: a linear table, or one with leaves of 64 KiB. */
  private contexts(ste: bigint, pointer: bigint): unknown {
    const isTwoLevel = ((ste / 16n) & 3n) === 2n;
    const bits = (ste / 2n ** 59n) & 0x1fn;
    const count = bits === 0n ? 1n : SUBSTREAMS;
    const table = isTwoLevel ? this.word(pointer) & ADDRESS : pointer;
    return Array.from({ length: Number(count) }, (_, substream) => {
      const cd = this.words(table + BigInt(substream) * 64n, 8);
      const isValid = (cd[0] & 0x8000_0000n) !== 0n;
      return isValid
        ? { cd: [cd[0], cd[1] & ~ADDRESS, ...cd.slice(2)].map(hex), leaves: this.leaves(cd[1] & ADDRESS) }
        : "none";
    });
  }

  /** The leaves of a table with four levels of 4 KiB, which is what 48 bits with the smallest granule take. */
  private leaves(table: bigint, level = 0, base = 0n): string[] {
    return this.words(table, 512).flatMap((descriptor, index) => {
      if ((descriptor & 1n) === 0n) return [];
      const address = base + BigInt(index) * 2n ** BigInt(39 - 9 * level);
      const isTable = level < 3 && (descriptor & 2n) !== 0n;
      return isTable ? this.leaves(descriptor & ADDRESS, level + 1, address) : [`${hex(address)}: ${hex(descriptor)}`];
    });
  }

  private word(address: bigint): bigint {
    return this.words(address, 1)[0];
  }

  private words(address: bigint, count: number): bigint[] {
    const bytes = new Uint8Array(count * 8);
    this.memory.read(Number(address), bytes);
    const view = new DataView(bytes.buffer);
    return Array.from({ length: count }, (_, index) => view.getBigUint64(index * 8, true));
  }
}

function hex(value: bigint): string {
  return `0x${value.toString(16)}`;
}
