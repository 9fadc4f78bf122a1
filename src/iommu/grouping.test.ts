import { describe, expect, it } from "vitest";
import { ACS, accessControl, express, MsiController, PciFunction, PciHost } from "../pci/index.ts";
import { System } from "../runtime/index.ts";
import { IommuCore } from "./core.ts";
import { Device } from "./device.ts";
import { FakeDriver, fakeInstance } from "./fake-driver.test-support.ts";
import { pciDeviceGroup } from "./grouping.ts";

const ALL = ACS.sourceValidation | ACS.requestRedirect | ACS.completionRedirect | ACS.upstreamForwarding;

/** The groups of functions at the given places (`[device, function, ACS capabilities]`). */
function groupsOf(...places: [device: number, number: number, acs?: number][]): number[] {
  const system = new System();
  const target = {
    *access() {
      return false;
    },
  };
  const host = new PciHost(system, {
    target,
    interrupts: new MsiController({ start: 0xfee00000n, last: 0xfeefffffn }),
  });
  const functions = places.map(([device, number, acs]) => {
    const capabilities = acs === undefined ? [express()] : [express(), accessControl(acs)];
    const made = new PciFunction({ vendor: 0x1234, device: 0x11e8, classCode: 0xff00, capabilities });
    host.root.add(made, device, number);
    return made;
  });
  host.enumerate();
  const core = new IommuCore(system, { defaultDomain: "identity" });
  const driver = new FakeDriver(core);
  driver.groupFor = pciDeviceGroup;
  return system.run(
    "test",
    (function* () {
      yield* core.register(fakeInstance(driver, "iommu0"));
      const groups: number[] = [];
      for (const pci of functions) {
        const device = new Device({
          name: pci.name,
          pci,
          firmware: { instance: "iommu0", streamIds: [pci.requesterId] },
        });
        yield* core.probe(device);
        groups.push(device.group!.id);
      }
      return groups;
    })(),
  );
}

describe("groups of PCI functions", () => {
  it("keep single functions apart", () => {
    expect(groupsOf([1, 0], [2, 0], [3, 0])).toEqual([0, 1, 2]);
  });

  it("hold the functions of one device together where nothing keeps them apart", () => {
    expect(groupsOf([1, 0], [1, 1], [2, 0])).toEqual([0, 0, 1]);
  });

  it("keep functions apart that have all the access controls", () => {
    expect(groupsOf([1, 0, ALL], [1, 1, ALL])).toEqual([0, 1]);
    expect(groupsOf([1, 0, ALL], [1, 1], [1, 2])).toEqual([0, 1, 1]);
  });
});
