// Runs in a browser.
import type { LpaeFormat } from "../../../pagetable/index.ts";
import type { PasidTable } from "../../table.ts";
import type { Context } from "../../vendor.ts";
import { quietDescriptor, stage1Descriptor } from "./context-descriptor.ts";
import type { Entry } from "./entry-writer.ts";

/** The page table of a context. */
export interface ArmPageTable {
  readonly label: string;
  readonly root: number;
  readonly format: Pick<LpaeFormat, "granule" | "t0sz" | "outputBits">;
  /** Hardware marks what was written to. */
  readonly dirtyTracking: boolean;
}

/** Whose context it is, if that may be given another ASID. It must invalidate under all the ASIDs that it is told of. */
export interface AsidHolder {
  /** From now on the hardware may keep translations of it under this ASID, too. */
  alsoUnder(asid: number): void;
  /** It has none under this ASID any more. */
  notUnder(asid: number): void;
}

/** What a context descriptor says. Made by `ArmContexts`, which also changes its ASID. */
export class ArmContext implements Context<ArmContext> {
  readonly table: ArmPageTable;
  /** Undefined for shared memory, whose ASID is the process's own. */
  readonly holder: AsidHolder | undefined;
  /** The CPU uses the same ASID for the same table, and its TLB invalidations reach the hardware (ASET 0). */
  readonly isShared: boolean;
  readonly tables: Set<PasidTable<ArmContext>> = new Set();
  asid: number;
  /** Translates nothing, and nothing is wrong with that: see `ArmContexts.quiesce`. */
  isQuiet = false;
  private readonly mustStall: boolean;

  constructor(
    table: ArmPageTable,
    asid: number,
    options: { holder: AsidHolder | undefined; isShared: boolean; mustStall: boolean },
  ) {
    this.table = table;
    this.asid = asid;
    this.holder = options.holder;
    this.isShared = options.isShared;
    this.mustStall = options.mustStall;
  }

  get label(): string {
    return `${this.table.label}, ASID ${this.asid}`;
  }

  /** Its bytes, for a device whose faulting transactions may be stalled or not. */
  descriptor(canStall: boolean): Entry {
    return this.isQuiet ? quietDescriptor(this, this.mustStall) : stage1Descriptor(this, canStall);
  }
}
