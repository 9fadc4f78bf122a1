// Runs in a browser.
/** Platform devices: no bus finds them, the firmware tells of them. They have names and stream ids, and no registers here. */
import type { Device } from "../iommu/index.ts";
import type { FileNode } from "../memory/index.ts";
import { type DmaPort, type DmaTarget, relative } from "../pci/index.ts";
import { assert, type Task } from "../runtime/index.ts";
import type { PlatformDescription } from "./description.ts";

const busPath = "/sys/bus/platform";

/** One of them: who models it does its DMA. */
export class PlatformDevice {
  readonly description: PlatformDescription;
  /** The same device, as the core knows it. */
  readonly device: Device;
  /** DMA under its first stream id. */
  readonly dma: DmaPort;
  private readonly target: DmaTarget;

  /** `target`: its IOMMU, or what is there without. */
  constructor(description: PlatformDescription, device: Device, target: DmaTarget) {
    this.description = description;
    this.device = device;
    this.target = target;
    this.dma = this.port(description.streams[0] ?? 0);
  }

  get name(): string {
    return this.description.name;
  }

  /** DMA under one of its stream ids. */
  dmaUnder(stream: number): DmaPort {
    assert(this.description.streams.includes(stream), () => `${this.name} has no stream id 0x${stream.toString(16)}`);
    return this.port(stream);
  }

  private port(stream: number): DmaPort {
    const access = (address: bigint, bytes: Uint8Array, write: boolean, pasid?: number): Task<boolean> =>
      this.target.access(stream, pasid, address, bytes, write);
    return {
      read: (address, into, pasid) => access(address, into, false, pasid),
      write: (address, from, pasid) => access(address, from, true, pasid),
    };
  }
}

/** The directory of a platform device. */
export function platformPath(name: string): string {
  return `/sys/devices/platform/${name}`;
}

/**
 * The links in /sys/bus/platform, and what is in each device's directory whatever its IOMMU; the formats are Linux 7.2's. The
 * directories of the bus are not ours alone: the computer's own platform devices stay visible beside these.
 */
export function platformNodes(devices: readonly PlatformDevice[]): Map<string, FileNode> {
  const nodes = new Map<string, FileNode>();
  for (const { name } of devices) {
    const path = platformPath(name);
    nodes.set(`${busPath}/devices/${name}`, { kind: "link", target: relative(`${busPath}/devices`, path) });
    nodes.set(`${path}/subsystem`, { kind: "link", target: relative(path, busPath) });
    nodes.set(`${path}/modalias`, { kind: "text", mode: 0o444, read: () => `platform:${name}\n` });
    nodes.set(`${path}/uevent`, { kind: "text", mode: 0o444, read: () => `MODALIAS=platform:${name}\n` });
  }
  return nodes;
}
