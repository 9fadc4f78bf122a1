/**
 * Random cases for an SMMUv3, without expectations: `npx tsx tools/smmuv3-cases.ts SEED COUNT > cases.jsonl`.
 *
 * The format is that of conformance/smmuv3. Each case sets up one stream that works (stage 1, stage 2 or both, any granule,
 * start level and address size), then changes a few bits of what it set up: in the STE, the CD, descriptors on the way,
 * commands, registers. Whoever plays it on two SMMUs can compare what they did. What is known to differ between ours and
 * QEMU's (docs/smmuv3-quirks.md), or would end QEMU, is left out where it can be.
 */

const RAM_BASE = 0x4000_0000;
const RAM_LOW = RAM_BASE + 0x200_0000;
const RAM_END = RAM_BASE + 2 ** 38;
const OUTPUT_BITS = 44;
const SIDS = [0x0010, 0x0018, 0x00f5, 0x0500, 0x3a00, 0xff00];
const PAGE = 4096;
const PCI_MEMORY_BIT = 39;

class Random {
  private state: number;

  constructor(seed: number) {
    this.state = seed >>> 0;
  }

  /** 0 to `limit` - 1. */
  below(limit: number): number {
    return Math.floor(((this.word() * 2 ** 21 + this.word() / 2 ** 11) / 2 ** 53) * limit);
  }

  pick<T>(values: readonly T[]): T {
    return values[this.below(values.length)];
  }

  chance(probability: number): boolean {
    return this.below(1000) < probability * 1000;
  }

  wide(): bigint {
    return BigInt(this.word()) * 2n ** 32n + BigInt(this.word());
  }

  private word(): number {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let z = this.state;
    z = Math.imul(z ^ (z >>> 15), z | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return (z ^ (z >>> 14)) >>> 0;
  }
}

const hex = (value: number | bigint): string => `0x${value.toString(16)}`;
const at = (value: number | bigint, low: number): bigint => BigInt(value) * 2n ** BigInt(low);
const field = (word: bigint, low: number, width: number): bigint => (word / 2n ** BigInt(low)) % 2n ** BigInt(width);
const flip = (word: bigint, bit: number): bigint => word ^ (2n ** BigInt(bit));

/** Memory: 64-bit words that were written, and what is taken. */
class Memory {
  private readonly words = new Map<number, bigint>();
  private readonly taken: [number, number][] = [];
  private readonly random: Random;

  constructor(random: Random) {
    this.random = random;
  }

  allocate(size: number, below = RAM_END): number {
    for (;;) {
      const address = RAM_LOW + this.random.below((below - RAM_LOW - size) / size) * size;
      const first = address - (address % size);
      if (first < RAM_LOW || this.taken.some(([start, end]) => first < end && start < first + size)) continue;
      this.taken.push([first, first + size]);
      return first;
    }
  }

  write(address: number, word: bigint): void {
    this.words.set(address, word);
  }

  read(address: number): bigint {
    return this.words.get(address) ?? 0n;
  }

  addresses(): number[] {
    return [...this.words.keys()];
  }

  /** What was written since the last time, as the format has it. */
  take(seen: Map<number, bigint>): [string, string][] {
    const changed = [...this.words].filter(([address, word]) => (seen.get(address) ?? 0n) !== word);
    for (const [address, word] of changed) seen.set(address, word);
    return changed.map(([address, word]) => [
      hex(address),
      Buffer.from(new BigUint64Array([word]).buffer).toString("hex"),
    ]);
  }
}

interface Format {
  readonly granuleLog2: number;
  readonly inputBits: number;
  readonly startLevel: number;
}

/** Tables in a space of their own: physical memory, or what stage 2 shows. */
interface Space {
  allocate(size: number): number;
  physical(address: number): number;
}

/** Writes tables that map one page, or a block, and remembers where the descriptors are. */
class Tables {
  readonly root: number;
  readonly descriptors: number[] = [];
  private readonly memory: Memory;
  private readonly space: Space;
  private readonly format: Format;

