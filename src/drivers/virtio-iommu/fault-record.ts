// Runs in a browser.
/** What an event of the device says (virtio 1.2, §5.13.6.9; reference 7.3). */

export const FAULT_BYTES = 24;

const FLAG_READ = 1;
const FLAG_WRITE = 2;
const FLAG_EXEC = 4;
const FLAG_ADDRESS = 0x100;
const reasons = ["unknown", "domain", "mapping"] as const;

export interface FaultRecord {
  /** `"domain"`: the endpoint has none. `"mapping"`: its domain does not map the address, or not for this. */
  readonly reason: (typeof reasons)[number];
  readonly endpoint: number;
  readonly read: boolean;
  readonly write: boolean;
  readonly exec: boolean;
  /** Undefined if the device does not know it. */
  readonly address: bigint | undefined;
}

/** Undefined for a kind of event that is not known: its first word has more than a reason. */
export function decodeFault(bytes: Uint8Array): FaultRecord | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const reason = view.getUint32(0, true);
  if (reason > 0xff) return undefined;
  const flags = view.getUint32(4, true);
  return {
    reason: reasons[reason] ?? "unknown",
    endpoint: view.getUint32(8, true),
    read: (flags & FLAG_READ) !== 0,
    write: (flags & FLAG_WRITE) !== 0,
    exec: (flags & FLAG_EXEC) !== 0,
    address: (flags & FLAG_ADDRESS) === 0 ? undefined : view.getBigUint64(16, true),
  };
}

/** One sentence. `device` is the name of the endpoint's device, and `domain` what it is attached to, if known. */
export function explainFault(fault: FaultRecord, device: string | undefined, domain: string | undefined): string {
  const who = device ?? `endpoint 0x${fault.endpoint.toString(16)}`;
  const did = [fault.read && "read", fault.write && "write", fault.exec && "instruction fetch"].filter(Boolean);
  const where = fault.address === undefined ? "" : ` at 0x${fault.address.toString(16)}`;
  const why = {
    unknown: "the device does not say why",
    domain: "it is attached to no domain",
    mapping: `${domain ?? "its domain"} does not map that address for such an access`,
  }[fault.reason];
  return `${did.join("/") || "access"} of ${who}${where} was refused: ${why}`;
}
