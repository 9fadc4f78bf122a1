/** What a `*.bench.ts` exports: a room's figures, measured when asked. */
export interface Benchmark {
  /** Short, to choose it by: `"pagetable"`. */
  readonly name: string;
  rows(): Promise<Row[]> | Row[];
}

export interface Row {
  /** What was done, in words. */
  readonly what: string;
  /** The figure, in `unit`. */
  readonly value: number;
  readonly unit: "ns" | "µs" | "ms" | "s" | "million/s" | "bytes" | "MB" | "times" | "percent" | "commands";
  /** What it should reach, as text: `"≤ 2 µs"`. */
  readonly goal?: string;
  readonly met?: boolean;
  /** What it stands beside, measured in the same run or cited. */
  readonly peer?: string;
}

/** Median time in nanoseconds of one call of `body`, which does `repeats` things. Warm-up first; `rounds` samples. */
export function median(body: (repeats: number) => void, repeats: number, rounds = 15): number {
  body(repeats);
  body(repeats);
  const samples: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const start = process.hrtime.bigint();
    body(repeats);
    samples.push(Number(process.hrtime.bigint() - start) / repeats);
  }
  return middle(samples);
}

/** The median. */
export function middle(samples: number[]): number {
  return samples.sort((a, b) => a - b)[samples.length >> 1];
}
