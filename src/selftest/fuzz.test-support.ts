/**
 * Random calls on /dev/iommu with the mock bus: structs with fields that are mostly plausible (ids that exist, addresses
 * of the client, IOVAs in the aperture) and sometimes anything. What must hold whatever a client calls: no call fails but
 * with an errno; one that fails leaves the objects as they were; when the client is gone, so is everything of it.
 */
import { expect } from "vitest";
import { Ioas, IommufdContext } from "../iommufd/index.ts";
import { buildMachine, LibraryClient, presets } from "../machine/index.ts";
import { Random, Refusal } from "../runtime/index.ts";
import * as uapi from "../uapi/index.ts";

const PAGE = 4096;
const ARENA_PAGES = 64;
const APERTURE = 0x0100_0000n;
/** Calls after which a client ends and another begins. */
const CALLS_OF_A_CLIENT = 400;
/** UNMAP keeps what it did before its error; GET_INFO and INVALIDATE write while they fail, which is no object's business. */
const MAY_HAVE_EFFECT = new Set(["IOAS_UNMAP", "VFIO_IOMMU_UNMAP_DMA", "HWPT_INVALIDATE", "TEST_CMD ACCESS_RW"]);

interface Kind {
  readonly name: string;
  readonly request: number;
  readonly struct: uapi.Struct<uapi.Fields>;
  readonly op?: number;
}

const kinds: readonly Kind[] = [
  ...Object.values(uapi.iommufdCommands).map(({ name, number, struct }) => ({
    name,
    request: number,
    struct: struct as unknown as uapi.Struct<uapi.Fields>,
  })),
  ...[...uapi.testOperations].map(([op, { name, struct }]) => ({
    name: `TEST_CMD ${name}`,
    request: uapi.iommuTestCommand.number,
    struct: struct as uapi.Struct<uapi.Fields>,
    op,
  })),
  ...[...uapi.vfioContainerRequests].flatMap(([request, { name, struct }]) =>
    struct === undefined ? [] : [{ name, request, struct: struct as unknown as uapi.Struct<uapi.Fields> }],
  ),
];

/** How calls ended, by what they were: for those who want to see that all paths are taken. */
export type Tally = Map<string, { succeeded: number; refused: number }>;

/** Makes `calls` random calls. Throws what is no Refusal, or an expectation that is not met. */
export function fuzz(seed: number, calls: number): Tally {
  const random = new Random(seed);
  const machine = buildMachine(presets.empty, { mock: true, seed });
  const { usedFrames } = machine.memory;
  const tally: Tally = new Map();
  for (let done = 0; done < calls; done += CALLS_OF_A_CLIENT) {
    const client = new Client(machine, random, tally);
    for (let call = done; call < Math.min(calls, done + CALLS_OF_A_CLIENT); call++) client.step();
    client.end();
    const { memory, core } = machine;
    expect({
      used: memory.usedFrames,
      pinned: memory.pinnedFrames,
      adopted: memory.adoptedFrames,
      groups: core.groups.size,
      tasks: machine.system.tasks.unfinished.size,
    }).toEqual({ used: usedFrames, pinned: 0, adopted: 0, groups: 0, tasks: 0 });
  }
  return tally;
}

const HWPTS = ["HWPT_PAGING", "HWPT_NESTED"];

/** What the id in a field names: kinds of objects; none: any. Undefined: the field is no id. */
function kindsNamedBy(command: string, field: string): readonly string[] | undefined {
  if (field === "pt_id") return ["IOAS", ...HWPTS, "VIOMMU"];
  if (field === "hwpt_id") return command === "HWPT_INVALIDATE" ? [...HWPTS, "VIOMMU"] : HWPTS;
  if (field === "dev_id") return ["DEVICE"];
  if (field === "viommu_id") return ["VIOMMU"];
  if (field === "fault_id") return ["FAULT"];
  if (/ioas_id|object_id/.test(field)) return ["IOAS"];
  if (field !== "id") return undefined;
  if (command === "DESTROY") return [];
  if (/MOCK_DOMAIN_REPLACE|PASID/.test(command)) return ["SELFTEST"];
  if (/IOTLB/.test(command)) return ["HWPT_NESTED"];
  if (/MD_CHECK|DIRTY/.test(command)) return HWPTS;
  return /CHECK_CACHE/.test(command) ? ["DEVICE"] : ["IOAS"];
}

