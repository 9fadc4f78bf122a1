/** What the driver makes of queues that were full, and of those that could not be written. */
import { describe, expect, it } from "vitest";
import { ALLOC_PASID, groupOf, newGather, type PageRequestGroup, PROT_READ } from "../../iommu/index.ts";
import { aheadWorld } from "./ahead.test-support.ts";
import { modelWorld } from "./on-model.test-support.ts";
import { EVENTQ_CONS, EVENTQ_PROD, PRIQ_CONS, PRIQ_PROD } from "./registers.ts";

const IOVA = 0x4000_0000;

describe("events", () => {
  it("that found no room are lost; the driver says so once and hears of the next ones", () => {
    const { hardware, driver, system, probed, run } = modelWorld();
    const device = probed("a", { streamIds: [8] });
    run(device.group!.attach(run(driver.allocatePaging(device, 0, undefined)), {}));
    const warnings: unknown[] = [];
    system.events.listen(({ kind, text }) => kind === "smmuv3.warning" && warnings.push(text));
    let heard = 0;
    driver.onEvent = () => heard++;
    for (let round = 1; round <= 3; round++) {
      heard = 0;
      for (let count = 0; count < 300; count++) hardware.translate(8, -1, 0, IOVA, false);
      system.tasks.drain();
      expect([heard, warnings.length]).toEqual([128, round]);
      expect(hardware.read32(EVENTQ_CONS)).toBe(hardware.read32(EVENTQ_PROD));
      hardware.translate(8, -1, 0, IOVA, false);
      system.tasks.drain();
      expect(heard).toBe(129);
    }
  });

  it("of stalled accesses are late, and none is lost", () => {
    const { driver, system, probed, run, dma, hardware } = modelWorld();
    const device = probed("a", { streamIds: [8], canStall: true });
    const domain = run(driver.allocatePaging(device, 0, undefined));
    const groups: PageRequestGroup[] = [];
    domain.pageRequestHandler = (group) => groups.push(group);
    run(device.group!.attach(domain, domain));
    const accesses = Array.from({ length: 200 }, () => dma(8, IOVA));
    expect(groups).toHaveLength(200);
    run(domain.map(BigInt(IOVA), 0x800_0000, 4096, PROT_READ));
    for (const group of groups) run(group.respond(0));
    system.tasks.drain();
    expect(accesses.every(({ done }) => done === true)).toBe(true);
    expect(hardware.occupancy.stalled).toBe(0);
    run(domain.unmap(BigInt(IOVA), 4096, newGather()));
  });
});

describe("page requests", () => {
  it("that found no room were answered by the SMMU; the driver hears of the next ones", () => {
    const world = aheadWorld({ pageRequestQueueLog2: 2 });
    const { device, member } = world.probed({}, { pri: 8 });
    const domain = world.domain(device, ALLOC_PASID);
    const groups: PageRequestGroup[] = [];
    domain.pageRequestHandler = (group) => groups.push(group);
    world.run(groupOf(device).attach(domain, domain));
    const request = (group: number): void =>
      world.hardware.agent.requestPage(member.requesterId, {
        ...{ pasid: undefined, address: BigInt(IOVA), read: true, write: false, group, last: true },
      });
    for (let round = 0; round < 3; round++) {
      for (let group = 0; group < 7; group++) request(group);
      world.system.tasks.drain();
      expect(groups.splice(0)).toHaveLength(4);
      expect(world.hardware.read32(PRIQ_CONS)).toBe(world.hardware.read32(PRIQ_PROD));
      request(7);
      world.system.tasks.drain();
      expect(groups.splice(0)).toHaveLength(1);
    }
  });
});
