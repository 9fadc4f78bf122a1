/**
 * Random programs on devices: processes map, unmap, protect, discard, move, write, fork and exit, are bound to devices behind
 * two SMMUs and unbound, and the devices read and write at addresses of theirs. The oracle is what the process itself would
 * find there, without sharing, tables or caches.
 */
import fc from "fast-check";
import { expect, test } from "vitest";
import { SmmuV3, smmuFeatures } from "../../hardware/smmuv3/index.ts";
import { Cpu, Device, Sva, type SvaHandle } from "../../iommu/index.ts";
import {
  changeSpace,
  checkPerson,
  forkPerson,
  isAllowed,
  type Person,
  spaceChange,
} from "../../iommu/space-changes.test-support.ts";
import { LibraryProcess, PAGE_SIZE } from "../../memory/index.ts";
import type { Task } from "../../runtime/index.ts";
import type { SmmuV3Instance } from "./instance.ts";
import { modelWorld } from "./on-model.test-support.ts";

const PAGES = 6;
const DEVICES = 3;
/** Across the border of two tables of level 3. */
const addressOf = (page: number): number => (0x3_fffd + page) * PAGE_SIZE;

const who = fc.nat();
const device = fc.nat(DEVICES - 1);
const step = fc.oneof(
  { weight: 7, arbitrary: fc.record({ kind: fc.constant("change" as const), who, change: spaceChange(PAGES) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("bind" as const), who, device }) },
  fc.record({ kind: fc.constant("unbind" as const), which: fc.nat() }),
  {
    weight: 9,
    arbitrary: fc.record({
      kind: fc.constant("dma" as const),
      ...{ who, device, page: fc.nat(PAGES - 1), write: fc.boolean(), value: fc.nat(255) },
    }),
  },
  fc.record({ kind: fc.constantFrom("fork" as const, "exit" as const), who }),
);
const features = fc.record({
  rangeInvalidation: fc.boolean(),
  broadcastTlb: fc.boolean(),
  twoLevelContextTable: fc.boolean(),
  stalls: fc.constantFrom("both" as const, "stall" as const),
});

test("devices find what the process itself would, or nothing, whatever processes and bindings do", () => {
  fc.assert(
    fc.property(features, fc.array(step, { maxLength: 80, size: "max" }), (features, steps) => {
      const world = modelWorld({ substreamIdBits: 10, ...features });
      const { system, memory, driver, core, run } = world;
      const second: SmmuV3 = new SmmuV3(system, memory, {
        ...smmuFeatures({ substreamIdBits: 10, ...features }),
        interrupt: (line) => driver.handleInterrupt(instance, line),
      });
      const instance: SmmuV3Instance = run(driver.probe(second, { name: "second" }));
      run(core.register(instance));
      const cpu = new Cpu(system, memory);
      for (const smmu of [world.hardware, second]) {
        cpu.broadcastTo((asid, start, size) => smmu.hearTlbInvalidation(asid, start, size));
      }
      const sva = new Sva(system, cpu);
      const devices = Array.from({ length: DEVICES }, (_, i) => {
        const name = i === 0 ? "second" : "smmu";
        const firmware = { instance: name, streamIds: [i + 1], pasidBits: 10, canStall: true };
        const made = new Device({ name: `d${i}`, firmware });
        run(core.probe(made));
        return { device: made, stream: i + 1, hardware: i === 0 ? second : world.hardware };
      });
      const people: Person[] = [];
      /** One entry for each bind. */
      const bindings: { handle: SvaHandle; person: Person }[] = [];

      for (const step of steps) {
        if (step.kind === "unbind") {
          if (bindings.length === 0) continue;
          const [{ handle }] = bindings.splice(step.which % bindings.length, 1);
          run(sva.unbind(handle));
          continue;
        }
        if (people.length === 0) people.push({ process: new LibraryProcess(system, memory), pages: new Map() });
        const person = people[step.who % people.length];
        const { process, pages } = person;
        const space = process.memory;
        switch (step.kind) {
          case "change":
            changeSpace(person, step.change, addressOf);
            break;
          case "bind": {
            const to = devices[step.device].device;
            const isBound = bindings.some(({ handle, person: one }) => one === person && handle.device === to);
            const bound = isAllowed(() => {
              bindings.push({ handle: run(sva.bind(to, space)), person });
            });
            expect(bound).toBe(space.alive || isBound);
            break;
          }
          case "dma": {
            const { device: from, hardware, stream } = devices[step.device];
            const known = bindings.find(({ person: one }) => one === person);
            if (known === undefined) break;
            const { pasid } = known.handle;
            const isBound = bindings.some(({ handle, person: one }) => one === person && handle.device === from);
            const one = isBound ? pages.get(step.page) : undefined;
            const bytes = new Uint8Array([step.value]);
            let done: boolean | undefined;
            const dma = function* (): Task<void> {
              done = yield* hardware.access(stream, pasid, BigInt(addressOf(step.page)), bytes, step.write);
            };
            run(dma());
            expect(done).toBe(one !== undefined && (!step.write || one.writable));
            if (done && step.write) one!.value = step.value;
            if (done) expect(bytes[0]).toBe(one!.value);
            break;
          }
          case "fork":
            if (people.length < 4 && space.alive) people.push(forkPerson(person));
            break;
          case "exit":
            process.exit();
            pages.clear();
            if (!bindings.some(({ person: one }) => one === person)) people.splice(people.indexOf(person), 1);
            break;
        }
        for (const one of people) checkPerson(one, addressOf);
      }

      for (const { handle } of bindings) run(sva.unbind(handle));
      for (const { process } of people) process.exit();
      expect([world.instance.contexts.size, instance.contexts.size, sva.mms]).toEqual([0, 0, []]);
      for (const { device: made } of devices) run(core.release(made));
      const rest = memory.usedFrames;
      for (const smmu of [instance, world.instance]) {
        run(core.unregister(smmu));
        run(driver.remove(smmu));
      }
      expect([memory.usedFrames, memory.pinnedFrames, rest > 0]).toEqual([0, 0, true]);
    }),
    { numRuns: 120 },
  );
});
