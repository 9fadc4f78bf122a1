/** PASIDs of a device as its user sees them: VFIO's attach and detach with a PASID, on a whole machine. */
import { describe, expect, it } from "vitest";
import { EINVAL } from "../runtime/index.ts";
import { HWPT_ALLOC_PASID } from "../uapi/index.ts";
import type { MachineInput } from "./index.ts";
import { Lab } from "./lab.test-support.ts";

const devices: MachineInput["devices"] = [{ model: "edu", address: "00:01.0", capabilities: { pasid: 16 } }];
const IOVA = 0x10000;

describe.each<[string, MachineInput]>([
  ["an SMMUv3", { iommus: [{ kind: "smmuv3" }], devices }],
  [
    "a virtio IOMMU that walks tables",
    { iommus: [{ kind: "virtio-iommu", features: { attachTable: true } }], devices },
  ],
])("a device that can send PASIDs, behind %s,", (_, input) => {
  function setUp() {
    const lab = new Lab(input);
    const device = lab.open(0);
    const id = lab.bind(device);
    /** A HWPT on an IOAS of its own, in which the device reads `value`. */
    const hwpt = (value: number, flags = HWPT_ALLOC_PASID): number => lab.hwpt(id, lab.ioas(value), flags);
    const read = (pasid?: number): number | undefined => lab.dma(0, IOVA, pasid);
    return { lab, device, hwpt, read };
  }

  it("reaches an address space by each", () => {
    const { lab, device, hwpt, read } = setUp();
    const [own, first, second] = [hwpt(1), hwpt(2), hwpt(3)];
    lab.attach(device, own);
    lab.attach(device, first, 5);
    lab.attach(device, second, 6000);
    expect([read(), read(5), read(6000), read(6)]).toEqual([1, 2, 3, undefined]);
    lab.attach(device, second, 5);
    expect(read(5)).toBe(3);
    lab.detach(device, 5);
    expect([read(5), read()]).toEqual([undefined, 1]);
  });

  it("needs HWPTs that were allocated for PASIDs", () => {
    const { lab, device, hwpt } = setUp();
    expect(lab.errno(() => lab.attach(device, hwpt(1, 0), 5))).toBe(EINVAL);
    lab.attach(device, hwpt(1, 0));
    expect(lab.errno(() => lab.attach(device, hwpt(2), 5))).toBe(EINVAL);
  });
});
