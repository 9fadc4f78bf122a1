// Runs in a browser.
/** A fake driver that has everything for guests: nested domains, viommus with all they may have, page requests. */
import {
  allowPageRequests,
  type Device,
  type Domain,
  forbidPageRequests,
  type HardwareQueue,
  type HardwareQueueRequest,
  type Invalidation,
  NestedDomain,
  type PageRequest,
  type PagingDomain,
  type ResponseCode,
  reportPageRequest,
  type UserData,
  type Viommu,
  type ViommuServices,
} from "../iommu/index.ts";
import { assert, EEXIST, EINVAL, ENOENT, EOPNOTSUPP, Refusal, refuse, type Task } from "../runtime/index.ts";
import type { IommufdDevice } from "./device.ts";
import { FakeDriver, World } from "./world.test-support.ts";

/** The one type of data, viommus, queues and events that the driver knows. */
export const GUEST = 0xdead;

/** Its data is one byte, which invalidation sets to 0. */
export class FakeNested extends NestedDomain {
  readonly label: string;
  readonly owner: GuestDriver;
  readonly viommu: FakeViommu | undefined;
  cached: number;

  constructor(owner: GuestDriver, viommu: FakeViommu | undefined, data: UserData) {
    super();
    owner.system.failures.point("fake.nested.allocate");
    if (data.type !== GUEST) refuse(EOPNOTSUPP, () => `data type ${data.type}`);
    if (data.length !== 1) refuse(EINVAL, () => `${data.length} bytes of data`);
    [this.cached] = data.bytes;
    this.label = `nested domain ${++owner.made}`;
    this.owner = owner;
    this.viommu = viommu;
    owner.nested.add(this);
  }

  override *attachDevice(device: Device, old: Domain | undefined): Task<void> {
    if (this.viommu !== undefined && this.viommu.services.virtualId(device) === undefined) {
      refuse(ENOENT, () => `${device.label} has no vdevice on ${this.viommu!.label}`);
    }
    yield* this.owner.system.tasks.point();
    this.owner.attach(device, 0, this);
    yield* this.owner.followFaults(device, this, old);
  }

  override *setDevicePasid(device: Device, pasid: number): Task<void> {
    this.owner.attach(device, pasid, this);
  }

  override *invalidate(invalidation: Invalidation): Task<void> {
    if (invalidation.type !== GUEST) refuse(EINVAL, () => `type ${invalidation.type}`);
    const entry = new Uint8Array(2);
    for (let index = 0; index < invalidation.count; index++) {
      invalidation.read(index, entry);
      if (entry[0] !== 0) refuse(EINVAL, () => `entry ${index} is not zero`);
      this.cached = 0;
      invalidation.done++;
    }
  }

  override free(): void {
    for (const domain of this.owner.attached.values())
      assert(domain !== this, () => `${this.label} is freed while attached`);
    assert(this.owner.nested.delete(this), () => `${this.label} is freed twice`);
  }
}

export class FakeViommu implements Viommu {
  readonly label: string;
  readonly instance: Viommu["instance"];
  readonly services: ViommuServices;
  readonly devices = new Map<bigint, Device>();
  readonly queues: (FakeQueue | undefined)[] = [];
  private readonly owner: GuestDriver;

  constructor(owner: GuestDriver, device: Device, services: ViommuServices) {
    owner.system.failures.point("fake.viommu.allocate");
    this.label = `viommu ${++owner.made}`;
    this.owner = owner;
    this.instance = device.iommu!.instance;
    this.services = services;
    owner.viommus.add(this);
  }

  *allocateNested(_device: Device, _flags: number, data: UserData): Task<NestedDomain> {
    yield* this.owner.system.tasks.point();
    return new FakeNested(this.owner, this, data);
  }

  *invalidate(invalidation: Invalidation): Task<void> {
    invalidation.done = invalidation.count;
  }

  *addDevice(device: Device, virtualId: bigint): Task<void> {
    this.owner.system.failures.point("fake.vdevice.add");
    yield* this.owner.system.tasks.point();
    this.devices.set(virtualId, device);
  }

