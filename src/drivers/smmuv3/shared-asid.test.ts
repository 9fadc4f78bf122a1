/** Processes and devices under one ASID: core, driver, tables and the model of the hardware together. */
import { describe, expect, it } from "vitest";
import { TRANSLATED } from "../../hardware/smmuv3/index.ts";
import {
  ALLOC_PASID,
  attachPasid,
  Cpu,
  type Device,
  newGather,
  type PagingDomain,
  PROT_READ,
  PROT_WRITE,
  Sva,
} from "../../iommu/index.ts";
import { LibraryProcess } from "../../memory/index.ts";
import { TLBI_NH_ASID, TLBI_NH_VA } from "./commands.ts";
import { modelWorld } from "./on-model.test-support.ts";

const IOVA = 0x4000_0000;

function setUp(broadcastTlb: boolean) {
  const world = modelWorld({ substreamIdBits: 16, broadcastTlb });
  const { system, memory, hardware, driver, run } = world;
  const cpu = new Cpu(system, memory);
  cpu.broadcastTo((asid, start, size) => hardware.hearTlbInvalidation(asid, start, size));
  const sva = new Sva(system, cpu);
  /** The TLB invalidations that the SMMU is sent, as the ASIDs that they are for. */
  const invalidated: number[] = [];
  system.events.listen((event) => {
    if (event.kind !== "smmuv3.command.consume") return;
    const [low, high] = event.words as number[];
    if ([TLBI_NH_ASID, TLBI_NH_VA].includes(low & 0xff)) invalidated.push(Math.floor(high / 2 ** 16));
  });
  const device = (stream: number): Device =>
    world.probed(`d${stream}`, { streamIds: [stream], pasidBits: 16, canStall: true });
  const domain = (of: Device, physical: number): PagingDomain => {
    const made = run(driver.allocatePaging(of, ALLOC_PASID, undefined));
    run(made.map(BigInt(IOVA), physical, 4096, PROT_READ | PROT_WRITE));
    return made;
  };
  const process = (): LibraryProcess => new LibraryProcess(system, memory);
  /** Where a stream gets to, or undefined. */
  const through = (stream: number, pasid = -1): number | undefined =>
    hardware.translate(stream, pasid, 0, IOVA, false) === TRANSLATED ? hardware.physical : undefined;
  return { ...world, sva, invalidated, device, domain, process, through };
}

describe("with broadcast TLB maintenance", () => {
  it("a domain makes way for the ASID of a process, and goes on translating and being invalidated", () => {
    const { sva, device, domain, process, through, run, invalidated, dma } = setUp(true);
    const [a, b] = [device(1), device(2)];
    // The first domain has the number that the CPU gives the first process.
    const own = domain(a, 0x80_0000);
    run(a.group!.attach(own, {}));
    run(b.group!.attach(own, {}));
    run(attachPasid(b.group!, own, 77, {}));
    expect([through(1), through(2), through(2, 77)]).toEqual(Array(3).fill(0x80_0000));
    expect(own.label).toContain("ASID 1");

    const p = process();
    const page = p.memory.map(1);
    p.memory.write(page, Uint8Array.of(42));
    const handle = run(sva.bind(a, p.memory));
    expect([own.label.endsWith("ASID 2"), handle.domain.label.includes("ASID 1 ")]).toEqual([true, true]);
    expect(invalidated).toEqual([1]);
    expect([through(1), through(2), through(2, 77)]).toEqual(Array(3).fill(0x80_0000));
    expect(dma(1, page, false, handle.pasid).done).toBe(true);

    invalidated.length = 0;
    const gather = newGather();
    run(own.unmap(BigInt(IOVA), 4096, gather));
    run(own.sync(gather));
    expect(new Set(invalidated)).toEqual(new Set([2]));
    expect([through(1), through(2), through(2, 77)]).toEqual(Array(3).fill(undefined));
  });

  it("what a process unmaps is forgotten without a command", () => {
    const { sva, device, process, run, invalidated, dma, instance } = setUp(true);
    const [a, p] = [device(1), process()];
    const handle = run(sva.bind(a, p.memory));
    const page = p.memory.map(2);
    expect([dma(1, page, true, handle.pasid).done, dma(1, page + 4096, true, handle.pasid).done]).toEqual([true, true]);
    p.memory.unmap(page, 1);
    expect([dma(1, page, false, handle.pasid).done, dma(1, page + 4096, false, handle.pasid).done]).toEqual([
      false,
      true,
    ]);
    p.exit();
    expect(dma(1, page + 4096, false, handle.pasid).done).toBe(false);
    expect(invalidated).toEqual([]);
    run(sva.unbind(handle));
    expect([invalidated, instance.contexts.size]).toEqual([[1], 0]);
  });

  it("two processes have two of the CPU's numbers", () => {
    const { sva, device, process, run, instance } = setUp(true);
    const a = device(1);
    const handles = [process(), process()].map((p) => run(sva.bind(a, p.memory)));
    expect(handles.map(({ domain }) => domain.label.includes("ASID 1 "))).toEqual([true, false]);
    for (const handle of handles) run(sva.unbind(handle));
    expect(instance.contexts.size).toBe(0);
  });
});

it("without it a process gets a number of the SMMU's own, and what it unmaps is invalidated by commands", () => {
  const { sva, device, domain, process, run, invalidated, dma } = setUp(false);
  const a = device(1);
  const own = domain(a, 0x80_0000);
  const p = process();
  const handle = run(sva.bind(a, p.memory));
  expect([own.label.endsWith("ASID 1"), handle.domain.label.includes("ASID 2 ")]).toEqual([true, true]);
  const page = p.memory.map(1);
  expect(dma(1, page, true, handle.pasid).done).toBe(true);
  p.memory.unmap(page, 1);
  expect(invalidated).toEqual([2]);
  expect(dma(1, page, false, handle.pasid).done).toBe(false);
});