class Client {
  private readonly client: LibraryClient;
  private readonly context: IommufdContext;
  private readonly random: Random;
  private readonly tally: Tally;
  private readonly arena: number;
  private readonly scratch: number;
  private readonly iommu: number;
  private readonly machine: ReturnType<typeof buildMachine>;
  private readonly descriptors: number[];

  constructor(machine: ReturnType<typeof buildMachine>, random: Random, tally: Tally) {
    this.machine = machine;
    this.random = random;
    this.tally = tally;
    this.client = new LibraryClient(machine);
    this.arena = this.client.process.memory.map(ARENA_PAGES);
    this.scratch = this.client.process.memory.map(1);
    this.iommu = this.client.open("/dev/iommu");
    this.descriptors = [this.iommu, 99];
    const opened = this.client.process.file(this.iommu);
    if (opened.kind !== "ours" || !(opened.file instanceof IommufdContext)) throw new Error("no context");
    this.context = opened.file;
  }

  step(): void {
    const { random } = this;
    if (random.below(12) === 0) {
      this.useQueue();
      return;
    }
    const kind = kinds[random.below(kinds.length)];
    const view = new kind.struct(new Uint8Array(Math.max(kind.struct.size, 72))) as unknown as Record<string, unknown>;
    for (const [name, type] of Object.entries(kind.struct.fields)) {
      if (type.size <= 8 && !(view[name] instanceof Uint8Array)) view[name] = this.value(kind, name, type.size);
    }
    if (random.below(3) > 0) this.makeSense(view, kind);
    this.fix(view, kind);
    const before = this.objects();
    const refused = this.attempt(() => {
      this.client.process.memory.write(this.scratch, view.$bytes as Uint8Array);
      const result = this.client.call(this.iommu, kind.request, this.scratch);
      if (kind.name === "TEST_CMD DMABUF_GET") this.descriptors.push(result);
      this.learn(kind);
    });
    const entry = this.tally.get(kind.name) ?? { succeeded: 0, refused: 0 };
    if (refused) entry.refused++;
    else entry.succeeded++;
    this.tally.set(kind.name, entry);
    if (refused && !MAY_HAVE_EFFECT.has(kind.name)) expect(this.objects(), kind.name).toBe(before);
  }

  end(): void {
    this.client.process.exit();
    this.machine.system.tasks.drain();
  }

  /** True if it was refused. */
  private attempt(action: () => void): boolean {
    try {
      action();
      return false;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      return true;
    }
  }

  /** Reads, answers, closes what calls have made. */
  private useQueue(): void {
    const { random, client, descriptors } = this;
    const fd = descriptors[random.below(descriptors.length)];
    this.attempt(() => {
      switch (random.below(5)) {
        case 0:
          if (fd === this.iommu) return;
          descriptors.splice(descriptors.indexOf(fd), 1);
          client.close(fd);
          return;
        case 1:
        case 2:
          client.read(fd, 0, new Uint8Array(random.below(3) === 0 ? random.below(200) : 40 * random.below(4)));
          return;
        default: {
          const record = new Uint32Array([random.below(4), random.below(3)]);
          client.write(fd, 0, new Uint8Array(record.buffer).subarray(0, random.below(4) === 0 ? random.below(9) : 8));
        }
      }
    });
  }