  constructor(memory: Memory, space: Space, format: Format) {
    this.memory = memory;
    this.space = space;
    this.format = format;
    this.root = space.allocate(Math.max(2 ** (format.inputBits - this.shift(format.startLevel)) * 8, 64));
  }

  shift(level: number): number {
    const { granuleLog2 } = this.format;
    return granuleLog2 + (3 - level) * (granuleLog2 - 3);
  }

  map(input: number, output: number, level: number, attributes: bigint): void {
    const { granuleLog2, startLevel } = this.format;
    let table = this.root;
    for (let at = startLevel; ; at++) {
      const entries = at === startLevel ? 2 ** (this.format.inputBits - this.shift(at)) : 2 ** (granuleLog2 - 3);
      const address = this.space.physical(table + (Math.floor(input / 2 ** this.shift(at)) % entries) * 8);
      this.descriptors.push(address);
      if (at === level) {
        this.memory.write(address, BigInt(output) + attributes + (level === 3 ? 3n : 1n));
        return;
      }
      const below = this.memory.read(address);
      if (below % 4n === 3n) {
        table = Number(field(below, granuleLog2, 48 - granuleLog2)) * 2 ** granuleLog2;
      } else {
        table = this.space.allocate(2 ** granuleLog2);
        this.memory.write(address, BigInt(table) + 3n);
      }
    }
  }
}

const GRANULES = [12, 14, 16];
const TG0 = new Map([
  [12, 0],
  [14, 2],
  [16, 1],
]);
const TG1 = new Map([
  [12, 2],
  [14, 1],
  [16, 3],
]);

function stage1Format(random: Random): Format {
  const granuleLog2 = random.pick(GRANULES);
  const inputBits = 25 + random.below(24);
  const levels = Math.ceil((inputBits - granuleLog2) / (granuleLog2 - 3));
  return { granuleLog2, inputBits, startLevel: 4 - levels };
}

/** Tables side by side only where the first one is used: QEMU has no others. */
function stage2Format(random: Random): Format {
  for (;;) {
    const granuleLog2 = random.pick(GRANULES);
    const inputBits = 32 + random.below(OUTPUT_BITS - 32 + 1);
    const startLevel = random.pick(granuleLog2 === 12 ? [0, 1, 2] : [1, 2, 3]);
    const bits = inputBits - (granuleLog2 + (3 - startLevel) * (granuleLog2 - 3));
    if (bits >= 1 && bits <= granuleLog2 - 3) return { granuleLog2, inputBits, startLevel };
  }
}

const AF = at(1, 10);
const OWN = at(1, 11);
const BOTH = at(3, 6);

class Case {
  readonly random: Random;
  private readonly memory: Memory;
  private readonly seen = new Map<number, bigint>();
  private readonly phases: object[] = [];
  private setup: unknown[] = [];
  private dma: object[] = [];
  private readonly sid: number;
  private readonly ste: number;
  private cd: number | undefined;
  private tables: Tables[] = [];
  /** Where an access goes through. */
  private readonly inputs: bigint[] = [];
  private written = 0;

  constructor(seed: number) {
    this.random = new Random(seed);
    this.memory = new Memory(this.random);
    const { random, memory } = this;
    this.sid = random.pick(SIDS);
    const log2 = 16;
    const table = memory.allocate(2 ** log2 * 64);
    const commands = 3 + random.below(4);
    const events = 4 + random.below(4);
    this.register(0x80, BigInt(table), 8);
    if (random.chance(0.3)) {
      const split = random.pick([6, 8, 10]);
      const level2 = memory.allocate(2 ** split * 64);
      memory.write(table + Math.floor(this.sid / 2 ** split) * 8, BigInt(level2 + split + 1));
      this.ste = level2 + (this.sid % 2 ** split) * 64;
      this.register(0x88, at(1, 16) + at(split, 6) + BigInt(log2));
    } else {
      this.ste = table + this.sid * 64;
      this.register(0x88, BigInt(log2));
    }
    this.register(0x90, BigInt(memory.allocate(2 ** commands * 16) + commands), 8);
    this.register(0xa0, BigInt(memory.allocate(2 ** events * 32) + events), 8);
    this.register(0x2c, 2n);
    this.stream();
  }

