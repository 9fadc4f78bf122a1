// Runs in a browser.
/**
 * The request queue: requests go in one by one, are told to the device together, and are waited for together.
 *
 * Pages hold the requests: slot n has 128 bytes of them, and the descriptors 2n (the request) and 2n+1 (its status). Always
 * true: a slot is free, or its chain is with the device and has a {@link Ticket}; the device answers in any order, but
 * carries out what it was offered in the order of the ring. The status is IOERR until the device writes another one.
 *
 * A device that does not answer, or that says it needs a reset, is broken for good: what is outstanding and all that
 * follows is answered with IOERR here.
 */
import type { PhysicalMemory, RegisterBlock } from "../../memory/index.ts";
import type { System, Task } from "../../runtime/index.ts";
import { needsReset } from "./registers.ts";
import {
  errnoOf,
  PROBE_BYTES,
  probeWords,
  REQUEST_WORDS,
  STATUS_IOERR,
  STATUS_OK,
  statusName,
  TAIL_BYTES,
} from "./requests.ts";
import { DESC_NEXT, DESC_WRITE, Ring } from "./ring.ts";

const SLOT_BYTES = 128;
const STATUS_OFFSET = 124;
/** Polls after which a device that does not answer counts as dead. */
const POLLS_MAX = 10_000;

/** A request on its way. */
export interface Ticket {
  /** Undefined until the device has answered. */
  status: number | undefined;
  /** For people, if nobody looks at the status: what has failed then. */
  readonly unattended: (() => string) | undefined;
  /** Its descriptors are not those of its slot. */
  readonly isElsewhere: boolean;
}

export class RequestQueue {
  /** Where the writers of `requests.ts` put a request for {@link push}. */
  readonly request: Uint32Array = new Uint32Array(REQUEST_WORDS);
  private readonly system: System;
  private readonly memory: PhysicalMemory;
  private readonly registers: RegisterBlock;
  private readonly name: string;
  private readonly ring: Ring;
  private readonly pfn: number;
  private readonly freeSlots: number[] = [];
  /** By slot. */
  private readonly tickets: (Ticket | undefined)[];
  private outstanding = 0;
  private isTold = true;
  private isBroken = false;

  /** Refusals: ENODEV, ENOMEM. */
  constructor(system: System, memory: PhysicalMemory, registers: RegisterBlock, name: string) {
    this.system = system;
    this.memory = memory;
    this.registers = registers;
    this.name = name;
    this.ring = new Ring(memory, registers, { queue: 0, interrupts: false });
    try {
      this.pfn = memory.allocate(this.frames);
    } catch (error) {
      this.ring.free();
      throw error;
    }
    const slots = this.ring.size / 2;
    this.tickets = new Array<Ticket | undefined>(slots).fill(undefined);
    for (let slot = slots - 1; slot >= 0; slot--) {
      this.describe(slot);
      this.freeSlots.push(slot);
    }
  }

  private get frames(): number {
    return Math.ceil(((this.ring.size / 2) * SLOT_BYTES) / 4096);
  }

  program(): void {
    this.ring.program();
  }

  /** The device must have been reset. */
  free(): void {
    this.memory.free(this.pfn, this.frames);
    this.ring.free();
  }

  /** Offers the first `bytes` of {@link request}. The device is told at the next sync, or when the queue is full. */
  push(bytes: number, unattended?: () => string): Ticket {
    const ticket: Ticket = { status: undefined, unattended, isElsewhere: false };
    if (this.freeSlots.length === 0) this.makeRoom();
    const slot = this.isBroken ? undefined : this.freeSlots.pop();
    if (slot === undefined) {
      ticket.status = STATUS_IOERR;
      return ticket;
    }
    const address = this.address(slot);
    const { memory, request } = this;
    for (let word = 0; word * 4 < bytes; word++) memory.writeWord(address + word * 4, request[word]);
    memory.writeWord(address + STATUS_OFFSET, STATUS_IOERR);
    this.ring.setLength(slot * 2, bytes);
    this.offer(slot, ticket);
    return ticket;
  }

  /**
   * {@link sync} without a generator, for hot paths: false, and there is no promise, if the device has not answered
   * everything at once, or somebody explores what may happen meanwhile.
   */
  trySync(): boolean {
    if (this.outstanding === 0) return true;
    if (this.system.tasks.exploring) return false;
    this.tell();
    this.collect();
    return this.outstanding === 0;
  }

  /** When it returns, the device has answered everything pushed before, or is broken. */
  *sync(): Task<void> {
    const { tasks } = this.system;
    for (let polls = 0; this.outstanding > 0; polls++) {
      if (tasks.exploring) yield* tasks.point();
      this.tell();
      this.collect();
      if (this.outstanding > 0) this.checkAlive(polls);
    }
  }

