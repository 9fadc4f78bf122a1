// Runs in a browser.
import type { Device, Group } from "../iommu/index.ts";
import type { PciDriver, PciFunction } from "../pci/index.ts";
import { EINVAL, ENOENT, IdAllocator, refuse, type System, type Task } from "../runtime/index.ts";
import { VfioDevice } from "./device.ts";
import { VfioGroup } from "./group.ts";

/** Minor numbers of one character device region. */
const LAST_NUMBER = 0xfffff;

/** The driver vfio-pci: makes a VfioDevice of each function that it is bound to, under the lowest free number. */
export class VfioPciDriver implements PciDriver {
  readonly name = "vfio-pci";
  readonly managesDma = true;
  readonly virtualFunctions: NonNullable<PciDriver["virtualFunctions"]> = {
    override: "vfio-pci",
    permit: (physical) => {
      if (!this.enablesVirtualFunctions)
        refuse(ENOENT, () => `vfio-pci turns no virtual functions of ${physical.name} on: enable_sriov is N`);
    },
  };
  /** Its module parameter `enable_sriov`: it lets virtual functions be turned on and off. */
  enablesVirtualFunctions = false;
  private readonly system: System;
  private readonly deviceOf: (member: PciFunction) => Device | undefined;
  private readonly onChange: ((member: PciFunction) => void) | undefined;
  private readonly numbers = new IdAllocator(0, LAST_NUMBER);
  private readonly byFunction = new Map<PciFunction, VfioDevice>();
  private readonly groupNumbers = new IdAllocator(0, LAST_NUMBER);
  private readonly byGroup = new Map<Group, VfioGroup>();

  /** `device` finds what the IOMMU core has of a function; `onChange` hears of functions that clients take and give back. */
  constructor(
    system: System,
    options: { device: (member: PciFunction) => Device | undefined; onChange?: (member: PciFunction) => void },
  ) {
    this.system = system;
    this.onChange = options.onChange;
    this.deviceOf = options.device;
  }

  /** In the order in which they were bound. */
  get devices(): readonly VfioDevice[] {
    return [...this.byFunction.values()];
  }

  /** Groups with such a device, in the order of their first ones. */
  get groups(): readonly VfioGroup[] {
    return [...this.byGroup.values()];
  }

  /** EINVAL if no IOMMU keeps the function's DMA coherent with the CPU's caches, or there is none. */
  *probe(member: PciFunction): Task<void> {
    yield* this.system.tasks.point();
    const device = this.deviceOf(member);
    const driver = device?.iommu?.instance.driver;
    if (device === undefined || driver === undefined) refuse(EINVAL, () => `${member.name} is behind no IOMMU`);
    if (!driver.capable(device, "cache-coherency")) {
      refuse(EINVAL, () => `DMA of ${member.name} is not coherent with the CPU's caches`);
    }
    this.system.failures.point("vfio.device.probe");
    const number = this.numbers.allocate();
    if (number === undefined) refuse(EINVAL, () => "there are no more numbers for VFIO devices");
    const group = this.groupOf(device.group!);
    const { byFunction: siblings, deviceOf, onChange } = this;
    const vfio = new VfioDevice(this.system, { device, number, group, siblings, deviceOf, onChange });
    this.byFunction.set(member, vfio);
    group.members.add(vfio);
    device.driver = this.name;
  }

  *remove(member: PciFunction): Task<void> {
    const vfio = this.byFunction.get(member);
    if (vfio === undefined) return;
    yield* vfio.leave();
    this.byFunction.delete(member);
    this.leaveGroup(vfio);
    this.numbers.free(vfio.number);
    vfio.device.driver = undefined;
  }

  private groupOf(group: Group): VfioGroup {
    let found = this.byGroup.get(group);
    if (found === undefined) {
      const number = this.groupNumbers.allocate();
      if (number === undefined) refuse(EINVAL, () => "there are no more numbers for VFIO groups");
      found = new VfioGroup(this.system, group, number);
      this.byGroup.set(group, found);
    }
    return found;
  }

  /** The last device takes its group along, for everybody but who has its file open. */
  private leaveGroup(device: VfioDevice): void {
    const { group } = device;
    group.members.delete(device);
    if (!group.isGone) return;
    this.byGroup.delete(group.group);
    this.groupNumbers.free(group.number);
  }
}
