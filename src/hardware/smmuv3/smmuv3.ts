// Runs in a browser.
import type { PhysicalMemory, RegisterBlock } from "../../memory/index.ts";
import type { AtsRequesters, DmaTarget, RequesterId, TranslationAgent } from "../../pci/index.ts";
import { assert, type System, type Task } from "../../runtime/index.ts";
import { AtsResponder } from "./ats.ts";
import { CommandQueue } from "./commands.ts";
import { ConfigurationCache, NO_SUBSTREAM } from "./config-cache.ts";
import { EventQueue } from "./events.ts";
import { FaultReporter } from "./fault-reporter.ts";
import type { FaultExplanation } from "./faults.ts";
import { type IdRegisters, smmuFeatures } from "./features.ts";
import { type InterruptLine, Interrupts } from "./interrupts.ts";
import { PageRequestQueue, type Respond } from "./page-requests.ts";
import {
  CMDQ_PROD,
  CR0,
  CR0_SMMUEN,
  CR0ACK,
  CR2,
  CR2_PTM,
  EVENTQ_CONS,
  GBPA,
  GBPA_UPDATE,
  GERRORN,
  IRQ_CTRL,
  IRQ_CTRLACK,
  Registers,
} from "./registers.ts";
import { type StallOutcome, Stalls } from "./stalls.ts";
import { REGIME_EL1 } from "./ste.ts";
import { Translator } from "./translate.ts";

export interface SmmuOptions extends Partial<IdRegisters> {
  /** For people: `"smmu0"`. */
  readonly label?: string;
  /** A wired interrupt pulses. */
  readonly interrupt?: (line: InterruptLine) => void;
  /** The StreamID of requester 0; that of requester r is r more. Default 0. */
  readonly streamIdBase?: number;
  /** Where invalidations for devices, and answers to their page requests, go; without, nobody answers the former. */
  readonly requesters?: AtsRequesters;
}

/** How {@link SmmuV3.translate} ended. */
export type TranslationOutcome = typeof TRANSLATED | typeof ABORTED | typeof IGNORED | typeof STALLED;
/** `physical` and `reach` hold the answer. */
export const TRANSLATED = 0;
/** The requester gets an abort. */
export const ABORTED = 1;
/** The requester sees success, but reads are zero and writes go nowhere (CD.A is 0). */
export const IGNORED = 2;
/** Parked under `stallTag`, or, if that is -1, waiting for a tag to become free. */
export const STALLED = 3;

/** The piece of an access that one RAZ/WI answer covers. */
const IGNORED_BYTES = 4096;

export class SmmuV3 implements RegisterBlock, DmaTarget {
  readonly label: string;
  /** Answers devices that translate ahead. */
  readonly agent: TranslationAgent;
  /** After {@link translate} said {@link STALLED}. */
  stallTag = -1;

  private readonly system: System;
  private readonly memory: PhysicalMemory;
  private readonly streamIdBase: number;
  private readonly registers: Registers;
  private readonly interrupts: Interrupts;
  private readonly events: EventQueue;
  private readonly stalls: Stalls;
  private readonly translator: Translator;
  private readonly reporter: FaultReporter;
  private readonly commands: CommandQueue;

  constructor(system: System, memory: PhysicalMemory, options: SmmuOptions = {}) {
    this.system = system;
    this.memory = memory;
    this.label = options.label ?? "smmu";
    this.streamIdBase = options.streamIdBase ?? 0;
    this.registers = new Registers({ ...smmuFeatures(), ...options });
    this.interrupts = new Interrupts(this.registers, memory, options.interrupt ?? (() => undefined));
    this.events = new EventQueue(this.registers, memory, this.interrupts);
    const { maximumStalls, abortsOnly } = this.registers.features;
    this.stalls = new Stalls(system, {
      maximum: Math.max(maximumStalls, 1),
      abortsOnly,
      forgetEvent: (record) => this.events.forgetStall(record),
    });
    const cache = new ConfigurationCache();
    this.translator = new Translator(this.registers, memory, cache);
    this.reporter = new FaultReporter(system.events, this.registers, this.events, this.stalls, this.label);
    const { requesters } = options;
    const respond: Respond = (streamId, response) => requesters?.respond(streamId - this.streamIdBase, response);
    this.agent = this.makeAgent(respond);
    this.commands = new CommandQueue(this.registers, memory, {
      cache,
      tlb: this.translator.tlb,
      stage2Tlb: this.translator.stage2.tlb,
      stalls: this.stalls,
      interrupts: this.interrupts,
      invalidate: (streamId, message, done) =>
        requesters?.invalidate(streamId - this.streamIdBase, message, done) ?? false,
      respond,
    });
    this.commands.onCommand = (words) => {
      const { events } = this.system;
      if (events.on) events.emit({ kind: "smmuv3.command.consume", smmu: this.label, words: [...words] });
    };
  }

