// Runs in a browser.
/**
 * The command queue (IHI 0070 chapter 4, §7.1; reference 6.4).
 *
 * Commands are consumed in order, each completely, as soon as the producer moves; so a CMD_SYNC finds all earlier ones
 * done, and no access in flight: an access translates and transfers in one step. Only invalidations of the caches in
 * devices (CMD_ATC_INV) may take longer: a CMD_SYNC waits for them, and fails if one was answered by nobody (its time-out
 * is over at once: no time passes here). A command that is illegal, or cannot
 * be read, stops the queue: the consumer stays at it, CMDQ_CONS.ERR says why, GERROR.CMDQ_ERR becomes active. Software
 * repairs the entry and acknowledges; then consumption goes on with that entry.
 */
import type { PhysicalMemory } from "../../memory/index.ts";
import type { InvalidationMessage, PageGroupStatus } from "../../pci/index.ts";
import type { ConfigurationCache } from "./config-cache.ts";
import { addressField, fetchWords } from "./fetch.ts";
import type { Interrupts } from "./interrupts.ts";
import type { Respond } from "./page-requests.ts";
import { Queue } from "./queues.ts";
import {
  CMDQ_BASE,
  CMDQ_CONS,
  CMDQ_ERR,
  CMDQ_PROD,
  CR0,
  CR0_CMDQEN,
  CR0_SMMUEN,
  IDR3,
  type Registers,
} from "./registers.ts";
import type { Stalls } from "./stalls.ts";
import { REGIME_EL1, REGIME_EL2, REGIME_EL2_E2H } from "./ste.ts";
import { type InvalidationRange, POWERS, type Selection, type Tlb } from "./tlb.ts";

export const CMD_PREFETCH_CONFIG = 0x01;
export const CMD_PREFETCH_ADDR = 0x02;
export const CMD_CFGI_STE = 0x03;
/** With a range of 31 it is CMD_CFGI_ALL. */
export const CMD_CFGI_STE_RANGE = 0x04;
export const CMD_CFGI_CD = 0x05;
export const CMD_CFGI_CD_ALL = 0x06;
export const CMD_CFGI_VMS_PIDM = 0x07;
export const CMD_TLBI_NH_ALL = 0x10;
export const CMD_TLBI_NH_ASID = 0x11;
export const CMD_TLBI_NH_VA = 0x12;
export const CMD_TLBI_NH_VAA = 0x13;
export const CMD_TLBI_EL2_ALL = 0x20;
export const CMD_TLBI_EL2_ASID = 0x21;
export const CMD_TLBI_EL2_VA = 0x22;
export const CMD_TLBI_EL2_VAA = 0x23;
export const CMD_TLBI_S12_VMALL = 0x28;
export const CMD_TLBI_S2_IPA = 0x2a;
export const CMD_TLBI_NSNH_ALL = 0x30;
export const CMD_ATC_INV = 0x40;
export const CMD_PRI_RESP = 0x41;
export const CMD_RESUME = 0x44;
export const CMD_STALL_TERM = 0x45;
export const CMD_SYNC = 0x46;

/** CMDQ_CONS.ERR (§7.1). */
export const CERROR_NONE = 0;
export const CERROR_ILL = 1;
export const CERROR_ABT = 2;
export const CERROR_ATC_INV_SYNC = 3;
/** Not an error: the command is not consumed yet. */
const WAITING = -1;

const COMMAND_BYTES = 16;
const SSEC = 1 << 10;
const SSV = 1 << 11;
/** Of a CMD_ATC_INV with SSV: translations of every PASID go (§4.5.1). */
const GLOBAL = 1 << 9;
/** Size of a CMD_ATC_INV: everything. */
const ATC_INV_ALL = 52;
const RESPONSES: readonly (PageGroupStatus | undefined)[] = [
  "response failure",
  "invalid request",
  "success",
  undefined,
];
const GRANULE_LOG2_OF_TG = [12, 12, 14, 16];
const TG_16K = 2;

/** What commands act on. */
export interface CommandTargets {
  readonly cache: ConfigurationCache;
  /** Stage 1 translations. */
  readonly tlb: Tlb;
  readonly stage2Tlb: Tlb;
  readonly stalls: Stalls;
  readonly interrupts: Interrupts;
  /** Sends an invalidation to a device; see AtsRequesters. */
  readonly invalidate: (streamId: number, message: InvalidationMessage, done: () => void) => boolean;
  /** Answers the page requests of a device. */
  readonly respond: Respond;
}

