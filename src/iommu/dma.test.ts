import { describe, expect, it } from "vitest";
import { addressTranslation, express, PciDevice } from "../pci/index.ts";
import { sweepFailures } from "../runtime/failures.test-support.ts";
import { EBUSY, EIO, ENOMEM, type SimulatedClock, System, type Task } from "../runtime/index.ts";
import type { DefaultDomainType } from "./default-domain.ts";
import type { Device, DeviceOptions } from "./device.ts";
import { mapDma, unmapDma } from "./dma.ts";
import { type PagingDomain, PROT_READ, PROT_WRITE, type ReservedRegion } from "./driver.ts";
import type { FakeDriver, FakePagingDomain } from "./fake-driver.test-support.ts";
import type { UnmapGather } from "./gather.ts";
import { groupOf, useDefaultDomain } from "./group.ts";
import { finishReset, prepareReset } from "./reset-window.ts";
import { stateOfCore } from "./state.test-support.ts";
import { setUp } from "./world.test-support.ts";

const PAGE = 4096;
const RW = PROT_READ | PROT_WRITE;

/** A device of a kernel driver; `syncs` counts how often the hardware was made to forget. */
function driven(
  defaultDomain: DefaultDomainType,
  change: (driver: FakeDriver) => void = () => undefined,
  options: Partial<DeviceOptions> = {},
) {
  const world = setUp({ defaultDomain });
  change(world.driver);
  world.run(world.core.register(world.instance));
  const device = world.device("a", "iommu0", options);
  world.run(world.core.probe(device));
  world.run(useDefaultDomain(device));
  const domain = groupOf(device).defaultDomain as FakePagingDomain;
  const forgotten = { syncs: 0 };
  domain.sync = function* (_gather: UnmapGather): Task<void> {
    forgotten.syncs++;
  };
  const map = (physical: number, size = PAGE): bigint => world.run(mapDma(device, physical, size, RW));
  const unmap = (iova: bigint, size = PAGE): void => world.run(unmapDma(device, iova, size));
  const pass = (milliseconds: number): void => {
    (world.system.clock as SimulatedClock).advance(milliseconds * 1e6);
    world.system.tasks.drain();
  };
  return { ...world, device: device as Device, domain, forgotten, map, unmap, pass };
}

describe("addresses of a kernel driver", () => {
  it("are the highest below 4 GiB, aligned to their size, and physical ones without translation", () => {
    const { map } = driven("dma");
    expect(map(0x1000)).toBe(0xffff_f000n);
    expect(map(0x10000, 3 * PAGE)).toBe(0xffff_c000n);
    expect(map(0x2000)).toBe(0xffff_b000n);
    expect(map(0x40_0000, 2 ** 22)).toBe(0xffa0_0000n);
    expect(driven("identity").map(0x12345, 10)).toBe(0x12345n);
  });

  it("keep the place in the page, and show whole pages", () => {
    const { map, unmap, domain } = driven("dma");
    const iova = map(0x1ffc, 8);
    expect(iova).toBe(0xffff_effcn);
    expect([domain.translate(0xffff_e000n), domain.translate(0xffff_f000n)]).toEqual([0x1000, 0x2000]);
    unmap(iova, 8);
    expect(domain.pages.size).toBe(0);
  });

  it("lie above 4 GiB when there is no room below, never in a reserved region, and end", () => {
    const region = (start: bigint, last: bigint): ReservedRegion => ({ start, last, type: "reserved" });
    const { map, unmap, run, device, errno, domain } = driven("dma", (driver) => {
      driver.regions = () => [region(0x4000n, 0x1_0000_0fffn), region(0x1_0000_3000n, 2n ** 64n - 1n)];
    });
    expect(domain.aperture.last).toBeGreaterThan(2n ** 32n);
    const low = [map(0), map(0), map(0)];
    expect(low).toEqual([0x3000n, 0x2000n, 0x1000n]);
    expect([map(0), map(0)]).toEqual([0x1_0000_2000n, 0x1_0000_1000n]);
    expect(errno(mapDma(device, 0, PAGE, RW))).toBe(ENOMEM);
    unmap(0x2000n);
    expect(run(mapDma(device, 0, PAGE, RW))).toBe(0x2000n);
  });

  it("do not exist where the default domain blocks", () => {
    const { errno, device } = driven("dma", (driver) => {
      driver.defaultDomain = driver.blockedDomain;
    });
    expect(errno(mapDma(device, 0, PAGE, RW))).toBe(EIO);
  });

  it("are free again when mapping fails", () => {
    const { system, core, driver, device, run, domain } = driven("dma-fq");
    let iova = 0n;
    const points = sweepFailures(system, {
      act: () => {
        iova = run(mapDma(device, 0x1000, PAGE, RW));
      },
      undo: () => {
        run(unmapDma(device, iova, PAGE));
        run(domain.dmaSpace!.flush());
      },
      state: () => [stateOfCore(core, [device]), [...driver.domains].map(({ pages }) => [...pages])],
    });
    expect(points).toEqual(["iommu.dma.map", "fake.domain.map"]);
    expect(iova).toBe(0xffff_f000n);
  });
});

