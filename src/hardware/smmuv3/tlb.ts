// Runs in a browser.
/**
 * A set-associative TLB over typed arrays (IHI 0070 §3.17, §16.2).
 *
 * An entry is found by four exact numbers: the input address without the bits below the entry's size (two words), the
 * owner (ASID in bits 15:0, VMID in bits 31:16), and a tag (regime, whether stage 2 is below, global, size). A global
 * entry has ASID 0 and the global bit. So a lookup never compares with masks, and cannot match wrongly; it probes once
 * for each size in use, and again for global entries if there are any.
 *
 * What an invalidation must reach can be larger than the entry: a stage 1 block over stage 2 pages leaves fragments,
 * and an invalidation of any address in the block must remove all of them. `leafShift` keeps the size of the stage 1
 * leaf; while fragments exist, invalidations by address look at every entry.
 */
const SETS = 1024;
const WAYS = 4;
const ENTRIES = SETS * WAYS;
const KEY_WORDS = 4;
const SIZES = 64;
/** log2 of the smallest entry. */
const SMALLEST_SHIFT = 12;
/** 2^n, for n below {@link SIZES}: cheaper than the operator. */
export const POWERS: Float64Array = Float64Array.from({ length: SIZES }, (_, n) => 2 ** n);

const VALID = 1;
/** The regime is in bits 2:1. */
const REGIME_SHIFT = 1;
const REGIME_MASK = 6;
/** The entry's output went through stage 2. */
export const TAG_STAGE2 = 8;
const GLOBAL = 16;
/** CD.ASET: the context's ASID is not one of the CPUs'. Global entries serve contexts of their own set alone (§3.17.1). */
const PRIVATE_SET = 32;
const SHIFT_SHIFT = 8;

const ASID_MASK = 0xffff;
const VMID_MASK = ~ASID_MASK;

/** The tag of a context: a regime (0 to 3), with or without stage 2, with an ASID shared with CPUs or a private one. */
export function contextTag(regime: number, stage2: boolean, privateAsid = false): number {
  return VALID | (regime << REGIME_SHIFT) | (stage2 ? TAG_STAGE2 : 0) | (privateAsid ? PRIVATE_SET : 0);
}

/** Which entries an invalidation is for. */
export interface Selection {
  readonly regime: number;
  /** Undefined: every VMID. */
  readonly vmid?: number;
  /** Undefined: every ASID, and global entries. */
  readonly asid?: number;
}

/** Addresses `start` to `start + count * 2^granuleLog2 - 1`; `high` and `low` are the words of `start`. */
export interface InvalidationRange {
  readonly high: number;
  readonly low: number;
  readonly count: number;
  readonly granuleLog2: number;
}

/** Beyond this, looking at each entry costs less than probing for each page. */
const MOST_PROBED_PAGES = 64;

export class Tlb {
  /** Rights of the entry in a slot, as the walker's RIGHT_* and the owner's own bits. */
  readonly rights: Uint8Array = new Uint8Array(ENTRIES);
  private readonly keys = new Int32Array(ENTRIES * KEY_WORDS);
  /** Output address of the first byte of the entry. */
  private readonly outputs = new Float64Array(ENTRIES);
  private readonly leafShifts = new Uint8Array(ENTRIES);
  /** log2 sizes in use, the ones used last in front; and how many entries have each. */
  private sizes: number[] = [];
  private readonly sizeCounts = new Uint32Array(SIZES);
  private globals = 0;
  private fragments = 0;
  private nextVictim = 0;
  private used = 0;

  /** Entries in use. */
  get size(): number {
    return this.used;
  }

  /** The slot that translates an address, or -1. `tag` is a {@link contextTag}. */
  find(high: number, low: number, owner: number, tag: number): number {
    const { sizes } = this;
    const ownTag = tag & ~PRIVATE_SET;
    for (let i = 0; i < sizes.length; i++) {
      const shift = sizes[i];
      let slot = this.probe(high, low, owner, ownTag, shift);
      if (slot < 0 && this.globals > 0) slot = this.probe(high, low, owner & VMID_MASK, tag | GLOBAL, shift);
      if (slot >= 0) {
        if (i > 0) this.moveToFront(i);
        return slot;
      }
    }
    return -1;
  }