  /** Pushes what is in {@link request} and waits for its status. */
  *send(bytes: number): Task<number> {
    const ticket = this.push(bytes);
    if (!this.trySync()) yield* this.sync();
    return ticket.status ?? STATUS_IOERR;
  }

  /**
   * Asks for the properties of an endpoint: `into` receives them. They lie in memory of their own, which a device that
   * never answers keeps. Returns the status. Refusal ENOMEM.
   */
  *probe(endpoint: number, into: Uint8Array): Task<number> {
    const { memory } = this;
    const frames = Math.ceil((PROBE_BYTES + into.length + TAIL_BYTES) / 4096);
    const pfn = memory.allocate(frames);
    const address = pfn * 4096;
    for (const [word, value] of probeWords(endpoint).entries()) memory.writeWord(address + word * 4, value);
    const statusAddress = address + PROBE_BYTES + into.length;
    memory.write(statusAddress, Uint8Array.of(STATUS_IOERR));
    yield* this.sync();
    const slot = this.isBroken ? undefined : this.freeSlots.pop();
    if (slot === undefined) {
      memory.free(pfn, frames);
      return STATUS_IOERR;
    }
    this.ring.describe(slot * 2, address, PROBE_BYTES, DESC_NEXT, slot * 2 + 1);
    this.ring.describe(slot * 2 + 1, address + PROBE_BYTES, into.length + TAIL_BYTES, DESC_WRITE);
    const ticket: Ticket = { status: undefined, unattended: undefined, isElsewhere: true };
    this.offer(slot, ticket);
    yield* this.sync();
    if (this.isBroken) return STATUS_IOERR;
    memory.read(address + PROBE_BYTES, into);
    const status = new Uint8Array(1);
    memory.read(statusAddress, status);
    memory.free(pfn, frames);
    return status[0];
  }

  /** The device said that it needs a reset: nobody waits for it any more. */
  giveUp(text: string): void {
    if (this.isBroken) return;
    this.collect();
    this.isBroken = true;
    this.warn(`${text}: its endpoints stay as they are, and no request is answered any more`);
    for (const [slot, ticket] of this.tickets.entries()) if (ticket !== undefined) this.answer(slot, STATUS_IOERR);
  }

  private offer(slot: number, ticket: Ticket): void {
    this.tickets[slot] = ticket;
    this.outstanding++;
    this.isTold = false;
    this.ring.offer(slot * 2);
  }

  private tell(): void {
    if (this.isTold) return;
    this.isTold = true;
    this.ring.notify();
  }

  /** Takes what the device has answered. */
  private collect(): void {
    if (this.isBroken) return;
    for (let head = this.ring.takeReturned(); head !== undefined; head = this.ring.takeReturned()) {
      const slot = head / 2;
      if (this.tickets[slot] === undefined) {
        this.warn(`the device returned the buffer ${head}, which it did not have`);
        continue;
      }
      this.answer(slot, this.memory.readWord(this.address(slot) + STATUS_OFFSET) & 0xff);
    }
  }

  private answer(slot: number, status: number): void {
    const ticket = this.tickets[slot]!;
    this.tickets[slot] = undefined;
    this.outstanding--;
    if (ticket.isElsewhere) this.describe(slot);
    this.freeSlots.push(slot);
    ticket.status = status;
    if (status !== STATUS_OK && ticket.unattended !== undefined) {
      this.warn(`${ticket.unattended()}: the device answers ${statusName(status)} (errno ${errnoOf(status)})`);
    }
  }

  /** All slots are with the device, which was perhaps not told yet. */
  private makeRoom(): void {
    for (let polls = 0; this.freeSlots.length === 0 && !this.isBroken; polls++) {
      this.tell();
      this.collect();
      if (this.freeSlots.length === 0) this.checkAlive(polls);
    }
  }

  private checkAlive(polls: number): void {
    if (needsReset(this.registers)) this.giveUp("the device needs a reset");
    else if (polls >= POLLS_MAX) this.giveUp("the device does not answer");
  }

  private describe(slot: number): void {
    const address = this.address(slot);
    this.ring.describe(slot * 2, address, 0, DESC_NEXT, slot * 2 + 1);
    this.ring.describe(slot * 2 + 1, address + STATUS_OFFSET, TAIL_BYTES, DESC_WRITE);
  }

  private address(slot: number): number {
    return this.pfn * 4096 + slot * SLOT_BYTES;
  }

  private warn(text: string): void {
    if (this.system.events.on) this.system.events.emit({ kind: "virtio-iommu.warning", instance: this.name, text });
  }
}
