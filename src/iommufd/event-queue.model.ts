import fc from "fast-check";
import { expect, it } from "vitest";
import { GUEST, GuestWorld } from "./guest.test-support.ts";
import { IommufdViommu } from "./viommu.ts";

/** What reference 3.12 says, word by word: a list of events and markers. */
class Model {
  readonly queue: (number | { lost: number })[] = [];
  private next = 0;
  private readonly depth: number;

  constructor(depth: number) {
    this.depth = depth;
  }

  /** Events are their own sequence numbers. */
  report(): void {
    const sequence = this.next++;
    const isLost = (entry: number | { lost: number }): entry is { lost: number } => typeof entry !== "number";
    const marker = this.queue.findIndex(isLost);
    if (this.queue.filter((entry) => !isLost(entry)).length < this.depth) {
      if (marker >= 0 && marker === this.queue.length - 1) this.queue.pop();
      this.queue.push(sequence);
    } else {
      if (marker >= 0) this.queue.splice(marker, 1);
      this.queue.push({ lost: sequence });
    }
  }

  read(count: number): number[] | string {
    if (count < 8) return "EINVAL";
    const words: number[] = [];
    while (this.queue.length > 0) {
      const [entry] = this.queue;
      const record = typeof entry === "number" ? [0, entry, entry] : [1, entry.lost];
      if ((words.length + record.length) * 4 > count) return words.length === 0 ? "EINVAL" : words;
      words.push(...record);
      this.queue.shift();
    }
    return words;
  }
}

it("a queue of events holds, loses and numbers them as the rules say", () => {
  const step = fc.oneof({ weight: 3, arbitrary: fc.constant("report" as const) }, { weight: 2, arbitrary: fc.nat(60) });
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 4 }), fc.array(step, { maxLength: 60 }), (depth, steps) => {
      const world = new GuestWorld();
      const viommu = world.context.objects.find(world.viommu(), IommufdViommu);
      const [, fd] = world.eventQueue(viommu.id, depth);
      const file = world.process.file(fd);
      const model = new Model(depth);
      let reported = 0;
      for (const step of steps) {
        if (step === "report") {
          viommu.report(GUEST, new Uint8Array(new Uint32Array([reported++]).buffer));
          model.report();
        } else {
          const read = world.readFile(fd, step);
          const words = typeof read === "string" ? read : [...new Uint32Array(read.slice().buffer)];
          expect(words).toEqual(model.read(step));
        }
        expect(file.kind === "ours" && file.file.readable!()).toBe(model.queue.length > 0);
      }
    }),
    { numRuns: 60 },
  );
});