  /** log2 of the bytes that the entry in a slot covers. */
  shift(slot: number): number {
    return this.keys[slot * KEY_WORDS + 3] >>> SHIFT_SHIFT;
  }

  /** Where the entry in a slot puts an address that it was found by; `offset` is the address's {@link offset}. */
  output(slot: number, offset: number): number {
    return this.outputs[slot] + offset;
  }

  /** How far an address is from the first byte of the entry that it was found in. */
  offset(slot: number, high: number, low: number): number {
    return offsetIn(this.shift(slot), high, low);
  }

  /** Bytes that the entry in a slot covers. */
  bytes(slot: number): number {
    return POWERS[this.shift(slot)];
  }

  /**
   * Keeps the translation of an address to `output`, and with it of the 2^`shift` bytes around. Global ones match every
   * ASID. `leafShift` is the size of the leaf that an invalidation may name, at least `shift`.
   */
  insert(
    high: number,
    low: number,
    owner: number,
    tag: number,
    shift: number,
    leafShift: number,
    output: number,
    rights: number,
    global: boolean,
  ): void {
    const entryOwner = global ? owner & VMID_MASK : owner;
    const entryTag = (global ? tag | GLOBAL : tag & ~PRIVATE_SET) | (shift << SHIFT_SHIFT);
    const maskedHigh = maskHigh(high, shift);
    const maskedLow = maskLow(low, shift);
    const first = setOf(maskedHigh, maskedLow, entryOwner, shift) * WAYS;
    let slot = -1;
    for (let way = 0; way < WAYS; way++) {
      const meta = this.keys[(first + way) * KEY_WORDS + 3];
      if (meta === 0) {
        slot = first + way;
        break;
      }
    }
    if (slot < 0) {
      slot = first + (this.nextVictim++ & (WAYS - 1));
      this.drop(slot);
    }
    const at = slot * KEY_WORDS;
    this.keys[at] = maskedLow;
    this.keys[at + 1] = maskedHigh;
    this.keys[at + 2] = entryOwner;
    this.keys[at + 3] = entryTag;
    this.outputs[slot] = output - offsetIn(shift, high, low);
    this.rights[slot] = rights;
    this.leafShifts[slot] = leafShift;
    this.used++;
    if (global) this.globals++;
    if (leafShift > shift) this.fragments++;
    if (this.sizeCounts[shift]++ === 0) this.sizes.unshift(shift);
  }

  /** Removes the entry in a slot: it is to be replaced. */
  drop(slot: number): void {
    const meta = this.keys[slot * KEY_WORDS + 3];
    const shift = meta >>> SHIFT_SHIFT;
    this.keys[slot * KEY_WORDS + 3] = 0;
    this.used--;
    if ((meta & GLOBAL) !== 0) this.globals--;
    if (this.leafShifts[slot] > shift) this.fragments--;
    if (--this.sizeCounts[shift] === 0) this.sizes = this.sizes.filter((size) => size !== shift);
  }

  /** Removes everything. */
  clear(): void {
    this.keys.fill(0);
    this.sizeCounts.fill(0);
    this.sizes = [];
    this.used = this.globals = this.fragments = 0;
  }

  /** Removes all entries of the selection. With an ASID, global entries stay (§4.4). */
  invalidate(selection: Selection): void {
    this.removeWhere(selection, undefined);
  }

  /** Removes the entries of the selection that a leaf within the range made; global ones too, whatever the ASID (§4.4). */
  invalidateRange(selection: Selection, range: InvalidationRange): void {
    const { asid, vmid } = selection;
    if (this.used === 0) return;
    const pages = range.count * POWERS[range.granuleLog2 - SMALLEST_SHIFT];
    if (asid === undefined || vmid === undefined || this.fragments > 0 || pages > MOST_PROBED_PAGES) {
      this.removeWhere(selection, range);
      return;
    }
    const owner = asid | (vmid << 16);
    const tag = contextTag(selection.regime, false);
    let { high, low } = range;
    for (let page = 0; page < pages; page++) {
      // A size may go out of use meanwhile; then the array is replaced, and the old one stays good to walk over.
      for (const shift of this.sizes) this.removePage(high, low, owner, tag, shift);
      low = (low + POWERS[SMALLEST_SHIFT]) | 0;
      if (low >>> SMALLEST_SHIFT === 0) high++;
    }
  }

