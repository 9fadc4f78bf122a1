// Runs in a browser.
/** A small world for tests of this room: memory, a process, a core with a strict fake driver, one open iommufd. */
import {
  Device,
  type DirtyReader,
  Domain,
  type DomainType,
  type Group,
  IommuCore,
  type IommuDriver,
  type IommuInstance,
  PagingDomain,
  type ReservedRegion,
  type UnmapGather,
  type UserData,
} from "../iommu/index.ts";
import { type AddressSpace, LibraryProcess, PAGE_SIZE, PhysicalMemory, type Process } from "../memory/index.ts";
import { assert, EFAULT, EINVAL, EOPNOTSUPP, errnoName, Refusal, refuse, System, type Task } from "../runtime/index.ts";
import { type Command, type CommandName, iommufdCommands } from "../uapi/iommufd.ts";
import type { Fields, Struct, StructView } from "../uapi/struct.ts";
import { IommufdContext, type IommufdOptions } from "./context.ts";
import type { IommufdDevice } from "./device.ts";

/** What a device of the fake driver is like. */
export interface FakeTraits {
  /** Bytes; the smallest page of its domains. */
  readonly page?: number;
  readonly aperture?: { readonly start: bigint; readonly last: bigint };
  readonly maxPasids?: number;
  readonly regions?: ReservedRegion[];
  readonly capabilities?: readonly string[];
  /** Name of the group that it shares with others of that name; one of its own otherwise. */
  readonly group?: string;
}

/** Keeps mappings by page, and what its "TLB" still knows until sync. Complains about whatever no caller may do. */
export class FakeDomain extends PagingDomain {
  readonly label: string;
  readonly owner: FakeDriver;
  readonly pageSizes: readonly number[];
  readonly aperture: { readonly start: bigint; readonly last: bigint };
  readonly flags: number;
  /** The calls of map, in order: IOVA, physical address, bytes. */
  readonly leaves: { iova: bigint; physical: number; size: number; prot: number }[] = [];
  private readonly stale: { physical: number; size: number }[] = [];
  private freed = false;

  constructor(owner: FakeDriver, traits: FakeTraits, flags: number) {
    super();
    this.owner = owner;
    this.label = `fake domain ${++owner.made}`;
    this.pageSizes = [traits.page ?? PAGE_SIZE, 2 ** 21];
    this.aperture = traits.aperture ?? { start: 0n, last: 2n ** 48n - 1n };
    this.flags = flags;
    owner.domains.add(this);
  }

  override *attachDevice(device: Device, old: Domain | undefined): Task<void> {
    yield* this.owner.system.tasks.point();
    this.owner.attach(device, 0, this);
    yield* this.owner.followFaults(device, this, old);
  }

  override *setDevicePasid(device: Device, pasid: number): Task<void> {
    this.owner.attach(device, pasid, this);
  }

  override *map(iova: bigint, physical: number, size: number, prot: number): Task<void> {
    yield* this.owner.system.tasks.point();
    this.owner.system.failures.point("fake.domain.map");
    const [page] = this.pageSizes;
    assert(
      Number(iova % BigInt(page)) === 0 && physical % page === 0 && size % page === 0 && size > 0,
      "unaligned map",
    );
    const last = iova + BigInt(size) - 1n;
    assert(iova >= this.aperture.start && last <= this.aperture.last, "map outside of the aperture");
    assert(
      !this.leaves.some((leaf) => leaf.iova <= last && leaf.iova + BigInt(leaf.size) > iova),
      () => `0x${iova.toString(16)} is mapped twice`,
    );
    this.checkPinned(physical, size);
    this.leaves.push({ iova, physical, size, prot });
  }

  override *unmap(iova: bigint, size: number, gather: UnmapGather): Task<number> {
    yield* this.owner.system.tasks.point();
    const end = iova + BigInt(size);
    let removed = 0;
    for (;;) {
      const at = iova + BigInt(removed);
      const index = at < end ? this.leaves.findIndex((leaf) => leaf.iova === at) : -1;
      if (index < 0) break;
      const [leaf] = this.leaves.splice(index, 1);
      this.stale.push(leaf);
      removed += leaf.size;
    }
    gather.start = iova;
    gather.last = end - 1n;
    return removed;
  }

  override *sync(): Task<void> {
    yield* this.owner.system.tasks.point();
    for (const { physical, size } of this.stale.splice(0)) this.checkPinned(physical, size);
  }

  /** What devices wrote to, by the IOVA of its leaf. */
  readonly dirty = new Set<bigint>();
  tracking = false;

  /** A device writes there. */
  written(iova: bigint): void {
    const leaf = this.leaves.find((leaf) => leaf.iova <= iova && iova < leaf.iova + BigInt(leaf.size));
    if (leaf !== undefined) this.dirty.add(leaf.iova);
  }

  override *setDirtyTracking(on: boolean): Task<void> {
    yield* this.owner.system.tasks.point();
    this.tracking = on;
  }

