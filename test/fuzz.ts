/**
 * Ioctls that no program would make, in any order, with any bytes: structs of the tables of uapi, their fields filled from
 * what matters at that place (ids that exist, addresses at the edges, flags that have a meaning) and from nowhere.
 *
 * In between the program signals its eventfds, maps files, and takes away or protects memory that devices use; and now and
 * then the machine fails at a place where it can.
 *
 * Promised after each call: what comes out is a result or a Refusal, and a refused call changed nothing. Promised after
 * each visit, when all files are closed and the processes are gone: no frame is pinned or in use that was not before, no
 * device is bound, no group owned, no eventfd held.
 */
import { IommufdContext } from "../src/iommufd/index.ts";
import type { Machine } from "../src/machine/index.ts";
import {
  type ClientFile,
  type File,
  type FileWindow,
  LibraryProcess,
  MemoryFile,
  type MmapRequest,
  PAGE_SIZE,
} from "../src/memory/index.ts";
import { Random, Refusal } from "../src/runtime/index.ts";
import * as uapi from "../src/uapi/index.ts";

/** Two pages that can be written, one that cannot, nothing before or behind. */
const SCRATCH = 0x2000_0000;
const SCRATCH_PAGES = 2;
const READ_ONLY = SCRATCH + SCRATCH_PAGES * PAGE_SIZE;
/** What is mapped for devices: 64 pages, a hole, and 1024 pages that large leaves fit. */
const ARENA = 0x4000_0000;
const ARENA_PAGES = 64;
const LARGE_ARENA = 0x4020_0000;
const LARGE_PAGES = 1024;
const CHILD = 2;
/** The eventfd, behind a memfd and a socket. */
const EVENT_FD = 5;

type AnyStruct = {
  new (bytes?: Uint8Array): Record<string, unknown> & { readonly $bytes: Uint8Array };
  readonly structName: string;
  readonly size: number;
  readonly fields: uapi.Fields;
};
interface Shape {
  readonly name: string;
  readonly request: number;
  /** Absent: the argument is a number. */
  readonly struct?: AnyStruct;
  /** The struct's size where it is a part of a larger one. */
  readonly size?: number;
  /** What a test command does. */
  readonly op?: number;
  /** Bytes behind the struct that belong to it. */
  readonly tail?: number;
  /** A refused one may have done a part: what it removed, cleared or wrote before. */
  readonly partial?: boolean;
}

const commands: Shape[] = Object.values(uapi.iommufdCommands).map(({ name, number, struct }) => ({
  name,
  request: number,
  struct: struct as unknown as AnyStruct,
  partial: name === "IOAS_UNMAP",
}));
const testCommands: Shape[] = [...uapi.testOperations].map(([op, { name, struct }]) => ({
  name: `TEST ${name}`,
  request: uapi.iommuTestCommand.number,
  struct: struct as AnyStruct,
  size: uapi.IommuTest.size,
  op,
}));
const named = (requests: ReadonlyMap<number, { name: string; struct?: unknown }>): Shape[] =>
  [...requests].map(([request, { name, struct }]) => ({
    name,
    request,
    struct: struct as AnyStruct | undefined,
    tail: struct === undefined ? 0 : 64,
    partial: name === "VFIO_IOMMU_UNMAP_DMA",
  }));
