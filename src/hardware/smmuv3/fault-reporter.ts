// Runs in a browser.
/** What becomes of a transaction that failed: an abort, a stall, or nothing that its device notices; and who is told. */
import type { EventStream } from "../../runtime/index.ts";
import type { Context } from "./config-cache.ts";
import type { EventQueue } from "./events.ts";
import {
  C_BAD_STREAMID,
  eventName,
  eventRecord,
  explainFault,
  type Fault,
  type FaultExplanation,
  isTranslationFault,
  SILENT_ABORT,
  type Transaction,
} from "./faults.ts";
import { CR0, CR0_PRIQEN, CR2, CR2_RECINVSID, type Registers } from "./registers.ts";
import type { Stalls } from "./stalls.ts";

/** How a failed transaction ends, or the tag under which it is parked (-1: it waits for one). */
export type Ending = "abort" | "ignore" | { readonly tag: number };

/** What the configuration wants done with a fault (IHI 0070 §3.12, §5.5). */
interface FaultPolicy {
  readonly stalls: boolean;
  readonly records: boolean;
  readonly aborts: boolean;
}

const ABORT_AND_RECORD: FaultPolicy = { stalls: false, records: true, aborts: true };
const ABORT_SILENTLY: FaultPolicy = { stalls: false, records: false, aborts: true };

export class FaultReporter {
  /** Told of each fault when it is found. */
  onFault: ((fault: FaultExplanation) => void) | undefined = undefined;
  /** Told of each access that fails for good: a stalled one only when it is aborted. */
  onRefusal: ((fault: FaultExplanation) => void) | undefined = undefined;
  private readonly stream: EventStream;
  private readonly registers: Registers;
  private readonly events: EventQueue;
  private readonly stalls: Stalls;
  private readonly label: string;

  constructor(stream: EventStream, registers: Registers, events: EventQueue, stalls: Stalls, label: string) {
    this.stream = stream;
    this.registers = registers;
    this.events = events;
    this.stalls = stalls;
    this.label = label;
  }

  /** Records and tells a fault. `context` is where it happened, as far as that was known. */
  report(transaction: Transaction, fault: Fault, context: Context | undefined): Ending {
    const policy = this.policy(fault, context);
    if (policy.stalls) return this.stall(transaction, fault);
    const record = fault.event === SILENT_ABORT ? undefined : eventRecord(transaction, fault, -1);
    const recorded = record !== undefined && policy.records && this.events.record(record);
    const explanation = this.tell(transaction, fault, record, recorded);
    this.onRefusal?.(explanation);
    return policy.aborts || this.registers.features.abortsOnly ? "abort" : "ignore";
  }

  /** Tells a fault that the architecture does not record: its device hears of it, and may ask for the page where it can. */
  explain(transaction: Transaction, fault: Fault): void {
    const explanation = this.tell(transaction, fault, undefined, false);
    if ((this.registers.get(CR0) & CR0_PRIQEN) === 0) this.onRefusal?.(explanation);
  }

  private policy(fault: Fault, context: Context | undefined): FaultPolicy {
    if (fault.event === C_BAD_STREAMID) {
      return (this.registers.get(CR2) & CR2_RECINVSID) !== 0 ? ABORT_AND_RECORD : ABORT_SILENTLY;
    }
    if (!isTranslationFault(fault.event)) return ABORT_AND_RECORD;
    if (fault.stage2 === true) {
      const { stalls, records } = context!.ste.stage2!;
      return { stalls, records, aborts: true };
    }
    // Without a CD stage 1 is bypassed, and there is no R to ask.
    return context?.descriptor ?? ABORT_AND_RECORD;
  }

  private stall(transaction: Transaction, fault: Fault): Ending {
    // Whoever waits for a tag faults again when there is one, and is told of then.
    if (!this.stalls.hasRoom) return { tag: -1 };
    const tag = this.stalls.allocateTag();
    const record = eventRecord(transaction, fault, tag);
    const explanation = this.tell(transaction, fault, record, true);
    this.stalls.park(tag, transaction, record, () => this.onRefusal?.(explanation));
    this.events.recordStall(record);
    return { tag };
  }

  private tell(
    transaction: Transaction,
    fault: Fault,
    record: Uint32Array | undefined,
    recorded: boolean,
  ): FaultExplanation {
    const { stream } = this;
    const explanation = explainFault(transaction, fault, record, recorded);
    this.onFault?.(explanation);
    if (!stream.on) return explanation;
    stream.emit({
      kind: "smmuv3.translation.fault",
      smmu: this.label,
      streamId: transaction.streamId,
      event: eventName(fault.event),
      recorded,
      text: explanation.text(),
    });
    return explanation;
  }
}
