// Runs in a browser.
/**
 * Invalidation commands of a guest (reference 6.7, "vSMMU"): what it would put into the command queue of its own SMMU.
 *
 * A guest may let be forgotten what it owns: translations under its VMID, and configuration and ATC of its streams, which
 * it names by its own stream ids. So every command gets the VMID, or the stream id behind the guest's, before it goes into
 * the SMMU's queue.
 */
import { EIO, refuse } from "../../runtime/index.ts";
import {
  ATC_INV,
  CFGI_CD,
  CFGI_CD_ALL,
  commandName,
  TLBI_NH_ALL,
  TLBI_NH_ASID,
  TLBI_NH_VA,
  TLBI_NH_VAA,
  TLBI_NSNH_ALL,
} from "./commands.ts";

/** Words of a command. */
export const COMMAND_WORDS = 4;

const VMID = 0xffff;

/** Whose commands they are. */
export interface CommandOrigin {
  readonly vmid: number;
  /** The stream id behind one of the guest's, if it has such a stream. */
  streamId(virtual: number): number | undefined;
}

/** Makes a guest's command one for the SMMU, in place. Refusal EIO: it is not for guests, or names no stream of theirs. */
export function convertGuestCommand(command: Uint32Array, { vmid, streamId }: CommandOrigin): void {
  const opcode = command[0] & 0xff;
  switch (opcode) {
    case TLBI_NSNH_ALL:
      command.set([TLBI_NH_ALL, vmid, 0, 0]);
      return;
    case TLBI_NH_ALL:
    case TLBI_NH_ASID:
    case TLBI_NH_VA:
    case TLBI_NH_VAA:
      command[1] = (command[1] & ~VMID) | vmid;
      return;
    case ATC_INV:
    case CFGI_CD:
    case CFGI_CD_ALL: {
      const [, virtual] = command;
      command[1] =
        streamId(virtual) ??
        refuse(EIO, () => `${commandName(opcode)}: the guest has no stream 0x${virtual.toString(16)} (no vdevice)`);
      return;
    }
    default:
      refuse(EIO, () => `${commandName(opcode)} is not a guest's to send`);
  }
}