  override *readDirty(iova: bigint, size: number, { clear, report, gather }: DirtyReader): Task<void> {
    yield* this.owner.system.tasks.point();
    const end = iova + BigInt(size);
    const sorted = [...this.leaves].sort((a, b) => (a.iova < b.iova ? -1 : 1));
    for (const leaf of sorted) {
      const leafEnd = leaf.iova + BigInt(leaf.size);
      if (leaf.iova >= end || leafEnd <= iova || !this.dirty.has(leaf.iova)) continue;
      const from = leaf.iova > iova ? leaf.iova : iova;
      report(from, Number((leafEnd < end ? leafEnd : end) - from));
      if (!clear) continue;
      this.dirty.delete(leaf.iova);
      gather.start = iova;
      gather.last = end - 1n;
    }
  }

  override translate(iova: bigint): number | undefined {
    const leaf = this.leaves.find((leaf) => leaf.iova <= iova && iova < leaf.iova + BigInt(leaf.size));
    return leaf && leaf.physical + Number(iova - leaf.iova);
  }

  override free(): void {
    assert(!this.freed && this.leaves.length === 0 && this.stale.length === 0, () => `${this.label} is freed in use`);
    for (const domain of this.owner.attached.values())
      assert(domain !== this, () => `${this.label} is freed while attached`);
    this.freed = true;
    this.owner.domains.delete(this);
  }

  /** A device could reach these frames: they must stay. */
  private checkPinned(physical: number, size: number): void {
    for (let pfn = Math.floor(physical / PAGE_SIZE); pfn * PAGE_SIZE < physical + size; pfn++) {
      assert(this.owner.memory.pinCount(pfn) > 0, () => `frame ${pfn} is in ${this.label} but not pinned`);
    }
  }
}

class FakeStaticDomain extends Domain {
  readonly label: string;
  readonly type: DomainType;
  readonly owner = undefined;
  private readonly driver: FakeDriver;

  constructor(type: "blocked" | "identity", driver: FakeDriver) {
    super();
    this.type = type;
    this.label = type;
    this.driver = driver;
  }

  override *attachDevice(device: Device, old: Domain | undefined): Task<void> {
    this.driver.attach(device, 0, this);
    yield* this.driver.followFaults(device, this, old);
  }

  override *setDevicePasid(device: Device, pasid: number): Task<void> {
    this.driver.attach(device, pasid, this);
  }

  override free(): void {
    throw new Error("a static domain is never freed");
  }
}

export class FakeDriver implements IommuDriver {
  readonly name: string = "fake";
  readonly system: System;
  readonly memory: PhysicalMemory;
  readonly blockedDomain: FakeStaticDomain = new FakeStaticDomain("blocked", this);
  readonly identityDomain: FakeStaticDomain = new FakeStaticDomain("identity", this);
  /** What each `device/pasid` translates through. */
  readonly attached = new Map<string, Domain>();
  readonly domains = new Set<FakeDomain>();
  readonly traits = new Map<string, FakeTraits>();
  /** Domains that the next attaches refuse, with EINVAL. */
  refuses: (device: Device, domain: Domain) => boolean = () => false;
  made = 0;
  private readonly groups = new Map<string, Group>();

  constructor(system: System, memory: PhysicalMemory) {
    this.system = system;
    this.memory = memory;
  }

  attach(device: Device, pasid: number, domain: Domain): void {
    if (domain instanceof FakeDomain) this.system.failures.point("fake.domain.attach");
    if (this.refuses(device, domain)) refuse(EINVAL, () => `${device.label} does not want ${domain.label}`);
    this.attached.set(`${device.name}/${pasid}`, domain);
  }

  /** Told of each change of what a device's own traffic translates through. */
  *followFaults(_device: Device, _to: Domain, _from: Domain | undefined): Task<void> {}

  *probeDevice(device: Device): Task<void> {
    device.iommu!.data = undefined;
  }

  *releaseDevice(): Task<void> {}

  deviceGroup(device: Device, core: IommuCore): Group {
    const { group: name = device.name } = this.traits.get(device.name) ?? {};
    let group = this.groups.get(name);
    if (group === undefined) this.groups.set(name, (group = core.newGroup()));
    return group;
  }

  defaultDomainType(): "identity" {
    return "identity";
  }

  capable(device: Device, capability: string): boolean {
    return (this.traits.get(device.name)?.capabilities ?? ["cache-coherency", "dirty-tracking"]).includes(capability);
  }

  *allocatePaging(device: Device, flags: number, data: UserData | undefined): Task<PagingDomain> {
    yield* this.system.tasks.point();
    this.system.failures.point("fake.domain.allocate");
    if (data !== undefined) {
      if (data.type !== 0xdead) refuse(EOPNOTSUPP, () => `data type ${data.type}`);
      if (data.bytes.length !== 8) refuse(EINVAL, () => `${data.bytes.length} bytes of data, not 8`);
    }
    return new FakeDomain(this, this.traits.get(device.name) ?? {}, flags);
  }

  reservedRegions(device: Device): ReservedRegion[] {
    return this.traits.get(device.name)?.regions ?? [];
  }

