// Runs in a browser.
/**
 * What a guest gets of an SMMU (reference 6.7, "vSMMU"): stage 1 of its own above a stage 2 that shows its memory.
 *
 * All its translations are under the VMID of the parent. Always true: a command that came from the guest carries this VMID
 * or a stream id of a vdevice; an event that goes to it carries its own stream id.
 */
import type { Device, Invalidation, NestedDomain, UserData, Viommu, ViommuServices } from "../../iommu/index.ts";
import { EINVAL, EOPNOTSUPP, Refusal, refuse, type Task } from "../../runtime/index.ts";
import type { SmmuV3PagingDomain } from "./domain.ts";
import type { EventRecord } from "./event-record.ts";
import { COMMAND_WORDS, type CommandOrigin, convertGuestCommand } from "./guest-commands.ts";
import { checkGuestStreamEntry } from "./guest-stream-entry.ts";
import type { SmmuV3Instance } from "./instance.ts";
import { masterOf } from "./master.ts";
import { SmmuV3NestedDomain } from "./nested-domain.ts";
import {
  bytesOf,
  EVENT_TYPE_ARM_SMMUV3,
  INVALIDATE_DATA_ARM_SMMUV3,
  readStreamEntryWords,
  wordsOf,
} from "./user-data.ts";

const COMMAND_BYTES = COMMAND_WORDS * 4;
/** Commands of a guest that go into the queue between two CMD_SYNCs. */
const BATCH = 63;

export class SmmuV3Viommu implements Viommu {
  readonly label: string;
  readonly instance: SmmuV3Instance;
  readonly parent: SmmuV3PagingDomain;
  readonly services: ViommuServices;
  private readonly origin: CommandOrigin;

  /** Refusals: EINVAL for a parent of another SMMU; ENOMEM. */
  constructor(instance: SmmuV3Instance, parent: SmmuV3PagingDomain, services: ViommuServices) {
    if (parent.instance !== instance) {
      refuse(EINVAL, () => `${parent.label} belongs to another IOMMU than ${instance.label}`);
    }
    instance.system.failures.point("smmuv3.viommu.allocate");
    this.label = `viommu of ${instance.name}, VMID ${parent.vmid}`;
    this.instance = instance;
    this.parent = parent;
    this.services = services;
    this.origin = { vmid: parent.vmid, streamId: (virtual) => this.streamId(virtual) };
    this.tell("smmuv3.viommu.allocate");
  }

  /** Refusals: EOPNOTSUPP (flags), EINVAL (type or length of data), EFAULT, EIO (what a guest's STE may not say), ENOMEM. */
  *allocateNested(_device: Device, flags: number, data: UserData): Task<NestedDomain> {
    if (flags !== 0) refuse(EOPNOTSUPP, () => `flags 0x${flags.toString(16)}: nested domains of an SMMUv3 have none`);
    const entry = checkGuestStreamEntry(readStreamEntryWords(data));
    return new SmmuV3NestedDomain(this, entry);
  }

  /** Refusal EOPNOTSUPP for several stream ids: the guest gives one. */
  *addDevice(device: Device): Task<void> {
    const { streamIds } = masterOf(device);
    if (streamIds.length > 1) {
      refuse(EOPNOTSUPP, () => `${device.label} has ${streamIds.length} stream ids: a guest can have only one for it`);
    }
  }

  /**
   * All commands are read before the first is carried out. Refusals: EINVAL (type, or none), EFAULT, E2BIG, EIO for a
   * command that is not the guest's. Those before it count as done, though what is left of a batch does not go out.
   */
  *invalidate(invalidation: Invalidation): Task<void> {
    const { type, count } = invalidation;
    if (type !== INVALIDATE_DATA_ARM_SMMUV3) {
      refuse(EINVAL, () => `${this.label} knows no invalidation of type ${type}, only ${INVALIDATE_DATA_ARM_SMMUV3}`);
    }
    if (count === 0) refuse(EINVAL, () => "an invalidation without commands");
    const { commands, system } = this.instance;
    system.failures.point("smmuv3.viommu.invalidate");
    const bytes = new Uint8Array(count * COMMAND_BYTES);
    for (let index = 0; index < count; index++) {
      invalidation.read(index, bytes.subarray(index * COMMAND_BYTES, (index + 1) * COMMAND_BYTES));
    }
    const words = wordsOf(bytes);
    for (let first = 0; first < words.length; first += BATCH * COMMAND_WORDS) {
      const batch = words.subarray(first, first + BATCH * COMMAND_WORDS);
      for (let at = 0; at < batch.length; at += COMMAND_WORDS) {
        convertGuestCommand(batch.subarray(at, at + COMMAND_WORDS), this.origin);
        invalidation.done++;
      }
      for (let at = 0; at < batch.length; at += COMMAND_WORDS) {
        commands.push(batch[at], batch[at + 1], batch[at + 2], batch[at + 3]);
      }
      yield* commands.sync();
    }
    this.tell("smmuv3.viommu.invalidate", { commands: count });
  }

  /** Tells the guest an event of a stream that it calls `virtualId`, if it listens. */
  report(event: EventRecord, virtualId: number): void {
    const words = event.words.slice();
    words[1] = virtualId;
    try {
      this.services.report(EVENT_TYPE_ARM_SMMUV3, bytesOf(words));
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
    }
  }

  *free(): Task<void> {
    this.tell("smmuv3.viommu.free");
  }

  private streamId(virtual: number): number | undefined {
    const device = this.services.device(BigInt(virtual));
    return device === undefined ? undefined : masterOf(device).streamIds[0];
  }

  private tell(kind: string, fields: Record<string, unknown> = {}): void {
    const { system, name } = this.instance;
    if (system.events.on) system.events.emit({ kind, instance: name, vmid: this.parent.vmid, ...fields });
  }
}