const containerRequests = named(uapi.vfioContainerRequests);
const groupRequests = named(uapi.vfioGroupRequests);
const deviceStructs: Readonly<Record<string, unknown>> = {
  VFIO_DEVICE_GET_INFO: uapi.DeviceInfo,
  VFIO_DEVICE_GET_REGION_INFO: uapi.RegionInfo,
  VFIO_DEVICE_GET_IRQ_INFO: uapi.IrqInfo,
  VFIO_DEVICE_SET_IRQS: uapi.IrqSet,
  VFIO_DEVICE_GET_PCI_HOT_RESET_INFO: uapi.PciHotResetInfo,
  VFIO_DEVICE_PCI_HOT_RESET: uapi.PciHotReset,
  VFIO_DEVICE_IOEVENTFD: uapi.IoEventFd,
  VFIO_DEVICE_FEATURE: uapi.Feature,
  VFIO_DEVICE_BIND: uapi.BindIommufd,
  VFIO_DEVICE_ATTACH: uapi.AttachIommufdPt,
  VFIO_DEVICE_DETACH: uapi.DetachIommufdPt,
};
const deviceRequests: Shape[] = [...uapi.vfioDeviceRequests].map(([request, name]) => ({
  name,
  request,
  struct: deviceStructs[name] as AnyStruct | undefined,
  tail: 64,
}));
const everything = [...commands, ...testCommands, ...containerRequests, ...groupRequests, ...deviceRequests];

/** Which kinds of objects a field of a call is meant for; the first line that fits. */
const wantedKinds: readonly (readonly [RegExp, string])[] = [
  [/REPLACE_IOAS ioas_id|(IOAS|MAP|COPY|ADD_RESERVED|CREATE_ACCESS|MOCK_DOMAIN(_FLAGS)?) .*id$/, "IOAS"],
  [/fault_id/, "FAULT"],
  [/viommu_id/, "VIOMMU"],
  [/(PASID_\w+|MOCK_DOMAIN_REPLACE) id/, "SELFTEST"],
  [/dev_id/, "DEVICE"],
  [/pt_id/, "IOAS HWPT_PAGING HWPT_NESTED VIOMMU"],
  [/hwpt_id|(MD_CHECK_MAP|DIRTY|IOTLB) id/, "HWPT_PAGING HWPT_NESTED VIOMMU"],
];

/** Thrown when a promise is broken; says how to see it again. */
export class BrokenPromise extends Error {}

export interface FuzzOptions {
  readonly seed: number;
  readonly calls: number;
  /** Calls between opening the first file and closing the last. */
  readonly visit?: number;
}

/** Makes calls on a machine. Throws {@link BrokenPromise}; else says how many calls had a result, and how many had not. */
export function fuzz(makeMachine: () => Machine, options: FuzzOptions): { done: number; refused: number } {
  const { seed, calls, visit = 500 } = options;
  const totals = { done: 0, refused: 0 };
  const machine = makeMachine();
  for (let at = 0, number = 0; at < calls; at += visit, number++) {
    const one = new Visit(machine, seed, number);
    one.run(Math.min(visit, calls - at));
    totals.done += one.done;
    totals.refused += one.refused;
  }
  return totals;
}

/** Two processes with the same open files come, call, and go. */
class Visit {
  done = 0;
  refused = 0;
  private readonly machine: Machine;
  private readonly random: Random;
  private readonly title: string;
  private readonly processes: LibraryProcess[];
  private readonly contexts = new Set<IommufdContext>();
  private readonly paths: readonly string[];
  private readonly log: string[] = [];
  private readonly atFirst: string;
  private readonly first: LibraryProcess;
  private eventsHeld = 0;
  /** What signals of the eventfd set off. */
  private readonly watchers = new Set<() => void>();
  private readonly windows: FileWindow[] = [];