  hardwareInfo(_device: Device, requested: number): { type: number; bytes: Uint8Array } {
    if (requested !== 0 && requested !== 0xfeed) refuse(EOPNOTSUPP, () => `type ${requested}`);
    return { type: 0xfeed, bytes: new Uint8Array([1, 2, 3, 4, 5, 6, 7, 8]) };
  }
}

/** What a command answered: 0 or the name of an errno, the struct as the client sees it then, and the reason. */
export type Answer<N extends CommandName> = { errno: string; reason: string; out: Command<N> };

/** Values of a struct's fields, all numbers allowed where bigint is meant. */
export type Values = Record<string, number | bigint>;

export class World {
  readonly system = new System();
  readonly memory = new PhysicalMemory(this.system, { ram: [{ base: 0x40000000, size: 2 ** 28 }] });
  readonly core = new IommuCore(this.system);
  readonly driver: FakeDriver;
  readonly process: LibraryProcess;
  readonly context: IommufdContext;
  /** Where structs of commands lie, and where their results may. */
  readonly scratch: number;
  readonly instance: IommuInstance;

  constructor(
    options: Partial<IommufdOptions> & {
      process?: ConstructorParameters<typeof LibraryProcess>[2];
      driver?: typeof FakeDriver;
    } = {},
  ) {
    this.driver = new (options.driver ?? FakeDriver)(this.system, this.memory);
    this.process = new LibraryProcess(this.system, this.memory, options.process);
    this.context = new IommufdContext(this.system, this.core, { memory: this.memory, ...options });
    this.scratch = this.process.memory.map(2);
    this.instance = { name: "fake0", driver: this.driver, maxPasids: 2 ** 20 };
    this.run(this.core.register(this.instance));
  }

  run<T>(task: Task<T>): T {
    return this.system.run("test", task);
  }

  /** Pages of the process, each filled with its number + 1. */
  pages(count: number, options: { writable?: boolean; address?: number } = {}): number {
    return this.process.memory.map(count, options);
  }

  /** Performs an ioctl; missing fields are 0, `size` the whole struct. */
  call<N extends CommandName>(name: N, values: Values = {}, process: Process = this.process): Answer<N> {
    const row = iommufdCommands[name] as unknown as { number: number; struct: Struct<Fields> };
    const view = new row.struct() as StructView<Fields> & Record<string, unknown>;
    view.size = row.struct.size;
    for (const [field, value] of Object.entries(values)) {
      const wide = row.struct.fields[field].size === 8;
      view[field] = wide ? BigInt.asUintN(64, BigInt(value)) : Number(value);
    }
    this.process.memory.write(this.scratch, view.$bytes);
    const { errno, reason } = this.raw(row.number, this.scratch, process);
    this.process.memory.read(this.scratch, view.$bytes);
    return { errno, reason, out: view as unknown as Command<N> };
  }

  raw(request: number, argument: number, process: Process = this.process): { errno: string; reason: string } {
    try {
      this.run(this.context.ioctl(process, request, argument));
      return { errno: "", reason: "" };
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      return { errno: errnoName(error.errno), reason: error.reason };
    }
  }

  /** The process, with memory that nobody can write to. */
  unwritable(): Process {
    const memory = Object.create(this.process.memory, {
      write: { value: () => refuse(EFAULT, () => "nobody can write here") },
    }) as AddressSpace;
    return Object.create(this.process, { memory: { value: memory } }) as Process;
  }

  /** What a task refused, or "". */
  errnoOf(task: Task<unknown>): string {
    try {
      this.run(task);
      return "";
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      return errnoName(error.errno);
    }
  }

  ioas(): number {
    return this.call("IOAS_ALLOC").out.out_ioas_id;
  }

  device(name = `dev${this.core.devicesOf(this.instance).size}`, traits: FakeTraits = {}): Device {
    return this.deviceBehind("fake0", name, traits);
  }

  deviceBehind(instance: string, name: string, traits: FakeTraits = {}): Device {
    this.driver.traits.set(name, traits);
    const device = new Device({ name, firmware: { instance, streamIds: [] } });
    this.run(this.core.probe(device));
    device.iommu!.maxPasids = traits.maxPasids ?? 0;
    return device;
  }

  bind(device: Device = this.device()): IommufdDevice {
    return this.run(this.context.bindDevice(this.process, device, { label: "its driver" }));
  }

  /** Fixed, readable and writable. */
  map(ioas: number, address: number, length: number | bigint, iova: number | bigint): Answer<"IOAS_MAP"> {
    return this.call("IOAS_MAP", { flags: 7, ioas_id: ioas, user_va: address, length, iova });
  }

  /** Everything that a call may change, comparable with toEqual. */
  state(): unknown {
    return {
      context: this.context.snapshot(),
      pinned: this.memory.pinnedFrames,
      locked: [this.process.user.lockedPages, this.process.memory.lockedPages, this.process.memory.pinnedPages],
      domains: [...this.driver.domains].map(({ label, leaves }) => [label, leaves]),
      attached: [...this.driver.attached].map(([who, domain]) => [who, domain.label]),
      adopted: this.memory.adoptedFrames,
    };
  }
}
