// Runs in a browser.
import type { Device } from "../iommu/index.ts";
import { COMMAND, COMMAND_MASTER, COMMAND_MEMORY, idsOf, type PciDriver, type PciFunction } from "../pci/index.ts";
import type { System, Task } from "../runtime/index.ts";

const VENDOR_QEMU = 0x1234;
const DEVICE_EDU = 0x11e8;

/**
 * The kernel's own driver of edu devices: one that does DMA by the kernel's DMA API, in the default domain. While it is
 * bound to a function, nobody else gets the group of that function.
 */
export class EduKernelDriver implements PciDriver {
  readonly name = "edu";
  readonly virtualFunctions: NonNullable<PciDriver["virtualFunctions"]> = { permit: () => {} };
  private readonly system: System;
  private readonly deviceOf: (member: PciFunction) => Device | undefined;

  /** `device` finds what the IOMMU core has of a function. */
  constructor(system: System, options: { device: (member: PciFunction) => Device | undefined }) {
    this.system = system;
    this.deviceOf = options.device;
  }

  matches(member: PciFunction): boolean {
    const { vendor, device } = idsOf(member);
    return vendor === VENDOR_QEMU && device === DEVICE_EDU;
  }

  /** Enables the function, and lets it master the bus. */
  *probe(member: PciFunction): Task<void> {
    this.system.failures.point("edu.device.probe");
    member.enableCount++;
    this.setCommand(member, COMMAND_MEMORY | COMMAND_MASTER, 0);
    this.nameDriver(member, this.name);
  }

  /** Mastering ends: no DMA of the function is under way when somebody else gets it. */
  *remove(member: PciFunction): Task<void> {
    this.setCommand(member, 0, COMMAND_MASTER);
    member.enableCount--;
    this.nameDriver(member, undefined);
  }

  private setCommand(member: PciFunction, set: number, clear: number): void {
    member.writeConfig(COMMAND, 2, (member.readConfig(COMMAND, 2) | set) & ~clear);
  }

  private nameDriver(member: PciFunction, name: string | undefined): void {
    const device = this.deviceOf(member);
    if (device !== undefined) device.driver = name;
  }
}