  *removeDevice(device: Device, virtualId: bigint): Task<void> {
    assert(this.devices.get(virtualId) === device, () => `${device.label} is not 0x${virtualId.toString(16)}`);
    yield* this.owner.system.tasks.point();
    this.devices.delete(virtualId);
  }

  hasQueues(type: number): boolean {
    return type === GUEST;
  }

  /** Queue n depends on queue n - 1. */
  *allocateQueue(request: HardwareQueueRequest): Task<HardwareQueue> {
    this.owner.system.failures.point("fake.queue.allocate");
    const { index } = request;
    const lower = index > 0 ? this.queues[index - 1] : undefined;
    if (this.queues[index] !== undefined) refuse(EEXIST, () => `queue ${index} exists`);
    if (index > 0 && lower === undefined) refuse(EINVAL, () => `queue ${index - 1} is not there`);
    const queue = new FakeQueue(this, request, lower);
    this.queues[index] = queue;
    return queue;
  }

  *free(): Task<void> {
    assert(this.devices.size === 0 && this.queues.every((queue) => queue === undefined), () => `${this.label} in use`);
    assert(this.owner.viommus.delete(this), () => `${this.label} is freed twice`);
  }
}

export class FakeQueue implements HardwareQueue {
  readonly request: HardwareQueueRequest;
  readonly dependsOn: FakeQueue | undefined;
  private readonly viommu: FakeViommu;

  constructor(viommu: FakeViommu, request: HardwareQueueRequest, dependsOn: FakeQueue | undefined) {
    this.viommu = viommu;
    this.request = request;
    this.dependsOn = dependsOn;
  }

  *free(): Task<void> {
    this.viommu.queues[this.request.index] = undefined;
  }
}

export class GuestDriver extends FakeDriver {
  override readonly name = "guest driver";
  readonly userPasidTables = true;
  readonly nested = new Set<FakeNested>();
  readonly viommus = new Set<FakeViommu>();
  /** What devices were answered: device, group id, code. */
  readonly responses: [string, number, ResponseCode][] = [];

  *allocateNested(_device: Device, _parent: PagingDomain, _flags: number, data: UserData): Task<NestedDomain> {
    yield* this.system.tasks.point();
    return new FakeNested(this, undefined, data);
  }

  supportsViommu(_device: Device, type: number): boolean {
    return type === GUEST;
  }

  *allocateViommu(
    device: Device,
    _parent: PagingDomain,
    _type: number,
    data: UserData | undefined,
    services: ViommuServices,
  ): Task<Viommu> {
    yield* this.system.tasks.point();
    data?.write(new Uint8Array([7, 8, 9]));
    return new FakeViommu(this, device, services);
  }

  *pageResponse(device: Device, request: PageRequest, code: ResponseCode): Task<void> {
    yield* this.system.tasks.point();
    this.responses.push([device.name, request.group, code]);
  }

  /** Page requests are allowed while something that handles them is attached. */
  override *followFaults(device: Device, to: Domain, from: Domain | undefined): Task<void> {
    const before = from?.pageRequestHandler !== undefined;
    const after = to.pageRequestHandler !== undefined;
    if (after && !before) allowPageRequests(device);
    if (before && !after) yield* forbidPageRequests(device);
  }
}

/** IOAS 1, device 2, nest parent 3; the driver has everything. */
export class GuestWorld extends World {
  readonly bound: IommufdDevice;

  constructor(options: ConstructorParameters<typeof World>[0] = {}) {
    super({ ...options, driver: GuestDriver });
    this.ioas();
    this.bound = this.bind(this.device("guest", { maxPasids: 1024 }));
    const { out } = this.call("HWPT_ALLOC", { dev_id: 2, pt_id: 1, flags: 1 });
    assert(out.out_hwpt_id === 3, "the parent is 3");
    this.process.memory.write(this.data, new Uint8Array([42]));
  }

  get guests(): GuestDriver {
    return this.driver as GuestDriver;
  }

