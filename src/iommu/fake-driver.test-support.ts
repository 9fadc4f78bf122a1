// Runs in a browser.
/** A driver without hardware, for tests of the core: it remembers what each device translates through, and can refuse. */
import { EINVAL, ENOMEM, refuse, type Task } from "../runtime/index.ts";
import type { IommuCore } from "./core.ts";
import type { Device } from "./device.ts";
import {
  type Capability,
  Domain,
  type DomainType,
  type IommuDriver,
  type IommuInstance,
  PagingDomain,
  type ReservedRegion,
} from "./driver.ts";
import type { UnmapGather } from "./gather.ts";
import type { Group } from "./group.ts";
import { singleDeviceGroup } from "./grouping.ts";

export class FakeDriver implements IommuDriver {
  readonly name: string;
  readonly attached = new Map<Device, Domain>();
  readonly probed = new Set<Device>();
  readonly domains = new Set<FakePagingDomain>();
  /** What PASIDs translate through that are not blocked, as `device:pasid`. */
  readonly pasids = new Map<string, Domain>();
  /** Whether a device refuses to go to a domain; asked at each attach. */
  refuses: (device: Device, domain: Domain) => boolean = () => false;
  blockedDomain?: FakeStaticDomain = new FakeStaticDomain("blocked", this);
  identityDomain?: FakeStaticDomain = new FakeStaticDomain("identity", this);
  releaseDomain?: FakeStaticDomain;
  defaultDomain?: FakeStaticDomain;
  defaultDomainType?: (device: Device) => "identity" | "dma" | undefined;
  defersAttach?: (device: Device) => boolean;
  /** True: nothing can be mapped in a domain without devices. "never": nothing at all. */
  mapsOnlyAttached: boolean | "never" = false;
  regions: (device: Device) => ReservedRegion[] = () => [];
  groupFor: (device: Device, core: IommuCore) => Group = singleDeviceGroup;
  private hasPasids = false;
  private allocated = 0;
  readonly failures: IommuCore["system"]["failures"];

  constructor(core: IommuCore, name = "fake") {
    this.failures = core.system.failures;
    this.name = name;
  }

  *probeDevice(device: Device): Task<void> {
    this.failures.point("fake.device.probe");
    this.probed.add(device);
  }

  *releaseDevice(device: Device): Task<void> {
    this.probed.delete(device);
    this.attached.delete(device);
  }

  deviceGroup(device: Device, core: IommuCore): Group {
    return this.groupFor(device, core);
  }

  capable(_device: Device, _capability: Capability): boolean {
    return true;
  }

  *allocatePaging(_device?: Device, _flags?: number): Task<PagingDomain> {
    this.failures.point("fake.domain.allocate");
    const domain = new FakePagingDomain(this, ++this.allocated);
    if (this.hasPasids) this.givePasids(domain);
    this.domains.add(domain);
    return domain;
  }

  /** From now on its domains can be attached to PASIDs. */
  usePasids(): void {
    this.hasPasids = true;
    if (this.blockedDomain !== undefined) this.givePasids(this.blockedDomain);
  }

  private givePasids(domain: Domain): void {
    const { failures, pasids } = this;
    const driver = this;
    domain.setDevicePasid = function* (device, pasid): Task<void> {
      if (this.type !== "blocked") failures.point("fake.pasid.attach");
      if (driver.refuses(device, this)) refuse(EINVAL, () => `${device.label} does not want ${this.label}`);
      if (this.type === "blocked") pasids.delete(`${device.name}:${pasid}`);
      else pasids.set(`${device.name}:${pasid}`, this);
    };
  }

  reservedRegions(device: Device): ReservedRegion[] {
    return this.regions(device);
  }

  attach(device: Device, domain: Domain): void {
    this.failures.point("fake.domain.attach");
    if (this.refuses(device, domain)) refuse(EINVAL, () => `${device.label} does not want ${domain.label}`);
    this.attached.set(device, domain);
  }
}

export class FakeStaticDomain extends Domain {
  readonly label: string;
  readonly type: DomainType;
  readonly owner: undefined;
  private readonly driver: FakeDriver;

  constructor(type: "blocked" | "identity", driver: FakeDriver) {
    super();
    this.type = type;
    this.label = type;
    this.driver = driver;
  }

  override *attachDevice(device: Device): Task<void> {
    this.driver.attach(device, this);
  }

  override free(): void {
    throw new Error("a static domain is never freed");
  }
}

export class FakePagingDomain extends PagingDomain {
  readonly label: string;
  readonly owner: FakeDriver;
  readonly pageSizes: readonly number[] = [4096];
  readonly aperture = { start: 0n, last: 2n ** 48n - 1n };
  readonly pages = new Map<bigint, number>();

  constructor(owner: FakeDriver, number = 0) {
    super();
    this.owner = owner;
    this.label = `fake domain ${number}`;
  }

  override *attachDevice(device: Device): Task<void> {
    this.owner.attach(device, this);
  }

  override free(): void {
    if ([...this.owner.attached.values()].includes(this)) throw new Error("freed while a device uses it");
    if (!this.owner.domains.delete(this)) throw new Error("freed twice");
  }

  override *map(iova: bigint, physical: number, size: number): Task<void> {
    const { attached, mapsOnlyAttached, failures } = this.owner;
    failures.point("fake.domain.map");
    if (mapsOnlyAttached === "never" || (mapsOnlyAttached && ![...attached.values()].includes(this))) {
      refuse(ENOMEM, () => "no device yet");
    }
    for (let at = 0; at < size; at += 4096) this.pages.set(iova + BigInt(at), physical + at);
  }

  override *unmap(iova: bigint, size: number): Task<number> {
    for (let at = 0; at < size; at += 4096) this.pages.delete(iova + BigInt(at));
    return size;
  }

  override *sync(_gather: UnmapGather): Task<void> {}

  override translate(iova: bigint): number | undefined {
    return this.pages.get(iova);
  }
}

/** An instance of `driver` that can be registered. */
export function fakeInstance(driver: IommuDriver, name: string, maxPasids = 0): IommuInstance {
  return { name, driver, maxPasids };
}
