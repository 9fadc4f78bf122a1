// Runs in a browser.
/** What stands around a PASID table: the driver that uses it, and the vendor that knows its bytes. */
import type { Task } from "../runtime/index.ts";
import type { PasidTable } from "./table.ts";

/** What a PASID translates through. Vendors know more of theirs. */
export interface Context<Self extends Context<Self>> {
  /** For people: `"smmu stage 1 domain, ASID 2"`. */
  readonly label: string;
  /** Where the hardware may find it. Kept by the tables. */
  readonly tables: Set<PasidTable<Self>>;
}

/** What a table is for. */
export interface PasidTableDevice {
  readonly log2Pasids: number;
  /** A faulting transaction of it may be stalled. */
  readonly canStall: boolean;
}

/** The driver of the device whose table it is. */
export interface PasidTableUser {
  /**
   * Asks the hardware to forget what it knows of a PASID's context; of the way there, too, unless `leafOnly`. It has
   * when {@link sync} returns.
   */
  forget(pasid: number, leafOnly: boolean): void;
  sync(): Task<void>;
  /** The table begins at another place: when this returns the hardware knows, and has forgotten the old one. */
  move(): Task<void>;
}

/** The memory of one table. PASIDs are reserved before anything is written for them. */
export interface VendorTable<C> {
  /** True if {@link exchange} changes where the table begins, and not a pointer in it. */
  readonly movesOnExchange: boolean;
  /** Makes room for a PASID. True if the way there is new. Refusal ENOMEM. */
  reserve(pasid: number): boolean;
  /** True if {@link write} gets there from what is there now, without a moment of neither. */
  changesInPlace(pasid: number, context: C): boolean;
  /** Makes what is there say what the context says, or nothing; after each visible step it calls `forgotten`. */
  write(pasid: number, context: C | undefined, forgotten: () => Task<void>): Task<void>;
  /** True if what is there is what the context says. */
  says(pasid: number, context: C | undefined): boolean;
  /** Memory for one {@link exchange}, by a number. Refusal ENOMEM. */
  allocateSpare(): number;
  /** A part of the table, with this context in it, takes the place of the part that is left, which is returned. */
  exchange(pasid: number, context: C, spare: number): number;
  /** {@link write} into what is left, if the PASID's part of the table is being exchanged. */
  writeLeaving(pasid: number, context: C, forgotten: () => Task<void>): Task<void>;
  /** Takes back what was left, when the hardware has forgotten it. */
  freeSpare(left: number): void;
  free(): void;
}

/** One vendor's tables on one IOMMU. Contexts are prepared, shared and quieted by its own class. */
export interface PasidTableVendor<C, T extends VendorTable<C> = VendorTable<C>> {
  /** Refusal ENOMEM. */
  allocate(device: PasidTableDevice): T;
}
