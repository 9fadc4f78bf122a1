/**
 * What stands on an IOAS, on the whole path and with the mock IOMMU's page tables, as Linux's figures were measured: each
 * call is an ioctl of a client in the same JavaScript. As a C client does it, what is measured fills a struct once and then
 * changes fields of it.
 */
import { buildMachine, LibraryClient, presets } from "../src/machine/index.ts";
import * as uapi from "../src/uapi/index.ts";
import { type Benchmark, median, middle, type Row } from "./benchmark.ts";

const MIB = 2 ** 20;
const PAGE = 4096;
const IOVA = 0x100_0000n;
const { HWPT_ALLOC_DIRTY_TRACKING, DIRTY_TRACKING_ENABLE, DIRTY_BITMAP_NO_CLEAR } = uapi;

/** With RAM for what is mapped. */
const machine = { ...presets.empty, memory: { ...presets.empty.memory, size: 4 * 2 ** 30 } };

type Values = Record<string, number | bigint>;

/** A client with one IOAS, in which `megabytes` are mapped, and a mock device that is attached to it. */
class Bench {
  readonly client = new LibraryClient(buildMachine(machine, { mock: true }));
  readonly iommu = this.client.open("/dev/iommu");
  readonly ioas = this.call("IOAS_ALLOC", {}).out_ioas_id;
  readonly device: { out_stdev_id: number; out_idev_id: number };
  readonly buffer: bigint;

  constructor(megabytes: number) {
    this.buffer = BigInt(this.client.process.memory.map(Math.max(megabytes * MIB, PAGE) / PAGE, { address: 2 ** 32 }));
    this.device = this.test(uapi.TestMockDomain, uapi.TEST_MOCK_DOMAIN, { id: this.ioas });
    if (megabytes > 0) this.map(IOVA, megabytes * MIB);
  }

  call<N extends uapi.CommandName>(name: N, values: Values): uapi.Command<N> {
    const { number, struct } = uapi.iommufdCommands[name];
    const view = new struct() as uapi.Command<N>;
    return this.client.ioctl(this.iommu, number, view, { size: struct.size, ...values } as Partial<uapi.Command<N>>);
  }

  test<V extends { readonly $bytes: Uint8Array }>(
    struct: new (bytes?: Uint8Array) => V,
    op: number,
    values: Values,
  ): V {
    const view = new struct(new Uint8Array(uapi.IommuTest.size));
    const size = uapi.IommuTest.size;
    return this.client.ioctl(this.iommu, uapi.iommuTestCommand.number, view, {
      size,
      op,
      ...values,
    } as unknown as Partial<V>);
  }

  /** A command that is made again and again: its struct, and what calls with it. */
  prepare<N extends uapi.CommandName>(name: N, values: Values): { command: uapi.Command<N>; call(): void } {
    const { number, struct } = uapi.iommufdCommands[name];
    const command = Object.assign(new struct(), { size: struct.size, ...values }) as unknown as uapi.Command<N>;
    return { command, call: () => this.client.ioctl(this.iommu, number, command) };
  }

  map(iova: bigint, length: number): void {
    this.call("IOAS_MAP", { flags: 7, ioas_id: this.ioas, user_va: this.buffer, length: BigInt(length), iova });
  }

  hwpt(flags = 0): number {
    return this.call("HWPT_ALLOC", { dev_id: this.device.out_idev_id, pt_id: this.ioas, flags }).out_hwpt_id;
  }
}

function row(what: string, nanoseconds: number, peer?: string): Row {
  const time = { value: nanoseconds / 1000, unit: "µs" } as const;
  return peer === undefined ? { what, ...time } : { what, ...time, peer };
}

function repeated(repeats: number, body: (at: number) => void): number {
  return median((count) => {
    for (let i = 0; i < count; i++) body(i);
  }, repeats);
}

function allocate(megabytes: number): number {
  const bench = new Bench(megabytes);
  const allocation = bench.prepare("HWPT_ALLOC", { dev_id: bench.device.out_idev_id, pt_id: bench.ioas });
  const destruction = bench.prepare("DESTROY", {});
  return repeated(1000, () => {
    allocation.call();
    destruction.command.id = allocation.command.out_hwpt_id;
    destruction.call();
  });
}

function replace(megabytes: number): number {
  const bench = new Bench(megabytes);
  const hwpts = [bench.hwpt(), bench.hwpt()];
  const { number } = uapi.iommuTestCommand;
  const command = new uapi.TestMockDomainReplace(new Uint8Array(uapi.IommuTest.size));
  const id = bench.device.out_stdev_id;
  Object.assign(command, { size: uapi.IommuTest.size, op: uapi.TEST_MOCK_DOMAIN_REPLACE, id });
  return repeated(5000, (at) => {
    command.pt_id = hwpts[at % 2];
    bench.client.ioctl(bench.iommu, number, command);
  });
}

function copy(megabytes: number): number {
  const bench = new Bench(megabytes);
  const target = bench.call("IOAS_ALLOC", {}).out_ioas_id;
  const length = BigInt(megabytes * MIB);
  const range = { src_ioas_id: bench.ioas, dst_ioas_id: target, length, src_iova: IOVA, dst_iova: IOVA };
  return repeated(200, () => {
    bench.call("IOAS_COPY", { flags: 7, ...range });
    bench.call("IOAS_UNMAP", { ioas_id: target, iova: IOVA, length });
  });
}

