// Runs in a browser.
import { type Device, type Domain, type Invalidation, type IommuDriver, NestedDomain } from "../../iommu/index.ts";
import { EINVAL, EOPNOTSUPP, refuse, type Task } from "../../runtime/index.ts";
import { attachDevice, attachPasid } from "./attach.ts";
import { CACHE_WORDS } from "./device-state.ts";
import { INVALIDATE_ALL, INVALIDATION_DATA } from "./user-data.ts";
import type { MockViommu } from "./viommu.ts";

/** Bytes of an entry: flags, and the number of a word. */
const ENTRY_LENGTH = 8;

/** A guest's stage 1: an emulated IOTLB that can be invalidated, and nothing else. */
export class MockNestedDomain extends NestedDomain {
  readonly label: string;
  readonly owner: IommuDriver;
  readonly iotlb: Uint32Array;
  private readonly viommu: MockViommu | undefined;

  constructor(owner: IommuDriver, filledWith: number, viommu: MockViommu | undefined) {
    super();
    this.owner = owner;
    this.iotlb = new Uint32Array(CACHE_WORDS).fill(filledWith);
    this.viommu = viommu;
    this.label = viommu === undefined ? "mock nested domain" : `mock nested domain of ${viommu.label}`;
  }

  override *attachDevice(device: Device, old: Domain | undefined): Task<void> {
    yield* attachDevice(device, this, old, { viommu: this.viommu });
  }

  override *setDevicePasid(device: Device, pasid: number, old: Domain | undefined): Task<void> {
    yield* attachPasid(device, pasid, this, old);
  }

  override *invalidate(invalidation: Invalidation): Task<void> {
    const { type, count, entryLength } = invalidation;
    if (type !== INVALIDATION_DATA) refuse(EINVAL, () => `mock domains know no invalidation of type ${type}`);
    const bytes = new Uint8Array(ENTRY_LENGTH);
    const view = new DataView(bytes.buffer);
    for (let index = 0; index < count; index++) {
      if (entryLength !== ENTRY_LENGTH) {
        refuse(EINVAL, () => `an entry has ${ENTRY_LENGTH} bytes, not ${entryLength}`);
      }
      invalidation.read(index, bytes);
      clearWords(this.iotlb, view.getUint32(0, true), view.getUint32(4, true));
      invalidation.done++;
    }
  }

  override free(): void {}
}

/** Refusals: EOPNOTSUPP (flags), EINVAL (no such word, even where all are meant). */
export function clearWords(cache: Uint32Array, flags: number, word: number): void {
  checkWord(flags, word);
  if ((flags & INVALIDATE_ALL) !== 0) cache.fill(0);
  else cache[word] = 0;
}

export function checkWord(flags: number, word: number): void {
  const unknown = flags & ~INVALIDATE_ALL;
  if (unknown !== 0) refuse(EOPNOTSUPP, () => `unknown invalidation flags 0x${(unknown >>> 0).toString(16)}`);
  if (word >= CACHE_WORDS) refuse(EINVAL, () => `a mock cache has ${CACHE_WORDS} words, none of number ${word}`);
}
