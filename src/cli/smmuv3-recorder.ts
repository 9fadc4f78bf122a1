/**
 * Writes down what the SMMUv3 driver does to its hardware, and what DMA then does, as a log that other implementations
 * of the SMMUv3 can perform (the format of `conformance/smmuv3`).
 *
 * The driver is observed at its boundary. Its registers are a {@link Recorder}, which passes every access on to our
 * model and writes a line for it. Its memory is compared with a copy each time before the hardware looks at it: what
 * changed since then, the driver wrote. What changes while the hardware acts (event records, DMA) the hardware wrote,
 * and is not in the log. Interrupts wait until the hardware has done.
 */
import type { InterruptLine, SmmuV3 } from "../hardware/smmuv3/index.ts";
import { PAGE_SIZE, type PhysicalMemory, type RegisterBlock } from "../memory/index.ts";
import type { System } from "../runtime/index.ts";

const WORDS = PAGE_SIZE / 4;

/** One line of a log; numbers that are addresses or registers as hex. */
export type LogLine = Readonly<Record<string, unknown>>;

/** A DMA of up to 4096 bytes. */
export interface RecordedDma {
  readonly streamId: number;
  readonly iova: number;
  readonly length: number;
  /** Bytes to write; absent for a read. */
  readonly data?: Uint8Array;
}

/** What a DMA has to do on any SMMUv3. */
export interface DmaExpectation {
  readonly ok: boolean;
  /** What a read finds. */
  readonly data?: Uint8Array;
  /** Event records as eight 32-bit words each. */
  readonly events: readonly Uint32Array[];
}

export class Recorder implements RegisterBlock {
  readonly lines: LogLine[] = [];
  /** Where interrupts go. */
  onInterrupt: (line: InterruptLine) => void = () => undefined;
  private readonly memory: PhysicalMemory;
  private readonly hardware: SmmuV3;
  /** Every frame that was ever given out, as the log has it. */
  private readonly known = new Map<number, Uint32Array>();
  private readonly waiting: InterruptLine[] = [];

  /** Before anything else uses the memory. */
  constructor(
    system: System,
    memory: PhysicalMemory,
    makeHardware: (interrupt: (line: InterruptLine) => void) => SmmuV3,
  ) {
    this.memory = memory;
    this.hardware = makeHardware((line) => this.waiting.push(line));
    system.events.listen((event) => {
      if (event.kind !== "memory.frames.allocate") return;
      const { pfn, count } = event as unknown as { pfn: number; count: number };
      for (let frame = pfn; frame < pfn + count; frame++) {
        if (!this.known.has(frame)) this.known.set(frame, new Uint32Array(WORDS));
      }
    });
  }

  // What the driver does

  read32(offset: number): number {
    const value = this.hardware.read32(offset);
    this.lines.push({ op: "r", off: hex(offset), size: 4, val: hex(value) });
    return value;
  }

  read64(offset: number): bigint {
    const value = this.hardware.read64(offset);
    this.lines.push({ op: "r", off: hex(offset), size: 8, val: hex(value) });
    return value;
  }

  write32(offset: number, value: number): void {
    this.act(() => {
      this.lines.push({ op: "w", off: hex(offset), size: 4, val: hex(value >>> 0) });
      this.hardware.write32(offset, value);
    });
  }

  write64(offset: number, low: number, high: number): void {
    this.act(() => {
      this.lines.push({ op: "w", off: hex(offset), size: 8, val: hex64(low, high) });
      this.hardware.write64(offset, low, high);
    });
  }

  // What devices do

  /** Performs a DMA with `perform`, which tells how it has to end, and writes it down with that. */
  dma(access: RecordedDma, perform: () => DmaExpectation): void {
    this.act(() => {
      const { streamId, iova, length, data } = access;
      const expected = perform();
      const events = expected.events.map((record) => [0, 2, 4, 6].map((word) => hex64(record[word], record[word + 1])));
      this.lines.push({
        op: "dma",
        sid: streamId,
        iova: hex(iova),
        len: length,
        write: data !== undefined,
        ...(data && { data: toHex(data) }),
        expect: { ok: expected.ok, ...(expected.data && { data: toHex(expected.data) }), events },
      });
    });
  }

  /** The hardware does something: first the log gets what the driver wrote to memory before. */
  private act(hardwareAction: () => void): void {
    this.compareMemory((address, words) => this.lines.push({ op: "m", addr: hex(address), hex: wordsToHex(words) }));
    hardwareAction();
    this.compareMemory(() => undefined);
    for (const line of this.waiting.splice(0)) this.onInterrupt(line);
  }

  /** Tells each run of words that differ from the copy, which then has them. */
  private compareMemory(tell: (address: number, words: Uint32Array) => void): void {
    const empty = new Uint32Array(WORDS);
    for (const [frame, copy] of this.known) {
      const address = frame * PAGE_SIZE;
      const chunk = this.memory.words(address);
      const first = (address % 2 ** 21) / 4;
      const content = chunk === undefined ? empty : chunk.subarray(first, first + WORDS);
      for (let at = 0; at < WORDS; at++) {
        if (content[at] === copy[at]) continue;
        let end = at + 1;
        while (end < WORDS && content[end] !== copy[end]) end++;
        const run = content.slice(at, end);
        copy.set(run, at);
        tell(address + 4 * at, run);
        at = end;
      }
    }
  }
}

export function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}

function hex64(low: number, high: number): string {
  return hex(BigInt(high >>> 0) * 2n ** 32n + BigInt(low >>> 0));
}

function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Words in memory order: little-endian. */
function wordsToHex(words: Uint32Array): string {
  const bytes = new Uint8Array(4 * words.length);
  const view = new DataView(bytes.buffer);
  for (const [index, word] of words.entries()) view.setUint32(4 * index, word, true);
  return toHex(bytes);
}
