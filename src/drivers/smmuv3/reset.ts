// Runs in a browser.
/** From whatever state to a working SMMU, and off again. The order is that of reference 6.7, "Reset order". */
import { ETIMEDOUT, refuse, type Task } from "../../runtime/index.ts";
import {
  type CommandSink,
  invalidateAllConfiguration,
  invalidateAllGuests,
  invalidateAllHypervisor,
} from "./commands.ts";
import type { SmmuV3Instance } from "./instance.ts";
import {
  CR0,
  CR0_ATSCHK,
  CR0_CMDQEN,
  CR0_EVTQEN,
  CR0_PRIQEN,
  CR0_SMMUEN,
  CR0ACK,
  CR1,
  CR1_COHERENT,
  CR2,
  CR2_PTM,
  CR2_RECINVSID,
  GBPA,
  GBPA_ABORT,
  GBPA_UPDATE,
  IRQ_CTRL,
  IRQ_CTRLACK,
  IRQ_EVTQ,
  IRQ_GERROR,
  IRQ_PRIQ,
} from "./registers.ts";

/** Reads of an acknowledge register after which the SMMU counts as dead. */
const POLLS_MAX = 10_000;

/** Afterwards the SMMU translates by the instance's stream table. Refusal ETIMEDOUT if it does not answer. */
export function* resetSmmu(instance: SmmuV3Instance): Task<void> {
  const { registers, features, commands, events, pageRequests, streamTable } = instance;
  if (registers.read32(CR0) & CR0_SMMUEN) yield* abortUntranslated(instance);
  let enabled = 0;
  yield* writeControl(instance, enabled);
  registers.write32(CR1, CR1_COHERENT);
  registers.write32(CR2, (features.broadcastTlb ? 0 : CR2_PTM) | CR2_RECINVSID);
  streamTable.program(registers);

  commands.program();
  yield* writeControl(instance, (enabled |= CR0_CMDQEN));
  yield* syncAfter(instance, invalidateAllConfiguration);
  if (features.hypervisor) yield* syncAfter(instance, invalidateAllHypervisor);
  yield* syncAfter(instance, invalidateAllGuests);

  events.program();
  yield* writeControl(instance, (enabled |= CR0_EVTQEN));
  if (pageRequests !== undefined) {
    pageRequests.program();
    yield* writeControl(instance, (enabled |= CR0_PRIQEN));
  }
  if (features.ats) yield* writeControl(instance, (enabled |= CR0_ATSCHK));

  const interrupts = IRQ_GERROR | IRQ_EVTQ | (pageRequests === undefined ? 0 : IRQ_PRIQ);
  yield* writeAcknowledged(instance, IRQ_CTRL, IRQ_CTRLACK, 0);
  yield* writeAcknowledged(instance, IRQ_CTRL, IRQ_CTRLACK, interrupts);
  yield* writeControl(instance, (enabled |= CR0_SMMUEN));
}

/** Translation and queues off; what comes in then is aborted. */
export function* disableSmmu(instance: SmmuV3Instance): Task<void> {
  yield* abortUntranslated(instance);
  yield* writeAcknowledged(instance, IRQ_CTRL, IRQ_CTRLACK, 0);
  yield* writeControl(instance, 0);
}

/** While translation is off, transactions abort instead of passing. */
function* abortUntranslated(instance: SmmuV3Instance): Task<void> {
  const { registers } = instance;
  const taken = (): boolean => registers.read32(GBPA) < GBPA_UPDATE;
  yield* poll(instance, "GBPA", taken);
  registers.write32(GBPA, (registers.read32(GBPA) | GBPA_ABORT | GBPA_UPDATE) >>> 0);
  yield* poll(instance, "GBPA", taken);
}

function* syncAfter({ commands }: SmmuV3Instance, command: (sink: CommandSink) => void): Task<void> {
  command(commands);
  yield* commands.sync();
}

function* writeControl(instance: SmmuV3Instance, value: number): Task<void> {
  yield* writeAcknowledged(instance, CR0, CR0ACK, value);
}

function* writeAcknowledged(instance: SmmuV3Instance, offset: number, acknowledge: number, value: number): Task<void> {
  const { registers } = instance;
  registers.write32(offset, value);
  yield* poll(instance, `register 0x${offset.toString(16)}`, () => registers.read32(acknowledge) === value);
}

function* poll({ system, name }: SmmuV3Instance, what: string, condition: () => boolean): Task<void> {
  system.failures.point("smmuv3.reset.poll", ETIMEDOUT);
  for (let polls = 0; !condition(); polls++) {
    if (polls === POLLS_MAX) refuse(ETIMEDOUT, () => `${name} does not acknowledge a write to ${what}`);
    if (system.tasks.exploring) yield* system.tasks.point();
  }
}