  constructor(machine: Machine, seed: number, number: number) {
    this.machine = machine;
    this.title = `seed ${seed}, visit ${number} on ${machine.description.name}`;
    this.random = new Random(seed * 7919 + number);
    const isDevice = ([path, { kind }]: [string, { kind: string }]): boolean =>
      kind === "device" && /^\/dev/.test(path);
    this.paths = [...machine.files.nodes].filter(isDevice).map(([path]) => path);
    this.atFirst = this.left();
    this.first = new LibraryProcess(machine.system, machine.memory, { memlockLimit: this.pick([Infinity, 2 ** 20]) });
    this.first.memory.map(SCRATCH_PAGES, { address: SCRATCH });
    this.first.memory.map(1, { address: READ_ONLY, writable: false });
    this.first.memory.map(ARENA_PAGES, { address: ARENA });
    this.first.memory.map(LARGE_PAGES, { address: LARGE_ARENA });
    const memoryFile = new MemoryFile(16 * PAGE_SIZE, "memfd");
    this.first.addFile({ kind: "memory", label: "memfd", backing: memoryFile, size: 16 * PAGE_SIZE });
    this.first.addFile({ kind: "other", label: "a socket" });
    const watch = (signalled: () => void) => {
      this.watchers.add(signalled);
      return () => this.watchers.delete(signalled);
    };
    const event = { signal: () => undefined, watch, release: () => this.eventsHeld-- };
    this.first.addFile({ kind: "eventfd", event });
    this.countEvents(this.first);
    this.settle();
    this.processes = [this.first];
    if (this.chance(2)) this.processes.push(this.first.fork(CHILD));
    for (const child of this.processes.slice(1)) this.countEvents(child);
  }

  run(calls: number): void {
    let before = this.state();
    for (let i = 0; i < calls; i++) {
      const { shape, outcome } = this.attempt(() => this.step());
      if (outcome === undefined) {
        this.done++;
        before = this.state();
        continue;
      }
      this.refused++;
      const after = this.state();
      if (after === before) continue;
      // A result that cannot be written is told, and what was done stays, as in Linux.
      if (!shape?.partial && outcome !== "cannot be written")
        this.broken(`a refused call changed\n${difference(before, after)}`);
      before = after;
    }
    this.attempt(() => this.leave());
    const atLast = this.left();
    if (atLast !== this.atFirst) this.broken(`left behind\n${difference(this.atFirst, atLast)}`);
    if (this.eventsHeld !== 0) this.broken(`${this.eventsHeld} eventfds are held after all files were closed`);
  }

  /** One call: the reason of its refusal, if it was refused. Everything else that is thrown is a broken promise. */
  private step(): { shape?: Shape; outcome?: string } {
    const { random } = this;
    const process = this.pick(this.processes);
    const fds = this.descriptors(process);
    const turn = random.below(100);
    if (turn < 2) return this.named("open", () => this.open(this.pick(this.paths)));
    if (turn < 3 && fds.length > 8)
      return this.named("close", () => this.system.run("close", process.close(this.pick(fds))));
    if (turn < 5) return this.named("scratch", () => this.fillScratch());
    if (turn < 6) return this.named("life", () => this.live(process));
    const file = this.ours(process, this.pick(fds));
    if (file === undefined || (this.dull(file) && !this.chance(20))) return this.step();
    if (turn < 8 && file.mmap)
      return this.named(`mmap of ${file.label}`, () => this.windows.push(file.mmap!(process, this.mapping())));
    if (turn < 12 && (file.read || file.write))
      return this.named(`read or write of ${file.label}`, () => this.transfer(process, file));
    const shape = this.shapeFor(file);
    let argument = 0;
    let written = true;
    if (shape.request === uapi.VFIO_GROUP_GET_DEVICE_FD && this.chance(2)) argument = this.deviceName(process);
    else if (shape.struct === undefined || this.chance(50)) argument = this.number();
    else ({ argument, written } = this.place(process, shape));
    const request = this.chance(100) ? this.random.u32() : shape.request;
    if (this.chance(10)) this.failLater();
    const result = this.named(
      `${file.label}: ${shape.name} 0x${request.toString(16)} at 0x${argument.toString(16)}`,
      () => this.system.run("ioctl", file.ioctl(process, request, argument)),
    );
    this.system.failures.inject(undefined);
    return { shape, outcome: result.outcome !== undefined && !written ? "cannot be written" : result.outcome };
  }

  private get system(): Machine["system"] {
    return this.machine.system;
  }

  /** One of the next places that can fail does. */
  private failLater(): void {
    let left = this.random.below(12);
    this.system.failures.inject((name) => {
      if (left-- !== 0) return false;
      this.log.push(`  failure at ${name}`);
      return true;
    });
  }