export class CommandQueue {
  readonly queue: Queue;
  /** Told of each command that was consumed, as its four 32-bit words. The array is used again. */
  onCommand: ((words: Uint32Array) => void) | undefined = undefined;
  private readonly registers: Registers;
  private readonly memory: PhysicalMemory;
  private readonly targets: CommandTargets;
  private readonly words = new Uint32Array(4);
  private consuming = false;
  /** Invalidations that devices have not completed, and whether one never will be. */
  private outstanding = 0;
  private isUnanswered = false;
  /** Something was invalidated since the last CMD_SYNC. */
  private hasInvalidated = false;

  constructor(registers: Registers, memory: PhysicalMemory, targets: CommandTargets) {
    this.registers = registers;
    this.memory = memory;
    this.targets = targets;
    this.queue = new Queue(registers, {
      name: "command queue",
      base: CMDQ_BASE,
      producer: CMDQ_PROD,
      consumer: CMDQ_CONS,
      entryBytes: COMMAND_BYTES,
      maximumLog2: registers.features.commandQueueLog2,
    });
  }

  /** Consumes what there is: after the producer moved, the queue was enabled, or an error was acknowledged. */
  consume(): void {
    // A completion may be heard by somebody who moves the producer at once; the loop below sees that too.
    if (this.consuming) return;
    this.consuming = true;
    try {
      while (this.mayConsume) {
        const error = this.next();
        if (error === WAITING) return;
        if (error !== CERROR_NONE) {
          const consumer = this.registers.get(CMDQ_CONS);
          this.registers.set(CMDQ_CONS, (consumer & 0x80ffffff) | (error << 24));
          this.targets.interrupts.raise(CMDQ_ERR);
        }
      }
    } finally {
      this.consuming = false;
    }
  }

  private get mayConsume(): boolean {
    return (
      (this.registers.get(CR0) & CR0_CMDQEN) !== 0 && !this.targets.interrupts.isActive(CMDQ_ERR) && !this.queue.isEmpty
    );
  }

  private next(): number {
    const { queue, words } = this;
    if (!fetchWords(this.memory, queue.entry(queue.consumer), words, words.length)) return CERROR_ABT;
    // Completion is signalled only once the consumer has moved past the CMD_SYNC.
    const synchronise = (words[0] & 0xff) === CMD_SYNC;
    if (!(synchronise ? this.isLegalSync() : this.execute())) return CERROR_ILL;
    if (synchronise && this.outstanding > 0) return WAITING;
    if (synchronise && this.isUnanswered) {
      // Told once: when it is acknowledged, the CMD_SYNC has nothing more to wait for.
      this.isUnanswered = false;
      return CERROR_ATC_INV_SYNC;
    }
    queue.consume();
    this.onCommand?.(words);
    if (synchronise) this.complete();
    return CERROR_NONE;
  }

  /** §4.7.3: CS (bits 13:12) 3 is reserved. */
  private isLegalSync(): boolean {
    return ((this.words[0] >>> 12) & 3) !== 3;
  }

  /**
   * No event of what was invalidated is told from now on (§4.7.3). SIG_IRQ is an interrupt; SIG_SEV wakes processors that
   * wait for events, of which there are none here.
   */
  private complete(): void {
    const [low, data, addressLow, addressHigh] = this.words;
    if (this.hasInvalidated) this.targets.stalls.retryUnrecorded();
    this.hasInvalidated = false;
    if (((low >>> 12) & 3) !== 1) return;
    this.targets.interrupts.syncComplete(addressField(addressLow, addressHigh, 2), data);
  }

