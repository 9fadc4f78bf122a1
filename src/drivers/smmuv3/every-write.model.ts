/**
 * The driver on the model of the hardware, looked at after every single store that it makes into memory: what each stream
 * translates, with each PASID, is then what the objects said before the operation or what they say after it. So a change
 * is never torn, and what is mapped before and after never faults. Who looks, and how: `every-store.test-support.ts`.
 */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { FeatureChoices } from "../../hardware/smmuv3/index.ts";
import {
  ALLOC_NEST_PARENT,
  ALLOC_PASID,
  attachPasid,
  Cpu,
  Device,
  type Domain,
  detachPasid,
  type Group,
  newGather,
  type PagingDomain,
  PROT_READ,
  PROT_WRITE,
  replacePasid,
  type SvaDomain,
  type UserData,
  type Viommu,
  type ViommuServices,
} from "../../iommu/index.ts";
import { LibraryProcess, PAGE_READ, PAGE_SIZE } from "../../memory/index.ts";
import { EBUSY, EINVAL, EOPNOTSUPP, Refusal, type Task } from "../../runtime/index.ts";
import type { SmmuV3PagingDomain } from "./domain.ts";
import { NO_PASID, type View, WatchedDriver } from "./every-store.test-support.ts";
import { GuestTables } from "./guest.test-support.ts";
import { HWPT_DATA_ARM_SMMUV3 } from "./user-data.ts";

/** Two in one leaf of a context table with two levels, one in another. */
const PASIDS = [1, 2, 1500];
/** Two pages in one table, and one elsewhere. */
const PLACES = [0x4000_0000, 0x4000_1000, 0x9_8020_0000];
/** Domains by number: stage 1, stage 2, a guest's stage 1 above each of these, and the memory of a process. */
const STAGE2_FROM = 3;
const NESTED_FROM = 5;
const PROCESS = 7;
/** Where guests have their memory, and where it is: for each stage 2. */
const GUEST = { ipa: 0x8000_0000, size: 0x10_0000 };
const GUEST_RAM = [0x300_0000, 0x310_0000];

const operation = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({ do: fc.constant("attach" as const), group: fc.nat(2), domain: fc.nat(PROCESS - 1) }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("detach" as const), group: fc.nat(2) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("own" as const), group: fc.nat(2) }) },
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant("attach PASID" as const),
      group: fc.nat(1),
      pasid: fc.constantFrom(...PASIDS),
      domain: fc.constantFrom(0, 1, 2, 3, NESTED_FROM, PROCESS, PROCESS),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("detach PASID" as const),
      group: fc.nat(1),
      pasid: fc.constantFrom(...PASIDS),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constantFrom("map" as const, "unmap" as const),
      domain: fc.nat(NESTED_FROM - 1),
      place: fc.nat(PLACES.length - 1),
      frame: fc.nat(64),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("exit" as const) }) },
);
type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never;

class World extends WatchedDriver {
  private readonly devices: readonly Device[];
  private readonly groups: readonly Group[];
  private readonly paging: PagingDomain[] = [];
  private readonly nested: Domain[] = [];
  private readonly viommus: Viommu[] = [];
  private readonly cpu: Cpu;
  private readonly process: LibraryProcess;
  /** Made when first attached: its ASID may be in use. */
  private ofProcess: SvaDomain | undefined;
  private readonly mappings = new Map<Domain, Map<number, number>>();

  constructor(choices: FeatureChoices) {
    super({ substreamIdBits: 16, ...choices });
    const { system, memory } = this;
    this.cpu = new Cpu(system, memory);
    this.process = new LibraryProcess(system, memory);
    this.process.memory.map(1, { address: PLACES[0] });
    this.cpu.broadcastTo((asid, start, size) => this.hardware.hearTlbInvalidation(asid, start, size));
    // The first has two streams and shares a group with one that has another number of PASIDs; the last has no PASIDs.
    const device = (name: string, pasidBits: number, ...streamIds: number[]): Device =>
      new Device({ name, firmware: { instance: "smmu", streamIds, pasidBits } });
    this.devices = [device("a", 16, 8, 9), device("b", 11, 16), device("c", 16, 24), device("d", 0, 32)];
    const deviceGroup = this.driver.deviceGroup.bind(this.driver);
    this.driver.deviceGroup = (device, core) => (device.name === "b" ? core.groups.get(0)! : deviceGroup(device, core));
    for (const each of this.devices) this.run(this.core.probe(each));
    this.groups = [...this.core.groups.values()];
    for (let index = 0; index < NESTED_FROM; index++) {
      const flags = index < STAGE2_FROM ? ALLOC_PASID : ALLOC_NEST_PARENT;
      const domain = this.run(this.driver.allocatePaging(this.devices[0], flags, undefined));
      this.paging.push(domain);
      this.mappings.set(domain, new Map());
      // The first place is always mapped, in each domain to another page: what never may fault.
      this.map(domain, 0, 0x100 + index);
    }
    for (const [index, physical] of GUEST_RAM.entries()) this.addGuest(this.paging[STAGE2_FROM + index], physical);
    this.watch(this.reads());
  }