  /** The case as a line of the format. */
  line(name: string): string {
    const { random } = this;
    const early = random.chance(0.6);
    if (early) this.spoil();
    if (random.chance(0.2)) this.writeAnyRegister();
    this.register(0x20, 0xdn);
    if (random.chance(0.25)) this.command();
    this.accesses(false);
    this.finishPhase();
    for (let phases = random.below(3); phases > 0; phases--) {
      for (let changes = 1 + random.below(2); changes > 0; changes--) this.spoil();
      const complete = random.chance(0.7);
      if (complete)
        for (const words of [
          [4n, 31n],
          [0x30n, 0n],
        ])
          this.enqueue(words[0], words[1]);
      else this.command();
      this.enqueue(0x46n, 0n);
      this.setup.push(["d"]);
      this.accesses(!complete);
      this.finishPhase();
    }
    const [first, ...then] = this.phases;
    return JSON.stringify({ name, group: "fuzz", ...first, ...(then.length > 0 ? { then } : {}) });
  }

  private register(offset: number, value: bigint, size: 4 | 8 = 4): void {
    this.setup.push(["w", hex(offset), size, hex(value)]);
  }

  private enqueue(low: bigint, high: bigint): void {
    this.setup.push(["c", hex(low), hex(high)]);
  }

  private stream(): void {
    const { random, memory } = this;
    const kind = random.pick(["stage 1", "stage 1", "stage 2", "nested", "nested", "bypass"]);
    if (kind === "bypass") {
      memory.write(this.ste, 9n);
      this.inputs.push(BigInt(memory.allocate(PAGE) + random.below(PAGE / 8) * 8));
      return;
    }
    let space: Space = { allocate: (size) => memory.allocate(size), physical: (address) => address };
    let stage2: Tables | undefined;
    if (kind !== "stage 1") {
      const format = stage2Format(random);
      stage2 = new Tables(memory, space, format);
      this.tables.push(stage2);
      memory.write(this.ste + 16, this.stage2Word(format));
      memory.write(this.ste + 24, BigInt(stage2.root));
      space = this.spaceUnder(stage2, format);
    }
    if (kind === "stage 2") {
      memory.write(this.ste, 0xdn);
      for (let pages = 1 + random.below(2); pages > 0; pages--) {
        const ipa = space.allocate(PAGE);
        this.inputs.push(BigInt(ipa + random.below(PAGE / 8) * 8));
      }
      return;
    }
    const context = space.allocate(64);
    this.cd = space.physical(context);
    memory.write(this.ste, (stage2 === undefined ? 0xbn : 0xfn) + BigInt(context));
    const lower = stage1Format(random);
    const upper = stage1Format(random);
    const used = random.pick([1, 2, 3]);
    let word0 = at(0x6200 + 4, 32) + at(1, 31) + at(random.below(65536), 48);
    word0 += (used & 1) !== 0 ? at(64 - lower.inputBits, 0) + at(TG0.get(lower.granuleLog2)!, 6) : at(1, 14);
    word0 += (used & 2) !== 0 ? at(64 - upper.inputBits, 16) + at(TG1.get(upper.granuleLog2)!, 22) : at(1, 30);
    memory.write(this.cd, word0);
    [lower, upper].forEach((format, half) => {
      if ((used & (half + 1)) === 0) return;
      const tables = new Tables(memory, space, format);
      this.tables.push(tables);
      memory.write(this.cd! + 8 + 8 * half, BigInt(tables.root));
      for (let pages = 1 + random.below(2); pages > 0; pages--) this.mapStage1(tables, format, half === 1, space);
    });
  }

