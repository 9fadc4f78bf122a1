/**
 * Costs of iommufd itself: a domain that does nothing, no page table, no driver, and a process whose memory costs next to
 * nothing. Rows that say "library process" have the real one: copies, pins and their counts.
 */
import { type Benchmark, median, type Row } from "../../bench/benchmark.ts";
import { Device, Domain, IommuCore, type IommuDriver, PagingDomain } from "../iommu/index.ts";
import {
  type AddressSpace,
  type FrameRun,
  LibraryProcess,
  MmNotifiers,
  PhysicalMemory,
  type Process,
  type ResidentPages,
  type UserAddress,
} from "../memory/index.ts";
import { assert, DoneTask, done, System, type Task } from "../runtime/index.ts";
import { HwptAlloc, IoasAlloc, IoasMap, IoasUnmap } from "../uapi/iommufd.ts";
import { IommufdContext } from "./context.ts";

class NullDomain extends PagingDomain {
  readonly label = "null domain";
  readonly owner: IommuDriver;
  readonly pageSizes: readonly number[] = [4096];
  readonly aperture = { start: 0n, last: 2n ** 48n - 1n };

  constructor(owner: IommuDriver) {
    super();
    this.owner = owner;
  }

  override *attachDevice(): Task<void> {}
  override map(): Task<void> {
    return done;
  }
  override unmap(_iova: bigint, size: number): Task<number> {
    return new DoneTask(size);
  }
  override sync(): Task<void> {
    return done;
  }
  override translate(): undefined {}
  override free(): void {}
}

class NullStaticDomain extends Domain {
  readonly type = "blocked";
  readonly label = "blocked";
  readonly owner = undefined;
  override *attachDevice(): Task<void> {}
  override free(): void {}
}

function nullDriver(): IommuDriver {
  const driver: IommuDriver = {
    name: "null",
    blockedDomain: new NullStaticDomain(),
    *probeDevice() {},
    *releaseDevice() {},
    deviceGroup: (_device, core) => core.newGroup(),
    capable: () => true,
    *allocatePaging() {
      return new NullDomain(driver);
    },
    reservedRegions: () => [],
  };
  return driver;
}

/** Memory that reads and writes one buffer, whatever the address, and pins without counting. */
class NullMemory implements AddressSpace {
  readonly label = "null memory";
  readonly alive = true;
  lockedPages = 0;
  pinnedPages = 0;
  private readonly bytes = new Uint8Array(16384);

  read(address: UserAddress, into: Uint8Array): void {
    const at = Number(address) % this.bytes.length;
    for (let i = 0; i < into.length; i++) into[i] = this.bytes[at + i];
  }
  write(address: UserAddress, from: Uint8Array): void {
    const at = Number(address) % this.bytes.length;
    for (let i = 0; i < from.length; i++) this.bytes[at + i] = from[i];
  }
  pin(page: number, count: number): FrameRun[] {
    return [{ pfn: page, count }];
  }
  readonly notifiers = new MmNotifiers();
  faultIn(page: number, rights: number): ResidentPages {
    return { page, count: 1, pfn: page, rights };
  }
}

/** A context with one IOAS and, if asked for, a HWPT; structs of the client are written once and used again. */
export class Bench {
  readonly system = new System();
  readonly memory: PhysicalMemory;
  readonly core = new IommuCore(this.system);
  readonly process: Process;
  readonly context: IommufdContext;
  readonly address: number;
  readonly buffer: number;
  readonly ioas: number;
  private readonly view = new DataView(new ArrayBuffer(4096));

  constructor(options: { pages: number; domain: boolean; library?: boolean }) {
    const memory = new PhysicalMemory(this.system, { ram: [{ base: 0x40000000, size: 2 ** 30 }] });
    const library = new LibraryProcess(this.system, memory);
    this.address = library.memory.map(4);
    this.buffer = library.memory.map(options.pages);
    if (options.library) {
      this.memory = memory;
      this.process = library;
    } else {
      this.memory = { pinnedFrames: 0, unpin() {} } as unknown as PhysicalMemory;
      this.process = Object.create(library, { memory: { value: new NullMemory() } });
    }
    this.context = new IommufdContext(this.system, this.core, { memory: this.memory });
    const alloc = new IoasAlloc();
    alloc.size = IoasAlloc.size;
    this.process.memory.write(this.address, alloc.$bytes);
    this.run(this.context.ioctl(this.process, 0x3b81, this.address));
    this.ioas = 1;
    if (options.domain) this.run(this.attach());
  }

  run<T>(task: Task<T>): T {
    return this.system.run("bench", task);
  }

  private *attach(): Task<void> {
    yield* this.core.register({ name: "null0", driver: nullDriver(), maxPasids: 0 });
    const device = new Device({ name: "dev0", firmware: { instance: "null0", streamIds: [] } });
    yield* this.core.probe(device);
    const bound = yield* this.context.bindDevice(this.process, device, { label: "bench" });
    const command = new HwptAlloc();
    Object.assign(command, { size: HwptAlloc.size, dev_id: bound.id, pt_id: this.ioas });
    this.process.memory.write(this.address, command.$bytes);
    yield* this.context.ioctl(this.process, 0x3b89, this.address);
  }