  /** False: CERROR_ILL, an opcode that is reserved or of a feature that is not there, or SSec from Non-secure (§4.1.2). */
  private execute(): boolean {
    const { words } = this;
    const opcode = words[0] & 0xff;
    const { features } = this.registers;
    if ((words[0] & SSEC) !== 0 && takesSsec(opcode)) return false;
    if (takesRange(opcode) && this.isReservedRange) return false;
    if (opcode >= CMD_CFGI_STE && opcode < CMD_ATC_INV) this.hasInvalidated = true;
    switch (opcode) {
      // Prefetching is a hint (§4.2).
      case CMD_PREFETCH_CONFIG:
      case CMD_PREFETCH_ADDR:
        return true;
      case CMD_CFGI_STE:
        this.targets.cache.invalidateStreams(words[1], words[1], (words[2] & 1) === 1);
        return true;
      case CMD_CFGI_STE_RANGE:
        this.invalidateStreamRange();
        return true;
      case CMD_CFGI_CD:
        if (!features.stage1) return false;
        this.targets.cache.invalidateContext(words[1], words[0] >>> 12, (words[2] & 1) === 1);
        return true;
      case CMD_CFGI_CD_ALL:
        if (!features.stage1) return false;
        this.targets.cache.invalidateContexts(words[1]);
        return true;
      // Without MPAM there are no Virtual Machine Structures (§4.3.6).
      case CMD_CFGI_VMS_PIDM:
        return (this.registers.get(IDR3) & 0x80) !== 0;
      case CMD_TLBI_NH_ALL:
      case CMD_TLBI_NH_ASID:
      case CMD_TLBI_NH_VA:
      case CMD_TLBI_NH_VAA:
        return features.stage1 && this.invalidateStage1(opcode, REGIME_EL1);
      case CMD_TLBI_EL2_ALL:
      case CMD_TLBI_EL2_ASID:
      case CMD_TLBI_EL2_VA:
      case CMD_TLBI_EL2_VAA:
        return (
          features.hypervisor &&
          this.invalidateStage1(opcode - CMD_TLBI_EL2_ALL + CMD_TLBI_NH_ALL, REGIME_EL2) &&
          this.invalidateStage1(opcode - CMD_TLBI_EL2_ALL + CMD_TLBI_NH_ALL, REGIME_EL2_E2H)
        );
      case CMD_TLBI_S12_VMALL:
        if (!features.stage2) return false;
        this.targets.tlb.invalidate({ regime: REGIME_EL1, vmid: this.vmid });
        this.targets.stage2Tlb.invalidate({ regime: REGIME_EL1, vmid: this.vmid });
        return true;
      case CMD_TLBI_S2_IPA:
        if (!features.stage2) return false;
        this.targets.stage2Tlb.invalidateRange({ regime: REGIME_EL1, vmid: this.vmid, asid: 0 }, this.range());
        return true;
      case CMD_TLBI_NSNH_ALL:
        this.targets.tlb.invalidate({ regime: REGIME_EL1 });
        this.targets.stage2Tlb.clear();
        return true;
      case CMD_RESUME:
        return features.stallModel !== 1 && this.resume();
      case CMD_STALL_TERM:
        if (features.stallModel === 1) return false;
        this.targets.stalls.terminate(words[1]);
        return true;
      case CMD_ATC_INV:
        return features.ats && this.invalidateDevice();
      case CMD_PRI_RESP:
        return features.pri && this.respondToDevice();
      default:
        return false;
    }
  }

  /** §4.3.2: StreamIDs that agree above the lowest RANGE + 1 bits. */
  private invalidateStreamRange(): void {
    const range = this.words[2] & 0x1f;
    if (range === 31) {
      this.targets.cache.clear();
      return;
    }
    const size = 2 ** (range + 1);
    const first = this.words[1] - (this.words[1] % size);
    this.targets.cache.invalidateStreams(first, first + size - 1, false);
  }

  /** CMD_TLBI_NH_* and, by the same layout, CMD_TLBI_EL2_* (§4.4). */
  private invalidateStage1(opcode: number, regime: number): true {
    const { tlb } = this.targets;
    // EL2 translations have no VMID, and without E2H no ASID (§3.17).
    const vmid = regime === REGIME_EL1 ? this.vmid : 0;
    const asid = regime === REGIME_EL2 ? 0 : this.words[1] >>> 16;
    if (opcode === CMD_TLBI_NH_ALL) tlb.invalidate({ regime, vmid });
    else if (opcode === CMD_TLBI_NH_ASID) tlb.invalidate({ regime, vmid, asid });
    else {
      const selection: Selection = opcode === CMD_TLBI_NH_VA ? { regime, vmid, asid } : { regime, vmid };
      tlb.invalidateRange(selection, this.range());
    }
    return true;
  }