  /** Puts in what this command usually gets. */
  private makeSense(view: Record<string, unknown>, { name, struct }: Kind): void {
    const { random } = this;
    const one = <T>(...values: T[]): T => values[random.below(values.length)];
    const iova = this.mappedIova();
    const usual: Readonly<Record<string, Readonly<Record<string, number | bigint>>>> = {
      HWPT_ALLOC: {
        flags: one(0, 1, 1, 2, 4, 8),
        ...one({ data_type: 0, data_len: 0 }, { data_type: 0xdead, data_len: 8 }),
      },
      GET_HW_INFO: { flags: 0, data_len: 8 },
      VIOMMU_ALLOC: { flags: 0, type: 0xdeadbeef, data_len: one(0, 24) },
      VDEVICE_ALLOC: { virt_id: BigInt(random.below(4)) },
      VEVENTQ_ALLOC: { flags: 0, type: 0xbeefbeef, veventq_depth: 1 + random.below(4) },
      HW_QUEUE_ALLOC: { flags: 0, type: 0xdeadbeef, index: random.below(2), nesting_parent_iova: iova, length: 512n },
      HWPT_INVALIDATE: { data_type: 0xdeadbeef, entry_len: one(8, 12), entry_num: random.below(3) },
      HWPT_SET_DIRTY_TRACKING: { flags: random.below(2) },
      HWPT_GET_DIRTY_BITMAP: { flags: random.below(2), iova, length: 8192n, page_size: 4096n },
      IOAS_ALLOC: { flags: 0 },
      IOAS_IOVA_RANGES: { num_iovas: 8, allowed_iovas: BigInt(this.arena) },
      "TEST_CMD CREATE_ACCESS": { flags: 1 },
      IOAS_MAP: { flags: one(6, 7), length: BigInt(PAGE * (1 + random.below(4))) },
      IOAS_COPY: { flags: 6, src_iova: iova, length: 4096n },
      IOAS_UNMAP: { iova, length: 4096n },
      FAULT_QUEUE_ALLOC: { flags: 0 },
      VFIO_IOAS: { op: random.below(3) },
      "TEST_CMD ADD_RESERVED": { length: 4096n },
      "TEST_CMD MD_CHECK_MAP": { length: 0n },
      "TEST_CMD ACCESS_PAGES": { flags: random.below(2), iova, length: 4096n, uptr: 0n },
      "TEST_CMD ACCESS_RW": { flags: one(0, 1, 4, 5), iova, length: BigInt(random.below(4096)) },
      "TEST_CMD DESTROY_ACCESS_PAGES": { access_pages_id: random.below(3) },
      "TEST_CMD MOCK_DOMAIN_FLAGS": { dev_flags: 4 },
      "TEST_CMD MD_CHECK_IOTLB": { word: random.below(4), iotlb: 0 },
      "TEST_CMD DEV_CHECK_CACHE": { word: random.below(4), cache: 0xbaddad },
      "TEST_CMD DIRTY": { iova, length: 8192n, page_size: 4096n },
      "TEST_CMD PASID_ATTACH": { pasid: 1 + random.below(2) },
      "TEST_CMD PASID_REPLACE": { pasid: 1 + random.below(2) },
    };
    for (const [field, value] of Object.entries(usual[name] ?? {})) if (field in struct.fields) view[field] = value;
  }

  /** Where some IOAS maps something, if one does. */
  private mappedIova(): bigint {
    const { random } = this;
    const areas = this.context.objects.list().flatMap((object) => (object instanceof Ioas ? object.space.areas() : []));
    return areas.length === 0 ? APERTURE : areas[random.below(areas.length)].start;
  }

  /** Sizes and operations are right, mostly. */
  private fix(view: Record<string, unknown>, { struct, op }: Kind): void {
    const { random } = this;
    const size = op === undefined ? struct.size : 72;
    const given = random.below(30) === 0 ? random.below(100) : size;
    if ("size" in struct.fields && typeof view.size !== "bigint") view.size = given;
    if ("argsz" in struct.fields) view.argsz = given;
    if (op !== undefined) view.op = op;
  }

