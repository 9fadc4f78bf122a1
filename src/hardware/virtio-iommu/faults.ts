// Runs in a browser.
/** Accesses that failed: as an event for the driver (§5.13.6.9), and in words for people. */
import type { FaultReason } from "./domains.ts";

export const FAULT_BYTES = 24;

const REASON: Readonly<Record<FaultReason, number>> = { domain: 1, mapping: 2 };
const FLAG_READ = 1;
const FLAG_WRITE = 2;
const FLAG_ADDRESS = 0x100;

export interface Fault {
  readonly reason: FaultReason;
  readonly endpoint: number;
  readonly address: bigint;
  readonly write: boolean;
}

export interface FaultExplanation {
  readonly fault: Fault;
  /** False if the driver does not hear of it: no buffer of its own was in the event queue. */
  readonly recorded: boolean;
  /** One sentence. */
  text(): string;
}

/** `struct virtio_iommu_fault`. */
export function faultEvent({ reason, endpoint, address, write }: Fault): Uint8Array {
  const view = new DataView(new ArrayBuffer(FAULT_BYTES));
  view.setUint8(0, REASON[reason]);
  view.setUint32(4, (write ? FLAG_WRITE : FLAG_READ) | FLAG_ADDRESS, true);
  view.setUint32(8, endpoint, true);
  view.setBigUint64(16, address, true);
  return new Uint8Array(view.buffer);
}

export function explainFault(label: string, fault: Fault, recorded: boolean): FaultExplanation {
  const { reason, endpoint, address, write } = fault;
  const why =
    reason === "domain"
      ? "it is attached to no domain, and bypass is off"
      : `no mapping of its domain allows ${write ? "writing" : "reading"} there`;
  return {
    fault,
    recorded,
    text: () =>
      `${label}: ${write ? "write" : "read"} of endpoint 0x${endpoint.toString(16)} at 0x${address.toString(16)} faults: ` +
      `${why}${recorded ? "" : " (not recorded: the event queue has no buffer)"}`,
  };
}