  /** What a program does besides calls. */
  private live(process: LibraryProcess): void {
    const { memory } = process;
    const page = ARENA + this.random.below(ARENA_PAGES) * PAGE_SIZE;
    const what = this.random.below(4);
    if (what === 0) {
      for (const signalled of this.watchers) signalled();
      this.system.tasks.drain();
    } else if (what === 1) {
      memory.unmap(page, 1);
      if (!this.chance(4)) memory.map(1, { address: page });
    } else if (what === 2) {
      memory.protect(page, 1, { writable: this.chance(2) });
    } else {
      for (const window of this.windows) window.look?.();
      if (this.chance(2)) this.windows.pop()?.release();
    }
  }

  /** Mostly of what there is: the first window of a file, or a BAR. */
  private mapping(): MmapRequest {
    return {
      offset: this.pick([
        0x1000n,
        0x1000n,
        0n,
        0x3000n,
        BigInt(uapi.REGION_STRIDE),
        BigInt(7 * uapi.REGION_STRIDE),
        2n ** 63n,
      ]),
      length: this.pick([0x2000n, 0x2000n, 0x1000n, 0x100000n, 2n ** 63n]),
      shared: !this.chance(8),
      executable: this.chance(8),
    };
  }

  private named(what: string, action: () => unknown): { outcome?: string } {
    this.log.push(what);
    try {
      action();
      return {};
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (error.reason === "") this.broken("a refusal without a reason");
      this.log.push(`  ${error}`);
      return { outcome: error.toString() };
    }
  }

  private attempt<T>(action: () => T): T {
    try {
      return action();
    } catch (error) {
      if (error instanceof BrokenPromise) throw error;
      return this.broken(error instanceof Error ? (error.stack ?? error.message) : String(error));
    }
  }

  private broken(what: string): never {
    throw new BrokenPromise(
      `${this.title}: ${what}\nThe last of ${this.log.length} lines:\n${this.log.slice(-12).join("\n")}`,
    );
  }

  // ---- Files

  /** Opens files; then, mostly, what a well-meaning client does first, so that later calls find something. */
  private settle(): void {
    this.open("/dev/iommu");
    for (const path of this.paths) {
      const group = /vfio\/\d/.test(path);
      if (this.chance(group ? 6 : 2)) this.named(`open ${path}`, () => this.open(path));
    }
    const ioctl = (fd: number, request: number, struct: AnyStruct, fields: Record<string, number | bigint>): void => {
      const file = this.ours(this.first, fd);
      const view = new struct();
      Object.assign(view, { size: struct.size, argsz: struct.size, ...fields });
      this.first.memory.write(SCRATCH, view.$bytes);
      this.named("settling", () => file && this.system.run("ioctl", file.ioctl(this.first, request, SCRATCH)));
    };
    const iommufd = this.descriptors(this.first).find((fd) => this.ours(this.first, fd) instanceof IommufdContext)!;
    const { IOAS_ALLOC, IOAS_MAP } = uapi.iommufdCommands;
    for (let n = 0; n < 2; n++) ioctl(iommufd, IOAS_ALLOC.number, uapi.IoasAlloc as unknown as AnyStruct, {});
    for (let n = 0; n < 4; n++) {
      const iova = 0x100_0000n + BigInt(n * 4 * PAGE_SIZE);
      const map = { flags: 7, ioas_id: 1 + (n % 2), user_va: BigInt(ARENA), length: 0x3000n, iova };
      ioctl(iommufd, IOAS_MAP.number, uapi.IoasMap as unknown as AnyStruct, map);
    }
    for (const fd of this.descriptors(this.first)) {
      if (!this.ours(this.first, fd)?.label.startsWith("vfio") || this.chance(4)) continue;
      ioctl(fd, uapi.VFIO_DEVICE_BIND, uapi.BindIommufd as unknown as AnyStruct, { iommufd, argsz: 16 });
      if (this.chance(2))
        ioctl(fd, uapi.VFIO_DEVICE_ATTACH, uapi.AttachIommufdPt as unknown as AnyStruct, { pt_id: 1, argsz: 12 });
    }
    if (this.chance(2))
      this.settleGuest((name, fields) => {
        const { number, struct } = uapi.iommufdCommands[name];
        ioctl(iommufd, number, struct as unknown as AnyStruct, fields);
      });
  }

