/** PASIDs of a device as its user sees them: VFIO's attach and detach with a PASID, on a whole machine. */
import { describe, expect, it } from "vitest";
import { EINVAL, Refusal } from "../runtime/index.ts";
import {
  ATTACH_FLAG_PASID,
  AttachIommufdPt,
  BindIommufd,
  DetachIommufdPt,
  HWPT_ALLOC_PASID,
  HwptAlloc,
  IoasAlloc,
  IoasMap,
  iommufdCommands,
  MAP_FIXED_IOVA,
  MAP_READABLE,
  MAP_WRITEABLE,
  VFIO_DEVICE_ATTACH,
  VFIO_DEVICE_BIND,
  VFIO_DEVICE_DETACH,
} from "../uapi/index.ts";
import { buildMachine, defineMachine, LibraryClient, presets } from "./index.ts";

const { HWPT_ALLOC, IOAS_ALLOC, IOAS_MAP } = iommufdCommands;
const IOVA = 0x10_0000n;
const COMMAND = 7 * 2 ** 40 + 4;

const virtio = defineMachine({
  iommus: [{ kind: "virtio-iommu", features: { attachTable: true } }],
  devices: [{ model: "edu", address: "00:01.0", capabilities: { pasid: 16 } }],
});

function setUp(description = presets.nested) {
  const machine = buildMachine(description);
  const client = new LibraryClient(machine);
  const iommu = client.open("/dev/iommu");
  const file = client.open("/dev/vfio/devices/vfio0");
  const { out_devid: dev_id } = client.ioctl(file, VFIO_DEVICE_BIND, new BindIommufd(), { argsz: 16, iommufd: iommu });
  client.write(file, COMMAND, Uint8Array.of(6, 0));
  /** A HWPT on an IOAS of its own, with a page of its own at IOVA. */
  const space = (flags = HWPT_ALLOC_PASID): { hwpt: number; page: number } => {
    const page = client.process.memory.map(1);
    const { out_ioas_id: ioas_id } = client.ioctl(iommu, IOAS_ALLOC.number, new IoasAlloc(), { size: 12 });
    const flagsOfMap = MAP_FIXED_IOVA | MAP_READABLE | MAP_WRITEABLE;
    const map = { size: 40, flags: flagsOfMap, ioas_id, user_va: BigInt(page), length: 4096n, iova: IOVA };
    client.ioctl(iommu, IOAS_MAP.number, new IoasMap(), map);
    const alloc = { size: 48, flags, dev_id, pt_id: ioas_id };
    return { hwpt: client.ioctl(iommu, HWPT_ALLOC.number, new HwptAlloc(), alloc).out_hwpt_id, page };
  };
  const attach = (pt_id: number, pasid?: number): void => {
    const flags = pasid === undefined ? 0 : ATTACH_FLAG_PASID;
    client.ioctl(file, VFIO_DEVICE_ATTACH, new AttachIommufdPt(), { argsz: 16, flags, pt_id, pasid: pasid ?? 0 });
  };
  const detach = (pasid: number): void => {
    client.ioctl(file, VFIO_DEVICE_DETACH, new DetachIommufdPt(), { argsz: 12, flags: ATTACH_FLAG_PASID, pasid });
  };
  const { dma } = machine.pci.find("0000:00:01.0")!;
  const write = (value: number, pasid?: number): boolean =>
    machine.system.run("dma", dma.write(IOVA, Uint8Array.of(value), pasid));
  const byteAt = (address: number): number => {
    const bytes = new Uint8Array(1);
    client.process.memory.read(address, bytes);
    return bytes[0];
  };
  return { space, attach, detach, write, byteAt };
}

describe.each([
  ["an SMMUv3", presets.nested],
  ["a virtio IOMMU that walks tables", virtio],
])("a device that can send PASIDs, behind %s,", (_, description) => {
  it("reaches an address space by each", () => {
    const { space, attach, detach, write, byteAt } = setUp(description);
    const [own, first, second] = [space(), space(), space()];
    attach(own.hwpt);
    attach(first.hwpt, 5);
    attach(second.hwpt, 6000);
    expect([write(1), write(2, 5), write(3, 6000), write(4, 6)]).toEqual([true, true, true, false]);
    expect([own, first, second].map(({ page }) => byteAt(page))).toEqual([1, 2, 3]);
    attach(second.hwpt, 5);
    expect([write(5, 5), byteAt(second.page), byteAt(first.page)]).toEqual([true, 5, 2]);
    detach(5);
    expect([write(6, 5), write(7), byteAt(own.page)]).toEqual([false, true, 7]);
  });

  it("needs HWPTs that were allocated for PASIDs", () => {
    const { space, attach } = setUp(description);
    expect(() => attach(space(0).hwpt, 5)).toThrow(Refusal);
    const own = space(0);
    attach(own.hwpt);
    try {
      attach(space().hwpt, 5);
      expect.unreachable();
    } catch (error) {
      expect((error as Refusal).errno).toBe(EINVAL);
    }
  });
});
