// Runs in a browser.
import type { EventFd, Process } from "../memory/index.ts";
import type { PciFunction } from "../pci/index.ts";
import { EEXIST, EINVAL, ENODEV, ENOSPC, refuse } from "../runtime/index.ts";
import { IoEventFd, REGION_ROM, REGION_STRIDE } from "../uapi/index.ts";
import { eventFd } from "./irq-data.ts";
import { barAnswers } from "./regions.ts";
import type { VirtualConfig } from "./virtual-config.ts";

const MINIMUM = IoEventFd.endOf("fd");
const MOST = 1000;

interface Entry {
  readonly event: EventFd;
  readonly stop: (() => void) | undefined;
}

/** Eventfds of a client that make a write to a BAR when they are signalled (IOEVENTFD, reference 5.7). */
export class IoEventFds {
  private readonly member: PciFunction;
  private readonly config: VirtualConfig;
  /** By place, size and value of the write. */
  private readonly entries = new Map<string, Entry>();

  constructor(member: PciFunction, config: VirtualConfig) {
    this.member = member;
    this.config = config;
  }

  /** The ioctl: adds one, or with fd −1 removes it. */
  set(process: Process, argument: number): void {
    const request = new IoEventFd();
    process.memory.read(argument, request.$bytes.subarray(0, MINIMUM));
    const { argsz, flags, data, fd } = request;
    if (argsz < MINIMUM) refuse(EINVAL, () => `argsz ${argsz} is below ${MINIMUM}`);
    if (![1, 2, 4].includes(flags)) refuse(EINVAL, () => `flags 0x${flags.toString(16)} is not the size 1, 2 or 4`);
    if (fd < -1) refuse(EINVAL, () => `${fd} is neither a file descriptor nor -1`);
    const { index, offset } = this.place(Number(request.offset), flags);
    const key = `${index}:${offset}:${flags}:${data}`;
    const entry = this.entries.get(key);
    if (fd === -1) {
      if (entry === undefined) refuse(ENODEV, () => `no eventfd writes ${data} to 0x${offset.toString(16)}`);
      this.remove(key, entry);
      return;
    }
    if (entry !== undefined) refuse(EEXIST, () => `an eventfd writes ${data} to 0x${offset.toString(16)} already`);
    if (this.entries.size >= MOST) refuse(ENOSPC, () => `there are ${MOST} of them already`);
    const event = eventFd(process, fd);
    const stop = event.watch?.(() => {
      if (barAnswers(this.member, this.config, index)) this.member.writeBar(index, offset, flags, data);
    });
    this.entries.set(key, { event, stop });
  }

  free(): void {
    for (const [key, entry] of this.entries) this.remove(key, entry);
  }

  private remove(key: string, { event, stop }: Entry): void {
    stop?.();
    event.release();
    this.entries.delete(key);
  }

  private place(position: number, size: number): { index: number; offset: number } {
    const index = Math.floor(position / REGION_STRIDE);
    const offset = position % REGION_STRIDE;
    const bar = index < REGION_ROM ? this.member.bars[index] : undefined;
    if (bar === undefined) refuse(EINVAL, () => `region ${index} is no BAR of ${this.member.name}`);
    if (offset + size > bar.size) refuse(EINVAL, () => `offset 0x${offset.toString(16)} is beyond BAR ${index}`);
    const { msixTable } = this.member;
    if (msixTable?.table.bar === index) {
      const start = msixTable.table.offset;
      if (offset + size > start && offset < start + msixTable.size) {
        refuse(EINVAL, () => `offset 0x${offset.toString(16)} is in the MSI-X table`);
      }
    }
    return { index, offset };
  }
}