  /** Told of each fault, recorded or not. The words are made only when asked for. */
  get onFault(): ((fault: FaultExplanation) => void) | undefined {
    return this.reporter.onFault;
  }

  set onFault(listener: ((fault: FaultExplanation) => void) | undefined) {
    this.reporter.onFault = listener;
  }

  /** Told of each access that fails for good: a stalled one only when it is aborted. */
  get onRefusal(): ((fault: FaultExplanation) => void) | undefined {
    return this.reporter.onRefusal;
  }

  set onRefusal(listener: ((fault: FaultExplanation) => void) | undefined) {
    this.reporter.onRefusal = listener;
  }

  /** The physical address of the last {@link translate}. */
  get physical(): number {
    return this.translator.physical;
  }

  /** Bytes from {@link physical} to the end of its leaf. */
  get reach(): number {
    return this.translator.reach;
  }

  /** Translations kept, and transactions stalled: for inspection. */
  get occupancy(): { readonly stage1: number; readonly stage2: number; readonly stalled: number } {
    return { stage1: this.translator.tlb.size, stage2: this.translator.stage2.tlb.size, stalled: this.stalls.size };
  }

  /**
   * A CPU invalidates its translations of an ASID, in `size` bytes from `start` on, and broadcasts that: the SMMU's of the same
   * ASID go, too, if it hears it (IDR0.BTM) and was not told to keep its TLB to itself (CR2.PTM, §3.17). Those of private
   * ASIDs (CD.ASET) may go with them. Only stage 1 of no virtual machine is meant.
   */
  hearTlbInvalidation(asid: number, start: number, size: number): void {
    const { features } = this.registers;
    if (!features.broadcastTlb || (this.registers.get(CR2) & CR2_PTM) !== 0) return;
    const selection = { regime: REGIME_EL1, vmid: 0, asid };
    const [high, low] = [Math.floor(start / 2 ** 32), start | 0];
    this.translator.tlb.invalidateRange(selection, { high, low, count: Math.ceil(size / 4096), granuleLog2: 12 });
  }

  // Registers

  read32(offset: number): number {
    return this.registers.read(offset);
  }

  read64(offset: number): bigint {
    const low = this.registers.read(offset);
    return BigInt(this.registers.read(offset + 4)) * 0x1_0000_0000n + BigInt(low);
  }

  write32(offset: number, value: number): void {
    const register = this.registers.write(offset, value);
    if (register !== undefined) this.afterWrite(register);
  }

  write64(offset: number, low: number, high: number): void {
    const written = [this.registers.write(offset, low), this.registers.write(offset + 4, high)];
    for (const register of written) if (register !== undefined) this.afterWrite(register);
  }

  /** What a write sets off. */
  private afterWrite(register: number): void {
    const { registers, events } = this;
    switch (register) {
      case CR0: {
        const wasEnabled = (registers.get(CR0ACK) & CR0_SMMUEN) !== 0;
        registers.set(CR0ACK, registers.get(CR0));
        if (wasEnabled && (registers.get(CR0) & CR0_SMMUEN) === 0) this.stalls.terminate();
        events.flush();
        this.commands.consume();
        break;
      }
      case CMDQ_PROD:
        this.commands.consume();
        break;
      case EVENTQ_CONS:
        events.flush();
        break;
      case GERRORN:
        events.flush();
        this.commands.consume();
        break;
      case GBPA:
        registers.set(GBPA, registers.get(GBPA) & ~GBPA_UPDATE);
        break;
      case IRQ_CTRL:
        registers.set(IRQ_CTRLACK, registers.get(IRQ_CTRL));
        break;
    }
    if (this.system.events.on) {
      this.system.events.emit({
        kind: "smmuv3.register.write",
        smmu: this.label,
        register,
        value: registers.get(register),
      });
    }
  }

