// Runs in a browser.
/**
 * What the SMMU answers to devices that translate ahead (IHI 0070 §3.9.1, §13.6): translation requests, and requests with
 * addresses that are translated already.
 *
 * Nothing stalls here, and a fault of the translation itself is the device's business: it is answered without access, and
 * not recorded. A wrong configuration is an abort, not recorded either. Recorded is only what should not have come at all.
 */

import { RIGHT_READ, RIGHT_WRITE } from "../../pagetable/index.ts";
import type { TranslationCompletion } from "../../pci/index.ts";
import { Context, NO_SUBSTREAM } from "./config-cache.ts";
import type { FaultReporter } from "./fault-reporter.ts";
import {
  C_BAD_STE,
  CLASS_IN,
  F_ADDR_SIZE,
  F_BAD_ATS_TREQ,
  F_TRANSL_FORBIDDEN,
  type Fault,
  isTranslationFault,
  SILENT_ABORT,
  type Transaction,
} from "./faults.ts";
import { CR0, CR0_ATSCHK, CR0_SMMUEN, type Registers } from "./registers.ts";
import type { StreamTableEntry } from "./ste.ts";
import { POWERS } from "./tlb.ts";
import type { Translator } from "./translate.ts";

/** STE.EATS (§5.2). */
const EATS_FULL = 1;
const EATS_SPLIT = 2;

const SMALLEST_UNIT = 4096;
const NO_ACCESS = { physical: 0, size: SMALLEST_UNIT, read: false, write: false } as const;

export class AtsResponder {
  /** After {@link passTranslated}: bytes from the address on that lie together. */
  reach = 0;
  private readonly registers: Registers;
  private readonly translator: Translator;
  private readonly reporter: FaultReporter;

  constructor(registers: Registers, translator: Translator, reporter: FaultReporter) {
    this.registers = registers;
    this.translator = translator;
    this.reporter = reporter;
  }

  /** A translation request (§3.9.1.2). */
  translate(streamId: number, substreamId: number, high: number, low: number, noWrite: boolean): TranslationCompletion {
    const { registers, translator } = this;
    const transaction = { streamId, substreamId, high: high >>> 0, low: low >>> 0, write: !noWrite };
    // Without ATS there is nobody who could understand the request.
    if (!registers.features.ats) return "unsupported request";
    const forbid = (why: () => string): TranslationCompletion => {
      this.reporter.report(transaction, { event: F_BAD_ATS_TREQ, why }, undefined);
      return "unsupported request";
    };
    if (!this.isOn) return forbid(() => "CR0.SMMUEN is 0");
    const ste = translator.streamTableEntry(streamId);
    if (ste === undefined) return this.refusal(transaction, translator.fault!);
    const { illegal } = ste;
    if (illegal !== undefined) {
      return this.refusal(transaction, { event: C_BAD_STE, why: () => `${ste.label}: ${illegal}` });
    }
    if (ste.abort) return "unsupported request";
    const eats = this.effectiveEats(ste);
    if (eats === 0) return forbid(() => this.whyNot(ste));

    const context = translator.context(streamId, substreamId);
    if (context === undefined) return this.refusal(transaction, translator.fault!);
    // S1DSS skips stage 1, and there is no other.
    if (context.descriptor === undefined && context.ste.stage2 === undefined) {
      const physical = (high >>> 0) * 2 ** 32 + (low >>> 0);
      if (physical >= 2 ** registers.features.outputBits) return NO_ACCESS;
      return { physical: alignDown(physical, SMALLEST_UNIT), size: SMALLEST_UNIT, read: true, write: true };
    }
    const split = eats === EATS_SPLIT;
    // Write before read: it may make the page dirty, and so writable for both.
    const write = noWrite ? undefined : this.lookUp(context, high, low, RIGHT_WRITE, split);
    const read = this.lookUp(context, high, low, RIGHT_READ, split);
    if (isLeaf(read)) return { ...read, read: true, write: isLeaf(write) };
    return isLeaf(write) ? { ...write, read: false, write: true } : this.refusal(transaction, read);
  }