  /** What a VMM does for a guest whose SMMU has one stream: refused where there is no SMMUv3 with a device. */
  private settleGuest(
    call: (name: keyof typeof uapi.iommufdCommands, fields: Record<string, number | bigint>) => void,
  ): void {
    const [context] = this.contexts;
    const last = (kind: string): number => context.objects.list().findLast((object) => object.kind === kind)?.id ?? 0;
    const dev_id = last("DEVICE");
    call("HWPT_ALLOC", { dev_id, pt_id: 1, flags: uapi.HWPT_ALLOC_NEST_PARENT });
    call("VIOMMU_ALLOC", { dev_id, hwpt_id: last("HWPT_PAGING"), type: uapi.VIOMMU_TYPE_ARM_SMMUV3 });
    const viommu_id = last("VIOMMU");
    call("VDEVICE_ALLOC", { viommu_id, dev_id, virt_id: BigInt(this.random.below(3)) });
    call("VEVENTQ_ALLOC", { viommu_id, type: uapi.VEVENTQ_TYPE_ARM_SMMUV3, veventq_depth: 2 });
    call("FAULT_QUEUE_ALLOC", {});
    for (const [config, fields] of [
      [4n, { flags: 0 }],
      [5n, { flags: uapi.HWPT_FAULT_ID_VALID, fault_id: last("FAULT") }],
    ] as const) {
      const ste = BigUint64Array.of(0x100_0000n + config * 2n + 1n, 0n);
      this.first.memory.write(ARENA, new Uint8Array(ste.buffer));
      const data = { data_type: uapi.HWPT_DATA_ARM_SMMUV3, data_len: 16, data_uptr: BigInt(ARENA) };
      call("HWPT_ALLOC", { dev_id, pt_id: viommu_id, ...data, ...fields });
    }
    // Where invalidations are read from: TLBI_NH_ALL, and CFGI_CD_ALL of a stream that the guest may have.
    const commands = BigUint64Array.of(0x10n, 0n, 0x06n, 0n, 0x1_0000_0006n, 0n);
    for (let page = 1; page < 32; page++) {
      this.first.memory.write(ARENA + page * PAGE_SIZE, new Uint8Array(commands.buffer));
    }
  }

  private open(path: string): void {
    const node = this.machine.files.nodes.get(path);
    if (node?.kind !== "device") return;
    const file = this.system.run(`open ${path}`, node.open(this.first));
    if (file instanceof IommufdContext) this.contexts.add(file);
    this.first.addFile({ kind: "ours", file });
  }

  private descriptors(process: LibraryProcess): number[] {
    const { files } = process as unknown as { files: ReadonlyMap<number, unknown> };
    return [...files.keys()];
  }

  /** Files that know one or no ioctl. */
  private dull({ label }: File): boolean {
    return !/iommufd|container|vfio|VFIO/.test(label);
  }

  private ours(process: LibraryProcess, fd: number): File | undefined {
    try {
      const file = process.file(fd);
      if (file.kind === "eventfd") file.event.release();
      return file.kind === "ours" ? file.file : undefined;
    } catch {
      return undefined;
    }
  }

  /** Whoever asks for an eventfd holds it until he releases it. */
  private countEvents(process: LibraryProcess): void {
    const file = process.file.bind(process);
    process.file = (fd: number): ClientFile => {
      const found = file(fd);
      if (found.kind === "eventfd") this.eventsHeld++;
      return found;
    };
  }

  private leave(): void {
    const order = this.chance(2) ? this.processes : [...this.processes].reverse();
    for (const process of order) process.exit();
    for (const window of this.windows) window.release();
    this.system.tasks.drain();
  }

