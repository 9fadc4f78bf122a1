// Runs in a browser.
/**
 * The bits of an LPAE leaf besides its address: PROT_* to descriptor bits and back (DDI 0487 D8.3, D8.4), and the rights
 * that they give to the hardware. Bit numbers are those of the 64-bit descriptor; from 32 on they are in the high word.
 */
import { PROT_CACHE, PROT_MMIO, PROT_NOEXEC, PROT_PRIV, PROT_READ, PROT_WRITE } from "../prot.ts";
import {
  privileged,
  RIGHT_EXECUTE,
  RIGHT_PRIVILEGED_EXECUTE,
  RIGHT_PRIVILEGED_READ,
  RIGHT_PRIVILEGED_WRITE,
  RIGHT_READ,
  RIGHT_WRITE,
  type Rights,
} from "../rights.ts";
import type { LeafAttributes } from "./format.ts";

/** Low word, both stages: bits 9:8 and 10. */
const OUTER_SHAREABLE = 2 << 8;
const INNER_SHAREABLE = 3 << 8;
export const ACCESS_FLAG = 1 << 10;
/** High word, both stages: bit 51, dirty bit modifier; bit 52, contiguous. */
export const DIRTY_BIT_MODIFIER = 1 << 19;
export const CONTIGUOUS = 1 << 20;

/** Stage 1, low word: AP[1] (bit 6), AP[2] (bit 7), nG (bit 11), AttrIndx (4:2). */
const USER = 1 << 6;
export const READ_ONLY = 1 << 7;
export const NOT_GLOBAL = 1 << 11;
const ATTRIBUTE_INDEX = 7 << 2;
/** Stage 1, high word: PXN (bit 53), UXN (bit 54). */
const STAGE1_EXECUTE_NEVER = 3 << 21;

/** Stage 2, low word: S2AP[0] (bit 6), S2AP[1] (bit 7), MemAttr (5:2). */
const STAGE2_READ = 1 << 6;
export const STAGE2_WRITE = 1 << 7;
const MEMORY_ATTRIBUTE = 0xf << 2;
/** Stage 2, high word: XN = 0b10 (bits 54:53), never at any exception level, with and without FEAT_XNX. */
const STAGE2_EXECUTE_NEVER = 2 << 21;

/**
 * The memory types that stage-1 leaves index, in MAIR: 0 non-cacheable, 1 write-back, 2 device nGnRE, 3 inner
 * non-cacheable, outer write-back (reference 6.8). Bits 31:0; bits 63:32 are 0.
 */
export const MAIR_LOW = 0xf4_04_ff_44;
const INDEX_NON_CACHEABLE = 0 << 2;
const INDEX_WRITE_BACK = 1 << 2;
const INDEX_DEVICE = 2 << 2;

/** MemAttr of stage 2: device nGnRE, normal non-cacheable, normal write-back; with S2FWB: forced write-back. */
const MEMORY_DEVICE = 0x1 << 2;
const MEMORY_NON_CACHEABLE = 0x5 << 2;
const MEMORY_WRITE_BACK = 0xf << 2;
const MEMORY_FORCED_WRITE_BACK = 0x6 << 2;

function shareability(prot: number): number {
  return (prot & PROT_CACHE) !== 0 ? INNER_SHAREABLE : OUTER_SHAREABLE;
}

/** Stage 1 has no write-only: what may be written may be read. Leaves are non-global, since each domain has its own ASID. */
export function stage1Attributes(prot: number, dirty: boolean): LeafAttributes {
  const type =
    (prot & PROT_MMIO) !== 0 ? INDEX_DEVICE : (prot & PROT_CACHE) !== 0 ? INDEX_WRITE_BACK : INDEX_NON_CACHEABLE;
  const writable = (prot & PROT_WRITE) !== 0;
  return {
    low:
      type |
      ((prot & PROT_PRIV) !== 0 ? 0 : USER) |
      (writable ? 0 : READ_ONLY) |
      shareability(prot) |
      ACCESS_FLAG |
      NOT_GLOBAL,
    high: (writable && dirty ? DIRTY_BIT_MODIFIER : 0) | ((prot & PROT_NOEXEC) !== 0 ? STAGE1_EXECUTE_NEVER : 0),
  };
}

/** PROT_PRIV means nothing here: stage 2 does not tell privileged from unprivileged data accesses. */
export function stage2Attributes(prot: number, forceWriteBack: boolean): LeafAttributes {
  const writeBack = forceWriteBack ? MEMORY_FORCED_WRITE_BACK : MEMORY_WRITE_BACK;
  const type = (prot & PROT_MMIO) !== 0 ? MEMORY_DEVICE : (prot & PROT_CACHE) !== 0 ? writeBack : MEMORY_NON_CACHEABLE;
  return {
    low:
      type |
      ((prot & PROT_READ) !== 0 ? STAGE2_READ : 0) |
      ((prot & PROT_WRITE) !== 0 ? STAGE2_WRITE : 0) |
      shareability(prot) |
      ACCESS_FLAG,
    high: (prot & PROT_NOEXEC) !== 0 ? STAGE2_EXECUTE_NEVER : 0,
  };
}

