/** The kernel's DMA API with the hardware model below it: what a device reaches after an unmap. */
import { describe, expect, it } from "vitest";
import {
  type DefaultDomainType,
  mapDma,
  PROT_READ,
  PROT_WRITE,
  unmapDma,
  useDefaultDomain,
} from "../../iommu/index.ts";
import type { SimulatedClock } from "../../runtime/index.ts";
import { modelWorld } from "./on-model.test-support.ts";

const PAGE = 4096;
const STREAM = 8;

function driven(type: DefaultDomainType) {
  const world = modelWorld();
  const { run, core, memory, hardware, system } = world;
  const framesBefore = memory.usedFrames;
  const device = world.probed("a", { streamIds: [STREAM] });
  run(core.setDefaultDomainType(device.group!, type));
  run(useDefaultDomain(device));
  const map = (physical: number, size = PAGE): bigint => run(mapDma(device, physical, size, PROT_READ | PROT_WRITE));
  const unmap = (iova: bigint, size = PAGE): void => run(unmapDma(device, iova, size));
  /** What a read of the device brings; undefined if it faults. */
  const read = (iova: bigint): number | undefined => {
    const bytes = new Uint8Array(1);
    return run(hardware.access(STREAM, undefined, iova, bytes, false)) ? bytes[0] : undefined;
  };
  const pass = (milliseconds: number): void => {
    (system.clock as SimulatedClock).advance(milliseconds * 1e6);
    system.tasks.drain();
  };
  for (let page = 0; page < 8; page++) memory.write(0x100_0000 + page * PAGE, Uint8Array.of(page));
  return { ...world, device, framesBefore, map, unmap, read, pass, page: (page: number) => 0x100_0000 + page * PAGE };
}

describe("a device of a kernel driver", () => {
  it("faults as soon as a strict unmap returns", () => {
    const { map, unmap, read, page } = driven("dma");
    const [kept, iova] = [map(page(1)), map(page(2))];
    expect([read(kept), read(iova)]).toEqual([1, 2]);
    unmap(iova);
    expect([read(kept), read(iova)]).toEqual([1, undefined]);
  });

  it("may reach a page after a lazy unmap, until the flush, and never another one under the same address", () => {
    const { map, unmap, read, page, pass } = driven("dma-fq");
    const [kept, iova] = [map(page(1)), map(page(2))];
    expect([read(kept), read(iova)]).toEqual([1, 2]);
    unmap(iova);
    expect(read(iova)).toBe(2);
    const other = map(page(3));
    expect([other === iova, read(other), read(iova)]).toEqual([false, 3, 2]);
    pass(10);
    expect([read(kept), read(other), read(iova)]).toEqual([1, 3, undefined]);
    expect([map(page(4)), read(iova)]).toEqual([iova, 4]);
  });

  it("leaves no table behind when it goes with unmaps in the queue", () => {
    const { map, unmap, read, page, run, core, device, memory, framesBefore, pass } = driven("dma-fq");
    const iova = map(page(1), 2 * PAGE);
    expect(read(iova)).toBe(1);
    unmap(iova, 2 * PAGE);
    run(core.release(device));
    pass(100);
    // What lasts is the stream table's own.
    const after = memory.usedFrames;
    run(core.probe(device));
    run(core.release(device));
    expect([memory.usedFrames, after - framesBefore < 17]).toEqual([after, true]);
  });
});
