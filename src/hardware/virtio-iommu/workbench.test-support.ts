/** A virtio IOMMU on a bench: a driver written by hand, descriptor by descriptor. */
import { PhysicalMemory } from "../../memory/index.ts";
import { System } from "../../runtime/index.ts";
import { type FeatureChoices, VirtioIommu, type VirtioIommuOptions, virtioIommuConfig } from "./index.ts";

export const MIB = 2 ** 20;
/** Where the rings lie; those of queue 1 lie 64 KiB above. */
export const DESC = 0x10000;
export const AVAIL = 0x11000;
export const USED = 0x12000;
const QUEUE_DISTANCE = 0x10000;
export const BUFFER = 0x40000;
export const SIZE = 8;

export const REG = { status: 0x70, interrupt: 0x60, ack: 0x64, notify: 0x50, features: 0x20, select: 0x24 };

export class Workbench {
  readonly system = new System();
  readonly memory = new PhysicalMemory(this.system, { ram: [{ base: 0, size: 16 * MIB }] });
  readonly device: VirtioIommu;
  interrupts = 0;
  private readonly offered = [0, 0];

  constructor(choices: FeatureChoices = {}, options: Partial<VirtioIommuOptions> = {}) {
    this.device = new VirtioIommu(this.system, this.memory, {
      config: virtioIommuConfig(choices),
      endpoints: [8, 16],
      interrupt: () => this.interrupts++,
      ...options,
    });
  }

  get status(): number {
    return this.device.read32(REG.status);
  }

  /** The handshake up to FEATURES_OK. */
  negotiate(low = 0x75, high = 1): this {
    const { device } = this;
    device.write32(REG.status, 0);
    device.write32(REG.status, 1);
    device.write32(REG.status, 3);
    device.write32(REG.select, 0);
    device.write32(REG.features, low);
    device.write32(REG.select, 1);
    device.write32(REG.features, high);
    device.write32(REG.status, 11);
    return this;
  }

  /** Both queues and DRIVER_OK. */
  start(low?: number): this {
    this.negotiate(low);
    const { device } = this;
    for (const queue of [0, 1]) {
      this.offered[queue] = 0;
      device.write32(0x30, queue);
      device.write32(0x38, SIZE);
      for (const [register, address] of [
        [0x80, DESC],
        [0x90, AVAIL],
        [0xa0, USED],
      ]) {
        device.write32(register, address + queue * QUEUE_DISTANCE);
        this.memory.write(address + queue * QUEUE_DISTANCE, new Uint8Array(256));
      }
      device.write32(0x44, 1);
    }
    device.write32(REG.status, 15);
    return this;
  }

  /** Writes descriptor `index`: flags NEXT 1, WRITE 2, INDIRECT 4. */
  describe(index: number, address: number, length: number, flags: number, next = 0, queue = 0): void {
    this.words(DESC + queue * QUEUE_DISTANCE + index * 16, address, 0, length, next * 65536 + flags);
  }

  /** Makes the chain at `head` available and tells the device. */
  offer(head: number, queue = 0): void {
    const avail = AVAIL + queue * QUEUE_DISTANCE;
    const bytes = new Uint8Array(2);
    new DataView(bytes.buffer).setUint16(0, head, true);
    this.memory.write(avail + 4 + (this.offered[queue] % SIZE) * 2, bytes);
    this.offered[queue] = (this.offered[queue] + 1) % 65536;
    new DataView(bytes.buffer).setUint16(0, this.offered[queue], true);
    this.memory.write(avail + 2, bytes);
    this.device.write32(REG.notify, queue);
  }

  /** Sends one request and returns what the device wrote (`room` bytes are given) and how much it says it wrote. */
  send(request: readonly number[], room = 4): { readonly answer: number[]; readonly written: number } {
    this.memory.write(BUFFER, Uint8Array.from(request));
    this.memory.write(BUFFER + 0x1000, new Uint8Array(room).fill(0xee));
    this.describe(0, BUFFER, request.length, 1, 1);
    this.describe(1, BUFFER + 0x1000, room, 2);
    this.offer(0);
    return { answer: this.bytes(BUFFER + 0x1000, room), written: this.used().length };
  }