/** A writable-clean leaf (DBM set, read-only) counts as writable: it is what the mapping allows. */
export function stage1Prot(low: number, high: number): number {
  const index = low & ATTRIBUTE_INDEX;
  return (
    PROT_READ |
    ((low & READ_ONLY) === 0 || (high & DIRTY_BIT_MODIFIER) !== 0 ? PROT_WRITE : 0) |
    (index === INDEX_WRITE_BACK ? PROT_CACHE : 0) |
    (index === INDEX_DEVICE ? PROT_MMIO : 0) |
    ((low & USER) === 0 ? PROT_PRIV : 0) |
    ((high & STAGE1_EXECUTE_NEVER) !== 0 ? PROT_NOEXEC : 0)
  );
}

export function stage2Prot(low: number, high: number): number {
  const type = low & MEMORY_ATTRIBUTE;
  return (
    ((low & STAGE2_READ) !== 0 ? PROT_READ : 0) |
    ((low & STAGE2_WRITE) !== 0 || (high & DIRTY_BIT_MODIFIER) !== 0 ? PROT_WRITE : 0) |
    (type === MEMORY_WRITE_BACK || type === MEMORY_FORCED_WRITE_BACK ? PROT_CACHE : 0) |
    (type === MEMORY_DEVICE ? PROT_MMIO : 0) |
    ((high & STAGE2_EXECUTE_NEVER) !== 0 ? PROT_NOEXEC : 0)
  );
}

/**
 * Rights by the four permission bits of a leaf, as {@link permissionBits} packs them: a table of 16.
 */
export type RightsTable = Readonly<Uint8Array>;

/** Bits 7:6 (AP[2:1] or S2AP) and 54:53 (UXN and PXN, or XN), packed into 0 … 15. */
export function permissionBits(low: number, high: number): number {
  return ((low >>> 6) & 3) | ((high >>> 19) & 0xc);
}

/** Where {@link permissionBits} puts AP[1], AP[2] and S2AP[1], PXN, UXN. */
const PACKED_USER = 1;
const PACKED_READ_ONLY = 2;
const PACKED_WRITE = 2;
const PACKED_PXN = 4;
const PACKED_UXN = 8;

/** APTable, UXNTable and PXNTable (bits 62:59) of a table descriptor, as 4 bits. They add up on the way down. */
export function tableRestrictions(high: number): number {
  return (high >>> 27) & 0xf;
}

/** What the tables above a leaf take from it (DDI 0487 D8.4.5, hierarchical permissions): packed bits to packed bits. */
export function restrict(packed: number, restrictions: number): number {
  let result = packed | ((restrictions & 3) << 2);
  if ((restrictions & 4) !== 0) result &= ~PACKED_USER;
  if ((restrictions & 8) !== 0) result |= PACKED_READ_ONLY;
  return result;
}

/** The packed bits of a writable-clean leaf once hardware has made it dirty. */
export function madeDirty(stage: 1 | 2, packed: number): number {
  return stage === 1 ? packed & ~PACKED_READ_ONLY : packed | PACKED_WRITE;
}

export interface Stage1RightsOptions {
  /** WXN: what is writable is not executable. */
  readonly writeImpliesNoExecute: boolean;
  /** PAN: privileged data accesses may not use what unprivileged ones can. */
  readonly privilegedAccessNever: boolean;
  /** The regime has one exception level (EL2 without E2H, EL3): AP[1] and PXN mean nothing. */
  readonly onePrivilege: boolean;
}

function set(condition: boolean, right: Rights): Rights {
  return condition ? right : 0;
}

function stage1RightsOf(packed: number, options: Stage1RightsOptions): Rights {
  const writable = (packed & PACKED_READ_ONLY) === 0;
  const uxn = (packed & PACKED_UXN) !== 0;
  const wxn = options.writeImpliesNoExecute;
  if (options.onePrivilege) {
    const rights = RIGHT_READ | set(writable, RIGHT_WRITE) | set(!uxn && !(wxn && writable), RIGHT_EXECUTE);
    return rights | privileged(rights);
  }
  const user = (packed & PACKED_USER) !== 0;
  const userWrites = user && writable;
  const data = !(options.privilegedAccessNever && user);
  // Privileged code never runs from what unprivileged accesses may write (DDI 0487 D8.4.1).
  const privilegedExecutes = (packed & PACKED_PXN) === 0 && !userWrites && !(wxn && writable);
  return (
    set(user, RIGHT_READ) |
    set(userWrites, RIGHT_WRITE) |
    set(!uxn && !(wxn && userWrites), RIGHT_EXECUTE) |
    set(data, RIGHT_PRIVILEGED_READ) |
    set(data && writable, RIGHT_PRIVILEGED_WRITE) |
    set(privilegedExecutes, RIGHT_PRIVILEGED_EXECUTE)
  );
}

export function stage1Rights(options: Stage1RightsOptions): RightsTable {
  return Uint8Array.from({ length: 16 }, (_, packed) => stage1RightsOf(packed, options));
}

/** `perPrivilege` (FEAT_XNX): XN[1:0] 01 forbids only privileged execution, 11 only unprivileged; else bit 54 alone counts. */
export function stage2Rights(perPrivilege: boolean): RightsTable {
  return Uint8Array.from({ length: 16 }, (_, packed) => {
    const data = packed & (RIGHT_READ | RIGHT_WRITE);
    const never = packed >> 2;
    const userNever = perPrivilege ? never === 2 || never === 3 : never >= 2;
    const privilegedNever = perPrivilege ? never === 1 || never === 2 : never >= 2;
    return data | privileged(data) | set(!userNever, RIGHT_EXECUTE) | set(!privilegedNever, RIGHT_PRIVILEGED_EXECUTE);
  });
}