  // ---- Arguments

  private shapeFor(file: File): Shape {
    if (this.chance(40)) return this.pick(everything);
    if (file instanceof IommufdContext) {
      const turn = this.random.below(20);
      if (turn < 3) return this.pick(containerRequests);
      if (this.machine.mockBus !== undefined && turn < 10) return this.pick(testCommands);
      return this.pick(commands);
    }
    return this.pick(/group/.test(file.label) ? groupRequests : deviceRequests);
  }

  /** Writes the struct of a call to the client's memory, mostly. */
  private place(process: LibraryProcess, shape: Shape): { argument: number; written: boolean } {
    const struct = shape.struct!;
    const size = shape.size ?? struct.size;
    const bytes = new Uint8Array(Math.max(size, struct.size) + (shape.tail ?? 0) + this.pick([0, 0, 0, 8]));
    if (this.chance(40)) this.garbage(bytes);
    else if (this.chance(2)) this.garbage(bytes.subarray(size), 3);
    const view = new struct(bytes);
    if (shape.name === "VFIO_DEVICE_SET_IRQS" && this.chance(2)) {
      const fds = new DataView(bytes.buffer, size);
      for (let at = 0; at + 4 <= fds.byteLength; at += 4) fds.setInt32(at, this.pick([EVENT_FD, EVENT_FD, -1]), true);
    }
    if (!this.chance(30)) {
      for (const [name, field] of Object.entries(struct.fields)) {
        const value = this.valueFor(name, { shape, size });
        if (field.size === 8) view[name] = BigInt.asUintN(64, typeof value === "bigint" ? value : BigInt(value));
        else if (field.size <= 4) view[name] = Number(BigInt.asUintN(32, BigInt(value)));
      }
    }
    const end = READ_ONLY + PAGE_SIZE;
    const argument = this.chance(50)
      ? this.pick([READ_ONLY, end - size, end - size + 8, SCRATCH - 8, 0, 2 ** 47, 2 ** 53 - 8])
      : SCRATCH + 8 * this.random.below(16);
    try {
      process.memory.write(argument, bytes);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
    }
    this.log.push(
      `  ${Object.keys(struct.fields)
        .map((name) => `${name} ${String(view[name])}`)
        .join(", ")}`,
    );
    return { argument, written: argument < READ_ONLY };
  }

  /** Something that a field of this name may hold. */
  private valueFor(name: string, { shape, size }: { shape: Shape; size: number }): number | bigint {
    if (this.chance(80)) return this.word64();
    if (name === "op" && shape.op !== undefined) return shape.op;
    if (name === "size" && size > 0 && shape.request >= 0x3b80) {
      return this.chance(40) ? this.pick([0, 4, size - 4, size - 1, size + 8, PAGE_SIZE, 2 ** 32 - 1]) : size;
    }
    if (name === "argsz" && shape.name === "VFIO_DEVICE_SET_IRQS" && !this.chance(8)) return size + 64;
    if (name === "argsz") return this.pick([size, size, size, size, size + (shape.tail ?? 0), size + 4, 0, size - 1]);
    if (/^reserved|^pad/.test(name)) return 0;
    if (name === "flags" || name === "dev_flags") {
      if (/IOAS_(MAP|COPY)/.test(shape.name)) return this.pick([2, 3, 4, 5, 6, 7, 7, 7, 7]);
      if (shape.name === "VFIO_DEVICE_SET_IRQS") return this.pick([33, 34, 36, 36, 9, 10, 17, 18, 12, 20]);
      if (shape.name === "VFIO_DEVICE_FEATURE")
        return this.pick([0x1_0000, 0x2_0000, 0x4_0000]) + this.random.below(14);
      return this.chance(2) ? 0 : this.pick([1, 2, 3, 4, 5, 7, 8, 9, 0x1_0000]);
    }
    if (/fd$|iommufd/.test(name)) return this.pick([...this.descriptors(this.first), -1, 0]);
    if (/(^|_)id$|^refs$/.test(name)) return this.id(shape, name);
    if (name === "pasid") return this.pick([0, 0, 1, 2, 2 ** 20 - 1, 2 ** 20]);
    if (name === "start" && shape.name === "VFIO_DEVICE_SET_IRQS") return this.random.below(2);
    if (/iova$|^start$|^addr$|^last$/.test(name)) return this.iova();
    if (name === "vaddr" || /_va$|ptr$|^data$|allowed_iovas/.test(name)) return this.address();
    if (name === "length" || (name === "size" && shape.request < 0x3b80)) return this.length();
    if (name === "page_size") return this.pick([2048, 4096, 8192, 2 ** 21]);
    if (name === "type" || name === "data_type") return this.pick([0, 0, 0, 1, 1, 2, 2, 0xdead, 0xbadbeef]);
    if (name === "count" && shape.name === "VFIO_DEVICE_SET_IRQS") return this.pick([0, 1, 1, 2]);
    if (/^num_|_num$|count/.test(name)) return this.pick([0, 1, 2, 3, 8, 2 ** 32 - 1]);
    if (/_len$/.test(name)) return this.pick([0, 0, 0, 4, 8, 16, 16, 24, 100, 2 ** 32 - 1]);
    return this.random.below(8);
  }

