// Runs in a browser.
/** The page request queue (IHI 0070 chapter 8): requests of devices go in, or are answered at once. */

import type { PhysicalMemory } from "../../memory/index.ts";
import type { PageGroupStatus, PageRequestMessage } from "../../pci/index.ts";
import { storeWords } from "./fetch.ts";
import type { Interrupts } from "./interrupts.ts";
import { Queue } from "./queues.ts";
import {
  CR0,
  CR0_PRIQEN,
  CR0_SMMUEN,
  PRIQ_ABT_ERR,
  PRIQ_BASE,
  PRIQ_CONS,
  PRIQ_PROD,
  type Registers,
} from "./registers.ts";
import type { Translator } from "./translate.ts";

/** Where answers go. */
export type Respond = (
  streamId: number,
  response: { readonly pasid: number | undefined; readonly group: number; readonly status: PageGroupStatus },
) => void;

const LAST = 1 << 30;
const WRITE = 1 << 29;
const READ = 1 << 28;
const SSV = 0x80000000;

export class PageRequestQueue {
  readonly queue: Queue;
  private readonly registers: Registers;
  private readonly memory: PhysicalMemory;
  private readonly interrupts: Interrupts;
  private readonly translator: Translator;
  private readonly respond: Respond;

  constructor(
    registers: Registers,
    memory: PhysicalMemory,
    interrupts: Interrupts,
    translator: Translator,
    respond: Respond,
  ) {
    this.registers = registers;
    this.memory = memory;
    this.interrupts = interrupts;
    this.translator = translator;
    this.respond = respond;
    this.queue = new Queue(registers, {
      name: "page request queue",
      base: PRIQ_BASE,
      producer: PRIQ_PROD,
      consumer: PRIQ_CONS,
      entryBytes: 16,
      maximumLog2: registers.features.pageRequestQueueLog2,
    });
  }

  /** Takes a request. One that finds no place is lost, and answered here if it is the last of its group (§8.1, §8.2). */
  record(streamId: number, request: PageRequestMessage): void {
    const { queue, interrupts } = this;
    if (!this.isOn) {
      this.answer(streamId, request, "response failure");
    } else if (queue.isFull || queue.isOverflowPending) {
      queue.overflow();
      interrupts.pageRequest({ last: request.last, wasEmpty: false });
      if (request.last) this.answerOverflow(streamId, request);
    } else {
      const wasEmpty = queue.isEmpty;
      if (storeWords(this.memory, queue.entry(queue.producer), recordOf(streamId, request))) {
        queue.produce();
        interrupts.pageRequest({ last: request.last, wasEmpty });
      } else {
        interrupts.raise(PRIQ_ABT_ERR);
        this.answer(streamId, request, "response failure");
      }
    }
  }

  private get isOn(): boolean {
    const enabled = CR0_PRIQEN | CR0_SMMUEN;
    const { features } = this.registers;
    return features.pri && (this.registers.get(CR0) & enabled) === enabled && !this.interrupts.isActive(PRIQ_ABT_ERR);
  }

  /** The device is to try again; its PASID is on the answer as the device wants it, which its STE knows. */
  private answerOverflow(streamId: number, request: PageRequestMessage): void {
    const { pasid } = request;
    if (pasid === undefined || this.registers.features.responsesHavePasid) {
      this.answer(streamId, request, "success", pasid);
      return;
    }
    const ste = this.translator.streamTableEntry(streamId);
    if (ste === undefined || ste.illegal !== undefined) this.answer(streamId, request, "response failure");
    else this.answer(streamId, request, "success", ste.responsesHavePasid ? pasid : undefined);
  }

  /** A marker that a PASID stopped is never answered (§8.2). */
  private answer(streamId: number, request: PageRequestMessage, status: PageGroupStatus, pasid?: number): void {
    const { group, last, read, write } = request;
    const isStopMarker = request.pasid !== undefined && last && !read && !write;
    if (!isStopMarker) this.respond(streamId, { pasid, group, status });
  }
}

function recordOf(streamId: number, { pasid, address, read, write, group, last }: PageRequestMessage): number[] {
  const flags = (last ? LAST : 0) | (write ? WRITE : 0) | (read ? READ : 0);
  const low = Number(address % 0x1_0000_0000n);
  const high = Number(address / 0x1_0000_0000n);
  return [streamId, (flags | (pasid === undefined ? 0 : SSV | pasid)) >>> 0, (low | group) >>> 0, high];
}
