import { describe, expect, it } from "vitest";
import {
  ALLOC_NEST_PARENT,
  ALLOC_PASID,
  attachPasid,
  type Domain,
  detachPasid,
  type Group,
  groupOf,
  newGather,
  type PagingDomain,
  PROT_READ,
  PROT_WRITE,
} from "../../iommu/index.ts";
import { readEntry } from "../../pasidtable/index.ts";
import { EOPNOTSUPP } from "../../runtime/index.ts";
import { aheadWorld } from "./ahead.test-support.ts";
import { ATC_INV, CFGI_STE, SYNC, TLBI_NH_ASID, TLBI_NH_VA, TLBI_S2_IPA, TLBI_S12_VMALL } from "./commands.ts";

const IOVA = 0x4000_0000;
const PAGE = 4096;
const PHYSICAL = 0x800_0000;
const READ_WRITE = PROT_READ | PROT_WRITE;

type World = ReturnType<typeof aheadWorld>;

function attach({ run }: World, group: Group, domain: Domain): void {
  run(group.handle === undefined ? group.attach(domain, domain) : group.replace(domain, domain));
}

function unmap({ run }: World, domain: PagingDomain, iova: number, size: number): void {
  const gather = newGather();
  run(domain.unmap(BigInt(iova), size, gather));
  run(domain.sync(gather));
}

/** The opcodes of what a piece of code sends, CFGI and prefetches aside. */
function sent(world: World, code: () => void): string[] {
  world.commands.length = 0;
  code();
  const names = new Map([
    [ATC_INV, "ATC_INV"],
    [SYNC, "SYNC"],
    [TLBI_NH_ASID, "ASID"],
    [TLBI_NH_VA, "VA"],
    [TLBI_S12_VMALL, "VMALL"],
    [TLBI_S2_IPA, "IPA"],
  ]);
  return world.commands.map(([word]) => names.get(word & 0xff)).filter((name) => name !== undefined);
}

const eats = (world: World, streamId: number): number =>
  (readEntry(world.memory, world.instance.streamTable.entryAddress(streamId))[2] >>> 28) & 3;