  /** Mostly of an object that the field is meant for. */
  private id(shape: Shape, name: string): number {
    if (this.chance(15)) return this.pick([0, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, this.random.u32()]);
    if (/ACCESS_(PAGES|RW|REPLACE_IOAS) id/.test(`${shape.name} ${name}`)) {
      const accesses = this.descriptors(this.first).filter(
        (fd) => this.ours(this.first, fd)?.label === "selftest access",
      );
      if (accesses.length > 0) return this.pick(accesses);
    }
    const contexts = [...this.contexts];
    const known = this.pick(contexts).objects.list();
    const kinds = wantedKinds.find(([pattern]) => pattern.test(`${shape.name} ${name}`))?.[1] ?? "";
    const fitting = known.filter(({ kind }) => kinds.includes(kind));
    if (fitting.length > 0 && !this.chance(6)) return this.pick(fitting).id;
    return known.length === 0 ? 1 : this.pick(known).id;
  }

  private iova(): bigint {
    const base = this.pick([
      0n,
      0n,
      0x100_0000n,
      0x100_0000n,
      0x4000_0000n,
      0x7ff_f000n,
      2n ** 48n,
      2n ** 64n - 0x4000n,
    ]);
    return base + BigInt(this.random.below(24) * PAGE_SIZE + (this.chance(12) ? this.random.below(PAGE_SIZE) : 0));
  }

  private length(): bigint {
    if (this.chance(20)) return this.pick([0n, 1n, 2n ** 63n, 2n ** 64n - 1n, 2n ** 64n - 4096n]);
    if (this.chance(8)) return this.pick([2n ** 21n, 2n ** 22n, 2n ** 24n]);
    return BigInt((1 + this.random.below(8)) * PAGE_SIZE - (this.chance(15) ? this.random.below(PAGE_SIZE) : 0));
  }

  private address(): number {
    if (this.chance(15))
      return this.pick([0, ARENA - 64, ARENA + ARENA_PAGES * PAGE_SIZE - 64, READ_ONLY, 2 ** 47, SCRATCH]);
    if (this.chance(6)) return LARGE_ARENA;
    return ARENA + this.random.below(ARENA_PAGES - 8) * PAGE_SIZE + (this.chance(8) ? this.random.below(PAGE_SIZE) : 0);
  }

  /** Small numbers where data of drivers, ranges and invalidations are read from. */
  private fillScratch(): void {
    const bytes = new Uint8Array(256);
    this.garbage(bytes, 2);
    for (const process of this.processes) process.memory.write(this.address(), bytes);
  }