  private removePage(high: number, low: number, owner: number, tag: number, shift: number): void {
    for (let stage2 = 0; stage2 <= TAG_STAGE2; stage2 += TAG_STAGE2) {
      const slot = this.probe(high, low, owner, tag | stage2, shift);
      if (slot >= 0) this.drop(slot);
      if (this.globals === 0) continue;
      for (let set = 0; set <= PRIVATE_SET; set += PRIVATE_SET) {
        const global = this.probe(high, low, owner & VMID_MASK, tag | stage2 | GLOBAL | set, shift);
        if (global >= 0) this.drop(global);
      }
    }
  }

  private removeWhere({ regime, vmid, asid }: Selection, range: InvalidationRange | undefined): void {
    if (this.used === 0) return;
    const tag = VALID | (regime << REGIME_SHIFT);
    const ownerMask = (vmid === undefined ? 0 : VMID_MASK) | (asid === undefined ? 0 : ASID_MASK);
    const owner = ((vmid ?? 0) << 16) | (asid ?? 0);
    const start = range === undefined ? 0 : signedAddress(range.high, range.low);
    const end = range === undefined ? 0 : start + range.count * POWERS[range.granuleLog2];
    for (let slot = 0; slot < ENTRIES; slot++) {
      const at = slot * KEY_WORDS;
      const meta = this.keys[at + 3];
      if (((meta ^ tag) & (VALID | REGIME_MASK)) !== 0) continue;
      const global = (meta & GLOBAL) !== 0;
      if (global && asid !== undefined && range === undefined) continue;
      if (((this.keys[at + 2] ^ owner) & (global ? ownerMask & VMID_MASK : ownerMask)) !== 0) continue;
      if (range !== undefined) {
        const leafShift = this.leafShifts[slot];
        const leaf = signedAddress(maskHigh(this.keys[at + 1], leafShift), maskLow(this.keys[at], leafShift));
        if (leaf >= end || leaf + POWERS[leafShift] <= start) continue;
      }
      this.drop(slot);
    }
  }

  private probe(high: number, low: number, owner: number, tag: number, shift: number): number {
    const maskedHigh = maskHigh(high, shift);
    const maskedLow = maskLow(low, shift);
    const meta = tag | (shift << SHIFT_SHIFT);
    const { keys } = this;
    let slot = setOf(maskedHigh, maskedLow, owner, shift) * WAYS;
    for (const end = slot + WAYS; slot < end; slot++) {
      const at = slot * KEY_WORDS;
      if (keys[at] === maskedLow && keys[at + 1] === maskedHigh && keys[at + 2] === owner && keys[at + 3] === meta) {
        return slot;
      }
    }
    return -1;
  }

  private moveToFront(index: number): void {
    const { sizes } = this;
    const size = sizes[index];
    for (let i = index; i > 0; i--) sizes[i] = sizes[i - 1];
    sizes[0] = size;
  }
}

/** How far an address is from the next multiple of 2^`shift` below. */
export function offsetIn(shift: number, high: number, low: number): number {
  if (shift < 32) return low & ((1 << shift) - 1);
  return (high & ((1 << (shift - 32)) - 1)) * POWERS[32] + (low >>> 0);
}

function maskLow(low: number, shift: number): number {
  return shift < 32 ? low & (-1 << shift) : 0;
}

function maskHigh(high: number, shift: number): number {
  return shift <= 32 ? high | 0 : high & (-1 << (shift - 32));
}

function setOf(high: number, low: number, owner: number, shift: number): number {
  const page = shift < 32 ? (low >>> shift) | (high << (32 - shift)) : high >>> (shift - 32);
  return (page ^ (page >>> 10) ^ (page >>> 20) ^ (Math.imul(owner, 0x9e3779b1) >>> 22)) & (SETS - 1);
}

/** An address as a number: those of the upper half of the input range are negative, so that all are exact. */
function signedAddress(high: number, low: number): number {
  return (high | 0) * 2 ** 32 + (low >>> 0);
}
