// Runs in a browser.
/**
 * A set of whole numbers from 0 up to 2^31 - 1 that finds its lowest absent number fast.
 *
 * A tree of bitmaps: a bit of level 0 says that the number is present, a bit of level k + 1 that all 32 numbers (or
 * bits) below it are. Space grows with the largest number ever present (one bit each and a 32nd part more); what lies
 * beyond costs nothing and is absent.
 */
export class NumberSet {
  /** levels[0] has a bit for each number; the last level has one word. */
  private levels: Uint32Array[] = [new Uint32Array(32), new Uint32Array(1)];
  /** Every number below is present. */
  private hint = 0;
  private count = 0;

  get size(): number {
    return this.count;
  }

  has(number: number): boolean {
    const words = this.levels[0];
    const word = number >>> 5;
    return word < words.length && (words[word] & (1 << (number & 31))) !== 0;
  }

  /** Adds a number; false if it is present already. */
  add(number: number): boolean {
    let index = number >>> 5;
    if (index >= this.levels[0].length) this.grow(number + 1);
    const words = this.levels[0];
    const bit = 1 << (number & 31);
    if ((words[index] & bit) !== 0) return false;
    words[index] |= bit;
    this.count++;
    for (let level = 0; this.levels[level][index] === 0xffffffff && level + 1 < this.levels.length; level++) {
      this.levels[level + 1][index >>> 5] |= 1 << (index & 31);
      index >>>= 5;
    }
    return true;
  }

  /** Removes a number; false if it is absent. */
  delete(number: number): boolean {
    if (!this.has(number)) return false;
    let index = number >>> 5;
    let wasFull = this.levels[0][index] === 0xffffffff;
    this.levels[0][index] &= ~(1 << (number & 31));
    this.count--;
    if (number < this.hint) this.hint = number;
    for (let level = 1; wasFull && level < this.levels.length; level++) {
      const words = this.levels[level];
      const bit = 1 << (index & 31);
      index >>>= 5;
      wasFull = words[index] === 0xffffffff;
      words[index] &= ~bit;
    }
    return true;
  }

  /** Adds `count` numbers from `first` on, of which none is present. */
  addRange(first: number, count: number): void {
    const end = first + count;
    if (end > this.levels[0].length * 32) this.grow(end);
    this.change(first, end, true);
    this.count += count;
  }

  /** Removes `count` numbers from `first` on, all of which are present. */
  deleteRange(first: number, count: number): void {
    this.change(first, first + count, false);
    this.count -= count;
    if (first < this.hint) this.hint = first;
  }

  /** Adds the lowest absent number and returns it. */
  addLowest(): number {
    const number = this.lowestAbsent(this.hint);
    this.add(number);
    this.hint = number + 1;
    return number;
  }

  /** The lowest absent number that is at least `from`. */
  lowestAbsent(from = 0): number {
    let index = Math.max(from, this.hint);
    for (let level = 0; level < this.levels.length; level++) {
      const words = this.levels[level];
      const word = index >>> 5;
      if (word >= words.length) return this.descend(level, index);
      const absent = ~words[word] & (0xffffffff << (index & 31));
      if (absent !== 0) return this.descend(level, (word << 5) + lowestBit(absent));
      index = word + 1;
    }
    return this.descend(this.levels.length, index);
  }

  /** The lowest present number in `from` … `end - 1`, or undefined. Takes time in proportion to the range. */
  lowestPresent(from: number, end: number): number | undefined {
    const words = this.levels[0];
    const stop = Math.min(end, words.length * 32);
    for (let at = from; at < stop; at = (at | 31) + 1) {
      const present = words[at >>> 5] & (0xffffffff << (at & 31));
      if (present === 0) continue;
      const number = (at & ~31) + lowestBit(present);
      return number < end ? number : undefined;
    }
    return undefined;
  }

  /** True if all `count` numbers from `first` on are present. */
  hasRange(first: number, count: number): boolean {
    return count === 1 ? this.has(first) : this.lowestAbsent(first) >= first + count;
  }

  /** From a bit of `level` that is clear down to the lowest absent number below it. */
  private descend(level: number, index: number): number {
    for (let at = level - 1; at >= 0; at--) {
      const words = this.levels[at];
      index = index * 32 + (index < words.length ? lowestBit(~words[index]) : 0);
    }
    return index;
  }

  /** Sets or clears the bits `first` … `end - 1` of level 0, and what follows from it above. */
  private change(first: number, end: number, present: boolean): void {
    for (const words of this.levels) {
      const firstWord = first >>> 5;
      const lastWord = (end - 1) >>> 5;
      const head = 0xffffffff << (first & 31);
      const tail = 0xffffffff >>> (31 - ((end - 1) & 31));
      if (firstWord === lastWord) {
        setBits(words, firstWord, head & tail, present);
      } else {
        setBits(words, firstWord, head, present);
        words.fill(present ? 0xffffffff : 0, firstWord + 1, lastWord);
        setBits(words, lastWord, tail, present);
      }
      // Above, a bit is set where its word became full, and clear where a word lost a bit.
      if (present) {
        first = words[firstWord] === 0xffffffff ? firstWord : firstWord + 1;
        end = words[lastWord] === 0xffffffff ? lastWord + 1 : lastWord;
        if (first >= end) return;
      } else {
        first = firstWord;
        end = lastWord + 1;
      }
    }
  }

  private grow(capacity: number): void {
    let words = Math.max(Math.ceil(capacity / 32), this.levels[0].length * 2);
    const levels: Uint32Array[] = [];
    for (let level = 0; level === 0 || levels[level - 1].length > 1; level++) {
      const grown = new Uint32Array(words);
      const old = this.levels[level];
      if (old !== undefined) {
        grown.set(old);
      } else {
        const below = levels[level - 1];
        // A new level: only the words of the former top can be full.
        for (let i = 0; i < below.length && below[i] === 0xffffffff; i++) grown[i >>> 5] |= 1 << (i & 31);
      }
      levels.push(grown);
      words = Math.ceil(words / 32);
    }
    this.levels = levels;
  }
}

function lowestBit(word: number): number {
  return 31 - Math.clz32(word & -word);
}

function setBits(words: Uint32Array, index: number, bits: number, present: boolean): void {
  if (present) words[index] |= bits;
  else words[index] &= ~bits;
}