/** Bitmaps of a range in which one page of each 2 MiB was written to: read only, and read and cleared. */
function dirty(megabytes: number): { read: number; clear: number } {
  const bench = new Bench(megabytes);
  const hwpt_id = bench.hwpt(HWPT_ALLOC_DIRTY_TRACKING);
  bench.call("HWPT_SET_DIRTY_TRACKING", { hwpt_id, flags: DIRTY_TRACKING_ENABLE });
  const length = BigInt(megabytes * MIB);
  const range = { iova: IOVA, length, page_size: BigInt(PAGE) };
  const bytes = (megabytes * MIB) / PAGE / 8;
  const marks = new Uint8Array(bytes);
  for (let at = 0; at < bytes; at += 64) marks[at] = 1;
  const { memory } = bench.client.process;
  const uptr = memory.map(bytes / PAGE + 1, { address: 2 ** 40 });
  const bitmap = BigInt(memory.map(bytes / PAGE + 1, { address: 2 ** 41 }));
  memory.write(uptr, marks);
  const mark = (): unknown =>
    bench.test(uapi.TestDirty, uapi.TEST_DIRTY, { id: hwpt_id, ...range, uptr: BigInt(uptr) });
  const get = (flags: number): unknown =>
    bench.call("HWPT_GET_DIRTY_BITMAP", { hwpt_id, flags, ...range, data: bitmap });
  mark();
  const read = repeated(5, () => get(DIRTY_BITMAP_NO_CLEAR));
  const samples: number[] = [];
  for (let round = 0; round < 15; round++) {
    mark();
    const start = process.hrtime.bigint();
    get(0);
    samples.push(Number(process.hrtime.bigint() - start));
  }
  return { read, clear: middle(samples) };
}

function access(length: number): { read: number; write: number } {
  const bench = new Bench(1);
  const { client, iommu } = bench;
  const fd = bench.test(uapi.TestCreateAccess, uapi.TEST_CREATE_ACCESS, { id: bench.ioas }).out_access_fd;
  const command = new uapi.TestAccessRw(new Uint8Array(uapi.IommuTest.size));
  const { number } = uapi.iommuTestCommand;
  const size = uapi.IommuTest.size;
  const time = (flags: number): number => {
    const range = { iova: IOVA, length: BigInt(length), uptr: bench.buffer };
    Object.assign(command, { size, op: uapi.TEST_ACCESS_RW, id: fd, flags, ...range });
    return repeated(5000, () => client.ioctl(iommu, number, command));
  };
  return { read: time(0), write: time(uapi.ACCESS_WRITE) };
}

/** Each of many maps at given addresses in one IOAS, and each of as many unmaps. */
function areas(count: number): { map: number; unmap: number } {
  const samples = Array.from({ length: 5 }, () => {
    const bench = new Bench(0);
    const page = { ioas_id: bench.ioas, length: BigInt(PAGE) };
    const map = bench.prepare("IOAS_MAP", { flags: 7, user_va: bench.buffer, ...page });
    const unmap = bench.prepare("IOAS_UNMAP", page);
    const start = performance.now();
    for (let i = 0; i < count; i++) {
      map.command.iova = IOVA + BigInt(i * PAGE);
      map.call();
    }
    const between = performance.now();
    for (let i = 0; i < count; i++) {
      unmap.command.iova = IOVA + BigInt(i * PAGE);
      unmap.call();
    }
    return { map: between - start, unmap: performance.now() - between };
  });
  const each = (part: "map" | "unmap"): number => (middle(samples.map((sample) => sample[part])) * 1e6) / count;
  return { map: each("map"), unmap: each("unmap") };
}

const benchmark: Benchmark = {
  name: "objects",
  rows(): Row[] {
    const bitmap = dirty(1024);
    const [small, page, many] = [access(64), access(PAGE), areas(100_000)];
    return [
      row("HWPT_ALLOC + DESTROY, nothing mapped", allocate(0), "Linux 7.2 in its mock: 0.86 µs"),
      row("HWPT_ALLOC + DESTROY, 2 MiB mapped", allocate(2), "Linux 7.2 in its mock: 15.4 µs"),
      row("HWPT_ALLOC + DESTROY, 64 MiB mapped", allocate(64)),
      row("replace in one IOAS, nothing mapped", replace(0), "Linux 7.2 in its mock: 0.36 µs"),
      row("replace in one IOAS, 64 MiB mapped", replace(64), "Linux 7.2 in its mock: 0.36 µs"),
      row("IOAS_COPY + UNMAP of 1 GiB", copy(1024)),
      row("dirty bitmap of 1 GiB, read", bitmap.read),
      row("dirty bitmap of 1 GiB, read and cleared", bitmap.clear),
      row("access reads 64 B", small.read, "Linux 7.2 in its mock: 0.08 µs"),
      row("access writes 64 B", small.write, "Linux 7.2 in its mock: 0.08 µs"),
      row("access reads 4 KiB", page.read, "Linux 7.2 in its mock: 0.28 µs"),
      row("access writes 4 KiB", page.write, "Linux 7.2 in its mock: 0.28 µs"),
      row("each of 100,000 maps at fixed addresses", many.map, "Linux 7.2 in its mock: 0.5 µs"),
      row("each of 100,000 unmaps", many.unmap),
    ];
  },
};
export default benchmark;
