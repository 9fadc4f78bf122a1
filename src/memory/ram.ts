// Runs in a browser.
import { SparseArray } from "./sparse.ts";
import { PAGE_SIZE } from "./types.ts";

/** Bytes of a chunk of RAM, the unit in which it comes into being. */
export const CHUNK_SIZE = 2097152;
const CHUNK_FRAMES = CHUNK_SIZE / PAGE_SIZE;
/** Up to here a loop over bytes is faster than a typed array's own copy. */
const FEW_BYTES = 16;

/** The place of the word at `pa` in its chunk. */
export function wordIndex(pa: number): number {
  return (pa >>> 2) & (CHUNK_SIZE / 4 - 1);
}

/** The chunk that holds `pa`. */
function chunkIndex(pa: number): number {
  return (pa / CHUNK_SIZE) >>> 0;
}

function placeInChunk(pa: number): number {
  // The lower 32 bits of an integer up to 2^53 are exact.
  return pa & (CHUNK_SIZE - 1);
}

/** The content of RAM, without a thought about which addresses are RAM: what was never written is 0 and costs nothing. */
export class Ram {
  private readonly chunks = new SparseArray<Uint32Array>();
  /** The same chunks as bytes: making such a view for each access would cost more than the access. */
  private readonly views = new SparseArray<Uint8Array>();
  private count = 0;

  /** Bytes that the chunks take. */
  get size(): number {
    return this.count * CHUNK_SIZE;
  }

  /** The chunk that holds `pa`, if it exists. */
  words(pa: number): Uint32Array | undefined {
    return this.chunks.get(chunkIndex(pa));
  }

  /** Chunk number `index`, if it exists. */
  chunk(index: number): Uint32Array | undefined {
    return this.chunks.get(index);
  }

  writeWord(pa: number, value: number): void {
    let words = this.words(pa);
    if (words === undefined) {
      if (value === 0) return;
      words = this.make(chunkIndex(pa));
    }
    words[wordIndex(pa)] = value;
  }

  read(pa: number, into: Uint8Array): void {
    for (let done = 0; done < into.length; ) {
      const from = placeInChunk(pa + done);
      const length = Math.min(into.length - done, CHUNK_SIZE - from);
      const bytes = this.views.get(chunkIndex(pa + done));
      if (bytes === undefined) into.fill(0, done, done + length);
      else copy(bytes, from, into, done, length);
      done += length;
    }
  }

  write(pa: number, from: Uint8Array): void {
    for (let done = 0; done < from.length; ) {
      const to = placeInChunk(pa + done);
      const length = Math.min(from.length - done, CHUNK_SIZE - to);
      const index = chunkIndex(pa + done);
      let bytes = this.views.get(index);
      if (bytes === undefined) {
        this.make(index);
        bytes = this.views.get(index)!;
      }
      copy(from, done, bytes, to, length);
      done += length;
    }
  }

  /** Makes frames read as 0. */
  clear(pfn: number, count: number): void {
    for (let at = pfn, end = pfn + count; at < end; ) {
      const from = at % CHUNK_FRAMES;
      const to = Math.min(CHUNK_FRAMES, from + (end - at));
      this.chunks.get(Math.floor(at / CHUNK_FRAMES))?.fill(0, (from * PAGE_SIZE) / 4, (to * PAGE_SIZE) / 4);
      at += to - from;
    }
  }

  /** Gives back the chunks that lie wholly in these frames: they read as 0. */
  discardChunks(pfn: number, count: number): void {
    const end = Math.floor((pfn + count) / CHUNK_FRAMES);
    for (let index = Math.ceil(pfn / CHUNK_FRAMES); index < end; index++) {
      if (this.chunks.get(index) === undefined) continue;
      this.chunks.set(index, undefined);
      this.views.set(index, undefined);
      this.count--;
    }
  }

  /** Copies whole frames. */
  copyFrame(from: number, to: number): void {
    const source = this.views.get(Math.floor(from / CHUNK_FRAMES));
    if (source === undefined) {
      this.clear(to, 1);
      return;
    }
    const start = (from % CHUNK_FRAMES) * PAGE_SIZE;
    this.write(to * PAGE_SIZE, source.subarray(start, start + PAGE_SIZE));
  }

  private make(index: number): Uint32Array {
    const words = new Uint32Array(CHUNK_SIZE / 4);
    this.chunks.set(index, words);
    this.views.set(index, new Uint8Array(words.buffer));
    this.count++;
    return words;
  }
}

function copy(source: Uint8Array, from: number, target: Uint8Array, to: number, length: number): void {
  if (length <= FEW_BYTES) {
    for (let i = 0; i < length; i++) target[to + i] = source[from + i];
  } else {
    target.set(length === source.length ? source : source.subarray(from, from + length), to);
  }
}
