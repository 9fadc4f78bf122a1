import { describe, expect, it } from "vitest";
import { Refusal } from "../runtime/index.ts";
import { EduDriver, IOVA } from "./edu-driver.test-support.ts";
import { buildMachine, presets } from "./index.ts";

const pattern = Array.from({ length: 64 }, (_, i) => i * 3 + 1);

describe("a machine", () => {
  it.each(Object.keys(presets))("%s: powers up, and down again to nothing", (name) => {
    const machine = buildMachine(presets[name]);
    expect(machine.vfio.devices.length + machine.uacce.devices.length).toBe(presets[name].devices.length);
    machine.system.run("power down", machine.powerDown());
    expect(machine.core.groups.size).toBe(0);
    expect(machine.memory.pinnedFrames).toBe(0);
  });

  it("default: two devices in groups of their own, and two functions that share one", () => {
    const machine = buildMachine(presets.default);
    const groups = [...machine.core.groups.values()].map((group) => group.devices.map((device) => device.name));
    expect(groups).toEqual([["0000:00:01.0"], ["0000:00:02.0"], ["0000:00:03.0", "0000:00:03.1"]]);
  });

  it("lets a device do DMA where memory is mapped, and nowhere else", () => {
    const machine = buildMachine(presets["two-edu"]);
    const faults: string[] = [];
    machine.onFault = (fault) => void faults.push(fault.text());
    const driver = new EduDriver(machine);
    driver.map();
    driver.set(0, pattern);
    driver.dma(IOVA, false);
    driver.dma(IOVA + 0x800n, true);
    expect(driver.get(0x800, 64)).toEqual(pattern);
    expect(faults).toEqual([]);

    driver.dma(IOVA + 0x1000n, true);
    expect(faults).toHaveLength(1);
    expect(faults[0]).toMatch(/write to 0x101000 by stream 0x8: F_TRANSLATION: .*bit 0/);
  });

  it("does the same behind a virtio IOMMU, and leaves nothing in it when it is powered down", () => {
    const machine = buildMachine(presets.virtio);
    const faults: string[] = [];
    machine.onFault = (fault) => void faults.push(fault.text());
    const driver = new EduDriver(machine);
    driver.map();
    driver.set(0, pattern);
    driver.dma(IOVA, false);
    driver.dma(IOVA + 0x800n, true);
    expect(driver.get(0x800, 64)).toEqual(pattern);
    expect(faults).toEqual([]);
    driver.unmap();
    driver.dma(IOVA, true);
    expect(faults).toEqual([
      "viommu0: write of endpoint 0x8 at 0x100000 faults: no mapping of its domain allows writing there",
    ]);

    driver.client.close(driver.device);
    driver.client.close(driver.iommu);
    const [{ description, hardware }] = machine.iommus;
    machine.system.run("power-down", machine.powerDown());
    expect(description.kind).toBe("virtio-iommu");
    expect(hardware.occupancy).toEqual({ domains: 0, mappings: 0 });
  });

  it("keeps a device from memory once its unmap returned, whatever the TLB held", () => {
    const machine = buildMachine(presets["two-edu"]);
    const driver = new EduDriver(machine);
    driver.map();
    driver.dma(IOVA, true);
    driver.set(0, pattern);
    driver.unmap();
    driver.dma(IOVA, true);
    expect(driver.get(0, 64)).toEqual(pattern);
    expect(machine.memory.pinnedFrames).toBe(0);
  });

  it("keeps two devices' address spaces apart", () => {
    const machine = buildMachine(presets["two-edu"]);
    const first = new EduDriver(machine);
    const second = new EduDriver(machine, "/dev/vfio/devices/vfio1");
    first.map();
    first.set(0, pattern);
    second.dma(IOVA, false);
    second.map();
    second.dma(IOVA, true);
    expect(second.get(0, 64)).toEqual(new Array(64).fill(0));
    expect(first.get(0, 64)).toEqual(pattern);
  });

  it("takes everything back when the files are closed", () => {
    const machine = buildMachine(presets["two-edu"]);
    const tables = machine.memory.usedFrames;
    const driver = new EduDriver(machine);
    driver.map();
    driver.client.process.exit();
    machine.system.tasks.drain();
    expect(machine.memory.pinnedFrames).toBe(0);
    expect(machine.memory.usedFrames).toBe(tables);
    expect(machine.core.groups.get(0)?.ownerCount).toBe(0);
  });

  it("says why it refuses", () => {
    const driver = new EduDriver(buildMachine(presets["two-edu"]));
    driver.map();
    expect(() => driver.map()).toThrow(Refusal);
    try {
      driver.map();
    } catch (refusal) {
      expect(String(refusal)).toBe("EEXIST: 0x100000-0x100fff overlaps the area 0x100000-0x100fff of IOAS 2");
    }
  });
});