  // Translation

  /**
   * Translates one unprivileged data access. `substreamId` is -1 for none; the address is given as two 32-bit words.
   * An access that fails is recorded and told as the architecture says.
   */
  translate(streamId: number, substreamId: number, high: number, low: number, write: boolean): TranslationOutcome {
    if (this.translator.translate(streamId, substreamId, high, low, write)) return TRANSLATED;
    const transaction = { streamId, substreamId, high: high >>> 0, low: low >>> 0, write };
    const ending = this.reporter.report(transaction, this.translator.fault!, this.translator.faultContext);
    if (typeof ending !== "object") return ending === "abort" ? ABORTED : IGNORED;
    this.stallTag = ending.tag;
    return STALLED;
  }

  // DMA

  /**
   * One DMA, leaf by leaf. It can be overtaken before each leaf, but not between the translation of a leaf and its
   * transfer: an invalidation followed by a CMD_SYNC waits for the transfers that used what it removed (§3.21.1).
   */
  *access(
    requester: RequesterId,
    pasid: number | undefined,
    address: bigint,
    bytes: Uint8Array,
    write: boolean,
  ): Task<boolean> {
    assert(address >= 0n && address < 2n ** 64n, () => `DMA address ${address} is not a 64-bit one`);
    const { tasks } = this.system;
    const streamId = this.streamIdBase + requester;
    const substreamId = pasid ?? NO_SUBSTREAM;
    let high = Number(address / 0x1_0000_0000n);
    let low = Number(address % 0x1_0000_0000n);
    for (let done = 0; done < bytes.length; ) {
      if (tasks.exploring) yield* tasks.point();
      const outcome = this.translate(streamId, substreamId, high, low, write);
      let ignored = outcome === IGNORED;
      if (outcome === STALLED) {
        const ending = yield* this.waitForResume();
        if (ending === "retry") continue;
        if (ending === "abort") return false;
        ignored = true;
      }
      if (outcome === ABORTED) return false;
      const left = bytes.length - done;
      const count = Math.min(left, ignored ? IGNORED_BYTES - (low % IGNORED_BYTES) : this.translator.reach);
      const piece = count === bytes.length ? bytes : bytes.subarray(done, done + count);
      if (ignored) {
        if (!write) piece.fill(0);
      } else if (!this.transfer(streamId, this.translator.physical, piece, write)) return false;
      done += count;
      low += count;
      if (low >= 2 ** 32) {
        high = (high + Math.floor(low / 2 ** 32)) % 2 ** 32;
        low %= 2 ** 32;
      }
    }
    return true;
  }

  private makeAgent(respond: Respond): TranslationAgent {
    const { registers, memory, interrupts, translator, reporter, streamIdBase } = this;
    const ats = new AtsResponder(registers, translator, reporter);
    const pageRequests = new PageRequestQueue(registers, memory, interrupts, translator, respond);
    return {
      requestTranslation: (requester, { pasid, address, noWrite }) => {
        const high = Number(address / 0x1_0000_0000n);
        const low = Number(address % 0x1_0000_0000n);
        return ats.translate(streamIdBase + requester, pasid ?? NO_SUBSTREAM, high, low, noWrite);
      },
      accessTranslated: (requester, address, bytes, write) => {
        const streamId = streamIdBase + requester;
        for (let done = 0; done < bytes.length; ) {
          const physical = ats.passTranslated(streamId, address + done, write);
          const piece = bytes.subarray(done, done + Math.min(bytes.length - done, ats.reach));
          if (physical < 0 || !this.transfer(streamId, physical, piece, write)) return false;
          done += piece.length;
        }
        return true;
      },
      requestPage: (requester, request) => pageRequests.record(streamIdBase + requester, request),
    };
  }

  private *waitForResume(): Task<StallOutcome> {
    const tag = this.stallTag;
    if (tag >= 0) return yield* this.stalls.wait(tag);
    yield* this.stalls.waitForRoom();
    return "retry";
  }

  /** False: nothing answers at the physical address. */
  private transfer(streamId: number, physical: number, piece: Uint8Array, write: boolean): boolean {
    const { events } = this.system;
    if (events.on) {
      const { length } = piece;
      events.emit({ kind: "smmuv3.access.transfer", smmu: this.label, streamId, physical, length, write });
    }
    return this.memory.access(physical, piece, write);
  }
}
