/**
 * Costs of what stands on an IOAS: HWPTs, replace, copies, accesses, dirty bitmaps. The domain does nothing, the process is
 * a library's: its memory is real, and so are pins and their counts.
 */
import { type Benchmark, median, type Row } from "../../bench/benchmark.ts";
import type { DirtyReader } from "../iommu/index.ts";
import type { Task } from "../runtime/index.ts";
import { type Command, type CommandName, iommufdCommands } from "../uapi/iommufd.ts";
import type { IommufdDevice } from "./device.ts";
import { PagingHwpt } from "./hwpt.ts";
import { Bench } from "./iommufd.bench.ts";

const MIB = 2 ** 20;
const IOVA = 0x1000_0000n;

/** A prepared command, which can be given again and again. */
class Prepared<N extends CommandName> {
  private readonly bench: Bench;
  private readonly request: number;
  private readonly bytes: Uint8Array;
  private readonly view: Command<N>;

  constructor(bench: Bench, name: N, values: Partial<Command<N>>) {
    this.bench = bench;
    const row = iommufdCommands[name];
    this.request = row.number;
    this.view = Object.assign(new row.struct(), values, { size: row.struct.size }) as unknown as Command<N>;
    this.bytes = this.view.$bytes;
  }

  /** The struct as the client sees it afterwards. */
  *give(): Task<Command<N>> {
    const { process, context, address } = this.bench;
    process.memory.write(address, this.bytes);
    yield* context.ioctl(process, this.request, address);
    process.memory.read(address, this.bytes);
    return this.view;
  }
}

/** An IOAS with `megabytes` mapped in one area, and a device that is bound. */
function furnished(megabytes: number): { bench: Bench; device: IommufdDevice } {
  const bench = new Bench({ pages: (megabytes * MIB) / 4096, domain: true, library: true });
  bench.prepare(7, IOVA, megabytes * MIB);
  bench.run(bench.map());
  const device = bench.context.objects.list().find(({ kind }) => kind === "DEVICE") as IommufdDevice;
  return { bench, device };
}

function allocateAndDestroy(megabytes: number): number {
  const { bench, device } = furnished(megabytes);
  const allocate = new Prepared(bench, "HWPT_ALLOC", { dev_id: device.id, pt_id: bench.ioas });
  return median((count) => {
    bench.run(
      (function* () {
        for (let i = 0; i < count; i++) {
          const { out_hwpt_id: id } = yield* allocate.give();
          yield* bench.context.objects.destroy(id);
        }
      })(),
    );
  }, 500);
}

function replace(megabytes: number): number {
  const { bench, device } = furnished(megabytes);
  const allocate = new Prepared(bench, "HWPT_ALLOC", { dev_id: device.id, pt_id: bench.ioas });
  const [a, b] = [0, 1].map(() => bench.run(allocate.give()).out_hwpt_id);
  bench.run(device.attach(a));
  return median((count) => {
    bench.run(
      (function* () {
        for (let i = 0; i < count; i++) yield* device.replace(i % 2 === 0 ? b : a);
      })(),
    );
  }, 2000);
}

function copy(megabytes: number): number {
  const { bench } = furnished(megabytes);
  const ioas = bench.run(new Prepared(bench, "IOAS_ALLOC", {}).give()).out_ioas_id;
  const length = BigInt(megabytes * MIB);
  const copy = new Prepared(bench, "IOAS_COPY", {
    flags: 7,
    dst_ioas_id: ioas,
    src_ioas_id: bench.ioas,
    length,
    src_iova: IOVA,
    dst_iova: IOVA,
  });
  const unmap = new Prepared(bench, "IOAS_UNMAP", { ioas_id: ioas, iova: IOVA, length });
  return median((count) => {
    bench.run(
      (function* () {
        for (let i = 0; i < count; i++) {
          yield* copy.give();
          yield* unmap.give();
        }
      })(),
    );
  }, 500);
}

function accessCopies(bytes: number): { read: number; write: number } {
  const { bench } = furnished(1);
  const access = bench.context.createAccess({ label: "bench" }, { pins: false });
  bench.run(access.attach(bench.ioas));
  const buffer = new Uint8Array(bytes);
  const time = (act: () => void): number =>
    median((count) => {
      for (let i = 0; i < count; i++) act();
    }, 5000);
  return {
    read: time(() => access.read(bench.process, IOVA + 64n, buffer)),
    write: time(() => access.write(bench.process, IOVA + 64n, buffer)),
  };
}

/** `leaf` bytes of each second leaf are dirty. */
function dirtyBitmap(megabytes: number, leaf: number): number {
  const { bench, device } = furnished(megabytes);
  const allocate = new Prepared(bench, "HWPT_ALLOC", { dev_id: device.id, pt_id: bench.ioas, flags: 2 });
  const { out_hwpt_id: id } = bench.run(allocate.give());
  const { domain } = bench.context.objects.find(id, PagingHwpt);
  Object.assign(domain, {
    *setDirtyTracking() {},
    *readDirty(iova: bigint, size: number, { report }: DirtyReader): Task<void> {
      for (let at = 0; at < size; at += 2 * leaf) report(iova + BigInt(at), leaf);
    },
  });
  const length = BigInt(megabytes * MIB);
  const data = BigInt(bench.buffer);
  const read = new Prepared(bench, "HWPT_GET_DIRTY_BITMAP", {
    hwpt_id: id,
    iova: IOVA,
    length,
    page_size: 4096n,
    data,
  });
  return median((count) => {
    bench.run(
      (function* () {
        for (let i = 0; i < count; i++) yield* read.give();
      })(),
    );
  }, 3);
}

const benchmark: Benchmark = {
  name: "iommufd-objects",
  rows(): Row[] {
    const row = (what: string, nanoseconds: number, peer?: string): Row => ({
      what,
      value: nanoseconds / 1000,
      unit: "µs",
      peer,
    });
    const [small, page] = [accessCopies(64), accessCopies(4096)];
    return [
      row("HWPT_ALLOC + DESTROY, 2 MiB mapped", allocateAndDestroy(2), "Linux 7.2: 15.4 µs"),
      row("HWPT_ALLOC + DESTROY, 64 MiB mapped", allocateAndDestroy(64)),
      row("replace between HWPTs of one IOAS, 4 KiB mapped", replace(1 / 256), "Linux 7.2: 0.36 µs"),
      row("replace between HWPTs of one IOAS, 64 MiB mapped", replace(64), "Linux 7.2: 0.36 µs"),
      row("IOAS_COPY + UNMAP of 512 MiB", copy(512)),
      row("access reads 64 B", small.read, "Linux 7.2: 0.08 µs"),
      row("access writes 64 B", small.write, "Linux 7.2: 0.08 µs"),
      row("access reads 4 KiB", page.read, "Linux 7.2: 0.28 µs"),
      row("access writes 4 KiB", page.write, "Linux 7.2: 0.28 µs"),
      row("bitmap of 512 MiB, each second page of 4 KiB dirty", dirtyBitmap(512, 4096)),
      row("bitmap of 512 MiB, each second leaf of 2 MiB dirty", dirtyBitmap(512, 2 * MIB)),
    ];
  },
};

export default benchmark;
