import { type Benchmark, median, type Row } from "../../../bench/benchmark.ts";
import { SmmuV3, smmuFeatures } from "../../hardware/smmuv3/index.ts";
import { Device, IommuCore, newGather, PROT_READ, PROT_WRITE } from "../../iommu/index.ts";
import { PhysicalMemory } from "../../memory/index.ts";
import { System, type Task } from "../../runtime/index.ts";
import { SmmuV3Driver, type SmmuV3Instance } from "./index.ts";

const MIB = 2 ** 20;
const GIB = 2 ** 30;

/** One device attached to one stage 1 domain, on the real model. Returns what maps, unmaps and syncs `size` bytes. */
function setUp(rangeInvalidation: boolean) {
  const system = new System();
  const memory = new PhysicalMemory(system, { ram: [{ base: 0, size: 256 * MIB }] });
  const driver = new SmmuV3Driver(system, memory);
  let instance: SmmuV3Instance | undefined;
  const hardware = new SmmuV3(system, memory, {
    ...smmuFeatures({ rangeInvalidation }),
    interrupt: (line) => driver.handleInterrupt(instance!, line),
  });
  const core = new IommuCore(system);
  const run = <T>(code: Task<T>): T => system.run("bench", code);
  instance = run(driver.probe(hardware, { name: "smmu" }));
  run(core.register(instance));
  const [first, second] = [8, 16].map(
    (streamId) => new Device({ name: `${streamId}`, firmware: { instance: "smmu", streamIds: [streamId] } }),
  );
  run(core.probe(first));
  run(core.probe(second));
  const [domain, other] = [0, 0].map((flags) => run(driver.allocatePaging(first, flags, undefined)));
  run(first.group!.attach(domain, domain));
  run(second.group!.attach(other, other));
  // A neighbour in the same table, so that tables stay.
  run(domain.map(0x7fff_f000n, 0, 4096, PROT_READ));
  run(domain.map(0x4000_1000n, 0, 4096, PROT_READ));
  const cycles =
    (size: number, iova: bigint) =>
    (repeats: number): void =>
      run(
        (function* () {
          const gather = newGather();
          for (let i = 0; i < repeats; i++) {
            yield* domain.map(iova, 64 * MIB, size, PROT_READ | PROT_WRITE);
            yield* domain.unmap(iova, size, gather);
            yield* domain.sync(gather);
          }
        })(),
      );
  const replaces = (repeats: number): void =>
    run(
      (function* () {
        for (let i = 0; i < repeats; i++) {
          yield* first.group!.replace(other, other);
          yield* first.group!.replace(domain, domain);
        }
      })(),
    );
  /** Commands that it takes to unmap 1 GiB that is mapped page by page. */
  const commandsForGib = (): number => {
    const start = 0x1_0000_0000;
    for (let at = 0; at < GIB; at += 4096) run(domain.map(BigInt(start + at), 64 * MIB, 4096, PROT_READ));
    let commands = 0;
    const stop = system.events.listen(({ kind }) => {
      if (kind === "smmuv3.command.consume") commands++;
    });
    const gather = newGather();
    run(domain.unmap(BigInt(start), GIB, gather));
    run(domain.sync(gather));
    stop();
    return commands;
  };
  return { cycles, replaces, commandsForGib };
}

function microseconds(what: string, nanoseconds: number, limit?: number): Row {
  const value = nanoseconds / 1000;
  return limit === undefined
    ? { what, value, unit: "µs" }
    : { what, value, unit: "µs", goal: `≤ ${limit} µs`, met: value <= limit };
}

const benchmark: Benchmark = {
  name: "drivers",
  rows() {
    const rows: Row[] = [];
    for (const byRange of [false, true]) {
      const { cycles, replaces, commandsForGib } = setUp(byRange);
      const how = byRange ? ", range invalidation" : "";
      rows.push(
        microseconds(`SMMUv3 map, unmap, sync of 4 KiB${how}`, median(cycles(4096, 0x4000_0000n), 20_000), 1),
        microseconds(`SMMUv3 map, unmap, sync of 64 MiB${how}`, median(cycles(64 * MIB, 0x8000_0000n), 1000), 30),
      );
      if (byRange) {
        const value = commandsForGib();
        const what = `SMMUv3 commands for an unmap of 1 GiB in 4 KiB pages, CMD_SYNC included${how}`;
        rows.push({ what, value, unit: "commands", goal: "≤ 2 commands", met: value <= 2 });
      }
      if (!byRange) rows.push(microseconds("SMMUv3 replace of a domain", median(replaces, 500) / 2));
    }
    return rows;
  },
};
export default benchmark;