  /** Prepares structs to map `length` bytes at `iova`, and to unmap them. */
  prepare(flags: number, iova: bigint, length: number): void {
    const map = new IoasMap();
    Object.assign(map, {
      size: IoasMap.size,
      flags,
      ioas_id: this.ioas,
      user_va: BigInt(this.buffer),
      length: BigInt(length),
      iova,
    });
    this.process.memory.write(this.address, map.$bytes);
    const unmap = new IoasUnmap();
    Object.assign(unmap, { size: IoasUnmap.size, ioas_id: this.ioas, iova, length: BigInt(length) });
    this.process.memory.write(this.address + 4096, unmap.$bytes);
  }

  *map(): Task<void> {
    yield* this.context.ioctl(this.process, 0x3b85, this.address);
  }

  *unmap(): Task<void> {
    yield* this.context.ioctl(this.process, 0x3b86, this.address + 4096);
  }

  *mapAndUnmap(count: number): Task<void> {
    for (let i = 0; i < count; i++) {
      yield* this.context.ioctl(this.process, 0x3b85, this.address);
      yield* this.context.ioctl(this.process, 0x3b86, this.address + 4096);
    }
  }

  /** Maps pages at addresses that we choose. */
  *mapMany(count: number): Task<void> {
    for (let i = 0; i < count; i++) yield* this.context.ioctl(this.process, 0x3b85, this.address);
  }

  unmapAll(): void {
    const { view } = this;
    view.setUint32(0, IoasUnmap.size, true);
    view.setUint32(4, this.ioas, true);
    view.setBigUint64(8, 0n, true);
    view.setBigUint64(16, 2n ** 64n - 1n, true);
    this.process.memory.write(this.address + 8192, new Uint8Array(view.buffer, 0, IoasUnmap.size));
    this.run(this.context.ioctl(this.process, 0x3b86, this.address + 8192));
    assert(this.memory.pinnedFrames === 0, "frames stay pinned");
  }
}

function mapAndUnmap(length: number, domain: boolean, repeats: number, library = false): number {
  const bench = new Bench({ pages: length / 4096, domain, library });
  bench.prepare(7, 0x10000000n, length);
  return median((count) => bench.run(bench.mapAndUnmap(count)), repeats);
}

/** Median over rounds, in nanoseconds for each of `count` maps, and for each of `count` areas that go. */
function placeMany(count: number, domain: boolean): { map: number; unmap: number } {
  const samples: { map: number; unmap: number }[] = [];
  for (let round = 0; round < 9; round++) {
    const bench = new Bench({ pages: 1, domain });
    bench.prepare(6, 0n, 4096);
    const start = process.hrtime.bigint();
    bench.run(bench.mapMany(count));
    const middle = process.hrtime.bigint();
    bench.unmapAll();
    const end = process.hrtime.bigint();
    samples.push({ map: Number(middle - start) / count, unmap: Number(end - middle) / count });
  }
  const at = samples.length >> 1;
  return {
    map: samples.map(({ map }) => map).sort((a, b) => a - b)[at],
    unmap: samples.map(({ unmap }) => unmap).sort((a, b) => a - b)[at],
  };
}

const benchmark: Benchmark = {
  name: "iommufd",
  rows(): Row[] {
    const rows: Row[] = [];
    const add = (what: string, nanoseconds: number, goal?: number, peer?: string): void => {
      rows.push({
        what,
        value: nanoseconds / 1000,
        unit: "µs",
        goal: goal === undefined ? undefined : `≤ ${goal} µs`,
        met: goal === undefined ? undefined : nanoseconds / 1000 <= goal,
        peer,
      });
    };
    add("map + unmap 4 KiB, one domain that does nothing", mapAndUnmap(4096, true, 20000), 1.2, "Linux 7.2: 0.76 µs");
    add("map + unmap 4 KiB, one domain that does nothing, library process", mapAndUnmap(4096, true, 20000, true));
    add("map + unmap 4 KiB, no domain", mapAndUnmap(4096, false, 20000), undefined, "Linux 7.2: 0.18 µs");
    add("map + unmap 64 MiB, one domain that does nothing", mapAndUnmap(2 ** 26, true, 200), 50, "Linux 7.2: 630 µs");
    const few = placeMany(1000, true);
    const many = placeMany(10000, true);
    add("each of 1,000 maps at addresses that we choose", few.map, 3, "Linux 7.2: 4 µs");
    add("each of 10,000 maps at addresses that we choose", many.map, 3, "Linux 7.2: 52 µs");
    add("each of 10,000 areas that one UNMAP removes", many.unmap);
    return rows;
  },
};

export default benchmark;
