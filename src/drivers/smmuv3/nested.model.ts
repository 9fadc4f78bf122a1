/**
 * A device that a guest has, on the model of the hardware, looked at after every single store that the driver makes into
 * memory: what it translates is then what the objects said before the operation or what they say after it. So a guest's
 * stream changes its configuration without a gap, also to and from the host's own domains, and an invalidation that is
 * missing shows. Who looks, and how: `every-store.test-support.ts`.
 */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { FeatureChoices } from "../../hardware/smmuv3/index.ts";
import {
  ALLOC_NEST_PARENT,
  Device,
  type Domain,
  newGather,
  type PagingDomain,
  PROT_READ,
  PROT_WRITE,
  type Viommu,
} from "../../iommu/index.ts";
import { PAGE_SIZE } from "../../memory/index.ts";
import { TLBI_NH_ALL, TLBI_NH_ASID, TLBI_NH_VA, TLBI_NH_VAA, TLBI_NSNH_ALL } from "./commands.ts";
import { NO_PASID, type View, WatchedDriver } from "./every-store.test-support.ts";
import { GuestTables } from "./guest.test-support.ts";
import { HWPT_DATA_ARM_SMMUV3, INVALIDATE_DATA_ARM_SMMUV3 } from "./user-data.ts";

const STREAM = 8;
const VIRTUAL = 5n;
const RW = PROT_READ | PROT_WRITE;
/** Where the guest keeps its tables, by its own addresses. It is always mapped. */
const TABLES = { ipa: 0x8000_0000, physical: 0x20_0000, size: 0x10_0000 };
/** Pages of the guest's, by its own addresses; devices may use the same numbers as addresses of theirs. */
const PAGES = [0x9000_0000, 0x9000_1000, 0x9000_2000, 0xa000_0000];
/** What a device looks for is always mapped here, in every domain that translates: it may never fault. */
const ALWAYS = 0;
const ASIDS = [3, 4];

const targets = ["parent", "host", "guest 0", "guest 1", "bypass", "abort", "invalid"] as const;
type Target = (typeof targets)[number];

const page = fc.integer({ min: 1, max: PAGES.length - 1 });
const operation = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ do: fc.constant("attach" as const), to: fc.constantFrom(...targets, "nothing" as const) }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant("guest" as const),
      tables: fc.nat(1),
      page: fc.nat(PAGES.length - 1),
      to: fc.option(fc.nat(PAGES.length - 1), { nil: undefined }),
      how: fc.constantFrom(TLBI_NH_VA, TLBI_NH_VAA, TLBI_NH_ASID, TLBI_NH_ALL, TLBI_NSNH_ALL),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("host maps" as const), page, frame: fc.nat(64) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("host unmaps" as const), page }) },
);
type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never;

class World extends WatchedDriver {
  private readonly device = new Device({ name: "a", firmware: { instance: "smmu", streamIds: [STREAM] } });
  private readonly viommu: Viommu;
  private readonly domains: Record<Target, Domain>;
  private readonly tables: readonly GuestTables[];
  /** What each of the guest's tables says: page by page. */
  private readonly guestMaps = ASIDS.map(() => new Map<number, number>([[PAGES[ALWAYS], PAGES[ALWAYS]]]));
  /** What parent and host domain say. */
  private readonly hostMap = new Map<number, number>();
  private current: Target | "nothing" = "nothing";

  constructor(choices: FeatureChoices) {
    super(choices);
    const { memory, device } = this;
    this.run(this.core.probe(device));
    this.run(device.group!.claim(device, this));

    const allocate = (flags: number) => this.run(this.driver.allocatePaging(device, flags, undefined));
    const [parent, host] = [allocate(ALLOC_NEST_PARENT), allocate(0)];
    this.run(parent.map(BigInt(TABLES.ipa), TABLES.physical, TABLES.size, RW));
    this.viommu = this.run(
      this.driver.allocateViommu(device, parent, 1, undefined, {
        device: (virtualId) => (virtualId === VIRTUAL ? device : undefined),
        virtualId: () => VIRTUAL,
        report: () => undefined,
        publishWindow: () => 0n,
        retractWindow: () => undefined,
      }),
    );
    const guestMemory = {
      read64: (ipa: number): bigint => {
        const at = ipa - TABLES.ipa + TABLES.physical;
        return BigInt(memory.readWord(at)) + BigInt(memory.readWord(at + 4)) * 2n ** 32n;
      },
      write64: (ipa: number, value: bigint): void => {
        const at = ipa - TABLES.ipa + TABLES.physical;
        memory.writeWord(at, Number(value % 2n ** 32n));
        memory.writeWord(at + 4, Number(value / 2n ** 32n));
      },
    };
    this.tables = ASIDS.map(
      (asid, index) => new GuestTables(guestMemory, TABLES.ipa + index * (TABLES.size / 2), { asid }),
    );
    for (const tables of this.tables) tables.map(PAGES[ALWAYS], PAGES[ALWAYS]);
    this.domains = {
      parent,
      host,
      "guest 0": this.nested(this.tables[0].streamEntry),
      "guest 1": this.nested(this.tables[1].streamEntry),
      bypass: this.nested([9n, 0n]),
      abort: this.nested([1n, 0n]),
      invalid: this.nested([0n, 0n]),
    };
    this.map(PAGES[ALWAYS], 0x100 * PAGE_SIZE);
    this.watch(PAGES.map((address) => ({ streamId: STREAM, pasid: NO_PASID, address })));
  }