  do(step: Operation): void {
    this.perform(
      JSON.stringify(step),
      () => this.carryOut(step),
      () => this.expected(),
    );
  }

  /** Takes everything down; nothing may be left. */
  finish(): void {
    for (const group of this.groups) {
      for (const pasid of [...group.pasidDomains.keys()]) this.run(detachPasid(group, pasid));
      if (group.handle !== undefined) this.run(group.detach());
    }
    for (const viommu of this.viommus) this.run(viommu.free());
    for (const domain of this.paging) domain.free();
    this.ofProcess?.free();
    for (const device of [...this.devices].reverse()) this.run(this.core.release(device));
    expect(this.hardware.occupancy).toEqual({ stage1: 0, stage2: 0, stalled: 0 });
  }

  private carryOut(step: Operation): void {
    const group = "group" in step ? this.groups[step.group] : this.groups[0];
    const domain = this.domain("domain" in step ? step.domain : 0);
    if (domain === undefined) return;
    const isStage2 = "domain" in step && step.domain >= STAGE2_FROM && step.domain !== PROCESS;
    switch (step.do) {
      case "attach":
        this.expectRefusal(
          isStage2 && group.pasidDomains.size > 0 ? EBUSY : undefined,
          group.handle === undefined ? group.attach(domain, {}) : group.replace(domain, {}),
        );
        return;
      case "detach":
        if (group.handle !== undefined) this.run(group.detach());
        return;
      case "own":
        if (group.handle !== undefined || group.pasidDomains.size > 0) return;
        this.run(group.owner === undefined ? group.claim(group.devices[0], this) : group.disclaim(group.devices[0]));
        return;
      case "attach PASID": {
        const own = group.domain!;
        const isOnStage2 = own.type === "nested" || (own as Partial<SmmuV3PagingDomain>).stage === 2;
        const isGone = domain === this.ofProcess && !this.process.memory.alive;
        const isTooLarge = group.devices.some(({ iommu }) => step.pasid >= iommu!.maxPasids);
        const known = group.pasidDomains.get(step.pasid);
        if (known === domain) return;
        this.expectRefusal(
          domain.type === "nested" ? EOPNOTSUPP : isTooLarge || isStage2 || isOnStage2 || isGone ? EINVAL : undefined,
          (known === undefined ? attachPasid : replacePasid)(group, domain, step.pasid, {}),
        );
        return;
      }
      case "detach PASID":
        this.run(detachPasid(group, step.pasid));
        return;
      case "map":
        if (!this.mappings.get(domain)!.has(PLACES[step.place]))
          this.map(this.paging[step.domain], step.place, step.frame);
        return;
      case "unmap":
        if (step.place > 0 && this.mappings.get(domain)!.has(PLACES[step.place])) {
          this.unmap(this.paging[step.domain], step.place);
        }
        return;
      case "exit":
        if (!this.process.memory.alive) return;
        if (this.ofProcess !== undefined) this.mappings.get(this.ofProcess)!.clear();
        this.process.exit();
        return;
    }
  }

  /** Undefined for the memory of a process that nobody had attached before it was gone. */
  private domain(index: number): Domain | undefined {
    if (index < NESTED_FROM) return this.paging[index];
    if (index < PROCESS) return this.nested[index - NESTED_FROM];
    if (this.ofProcess === undefined && this.process.memory.alive) this.share();
    return this.ofProcess;
  }