  /** A request with a translated address (§3.9.1.3): the address to go to, or -1 for an abort. */
  passTranslated(streamId: number, address: number, write: boolean): number {
    const { registers, translator } = this;
    const high = Math.floor(address / 2 ** 32);
    const low = address >>> 0;
    const transaction = { streamId, substreamId: NO_SUBSTREAM, high, low, write };
    this.reach = Number.POSITIVE_INFINITY;
    const refuse = (why: () => string, event = F_TRANSL_FORBIDDEN): -1 => {
      this.reporter.report(transaction, { event, why }, undefined);
      return -1;
    };
    if (!registers.features.ats) return refuse(() => "IDR0.ATS is 0: there are no translated requests", SILENT_ABORT);
    if (!this.isOn) return refuse(() => "CR0.SMMUEN is 0");
    const isTooLarge = address >= 2 ** registers.features.outputBits;
    if ((registers.get(CR0) & CR0_ATSCHK) === 0) {
      return isTooLarge
        ? refuse(() => `beyond the ${registers.features.outputBits} bits of IDR5.OAS`, SILENT_ABORT)
        : address;
    }
    const ste = translator.streamTableEntry(streamId);
    if (ste === undefined || ste.illegal !== undefined) {
      return refuse(() => ste?.illegal ?? translator.fault!.why(), SILENT_ABORT);
    }
    if (ste.abort) return refuse(() => `${ste.label}: Config (bits 3:1) is abort`, SILENT_ABORT);
    const eats = this.effectiveEats(ste);
    if (eats === 0) return refuse(() => this.whyNot(ste));
    if (isTooLarge) {
      // Split, it is the input of stage 2; full, an address that goes to memory (§3.9.1.1, §3.9.1.3).
      const event = eats === EATS_SPLIT ? F_ADDR_SIZE : SILENT_ABORT;
      return refuse(() => `beyond the ${registers.features.outputBits} bits of IDR5.OAS`, event);
    }
    if (eats === EATS_FULL) return address;
    const { stage2 } = translator;
    if (stage2.translate(ste, address, write ? RIGHT_WRITE : RIGHT_READ, CLASS_IN)) {
      this.reach = POWERS[stage2.shift] - (address % POWERS[stage2.shift]);
      return stage2.physical;
    }
    this.reporter.report(transaction, stage2.fault!, new Context(streamId, NO_SUBSTREAM, ste, undefined));
    return -1;
  }

  private get isOn(): boolean {
    return (this.registers.get(CR0) & CR0_SMMUEN) !== 0;
  }

  /** 0: ATS is off for the stream. Split stage ATS needs the checks of ATSCHK (§5.2, EATS). */
  private effectiveEats(ste: StreamTableEntry): number {
    if (!ste.stage1 && ste.stage2 === undefined) return 0;
    return ste.eats === EATS_SPLIT && (this.registers.get(CR0) & CR0_ATSCHK) === 0 ? 0 : ste.eats;
  }

  private whyNot(ste: StreamTableEntry): string {
    if (!ste.stage1 && ste.stage2 === undefined) return `${ste.label}: Config (bits 3:1) is bypass, which has no ATS`;
    if (ste.eats === EATS_SPLIT) return `${ste.label}: EATS (bits 93:92) is split stage, which needs CR0.ATSCHK`;
    return `${ste.label}: EATS (bits 93:92) does not enable ATS`;
  }

  /** The leaf that an address is in, if all stages allow the access. */
  private lookUp(context: Context, high: number, low: number, needed: number, split: boolean): Leaf | Fault {
    const { translator } = this;
    const isFound = split
      ? translator.translateStage1(context, high, low, needed)
      : translator.translate(context.streamId, context.substreamId, high, low, needed === RIGHT_WRITE);
    if (!isFound) return translator.fault!;
    const size = POWERS[translator.shift];
    return { physical: alignDown(translator.physical, size), size };
  }

  /** What a device hears of a failed translation: no access, or, where something is wrong, an abort. */
  private refusal(transaction: Transaction, fault: Fault): TranslationCompletion {
    this.reporter.explain(transaction, fault);
    return isTranslationFault(fault.event) ? NO_ACCESS : "completer abort";
  }
}

interface Leaf {
  readonly physical: number;
  readonly size: number;
}

function isLeaf(result: Leaf | Fault | undefined): result is Leaf {
  return result !== undefined && "size" in result;
}

function alignDown(address: number, size: number): number {
  return address - (address % size);
}
