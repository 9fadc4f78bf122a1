/**
 * The driver's command queue on the model of the hardware, which takes from it what is legal, in order and once, however
 * many commands are put in before it is told, wherever the ring wraps and wherever a command stands that it does not know.
 */
import fc from "fast-check";
import { expect, it } from "vitest";
import { SmmuV3, smmuFeatures } from "../../hardware/smmuv3/index.ts";
import { PhysicalMemory } from "../../memory/index.ts";
import { System } from "../../runtime/index.ts";
import { CommandQueue } from "./command-queue.ts";
import { ATC_INV, SYNC, TLBI_NH_VA } from "./commands.ts";
import { CR0, CR0_CMDQEN, CR0_SMMUEN, GERROR, GERRORN, IRQ_CTRL, IRQ_GERROR } from "./registers.ts";

const UNKNOWN = 0xff;
const PAGE = 4096;

const operation = fc.constantFrom(
  ...(["good", "good", "good", "good", "unknown", "to a device that never answers", "publish", "sync"] as const),
);

it.each([
  ["by whoever waits for it", false],
  ["by the interrupt", true],
])("after each sync all commands are done, in order and once; errors are found %s", (_, byInterrupt) => {
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 120, size: "max" }), fc.integer({ min: 1, max: 4 }), (steps, log2) => {
      const system = new System();
      const memory = new PhysicalMemory(system, { ram: [{ base: 0, size: 2 ** 21 }] });
      const hardware = new SmmuV3(system, memory, {
        ...smmuFeatures({ ats: true }),
        interrupt: (line) => {
          if (line === "gerror") queue.repair();
        },
      });
      const queue = new CommandQueue(system, memory, hardware, { name: "smmu", log2EntriesMax: log2 });
      queue.program();
      hardware.write32(IRQ_CTRL, byInterrupt ? IRQ_GERROR : 0);
      hardware.write32(CR0, CR0_CMDQEN | CR0_SMMUEN);
      const done: number[] = [];
      let errors = 0;
      system.events.listen((event) => {
        if (event.kind === "smmuv3.command-queue.error") errors++;
        if (event.kind === "smmuv3.command-queue.timeout") throw new Error("it does not move");
        if (event.kind !== "smmuv3.command.consume") return;
        const [word0, , low] = event.words as number[];
        if ((word0 & 0xff) !== SYNC) done.push((word0 & 0xff) === ATC_INV ? 0 : low / PAGE);
      });
      const wanted: number[] = [];
      let unknown = 0;
      for (const step of steps) {
        if (step === "good") {
          wanted.push(wanted.length + 1);
          queue.push(TLBI_NH_VA, 0, wanted.length * PAGE, 0);
        } else if (step === "unknown") {
          unknown++;
          queue.push(UNKNOWN, 0, 0, 0);
        } else if (step === "publish") {
          queue.publish();
        } else if (step === "sync") {
          system.run("sync", queue.sync());
          expect(done).toEqual(wanted);
          expect(errors).toBeGreaterThanOrEqual(unknown);
          expect(hardware.read32(GERROR)).toBe(hardware.read32(GERRORN));
        } else {
          wanted.push(0);
          queue.push(ATC_INV, 8, 52, 0);
        }
      }
    }),
    { numRuns: 60 },
  );
});
