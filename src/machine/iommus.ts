// Runs in a browser.
import { SmmuV3Driver, type SmmuV3Instance } from "../drivers/smmuv3/index.ts";
import { VirtioIommuDriver, type VirtioIommuInstance } from "../drivers/virtio-iommu/index.ts";
import { SmmuV3, smmuFeatures } from "../hardware/smmuv3/index.ts";
import { VirtioIommu, virtioIommuConfig } from "../hardware/virtio-iommu/index.ts";
import type { Cpu } from "../iommu/index.ts";
import type { PhysicalMemory } from "../memory/index.ts";
import type { AtsRequesters, RequesterId } from "../pci/index.ts";
import type { System, Task } from "../runtime/index.ts";
import type {
  IommuDescription,
  SmmuDescription,
  VirtioIommuDescription,
  VirtioIommuFeatureDescription,
} from "./description.ts";

/** A DMA that an IOMMU refused. */
export interface MachineFault {
  /** One sentence, made when asked for. */
  text(): string;
}

/** One IOMMU: the hardware, and what its driver made of it. */
export type MachineIommu = MachineSmmu | MachineVirtioIommu;

interface AnyMachineIommu {
  /** Requesters with these numbers are behind it, from now on; an SMMU knows no more of them than their numbers. */
  connect(requesters: readonly RequesterId[]): void;
  /** The driver lets go of it; no device may be left. */
  remove(): Task<void>;
}

interface MachineSmmu extends AnyMachineIommu {
  readonly description: SmmuDescription;
  readonly hardware: SmmuV3;
  readonly instance: SmmuV3Instance;
}

interface MachineVirtioIommu extends AnyMachineIommu {
  readonly description: VirtioIommuDescription;
  readonly hardware: VirtioIommu;
  readonly instance: VirtioIommuInstance;
}

interface IommuMakerOptions {
  /** Its TLB maintenance is broadcast. */
  readonly cpu: Cpu;
  /** Where writes become interrupts before they reach an IOMMU. */
  readonly doorbell: { readonly start: bigint; readonly last: bigint };
  readonly onFault: (fault: MachineFault) => void;
  /** The devices that an IOMMU may have to tell something. */
  readonly requesters: AtsRequesters;
}

/** Puts IOMMUs together with their drivers: one driver for all of a kind. */
export class IommuMaker {
  private readonly system: System;
  private readonly memory: PhysicalMemory;
  private readonly options: IommuMakerOptions;
  private readonly smmuDriver: SmmuV3Driver;
  private readonly virtioDriver: VirtioIommuDriver;

  constructor(system: System, memory: PhysicalMemory, options: IommuMakerOptions) {
    this.system = system;
    this.memory = memory;
    this.options = options;
    this.smmuDriver = new SmmuV3Driver(system, memory);
    this.virtioDriver = new VirtioIommuDriver(system, memory);
  }

  /** An IOMMU that works, for the requesters behind it. */
  *make(description: IommuDescription, requesters: readonly RequesterId[]): Task<MachineIommu> {
    if (description.kind === "smmuv3") return yield* this.makeSmmu(description);
    return yield* this.makeVirtio(description, requesters);
  }

  private *makeSmmu(description: SmmuDescription): Task<MachineSmmu> {
    const { smmuDriver: driver, options } = this;
    const { features, base } = description;
    let instance: SmmuV3Instance | undefined;
    const hardware = new SmmuV3(this.system, this.memory, {
      ...smmuFeatures({ ...features, substreamIdBits: features.pasidBits }),
      interrupt: (line) => driver.handleInterrupt(instance!, line),
      requesters: options.requesters,
    });
    hardware.onRefusal = options.onFault;
    options.cpu.broadcastTo((asid, start, size) => hardware.hearTlbInvalidation(asid, start, size));
    const probed = yield* driver.probe(hardware, {
      name: `smmu3.0x${base.toString(16).padStart(16, "0")}`,
      msiRegion: options.doorbell,
    });
    instance = probed;
    return { description, hardware, instance: probed, connect: () => {}, remove: () => driver.remove(probed) };
  }

  private *makeVirtio(
    description: VirtioIommuDescription,
    endpoints: readonly RequesterId[],
  ): Task<MachineVirtioIommu> {
    const { virtioDriver: driver, options } = this;
    const { name, base, features } = description;
    let instance: VirtioIommuInstance | undefined;
    const hardware = new VirtioIommu(this.system, this.memory, {
      label: name,
      config: configOf(features),
      endpoints,
      reserved: [{ kind: "msi", ...options.doorbell }],
      interrupt: () => {
        if (instance !== undefined) driver.handleInterrupt(instance);
      },
    });
    hardware.onFault = options.onFault;
    const probed = yield* driver.probe(hardware, { name: `${base.toString(16)}.virtio_mmio` });
    instance = probed;
    const connect = (requesters: readonly RequesterId[]): void => hardware.connect(requesters);
    return { description, hardware, instance: probed, connect, remove: () => driver.remove(probed) };
  }
}

function configOf(features: VirtioIommuFeatureDescription): ReturnType<typeof virtioIommuConfig> {
  const { inputBits, domainBits, probe, mmio, bypass, attachTable } = features;
  return virtioIommuConfig({
    inputRange: inputBits === 64 ? undefined : { start: 0n, last: 2n ** BigInt(inputBits) - 1n },
    domainRange: domainBits === 32 ? undefined : { first: 0, last: 2 ** domainBits - 1 },
    probe,
    mmio,
    attachTable,
    bypass: bypass === "absent" ? undefined : bypass === "on",
  });
}