describe("what is unmapped", () => {
  it("is forgotten before unmap returns, where the domain is strict", () => {
    const { map, unmap, forgotten } = driven("dma");
    const iova = map(0x1000);
    unmap(iova);
    expect(forgotten.syncs).toBe(1);
    expect(map(0x2000)).toBe(iova);
  });

  it("keeps its address until the hardware was made to forget it, all of it at once, 10 ms later", () => {
    const { map, unmap, pass, forgotten, domain } = driven("dma-fq");
    const [first, second] = [map(0x1000), map(0x2000)];
    unmap(first);
    pass(9);
    unmap(second);
    expect([forgotten.syncs, domain.pages.size]).toEqual([0, 0]);
    const third = map(0x3000);
    expect([first, second]).not.toContain(third);
    pass(1);
    expect(forgotten.syncs).toBe(1);
    expect([map(0), map(0)]).toEqual([first, second]);
    pass(100);
    expect(forgotten.syncs).toBe(1);
  });

  it("is forgotten when 256 wait, or when no other address is free", () => {
    const many = driven("dma-fq");
    for (let count = 1; count <= 256; count++) {
      many.unmap(many.map(0));
      expect(many.forgotten.syncs).toBe(count === 256 ? 1 : 0);
    }
    const few = driven("dma-fq", (driver) => {
      driver.regions = () => [{ start: 0x2000n, last: 2n ** 64n - 1n, type: "reserved" }];
    });
    few.unmap(few.map(0));
    expect([few.forgotten.syncs, few.map(0), few.forgotten.syncs]).toEqual([0, 0x1000n, 1]);
  });

  it("is forgotten before anything is mapped, if a table was unlinked that the hardware may still walk", () => {
    const { map, unmap, forgotten, domain } = driven("dma-fq");
    const unmapLeaves = domain.unmap.bind(domain);
    (domain as PagingDomain).unmap = function* (iova, size, gather): Task<number> {
      gather.freedTables.push(1);
      return yield* unmapLeaves(iova, size);
    };
    const iova = map(0x1000);
    unmap(iova);
    expect(forgotten.syncs).toBe(0);
    expect([map(0x2000), forgotten.syncs]).toEqual([iova, 1]);
    map(0x3000);
    expect(forgotten.syncs).toBe(1);
  });

  it("is forgotten later as soon as the type becomes DMA-FQ", () => {
    const { map, unmap, pass, forgotten, run, core, device } = driven("dma");
    const [first, second] = [map(0), map(0)];
    unmap(first);
    run(core.setDefaultDomainType(groupOf(device), "dma-fq"));
    unmap(second);
    expect(forgotten.syncs).toBe(1);
    pass(10);
    expect(forgotten.syncs).toBe(2);
  });

  it("is forgotten before its domain is freed", () => {
    const { map, unmap, pass, forgotten, run, core, device, driver } = driven("dma-fq");
    unmap(map(0));
    run(core.release(device));
    expect([forgotten.syncs, driver.domains.size]).toEqual([1, 0]);
    pass(100);
    expect(forgotten.syncs).toBe(1);
  });
});

describe("a device whose attach was deferred", () => {
  class AtsFunction extends PciDevice {
    constructor() {
      const capabilities = [express({ type: "integratedEndpoint" }), addressTranslation()];
      super(new System(), { vendor: 1, device: 2, revision: 0, classCode: 0, capabilities, bars: [] });
    }

    protected override reset(): void {}
  }

  it("is attached by the first mapping, but not while it is reset", () => {
    const deferring = (driver: FakeDriver): void => {
      driver.defersAttach = () => true;
      driver.attach = function (device, domain) {
        this.attached.set(device, domain);
      };
    };
    const { map, driver, device, domain } = driven("dma", deferring);
    expect([driver.attached.get(device), device.iommu!.attachDeferred]).toEqual([undefined, true]);
    map(0x1000);
    expect([driver.attached.get(device), device.iommu!.attachDeferred]).toEqual([domain, false]);

    const other = driven("dma", deferring, { pci: new AtsFunction() });
    // As where the attach was deferred, and the reset came before any DMA.
    other.run(prepareReset(other.device));
    other.device.iommu!.attachDeferred = true;
    expect(other.errno(mapDma(other.device, 0, PAGE, RW))).toBe(EBUSY);
    expect([other.device.iommu!.attachDeferred, other.domain.pages.size]).toEqual([true, 0]);
    other.run(finishReset(other.device));
    other.map(0);
    expect(other.driver.attached.get(other.device)).toBe(other.domain);
  });
});
