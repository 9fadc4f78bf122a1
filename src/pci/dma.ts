// Runs in a browser.
import type { Task } from "../runtime/index.ts";
import type { TranslationAgent } from "./ats.ts";

/** Requester id: bus << 8 | device << 3 | function. */
export type RequesterId = number;

/**
 * What sits between a requester and memory: an IOMMU, or nothing at all. `access` performs one DMA of any length; false
 * means that the bus answered with an abort (a part may have been transferred). Yields at every step where a real DMA
 * could be overtaken.
 */
export interface DmaTarget {
  access(
    requester: RequesterId,
    pasid: number | undefined,
    address: bigint,
    bytes: Uint8Array,
    write: boolean,
  ): Task<boolean>;
  /** Who answers functions that translate ahead (ATS); nobody, if undefined. */
  readonly agent?: TranslationAgent | undefined;
}

/** A device model's own way to memory: its requester id is filled in, and bus mastering was checked. */
export interface DmaPort {
  read(address: bigint, into: Uint8Array, pasid?: number): Task<boolean>;
  write(address: bigint, from: Uint8Array, pasid?: number): Task<boolean>;
}

/** An interrupt message: a write of the 32-bit `data` to `address`. */
export interface Message {
  readonly address: bigint;
  readonly data: number;
}

/** Receives message-signalled interrupts: writes of `data` to the doorbell window. */
export interface InterruptController {
  /** The doorbell window, bytes, `last` inclusive. Writes of requesters to it never reach the IOMMU. */
  readonly doorbell: { readonly start: bigint; readonly last: bigint };
  /**
   * Gives out a message that calls `handler` when written by `requester`. With `count` (a power of two) it is the first
   * of as many: their data are consecutive, the first a multiple of `count`, and `handler` gets the message's index.
   * Throws Refusal ENOSPC when there are no more.
   */
  allocate(requester: RequesterId, handler: (index: number) => void, count?: number): Message;
  /** Takes a message back, with all that were allocated with it. */
  free(message: Message): void;
  /** A requester wrote to the window. Unknown messages are dropped. */
  deliver(requester: RequesterId, address: bigint, data: number): void;
}