  private value(kind: Kind, name: string, size: number): number | bigint {
    const number = this.plausible(kind, name, size);
    if (size === 8) return BigInt.asUintN(64, number);
    return Number(BigInt.asUintN(size * 8, number));
  }

  private plausible(kind: Kind, name: string, size: number): bigint {
    const { random } = this;
    switch (random.below(60)) {
      case 0:
        return BigInt(random.u32()) * 2n ** 32n + BigInt(random.u32());
      case 1:
        return 2n ** BigInt(random.below(65)) - 1n;
      case 2:
        return 0n;
    }
    if (/fd$/.test(name) || (name === "id" && /ACCESS_(PAGES|RW|REPLACE)/.test(kind.name)))
      return BigInt(this.descriptors[random.below(this.descriptors.length)]);
    const named = kindsNamedBy(kind.name, name);
    if (named !== undefined) return BigInt(this.idOf(named));
    if (/flags/.test(name) && random.below(2) === 0) return BigInt([0, 0, 6, 7][random.below(4)]);
    if (/reserved|rsv/.test(name)) return 0n;
    if (/flags|_op$|^op$|option|pasid|index|perm|grpid|word|refs|code/.test(name)) return BigInt(random.below(9));
    if (name === "type" || name === "data_type") {
      return [0n, 0xdeadn, 0xdeadbeefn, 0xbeefbeefn, 0xfeedbeefn][random.below(5)];
    }
    if (/page_size/.test(name)) return 2n ** BigInt(random.below(17));
    if (/length|^size$/.test(name) && size === 8)
      return BigInt(PAGE * (1 + random.below(8)) - (random.below(8) === 0 ? 2048 : 0));
    if (/data_len|entry_len/.test(name)) return BigInt([4, 8, 12, 24][random.below(4)]);
    if (/num|depth|limit/.test(name)) return BigInt(random.below(40));
    if (/length/.test(name)) return BigInt(random.below(3 * PAGE));
    if (size === 8 && /iova|start/.test(name))
      return APERTURE + BigInt(random.below(64) * PAGE + (random.below(9) === 0 ? 2048 : 0));
    if (size === 8) return BigInt(this.arena + random.below(ARENA_PAGES) * PAGE);
    return BigInt(1 + random.below(24));
  }

  /** The id of an object of these kinds, if there is one; mostly. */
  private idOf(wanted: readonly string[]): number {
    const { random } = this;
    const ids = this.context.objects
      .list()
      .filter(({ kind }) => wanted.length === 0 || wanted.includes(kind))
      .map(({ id }) => id);
    // With few address spaces calls meet what others mapped.
    if (wanted.length === 1 && wanted[0] === "IOAS") ids.splice(2);
    return ids.length === 0 || random.below(10) === 0 ? random.below(24) : ids[random.below(ids.length)];
  }

  /** New descriptors are used from now on. */
  private learn({ name }: Kind): void {
    const fields: Readonly<Record<string, number>> = {
      FAULT_QUEUE_ALLOC: uapi.FaultQueueAlloc.offsets.out_fault_fd,
      VEVENTQ_ALLOC: uapi.VeventqAlloc.offsets.out_veventq_fd,
      "TEST_CMD CREATE_ACCESS": uapi.TestCreateAccess.offsets.out_access_fd,
    };
    const offset = fields[name];
    if (offset === undefined) return;
    const bytes = new Uint8Array(4);
    this.client.process.memory.read(this.scratch + offset, bytes);
    this.descriptors.push(new Uint32Array(bytes.buffer)[0]);
  }

  /** Every object with its kind and users, every area. */
  private objects(): string {
    return JSON.stringify(this.context.snapshot(), (_, value) => (typeof value === "bigint" ? `${value}` : value));
  }
}