  /** Reads, or writes what may or may not be a register, a descriptor of configuration space or an answer. */
  private transfer(process: LibraryProcess, file: File): void {
    const position =
      this.random.below(10) * uapi.REGION_STRIDE +
      this.pick([0, 4, 6, 8, 0x10, 0x20, 0x40, 0x80, 0x98, this.random.below(8192)]);
    const bytes = new Uint8Array(this.pick([0, 1, 2, 4, 4, 8, 13, 64, 128]));
    const count = bytes.length;
    const reading = this.chance(2);
    if (!reading) this.garbage(bytes, 2);
    if (reading && file.readInto) this.system.run("read", file.readInto(process, this.address(), count));
    else if (reading && file.read) this.system.run("read", file.read(process, position, bytes));
    else if (!reading && file.writeFrom) this.system.run("write", file.writeFrom(process, this.address(), count));
    else if (!reading && file.write) this.system.run("write", file.write(process, position, bytes));
  }

  private garbage(bytes: Uint8Array, sparse = 1): void {
    for (let i = 0; i < bytes.length; i++)
      if (sparse === 1 || i % 4 < sparse - 1) bytes[i] = this.random.below(this.pick([4, 256]));
  }

  /** The address of a name such as a group is asked for. */
  private deviceName(process: LibraryProcess): number {
    const names = [...this.machine.devices.map(({ name }) => name), "0000:00:1f.7"];
    process.memory.write(SCRATCH, new TextEncoder().encode(`${this.pick(names)}\0`));
    return SCRATCH;
  }

  private number(): number {
    return this.pick([0, 1, 2, 3, 9, this.random.u32(), 2 ** 53 - 1, SCRATCH, ARENA + this.random.below(PAGE_SIZE)]);
  }

  private word64(): bigint {
    const { random } = this;
    return this.pick([
      0n,
      1n,
      2n ** 32n - 1n,
      2n ** 63n,
      2n ** 64n - 1n,
      BigInt(random.u32()) * 2n ** 32n + BigInt(random.u32()),
    ]);
  }

  private pick<T>(values: readonly T[]): T {
    return values[this.random.below(values.length)];
  }

  /** True once in `times`. */
  private chance(times: number): boolean {
    return this.random.below(times) === 0;
  }

  // ---- What is there

  /** All that a call may change, except the content of memory. */
  private state(): string {
    const { memory, mockBus } = this.machine;
    return text({
      contexts: [...this.contexts].map((context) => context.snapshot()),
      pinned: memory.pinnedFrames,
      locked: this.processes.map((one) => [one.user.lockedPages, one.memory.lockedPages, one.memory.pinnedPages]),
      files: this.processes.map((process) => this.descriptors(process)),
      groups: this.groups(),
      mockDevices: mockBus?.devices.length,
    });
  }

  private groups(): unknown {
    return [...this.machine.core.groups.values()].map((group) => ({
      id: group.id,
      ownerCount: group.ownerCount,
      owned: group.owner !== undefined,
      domain: group.domain?.label,
      handles: [...group.handles.keys()],
      pasids: [...group.pasidDomains].map(([pasid, domain]) => [pasid, domain.label]),
    }));
  }

  /** What must be the same when everybody is gone. */
  private left(): string {
    const { memory, mockBus } = this.machine;
    // The blocking domain of a group is made when it is first needed, and stays: it needs no memory.
    return text({
      pinned: memory.pinnedFrames,
      used: memory.usedFrames,
      adopted: memory.adoptedFrames,
      groups: this.groups(),
      mockDevices: mockBus?.devices.length,
    });
  }
}

function text(value: unknown): string {
  return JSON.stringify(value, (_key, part) => (typeof part === "bigint" ? `0x${part.toString(16)}` : part));
}

/** The parts of two texts that are not the same. */
function difference(before: string, after: string): string {
  let start = 0;
  while (start < before.length && before[start] === after[start]) start++;
  const from = Math.max(0, start - 120);
  return `before: …${before.slice(from, start + 240)}\nafter:  …${after.slice(from, start + 240)}`;
}