  /** The status of a request that has one. */
  statusOf(request: readonly number[]): number {
    return this.send(request).answer[0];
  }

  /** The newest entry of the used ring. */
  used(queue = 0): { readonly index: number; readonly head: number; readonly length: number } {
    const used = USED + queue * QUEUE_DISTANCE;
    const index = this.memory.readWord(used) >>> 16;
    const entry = used + 4 + ((index + 65535) % SIZE) * 8;
    return { index, head: this.memory.readWord(entry), length: this.memory.readWord(entry + 4) };
  }

  bytes(address: number, length: number): number[] {
    const bytes = new Uint8Array(length);
    this.memory.read(address, bytes);
    return [...bytes];
  }

  words(address: number, ...words: number[]): void {
    for (const [index, word] of words.entries()) this.memory.writeWord(address + index * 4, word);
  }

  dma(endpoint: number, address: bigint, write = false, length = 4, pasid?: number): boolean {
    return this.system.run("dma", this.device.access(endpoint, pasid, address, new Uint8Array(length), write));
  }
}

// Requests as bytes, little-endian.

const le = (value: bigint | number, bytes: number): number[] => {
  const view = new DataView(new ArrayBuffer(8));
  view.setBigUint64(0, BigInt(value), true);
  return [...new Uint8Array(view.buffer, 0, bytes)];
};

export const attach = (domain: number, endpoint: number, flags = 0, reserved = 0): number[] => [
  ...[1, 0, 0, 0],
  ...le(domain, 4),
  ...le(endpoint, 4),
  ...le(flags, 4),
  ...le(reserved, 4),
];
export const detach = (domain: number, endpoint: number, reserved = 0n): number[] => [
  ...[2, 0, 0, 0],
  ...le(domain, 4),
  ...le(endpoint, 4),
  ...le(reserved, 8),
];
export const map = (domain: number, start: bigint, last: bigint, physical: bigint, flags = 3): number[] => [
  ...[3, 0, 0, 0],
  ...le(domain, 4),
  ...le(start, 8),
  ...le(last, 8),
  ...le(physical, 8),
  ...le(flags, 4),
];
export const unmap = (domain: number, start: bigint, last: bigint, reserved = 0): number[] => [
  ...[4, 0, 0, 0],
  ...le(domain, 4),
  ...le(start, 8),
  ...le(last, 8),
  ...le(reserved, 4),
];
export const probe = (endpoint: number): number[] => [5, 0, 0, 0, ...le(endpoint, 4), ...new Array<number>(64).fill(0)];
/** Of the proposal in docs/virtio-tables.md. */
export const attachTable = (
  domain: number,
  endpoint: number,
  pointer: number,
  { format = 2, s1fmt = 0, s1dss = 2, s1cdmax = 0, reserved = 0 } = {},
): number[] => [
  ...[6, 0, 0, 0],
  ...le(domain, 4),
  ...le(endpoint, 4),
  ...[...le(format, 2), s1fmt, s1dss],
  ...le(pointer, 8),
  ...le(s1cdmax, 4),
  ...le(reserved, 8),
  ...new Array<number>(40).fill(0),
];
export const invalidate = (
  domain: number,
  { granularity = 0, caches = 1, flags = 0, pasid = 0, asid = 0, address = 0, pages = 0, log2 = 0 } = {},
): number[] => [
  ...[7, 0, 0, 0],
  ...[...le(granularity, 2), ...le(caches, 2), ...le(flags, 2), ...le(0, 2)],
  ...[...le(domain, 4), ...le(pasid, 4), ...le(asid, 8), ...le(address, 8), ...le(pages, 8), log2],
  ...new Array<number>(11).fill(0),
];