  /** The process has one page; devices have it in their table from the first moment. */
  private share(): void {
    const mm = this.cpu.mmOf(this.process.memory);
    this.run(mm.handleFault(BigInt(PLACES[0]), PAGE_READ));
    const domain = this.run(this.driver.allocateSva(this.devices[0], mm));
    mm.get(domain);
    this.mappings.set(domain, new Map([[PLACES[0], mm.table.translate(PLACES[0])!.physical]]));
    this.ofProcess = domain;
  }

  /** A guest whose memory a stage 2 shows; it maps the first place. */
  private addGuest(parent: PagingDomain, physical: number): void {
    const { memory } = this;
    this.run(parent.map(BigInt(GUEST.ipa), physical, GUEST.size, PROT_READ | PROT_WRITE));
    const real = (ipa: number): number => ipa - GUEST.ipa + physical;
    const tables = new GuestTables(
      {
        read64: (ipa) => BigInt(memory.readWord(real(ipa))) + BigInt(memory.readWord(real(ipa) + 4)) * 2n ** 32n,
        write64: (ipa, value) =>
          memory.writeDoubleword(real(ipa), Number(value % 2n ** 32n), Number(value / 2n ** 32n)),
      },
      GUEST.ipa,
      { asid: 1 },
    );
    tables.map(PLACES[0], GUEST.ipa + 0x8000);
    const services = { virtualId: () => 1n, report: () => undefined } as Partial<ViommuServices> as ViommuServices;
    const viommu = this.run(this.driver.allocateViommu(this.devices[0], parent, 1, undefined, services));
    const bytes = new Uint8Array(new BigUint64Array(tables.streamEntry).buffer);
    const data: UserData = { type: HWPT_DATA_ARM_SMMUV3, length: bytes.length, bytes, write: () => undefined };
    const domain = this.run(viommu.allocateNested!(this.devices[0], 0, data));
    this.viommus.push(viommu);
    this.nested.push(domain);
    this.mappings.set(domain, new Map([[PLACES[0], real(GUEST.ipa + 0x8000)]]));
  }

  private expectRefusal(errno: number | undefined, code: Task<void>): void {
    try {
      this.run(code);
      expect(errno).toBeUndefined();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      expect(error.errno).toBe(errno);
    }
  }

  private map(domain: PagingDomain, place: number, frame: number): void {
    this.run(domain.map(BigInt(PLACES[place]), frame * PAGE_SIZE, PAGE_SIZE, PROT_READ | PROT_WRITE));
    this.mappings.get(domain)!.set(PLACES[place], frame * PAGE_SIZE);
  }

  private unmap(domain: PagingDomain, place: number): void {
    const gather = newGather();
    this.run(domain.unmap(BigInt(PLACES[place]), PAGE_SIZE, gather));
    this.run(domain.sync(gather));
    this.mappings.get(domain)!.delete(PLACES[place]);
  }

  /** Every (device, stream, PASID, place), in one order. */
  private *reads(): Iterable<{ device: Device; streamId: number; pasid: number; address: number }> {
    for (const device of this.devices) {
      for (const streamId of device.firmware!.streamIds) {
        for (const pasid of [NO_PASID, ...PASIDS]) {
          for (const address of PLACES) yield { device, streamId, pasid, address };
        }
      }
    }
  }

  /** The oracle: what the objects say, slowly and obviously. */
  private expected(): View {
    return [...this.reads()].map(({ device, pasid, address }) => {
      const group = device.group!;
      const ofPasid = device.pasidBits > 0 ? group.pasidDomains.get(pasid) : undefined;
      const domain = pasid === NO_PASID ? group.domain! : ofPasid;
      return domain?.type === "identity" ? address : domain && this.mappings.get(domain)?.get(address);
    });
  }
}

describe("after every store, each stream and PASID translates as before the operation or as after it", () => {
  it.each([
    ["a full-featured SMMU", {}],
    ["context tables of one level", { twoLevelContextTable: false, substreamIdBits: 10 }],
    ["without range invalidation", { rangeInvalidation: false }],
    ["with the ASIDs of the CPU", { broadcastTlb: true }],
    [
      "a stream table of one level, whose entries may be invalid in between where two words of them change",
      { twoLevelStreamTable: false, streamIdBits: 6 },
    ],
  ] as const)("%s", (_, choices) => {
    const steps = fc.array(operation, { minLength: 20, maxLength: 40, size: "max" });
    fc.assert(
      fc.property(steps, (steps) => {
        const world = new World(choices);
        for (const step of steps) world.do(step);
        world.finish();
      }),
      { numRuns: 5 },
    );
  });
});
