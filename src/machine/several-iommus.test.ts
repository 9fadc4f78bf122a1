import { describe, expect, it } from "vitest";
import { EINVAL } from "../runtime/index.ts";
import type { MachineInput } from "./index.ts";
import { Lab } from "./lab.test-support.ts";

const PAGE = 0x10000;

/** Device 0 is behind the first IOMMU, devices 1 and 2 behind the second. */
function behindTwo(first: NonNullable<MachineInput["iommus"]>[number], second: typeof first): Lab {
  const iommus = [
    { ...first, name: "first" },
    { ...second, name: "second" },
  ];
  const devices = ["first", "second", "second"].map((iommu) => ({ model: "edu" as const, iommu }));
  return new Lab({ iommus, devices });
}

describe.each([
  ["two SMMUs with different stages", { kind: "smmuv3" }, { kind: "smmuv3", features: { stage1: false } }],
  [
    "two SMMUs with different granules and stream tables",
    { kind: "smmuv3", features: { granules: ["4KiB"], outputBits: 44 } },
    { kind: "smmuv3", features: { granules: ["4KiB", "64KiB"], twoLevelStreamTable: false, rangeInvalidation: false } },
  ],
  ["two SMMUs that are alike", { kind: "smmuv3" }, { kind: "smmuv3" }],
  ["an SMMU and a virtio IOMMU", { kind: "smmuv3" }, { kind: "virtio-iommu", features: { inputBits: 40 } }],
  ["two virtio IOMMUs", { kind: "virtio-iommu" }, { kind: "virtio-iommu", features: { bypass: "off" } }],
] as const)("%s", (_, first, second) => {
  const lab = (): Lab => behindTwo(structuredClone(first) as never, structuredClone(second) as never);

  it("have the same IOAS, each with a HWPT of its own for all its devices", () => {
    const world = lab();
    const devices = [0, 1, 2].map((number) => world.bound(number));
    const ioas = world.ioas(42);
    const hwpts = devices.map((device) => world.attach(device, ioas));
    expect(hwpts[1]).toBe(hwpts[2]);
    expect(hwpts[0]).not.toBe(hwpts[1]);
    expect([0, 1, 2].map((index) => world.dma(index, PAGE))).toEqual([42, 42, 42]);
    expect([0, 1, 2].map((index) => world.dma(index, PAGE + 0x1000))).toEqual([undefined, undefined, undefined]);

    const other = world.ioas(43);
    world.attach(devices[1], other);
    expect([0, 1, 2].map((index) => world.dma(index, PAGE))).toEqual([42, 43, 42]);
    world.detach(devices[0]);
    expect([0, 1, 2].map((index) => world.dma(index, PAGE))).toEqual([undefined, 43, 42]);
    world.attach(devices[0], other);
    expect([0, 1, 2].map((index) => world.dma(index, PAGE))).toEqual([43, 43, 42]);
  });

  it("refuse each other's HWPTs, at attach and at replace", () => {
    const world = lab();
    const [left, right] = [world.bound(0), world.bound(1)];
    const ioas = world.ioas(42);
    const [own, foreign] = [world.hwpt(1, ioas), world.hwpt(2, ioas)];
    expect(world.errno(() => world.attach(left, foreign))).toBe(EINVAL);
    expect(world.attach(left, own)).toBe(own);
    expect(world.errno(() => world.attach(left, foreign))).toBe(EINVAL);
    expect(world.errno(() => world.attach(right, own))).toBe(EINVAL);
    expect([world.dma(0, PAGE), world.dma(1, PAGE)]).toEqual([42, undefined]);
  });

  it("do not share domains in the core either", () => {
    const { machine, errno } = lab();
    const [left, right] = machine.devices;
    const run = <T>(code: import("../runtime/index.ts").Task<T>): T => machine.system.run("test", code);
    const domain = run(right.iommu!.instance.driver.allocatePaging(right, 0, undefined));
    run(left.group!.claim(left, {}));
    const before = left.group!.domain;
    expect(errno(() => run(left.group!.attach(domain, {})))).toBe(EINVAL);
    expect(errno(() => run(left.group!.replace(domain, {})))).toBe(EINVAL);
    expect(left.group!.domain).toBe(before);
    domain.free();
  });

  it("are gone one by one, with their devices", () => {
    const { machine } = lab();
    const [instance] = machine.core.instances.values();
    machine.system.run("unregister", machine.core.unregister(instance));
    expect(machine.devices.map(({ group }) => group?.id)).toEqual([undefined, 1, 2]);
    machine.files.refresh();
    const paths = [...machine.files.nodes.keys()];
    expect(paths.filter((path) => /^\/sys\/class\/iommu\/[^/]+$/.test(path))).toHaveLength(1);
    expect(paths.filter((path) => /^\/sys\/devices\/virtual\/iommu\/[^/]+\/devices$/.test(path))).toHaveLength(1);
  });
});
