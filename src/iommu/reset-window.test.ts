import { describe, expect, it } from "vitest";
import { addressTranslation, express, PciDevice } from "../pci/index.ts";
import { EBUSY, EINVAL, System } from "../runtime/index.ts";
import { Device } from "./device.ts";
import type { FakePagingDomain } from "./fake-driver.test-support.ts";
import { groupOf } from "./group.ts";
import { attachPasid, detachPasid, replacePasid } from "./pasid.ts";
import { finishReset, prepareReset } from "./reset-window.ts";
import { setUp } from "./world.test-support.ts";

class AtsFunction extends PciDevice {
  constructor() {
    super(new System(), {
      vendor: 1,
      device: 2,
      revision: 0,
      classCode: 0,
      capabilities: [express({ type: "integratedEndpoint" }), addressTranslation()],
      bars: [],
    });
  }

  protected override reset(): void {}
}

/** Two devices in one group that use ATS and PASIDs, and what each of them translates through. */
function twoWithAts() {
  const world = setUp({ share: true });
  const { driver, core, run } = world;
  driver.usePasids();
  run(core.register(world.instance));
  const device = (name: string, untrusted = false): Device => {
    const firmware = { instance: "iommu0", streamIds: [0], pasidBits: 8 };
    const made = new Device({ name, pci: new AtsFunction(), firmware, untrusted });
    run(core.probe(made));
    return made;
  };
  const [a, b] = [device("a"), device("b")];
  const domain = (): FakePagingDomain => run(driver.allocatePaging()) as FakePagingDomain;
  const on = (): unknown[] => [driver.attached.get(a), driver.attached.get(b)];
  return { ...world, newDevice: device, a, b, group: groupOf(a), domain, on, pasids: driver.pasids };
}

describe("while a device is reset", () => {
  it("it is blocked, its PASIDs too, and then has back what its group has", () => {
    const { run, a, group, domain, on, pasids, driver } = twoWithAts();
    const [own, other] = [domain(), domain()];
    run(group.attach(own, {}));
    run(attachPasid(group, other, 3, {}));
    run(prepareReset(a));
    expect(on()).toEqual([driver.blockedDomain, own]);
    expect([...pasids]).toEqual([["b:3", other]]);
    expect([group.domain, group.pasidDomains.get(3)]).toEqual([own, other]);
    run(finishReset(a));
    expect(on()).toEqual([own, own]);
    expect([...pasids.values()]).toEqual([other, other]);
  });

  it("nothing is attached or replaced, but detaching works, and the device follows", () => {
    const { run, errno, a, group, domain, on, pasids, driver } = twoWithAts();
    run(group.attach(domain(), {}));
    run(attachPasid(group, domain(), 3, {}));
    run(prepareReset(a));
    expect(errno(group.replace(domain(), {}))).toBe(EBUSY);
    expect(errno(attachPasid(group, domain(), 4, {}))).toBe(EBUSY);
    expect(errno(replacePasid(group, domain(), 3, {}))).toBe(EBUSY);
    run(group.detach());
    run(detachPasid(group, 3));
    expect(on()).toEqual([driver.blockedDomain, group.defaultDomain]);
    expect(errno(group.attach(domain(), {}))).toBe(EBUSY);
    run(finishReset(a));
    expect(on()).toEqual([group.defaultDomain, group.defaultDomain]);
    expect(pasids.size).toBe(0);
    expect(errno(group.attach(domain(), {}))).toBeUndefined();
  });

  it("resets inside it change nothing", () => {
    const { run, errno, a, b, group, domain, on, driver } = twoWithAts();
    run(prepareReset(a));
    run(prepareReset(a));
    run(prepareReset(b));
    run(finishReset(a));
    expect(on()).toEqual([driver.blockedDomain, driver.blockedDomain]);
    run(finishReset(a));
    expect(on()).toEqual([group.defaultDomain, driver.blockedDomain]);
    expect(errno(group.attach(domain(), {}))).toBe(EBUSY);
    run(finishReset(b));
    expect(errno(group.attach(domain(), {}))).toBeUndefined();
  });

  it("a device that needs its direct regions refuses, and stays as it is", () => {
    const { errno, a, group, on, driver } = twoWithAts();
    driver.blockedDomain = undefined;
    a.iommu!.requireDirect = true;
    const domains = driver.domains.size;
    expect(errno(prepareReset(a))).toBe(EINVAL);
    expect([...on(), group.blockingDomain, driver.domains.size, a.iommu!.resetDepth]).toEqual([
      group.defaultDomain,
      group.defaultDomain,
      undefined,
      domains,
      0,
    ]);
  });

  it("a driver that does not take it back leaves it blocked", () => {
    const { run, a, group, on, driver, system } = twoWithAts();
    const warnings: unknown[] = [];
    system.events.listen((event) => {
      if (event.kind === "iommu.warning") warnings.push(event);
    });
    run(prepareReset(a));
    driver.refuses = (device, to) => device === a && to === group.defaultDomain;
    run(finishReset(a));
    expect(on()).toEqual([driver.blockedDomain, group.defaultDomain]);
    expect([warnings.length, a.iommu!.stranded]).toEqual([1, true]);
  });

  it("one without ATS, or without trust, goes on as before", () => {
    const { run, newDevice, driver, group, device, core } = twoWithAts();
    const plain = device("plain");
    run(core.probe(plain));
    for (const each of [plain, newDevice("c", true)]) {
      run(prepareReset(each));
      expect(driver.attached.get(each)).toBe(group.defaultDomain);
      run(finishReset(each));
    }
  });
});
