// Runs in a browser.
/**
 * Arm's SMMUv3 (IHI 0070), bit for bit: the hardware that a driver programs through registers, tables and queues.
 *
 * **What lives where.** Software's side: registers (registers.ts), tables and queues in physical memory; nothing of
 * them is kept here but what the architecture lets hardware cache. The model's own side: the configuration cache
 * (STEs, contexts, first-level descriptors), two TLBs (stage 1 with the final address, stage 2 by IPA), and the tags of
 * stalled transactions. Page tables are read by the one walker of src/pagetable.
 *
 * **The way of an access**: smmuv3.ts `access` → translate.ts → config-cache.ts, tlb.ts; on a miss stream-table.ts →
 * ste.ts, context-table.ts → cd.ts (through stage2.ts if nested), the walk, the TLB. A failure is a `Fault`
 * (faults.ts): smmuv3.ts decides by R, S and A what the requester gets, events.ts writes the record, interrupts.ts
 * tells it. **The way of a command**: registers.ts → commands.ts → the caches.
 *
 * **Always true.** A cached entry is used until an invalidation names it or its place is needed; a change in memory
 * alone is not seen while it is cached. Faulting translations are never cached. An entry answers only for its own
 * regime, VMID, ASID (unless global), stage 2 or not, and address. Translation and transfer of a leaf are one step.
 *
 * **False for a moment.** An IPA invalidated in the stage 2 TLB may live on in a stage 1 entry made through it, until
 * the stage 1 entries of its VMID are invalidated too; the architecture asks the hypervisor for both (§4.4.2).
 *
 * **Price.** A TLB entry that lacks a right is dropped and walked again, so a right given without an invalidation is
 * seen at once; one taken away is not. Both are allowed.
 *
 * **The way of a device that translates ahead**: `SmmuV3.agent` → ats.ts for translation requests and translated ones,
 * page-requests.ts for page requests; commands.ts sends it invalidations and answers.
 *
 * **Not there**, and so not announced in the identification registers: what docs/smmuv3-model.md lists, such as the Secure
 * side, ATOS, MPAM, AArch32 tables, memory attributes. No locks: nothing here waits but a stalled access.
 */
export { CERROR_ABT, CERROR_ILL } from "./commands.ts";
export { type AttachedTable, ContextTables } from "./context-tables.ts";
export { eventName, type FaultExplanation, type Transaction } from "./faults.ts";
export { decodeFeatures, type FeatureChoices, type Features, type IdRegisters, smmuFeatures } from "./features.ts";
export type { InterruptLine } from "./interrupts.ts";
export { REGISTERS_SIZE } from "./registers.ts";
export {
  ABORTED,
  IGNORED,
  type SmmuOptions,
  SmmuV3,
  STALLED,
  TRANSLATED,
  type TranslationOutcome,
} from "./smmuv3.ts";