  private mapStage1(tables: Tables, format: Format, upper: boolean, space: Space): void {
    const { random } = this;
    const lowest = format.granuleLog2 === 12 ? 1 : 2;
    const level = random.chance(0.7) ? 3 : Math.max(random.pick([1, 2, 3]), lowest, format.startLevel);
    const size = 2 ** tables.shift(level);
    const input = random.below(2 ** format.inputBits / size) * size;
    const page = space.allocate(PAGE);
    const readOnly = random.chance(0.2) ? at(1, 7) : 0n;
    tables.map(input, page - (page % size), level, AF + OWN + at(1, 6) + readOnly);
    const offset = (page % size) + random.below(PAGE / 8) * 8;
    const address = BigInt(input + offset);
    this.inputs.push(upper ? 2n ** 64n - 2n ** BigInt(format.inputBits) + address : address);
  }

  private stage2Word({ granuleLog2, inputBits, startLevel }: Format): bigint {
    const { random } = this;
    const sl0 = (granuleLog2 === 12 ? 2 : 3) - startLevel;
    const size = at(64 - inputBits, 32) + at(sl0, 38) + at(TG0.get(granuleLog2)!, 46);
    // S2PS of 44 bits, S2AA64, S2R.
    return at(random.below(65536), 0) + size + at(4, 48) + at(1, 51) + at(1, 58);
  }

  /** Addresses below the input size; what is allocated lies together in memory, as QEMU takes tables to do. */
  private spaceUnder(stage2: Tables, { granuleLog2, inputBits }: Format): Space {
    const { random, memory } = this;
    const mapped: [number, number, number][] = [];
    const unit = 2 ** granuleLog2;
    return {
      allocate: (size) => {
        const whole = Math.max(size, unit);
        for (;;) {
          const ipa = random.below(2 ** inputBits / whole) * whole;
          if (mapped.some(([start, end]) => ipa < end && start < ipa + whole)) continue;
          const physical = memory.allocate(whole);
          const readOnly = size === PAGE && random.chance(0.15);
          for (let offset = 0; offset < whole; offset += unit) {
            stage2.map(ipa + offset, physical + offset, 3, AF + at(0xf, 2) + (readOnly ? at(1, 6) : BOTH));
          }
          mapped.push([ipa, ipa + whole, physical]);
          return ipa + random.below(Math.floor(whole / Math.max(size, 64))) * Math.max(size, 64);
        }
      },
      physical: (address) => {
        const [start, , physical] = mapped.find(([first, end]) => address >= first && address < end)!;
        return physical + address - start;
      },
    };
  }

  /** Flips a bit of what is in memory. */
  private spoil(): void {
    const { random, memory } = this;
    const kind = random.pick(["STE", "STE", "STE", "CD", "CD", "CD", "descriptor", "descriptor", "descriptor", "any"]);
    if (kind === "STE") {
      const word = random.below(4);
      this.flip(this.ste + 8 * word, random.below(64), (bit) => {
        const stage1 = field(memory.read(this.ste), 1, 1) === 1n;
        // Pointers beyond 48 bits are cut by QEMU, S1CDMax counts without stage 1, and S2AA64 of 0 ends it.
        if (word === 0) return (bit >= 48 && bit < 56) || (bit >= 59 && !stage1);
        return (word === 2 && (bit === 51 || bit === 55 || bit === 56)) || (word === 3 && bit >= 48);
      });
    } else if (kind === "CD" && this.cd !== undefined) {
      const word = random.pick([0, 0, 0, 1, 2]);
      // An IPS of 7 ends QEMU.
      this.flip(this.cd + 8 * word, random.below(64), (bit, changed) =>
        word === 0 ? field(changed, 32, 3) === 7n : bit >= 48,
      );
    } else if (kind === "descriptor" && this.tables.length > 0) {
      const { descriptors } = random.pick(this.tables);
      const bit = random.pick([0, 1, 7, 10, 11, 12 + random.below(52), random.below(64)]);
      // AP[1] and APTable are not looked at as they should be.
      this.flip(random.pick(descriptors), bit, () => bit === 6 || bit === 61 || bit === 62);
    } else {
      this.flip(random.pick(memory.addresses()), random.below(48), () => false);
    }
  }

