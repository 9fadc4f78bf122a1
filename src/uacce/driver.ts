// Runs in a browser.
import type { Device } from "../iommu/index.ts";
import type { PhysicalMemory } from "../memory/index.ts";
import {
  COMMAND,
  COMMAND_MASTER,
  DEVICE_ID,
  enableVectors,
  type PciDriver,
  type PciFunction,
  VENDOR_ID,
  type Vectors,
} from "../pci/index.ts";
import { EINVAL, ENOSPC, IdAllocator, refuse, type System, type Task } from "../runtime/index.ts";
import { CopyEngineAccelerator } from "./copy-engine.ts";
import { CopyRegisters } from "./copy-registers.ts";
import { type Binder, UacceDevice } from "./device.ts";

const VENDOR = 0x1234;
const COPY_ENGINE = 0xc0e1;
/** Minor numbers of the character device region. */
const LAST_NUMBER = 0xfffff;

export interface UacceOptions {
  readonly memory: PhysicalMemory;
  /** What the core has of a function. */
  readonly device: (member: PciFunction) => Device | undefined;
  readonly sva: Binder;
  /** Told when what sysfs says of a device may have changed. */
  readonly onChange?: (device: UacceDevice) => void;
}

interface Bound {
  readonly uacce: UacceDevice;
  readonly device: Device;
  readonly vectors: Vectors;
}

/** The driver of copy engines: makes an accelerator of each function that it is bound to, under the lowest free number. */
export class UacceDriver implements PciDriver {
  readonly name = "uacce";
  private readonly system: System;
  private readonly options: UacceOptions;
  private readonly numbers = new IdAllocator(0, LAST_NUMBER);
  private readonly bound = new Map<PciFunction, Bound>();

  constructor(system: System, options: UacceOptions) {
    this.system = system;
    this.options = options;
  }

  matches(member: PciFunction): boolean {
    return member.readConfig(VENDOR_ID, 2) === VENDOR && member.readConfig(DEVICE_ID, 2) === COPY_ENGINE;
  }

  /** In the order in which they were bound. */
  get devices(): readonly UacceDevice[] {
    return [...this.bound.values()].map(({ uacce }) => uacce);
  }

  /** EINVAL for what is no copy engine, or cannot send PASIDs through an IOMMU; ENOSPC. */
  *probe(member: PciFunction): Task<void> {
    const device = this.options.device(member);
    if (device?.iommu === undefined) refuse(EINVAL, () => `${member.name} is behind no IOMMU`);
    if (device.iommu.maxPasids === 0) refuse(EINVAL, () => `${member.name} and its IOMMU have no PASIDs in common`);
    yield* this.system.tasks.point();
    this.bound.set(member, this.setUp(member, device, new CopyRegisters(member)));
    device.driver = this.name;
  }

  *remove(member: PciFunction): Task<void> {
    const bound = this.bound.get(member);
    if (bound === undefined) return;
    const { uacce, device, vectors } = bound;
    this.bound.delete(member);
    yield* uacce.remove();
    vectors.free();
    member.writeConfig(COMMAND, 2, member.readConfig(COMMAND, 2) & ~COMMAND_MASTER);
    member.enableCount--;
    device.driver = undefined;
    this.numbers.free(uacce.number);
  }

  private setUp(member: PciFunction, device: Device, registers: CopyRegisters): Bound {
    const { system, options } = this;
    system.failures.point("uacce.device.probe");
    const number = this.numbers.allocate();
    if (number === undefined) refuse(ENOSPC, () => "there are no more numbers for accelerators");
    const accelerator = new CopyEngineAccelerator({ system, memory: options.memory, registers, device });
    try {
      const vectors = enableVectors(member, "msi", 1, accelerator.interrupted);
      member.enableCount++;
      member.writeConfig(COMMAND, 2, member.readConfig(COMMAND, 2) | COMMAND_MASTER);
      const uacce = new UacceDevice({
        system,
        kind: "copy_engine",
        number,
        member,
        device,
        accelerator,
        sva: options.sva,
        onChange: (changed) => options.onChange?.(changed),
      });
      return { uacce, device, vectors };
    } catch (error) {
      this.numbers.free(number);
      throw error;
    }
  }
}