  do(step: Operation): void {
    this.perform(
      JSON.stringify(step),
      () => this.carryOut(step),
      () => this.expected(),
    );
  }

  /** Takes everything down; nothing may be left. */
  finish(): void {
    const { device, core, domains } = this;
    this.carryOut({ do: "attach", to: "nothing" });
    for (const domain of Object.values(domains).reverse()) domain.free();
    this.run(this.viommu.free());
    this.run(device.group!.disclaim(device));
    this.run(core.release(device));
    expect(this.hardware.occupancy).toEqual({ stage1: 0, stage2: 0, stalled: 0 });
  }

  private carryOut(step: Operation): void {
    const group = this.device.group!;
    switch (step.do) {
      case "attach":
        if (step.to === this.current) return;
        if (step.to === "nothing") this.run(group.detach());
        else if (this.current === "nothing") this.run(group.attach(this.domains[step.to], {}));
        else this.run(group.replace(this.domains[step.to], {}));
        this.current = step.to;
        return;
      case "guest":
        this.guestChanges(step);
        return;
      case "host maps":
        if (!this.hostMap.has(PAGES[step.page])) this.map(PAGES[step.page], step.frame * PAGE_SIZE);
        return;
      case "host unmaps":
        if (this.hostMap.has(PAGES[step.page])) this.unmap(PAGES[step.page]);
        return;
    }
  }

  /** The guest writes its tables and says so. */
  private guestChanges({ tables: index, page, to, how }: Extract<Operation, { do: "guest" }>): void {
    const [tables, map, address] = [this.tables[index], this.guestMaps[index], PAGES[page]];
    if (to !== undefined) {
      tables.map(address, PAGES[to]);
      map.set(address, PAGES[to]);
    } else if (page !== ALWAYS) {
      tables.unmap(address);
      map.delete(address);
    }
    const asid = BigInt(ASIDS[index]) * 2n ** 48n;
    const words = new Uint8Array(BigUint64Array.of(BigInt(how) + asid, BigInt(address)).buffer);
    const type = INVALIDATE_DATA_ARM_SMMUV3;
    const read = (_index: number, into: Uint8Array): void => into.set(words);
    this.run(this.viommu.invalidate!({ type, entryLength: 16, count: 1, done: 0, read }));
  }

  private map(address: number, physical: number): void {
    const { parent, host } = this.domains as Record<Target, PagingDomain>;
    for (const domain of [parent, host]) this.run(domain.map(BigInt(address), physical, PAGE_SIZE, RW));
    this.hostMap.set(address, physical);
  }

  private unmap(address: number): void {
    const { parent, host } = this.domains as Record<Target, PagingDomain>;
    for (const domain of [parent, host]) {
      const gather = newGather();
      this.run(domain.unmap(BigInt(address), PAGE_SIZE, gather));
      this.run(domain.sync(gather));
    }
    this.hostMap.delete(address);
  }

  private nested([ste0, ste1]: readonly [bigint, bigint]): Domain {
    const bytes = new Uint8Array(BigUint64Array.of(ste0, ste1).buffer);
    const data = { type: HWPT_DATA_ARM_SMMUV3, length: 16, bytes, write: () => undefined };
    return this.run(this.viommu.allocateNested!(this.device, 0, data));
  }

  /** What the objects say, slowly and obviously. */
  private expected(): View {
    const { current } = this;
    if (current === "nothing" || current === "abort" || current === "invalid") return PAGES.map(() => undefined);
    if (current !== "guest 0" && current !== "guest 1") return PAGES.map((address) => this.hostMap.get(address));
    const guestMap = this.guestMaps[current === "guest 0" ? 0 : 1];
    return PAGES.map((address) => this.hostMap.get(guestMap.get(address) ?? -1));
  }
}

describe("after every store, a guest's device translates as before the operation or as after it", () => {
  it.each([
    ["a full-featured SMMU", {}],
    ["without range invalidation", { rangeInvalidation: false }],
    [
      "a stream table of one level, whose entries may be invalid in between where two words of them change",
      { twoLevelStreamTable: false, streamIdBits: 6 },
    ],
  ] as const)("%s", (_, choices) => {
    const steps = fc.array(operation, { minLength: 20, maxLength: 60, size: "max" });
    fc.assert(
      fc.property(steps, (steps) => {
        const world = new World(choices);
        for (const step of steps) world.do(step);
        world.finish();
      }),
      { numRuns: 10 },
    );
  });
});