  private flip(address: number, bit: number, isKnown: (bit: number, changed: bigint) => boolean): void {
    const changed = flip(this.memory.read(address), bit);
    // From 2^39 on QEMU's machine has the memory of PCI devices: what is read there is no abort.
    if (bit !== PCI_MEMORY_BIT && !isKnown(bit, changed)) this.memory.write(address, changed);
  }

  private writeAnyRegister(): void {
    const { random } = this;
    const readOnly = [0, 4, 8, 0xc, 0x10, 0x14, 0x18, 0x1c, 0x24, 0x40, 0x54, 0x60];
    const harmless = [0x28, 0x44, 0x50, 0x68, 0x70, 0x74, 0xb0, 0xb8, 0xbc, 0xc0, 0xd0, 0x100, 0x130, 0x8020];
    const offset = random.pick([...readOnly, ...harmless]);
    this.register(offset, random.wide() % 2n ** 32n);
  }

  /** A command, right or wrong. */
  private command(): void {
    const { random } = this;
    const asid = field(this.cd === undefined ? 0n : this.memory.read(this.cd), 48, 16);
    const vmid = field(this.memory.read(this.ste + 16), 0, 16);
    const input = random.pick(this.inputs);
    const tags = at(random.chance(0.8) ? vmid : 0n, 32) + at(random.chance(0.8) ? asid : 0n, 48);
    const stream = at(random.chance(0.8) ? this.sid : random.pick(SIDS), 32);
    const range = at(random.below(32), 12) + at(random.below(4), 20);
    const granule = at(random.pick([1, 2, 3]), 10) + at(3, 8);
    const page = input - (input % 4096n);
    const [low, high] = random.pick<readonly [bigint, bigint]>([
      [0x10n + tags, 0n],
      [0x11n + tags, 0n],
      [0x12n + tags, page],
      [0x12n + tags + range, page - (page % 65536n) + granule],
      [0x13n + tags, page],
      [0x28n + tags, 0n],
      [0x2an + tags, page % 2n ** 48n],
      [0x30n, 0n],
      [3n + stream, BigInt(random.below(2))],
      [4n + stream, BigInt(random.below(32))],
      [5n + stream, 1n],
      [6n + stream, 0n],
      [1n + stream, 0n],
      [BigInt(random.pick([0, 0x14, 0x2b, 0x47, 0x7f, 0xff])), random.wide()],
      [3n + stream + at(1, 10), 0n],
    ]);
    this.enqueue(low, high);
    this.enqueue(0x46n, 0n);
    this.setup.push(["d"]);
  }

  private accesses(stale: boolean): void {
    const { random } = this;
    for (let count = 1 + random.below(2); count > 0; count--) {
      let address = random.pick(this.inputs);
      const bits = this.tables.length > 0 ? 64 : OUTPUT_BITS;
      if (random.chance(0.1)) address = flip(address, random.below(bits));
      const sid = random.chance(0.97) ? this.sid : random.pick(SIDS);
      const write = random.chance(0.5);
      const data = (0x80 + (this.written++ % 128)).toString(16).padStart(2, "0").padEnd(8, "f");
      const access = { sid, ssid: null, iova: hex(address), len: 4, write, ...(write ? { data } : {}) };
      this.dma.push({ ...access, ...(stale ? { stale_ok: true } : {}) });
    }
  }

  private finishPhase(): void {
    this.phases.push({ mem: this.memory.take(this.seen), setup: this.setup, dma: this.dma });
    this.setup = [];
    this.dma = [];
  }
}

const [seed, count] = process.argv.slice(2).map(Number);
for (let index = 0; index < count; index++)
  console.log(new Case(seed * 1_000_003 + index).line(`fuzz-${seed}-${index}`));