describe("a device with ATS", () => {
  it("translates ahead while it is attached to a domain with a table, and not where nothing is translated", () => {
    const world = aheadWorld();
    const { device, member } = world.probed();
    const group = groupOf(device);
    expect(world.driver.capable(device, "pci-ats")).toBe(true);
    const state = (): unknown[] => [eats(world, member.requesterId), member.translationCache!.isEnabled];
    expect(state()).toEqual([0, false]);
    for (const flags of [0, ALLOC_NEST_PARENT]) {
      attach(world, group, world.domain(device, flags));
      expect(state()).toEqual([1, true]);
      attach(world, group, world.driver.identityDomain);
      expect(state()).toEqual([0, false]);
    }
    attach(world, group, world.domain(device));
    attach(world, group, world.driver.blockedDomain);
    expect(state()).toEqual([0, false]);
  });

  it("has it turned on after the STE allows it, and off, with everything forgotten, before it ceases to", () => {
    const world = aheadWorld();
    const { device, member } = world.probed();
    const log: string[] = [];
    const { streamTable } = world.instance;
    const { requesterId } = member;
    world.system.events.listen((event) => {
      if (event.kind === "smmuv3.command.consume") {
        const opcode = (event.words as number[])[0] & 0xff;
        const allows = ((readEntry(world.memory, streamTable.entryAddress(requesterId))[2] >>> 28) & 3) === 1;
        if (opcode === CFGI_STE) log.push(`STE ${allows}, ATS ${member.translationCache!.isEnabled}`);
        if (opcode === ATC_INV) log.push(`ATC_INV, STE ${allows}, ATS ${member.translationCache!.isEnabled}`);
      }
      if (event.kind.startsWith("smmuv3.ats.")) log.push(event.kind);
    });
    attach(world, groupOf(device), world.domain(device));
    attach(world, groupOf(device), world.driver.identityDomain);
    const told = log.filter((line) => !line.startsWith("STE false, ATS false"));
    expect(told.filter((line, index) => line !== told[index - 1])).toEqual([
      "STE true, ATS false",
      "smmuv3.ats.enable",
      "ATC_INV, STE true, ATS false",
      "smmuv3.ats.disable",
      // The old domain's entry of the device goes.
      "ATC_INV, STE false, ATS false",
    ]);
  });

  it("forgets what is unmapped, after the TLB: TLBI, SYNC, ATC_INV, SYNC", () => {
    const world = aheadWorld();
    const { device, member } = world.probed();
    const domain = world.domain(device);
    attach(world, groupOf(device), domain);
    world.run(domain.map(BigInt(IOVA), PHYSICAL, 4 * PAGE, READ_WRITE));
    for (let page = 0; page < 4; page++) expect(world.dma(member, IOVA + page * PAGE).done).toBe(true);
    expect(member.translationCache!.size).toBe(4);
    expect(sent(world, () => unmap(world, domain, IOVA + PAGE, PAGE))).toEqual(["VA", "SYNC", "ATC_INV", "SYNC"]);
    expect(member.translationCache!.size).toBe(3);
    expect([world.dma(member, IOVA + PAGE).done, world.dma(member, IOVA).done]).toEqual([false, true]);
    expect(world.events).toEqual([]);
  });

  it.each([
    [IOVA, PAGE, IOVA, 0],
    [IOVA, 2 * PAGE, IOVA, 1],
    [IOVA + PAGE, 2 * PAGE, IOVA, 2],
    [IOVA + PAGE, 7 * PAGE, IOVA, 3],
    [0x7fff_f000, 2 * PAGE, 0, 20],
    [0xffff_ffff_f000, PAGE, 0xffff_ffff_f000, 0],
  ])("0x%x + 0x%x is told as the smallest aligned span", (start, size, address, log2Pages) => {
    const world = aheadWorld();
    const { device } = world.probed();
    const domain = world.domain(device);
    attach(world, groupOf(device), domain);
    world.run(domain.map(BigInt(start), PHYSICAL, size, READ_WRITE));
    world.commands.length = 0;
    unmap(world, domain, start, size);
    const [, , low, high] = world.commands.find(([word]) => (word & 0xff) === ATC_INV)!;
    expect([high * 2 ** 32 + (low - (low % PAGE)), low % PAGE]).toEqual([address, log2Pages]);
  });

  it("forgets the domain that it leaves, though others use it still", () => {
    const world = aheadWorld();
    const [first, second] = [world.probed(), world.probed()];
    const [one, two] = [world.domain(first.device), world.domain(first.device)];
    for (const [index, domain] of [one, two].entries()) {
      world.run(domain.map(BigInt(IOVA), PHYSICAL + index * PAGE, PAGE, READ_WRITE));
    }
    for (const { device } of [first, second]) attach(world, groupOf(device), one);
    for (const { member } of [first, second]) world.dma(member, IOVA);
    expect(sent(world, () => attach(world, groupOf(first.device), two)).slice(-2)).toEqual(["ATC_INV", "SYNC"]);
    expect([first.member.translationCache!.size, second.member.translationCache!.size]).toEqual([0, 1]);
    world.memory.writeWord(PHYSICAL + PAGE, 0x2222_2222);
    expect([...world.dma(first.member, IOVA).bytes]).toEqual([0x22, 0x22, 0x22, 0x22]);
  });

  it("keeps the translations of its PASIDs apart", () => {
    const world = aheadWorld();
    const { device, member } = world.probed();
    const group = groupOf(device);
    const [own, other] = [world.domain(device, ALLOC_PASID), world.domain(device, ALLOC_PASID)];
    for (const [index, domain] of [own, other].entries()) {
      world.run(domain.map(BigInt(IOVA), PHYSICAL + index * PAGE, PAGE, READ_WRITE));
    }
    attach(world, group, own);
    world.run(attachPasid(group, other, 5, other));
    world.memory.writeWord(PHYSICAL + PAGE, 0x2222_2222);
    expect(world.dma(member, IOVA).bytes[0]).toBe(0);
    expect(world.dma(member, IOVA, { pasid: 5 }).bytes[0]).toBe(0x22);
    expect(member.translationCache!.size).toBe(2);
    // Only the PASID's, and under its number.
    world.commands.length = 0;
    unmap(world, other, IOVA, PAGE);
    const invalidations = world.commands.filter(([word]) => (word & 0xff) === ATC_INV);
    expect(invalidations.map(([word]) => [(word >>> 11) & 1, word >>> 12])).toEqual([[1, 5]]);
    expect([world.dma(member, IOVA, { pasid: 5 }).done, world.dma(member, IOVA).done]).toEqual([false, true]);
    world.run(other.map(BigInt(IOVA), PHYSICAL + PAGE, PAGE, READ_WRITE));
    expect(world.dma(member, IOVA, { pasid: 5 }).done).toBe(true);
    world.run(detachPasid(group, 5));
    expect(world.dma(member, IOVA, { pasid: 5 }).done).toBe(false);
  });

  it("with PASIDs on an identity domain passes its own traffic, and forgets that when a table comes", () => {
    const world = aheadWorld();
    const { device, member } = world.probed();
    const group = groupOf(device);
    const paging = world.domain(device, ALLOC_PASID);
    attach(world, group, world.driver.identityDomain);
    world.run(attachPasid(group, paging, 5, paging));
    expect(member.translationCache!.isEnabled).toBe(true);
    expect(world.dma(member, PHYSICAL, { write: true }).done).toBe(true);
    expect(world.memory.readWord(PHYSICAL)).toBe(0xd5d5_d5d5);
    attach(world, group, world.domain(device, ALLOC_PASID));
    expect(world.dma(member, PHYSICAL).done).toBe(false);
    attach(world, group, world.driver.identityDomain);
    world.run(detachPasid(group, 5));
    expect(member.translationCache!.isEnabled).toBe(false);
  });

  it("below a guest's stage 1 forgets everything, whatever of the parent is unmapped", () => {
    const world = aheadWorld();
    const { device, member } = world.probed();
    const parent = world.domain(device, ALLOC_NEST_PARENT);
    attach(world, groupOf(device), parent);
    world.run(parent.map(BigInt(IOVA), PHYSICAL, 2 * PAGE, READ_WRITE));
    world.dma(member, IOVA);
    world.commands.length = 0;
    unmap(world, parent, IOVA + PAGE, PAGE);
    const [, , low] = world.commands.find(([word]) => (word & 0xff) === ATC_INV)!;
    expect([low, member.translationCache!.size]).toEqual([52, 0]);
  });
});