  /** Where a byte of driver data lies, which is 42; room follows. */
  get data(): number {
    return this.scratch + 0x800;
  }

  /** The id of a new nested HWPT. */
  nest(pt_id = 3, more: Record<string, number> = {}): number {
    const { errno, out } = this.call("HWPT_ALLOC", {
      dev_id: this.bound.id,
      pt_id,
      data_type: GUEST,
      data_len: 1,
      data_uptr: this.data,
      ...more,
    });
    assert(errno === "", () => `HWPT_ALLOC: ${errno}`);
    return out.out_hwpt_id;
  }

  viommu(): number {
    const { errno, out } = this.call("VIOMMU_ALLOC", { type: GUEST, dev_id: this.bound.id, hwpt_id: 3 });
    assert(errno === "", () => `VIOMMU_ALLOC: ${errno}`);
    return out.out_viommu_id;
  }

  vdevice(viommu_id: number, virt_id: number | bigint, dev_id: number = this.bound.id): number {
    const { errno, out } = this.call("VDEVICE_ALLOC", { viommu_id, dev_id, virt_id });
    assert(errno === "", () => `VDEVICE_ALLOC: ${errno}`);
    return out.out_vdevice_id;
  }

  /** The id and the descriptor of a new fault queue. */
  faultQueue(): [number, number] {
    const { errno, out } = this.call("FAULT_QUEUE_ALLOC");
    assert(errno === "", () => `FAULT_QUEUE_ALLOC: ${errno}`);
    return [out.out_fault_id, out.out_fault_fd];
  }

  /** The id and the descriptor of a new event queue. */
  eventQueue(viommu_id: number, veventq_depth: number, type = GUEST): [number, number] {
    const { errno, out } = this.call("VEVENTQ_ALLOC", { viommu_id, type, veventq_depth });
    assert(errno === "", () => `VEVENTQ_ALLOC: ${errno}`);
    return [out.out_veventq_id, out.out_veventq_fd];
  }

  /** A page request of one page that is a whole group; false if it was rejected. */
  fault(group: number, pasid = 0, device: Device = this.bound.device): boolean {
    const flags = 2 | (pasid === 0 ? 0 : 1);
    const request = { flags, pasid, group, rights: 3, address: 0xabc000n + BigInt(group) };
    return this.errnoOf(reportPageRequest(device, request)) === "";
  }

  /** The client reads from a descriptor: the bytes, or an errno. Of its buffer only `room` bytes are there. */
  readFile(fd: number, count: number, room = count): Uint8Array | string {
    const into = this.pages(1) + 4096 - room;
    const file = this.process.file(fd);
    assert(file.kind === "ours" && file.file.readInto !== undefined, "a queue");
    try {
      const bytes = new Uint8Array(this.run(file.file.readInto(this.process, into, count)));
      this.process.memory.read(into, bytes);
      return bytes;
    } catch (error) {
      return errnoOf(error);
    }
  }

  /** The client writes 32-bit words to a descriptor: the bytes accepted, or an errno. */
  writeFile(fd: number, words: readonly number[], count: number = words.length * 4): number | string {
    const address = this.scratch + 0xc00;
    this.process.memory.write(address, new Uint8Array(new Uint32Array(words).buffer));
    const file = this.process.file(fd);
    assert(file.kind === "ours" && file.file.writeFrom !== undefined, "a queue");
    try {
      return this.run(file.file.writeFrom(this.process, address, count));
    } catch (error) {
      return errnoOf(error);
    }
  }

  override state(): unknown {
    const { nested, viommus } = this.guests;
    return { ...(super.state() as object), nested: nested.size, viommus: viommus.size };
  }
}

function errnoOf(error: unknown): string {
  if (!(error instanceof Refusal)) throw error;
  return error.toString().split(":")[0];
}

/** The 32-bit words of bytes. */
export function words(bytes: Uint8Array | string): number[] | string {
  return typeof bytes === "string" ? bytes : [...new Uint32Array(bytes.slice().buffer)];
}
