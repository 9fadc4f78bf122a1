// Runs in a browser.
import { type Device, groupOf } from "../iommu/index.ts";
import type { PhysicalMemory } from "../memory/index.ts";
import {
  COMMAND,
  COMMAND_MASTER,
  enableVectors,
  type PciDriver,
  type PciFunction,
  type Vectors,
} from "../pci/index.ts";
import { EINVAL, ENOSPC, IdAllocator, refuse, type System, type Task } from "../runtime/index.ts";
import { CopyEngineAccelerator } from "./copy-engine.ts";
import { CopyRegisters } from "./copy-registers.ts";
import { type Binder, UacceDevice } from "./device.ts";

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

  /** In the order in which they were bound. */
  get devices(): readonly UacceDevice[] {
    return [...this.bound.values()].map(({ uacce }) => uacce);
  }

  /** EINVAL for what is no copy engine, or cannot send PASIDs through an IOMMU; EBUSY if somebody owns its group; ENOSPC. */
  *probe(member: PciFunction): Task<void> {
    const device = this.options.device(member);
    if (device?.iommu === undefined) refuse(EINVAL, () => `${member.name} is behind no IOMMU`);
    if (device.iommu.maxPasids === 0) refuse(EINVAL, () => `${member.name} and its IOMMU have no PASIDs in common`);
    const registers = new CopyRegisters(member);
    const group = groupOf(device);
    yield* group.useDefaultDomain(device);
    try {
      const bound = this.setUp(member, device, registers);
      this.bound.set(member, bound);
      device.driver = this.name;
    } catch (error) {
      yield* group.unuseDefaultDomain();
      throw error;
    }
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
    yield* groupOf(device).unuseDefaultDomain();
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