describe("ATS is not used", () => {
  it.each([
    ["by a device without the capability", {}, {}, { ats: false }],
    ["where what is between does not let it through", {}, { ats: undefined }, {}],
    ["by an SMMU without it", { ats: false }, {}, {}],
    ["by a device that may be stalled", { stalls: "both" }, { canStall: true }, {}],
  ] as const)("%s", (_, features, firmware, options) => {
    const world = aheadWorld(features);
    const { device, member } = world.probed(firmware, options);
    attach(world, groupOf(device), world.domain(device));
    expect(world.driver.capable(device, "pci-ats")).toBe(false);
    expect([member.translationCache?.isEnabled ?? false, eats(world, member.requesterId)]).toEqual([false, 0]);
  });
});

describe("a device that requires ATS", () => {
  const required = { ats: "required" } as const;

  it("is refused where it cannot have it", () => {
    for (const features of [{ ats: false }, { stage1: false, substreamIdBits: 0 }, { substreamIdBits: 0 }]) {
      const world = aheadWorld(features);
      expect(world.errno(world.core.probe(world.plug(required).device))).toBe(EOPNOTSUPP);
    }
  });

  it("has it in the identity domain too, and not while it is blocked", () => {
    const world = aheadWorld();
    const { device, member } = world.probed(required);
    expect(member.translationCache!.isEnabled).toBe(true);
    expect(world.dma(member, PHYSICAL, { write: true }).done).toBe(true);
    expect([world.memory.readWord(PHYSICAL), member.translationCache!.size]).toEqual([0xd5d5_d5d5, 1]);
    attach(world, groupOf(device), world.driver.blockedDomain);
    expect([member.translationCache!.isEnabled, world.dma(member, PHYSICAL).done]).toEqual([false, false]);
    attach(world, groupOf(device), world.driver.identityDomain);
    expect([member.translationCache!.isEnabled, world.dma(member, PHYSICAL).done]).toEqual([true, true]);
    expect(world.events).toEqual([]);
  });
});

it("an invalidation that nobody answers is told, and does not stop the queue", () => {
  const world = aheadWorld();
  const { device, member } = world.probed();
  const domain = world.domain(device);
  attach(world, groupOf(device), domain);
  world.run(domain.map(BigInt(IOVA), PHYSICAL, 2 * PAGE, READ_WRITE));
  world.host.invalidate = () => false;
  unmap(world, domain, IOVA, PAGE);
  expect(world.errors).toHaveLength(1);
  expect(world.errors[0]).toMatch(/an ATC invalidation timed out/);
  world.host.invalidate = Object.getPrototypeOf(world.host).invalidate;
  unmap(world, domain, IOVA + PAGE, PAGE);
  expect([world.errors.length, world.dma(member, IOVA + PAGE).done]).toEqual([1, false]);
});