  private get vmid(): number {
    const { features } = this.registers;
    if (!features.stage2) return 0;
    return this.words[1] & (features.vmid16 ? 0xffff : 0xff);
  }

  /** A granule with neither a range nor a level (TTL) says nothing (§4.4.1.1). Level 1 of 16 KiB tables has no leaves. */
  private get isReservedRange(): boolean {
    const [word0, , low] = this.words;
    const tg = (low >>> 10) & 3;
    if (!this.registers.features.rangeInvalidation || tg === 0) return false;
    const ttl = (low >>> 8) & 3;
    return (word0 & 0x03f1f000) === 0 && (ttl === 0 || (tg === TG_16K && ttl === 1));
  }

  /**
   * The addresses of a TLBI (§4.4.1): with TG 0, or without range invalidation, those of the leaf that holds the
   * address; else (NUM + 1) * 2^SCALE granules. The hints Leaf and TTL narrow what needs to go; more may go.
   */
  private range(): InvalidationRange {
    const [word0, , low, high] = this.words;
    const tg = (low >>> 10) & 3;
    const ranged = this.registers.features.rangeInvalidation && tg !== 0;
    return {
      // The top byte is no part of a tag where TBI ignores it.
      high: (high << 8) >> 8,
      low: low & 0xfffff000,
      count: ranged ? (((word0 >>> 12) & 0x1f) + 1) * POWERS[(word0 >>> 20) & 0x3f] : 1,
      granuleLog2: ranged ? GRANULE_LOG2_OF_TG[tg] : 12,
    };
  }

  /** §4.5.1. Without PASIDs, SSV counts as 0. */
  private invalidateDevice(): boolean {
    const [word0, streamId, low, high] = this.words;
    const size = low & 0x3f;
    if (size > ATC_INV_ALL) return false;
    if (!this.isTranslating) return true;
    const bytes = 4096n * 2n ** BigInt(size);
    const address = BigInt(high) * 0x1_0000_0000n + BigInt((low & 0xfffff000) >>> 0);
    const span = size === ATC_INV_ALL ? undefined : { address: address - (address % bytes), size: bytes };
    this.outstanding++;
    const pasid = (word0 & GLOBAL) === 0 ? this.pasidOf(word0) : undefined;
    const isHeard = this.targets.invalidate(streamId, { pasid, span }, () => {
      this.outstanding--;
      if (this.outstanding === 0) this.consume();
    });
    if (!isHeard) {
      this.outstanding--;
      this.isUnanswered = true;
    }
    return true;
  }

  /** §4.5.2: Resp 3 is reserved. */
  private respondToDevice(): boolean {
    const [word0, streamId, low] = this.words;
    const status = RESPONSES[(low >>> 12) & 3];
    if (status === undefined) return false;
    if (this.isTranslating) this.targets.respond(streamId, { pasid: this.pasidOf(word0), group: low & 0x1ff, status });
    return true;
  }

  private pasidOf(word0: number): number | undefined {
    return (word0 & SSV) !== 0 && this.registers.features.substreamIdBits > 0 ? word0 >>> 12 : undefined;
  }

  private get isTranslating(): boolean {
    return (this.registers.get(CR0) & CR0_SMMUEN) !== 0;
  }

  /** §4.7.1: Ac (bit 12) retries; else Ab (bit 13) says whether the device sees an abort. */
  private resume(): true {
    const { words } = this;
    const action = words[0] & (1 << 12) ? "retry" : words[0] & (1 << 13) ? "abort" : "ignore";
    this.targets.stalls.resume(words[1], words[2] & 0xffff, action);
    return true;
  }
}

function takesSsec(opcode: number): boolean {
  return opcode < CMD_TLBI_NH_ALL || opcode === CMD_RESUME || opcode === CMD_STALL_TERM;
}

function takesRange(opcode: number): boolean {
  return (
    opcode === CMD_TLBI_NH_VA ||
    opcode === CMD_TLBI_NH_VAA ||
    opcode === CMD_TLBI_EL2_VA ||
    opcode === CMD_TLBI_EL2_VAA ||
    opcode === CMD_TLBI_S2_IPA
  );
}
