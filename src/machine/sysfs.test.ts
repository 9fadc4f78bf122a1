import { describe, expect, it } from "vitest";
import { EACCES, EADDRINUSE, EBUSY, EINVAL, ENODEV, EPERM } from "../runtime/index.ts";
import { IoasAlloc, IoasMap, iommufdCommands, MAP_FIXED_IOVA, MAP_READABLE } from "../uapi/index.ts";
import { LibraryClient, type MachineInput } from "./index.ts";
import { Lab } from "./lab.test-support.ts";

const PCI = "/sys/bus/pci";
const GROUPS = "/sys/kernel/iommu_groups";

/** A client that is root, on a machine with these devices. */
function root(devices: MachineInput["devices"], more: Omit<MachineInput, "devices"> = {}) {
  const lab = new Lab({ ...more, devices });
  const { machine, client } = lab;
  return {
    machine,
    client,
    bind: (number: number) => lab.bound(number),
    errno: (act: () => unknown) => lab.errno(act),
    echo: (text: string, path: string) => lab.errno(() => client.writeText(path, text)),
    cat: (path: string) => client.readText(path),
  };
}

describe("writing an IOMMU group's type", () => {
  it("changes how the hardware translates", () => {
    const { machine, echo, cat } = root([{ model: "edu" }]);
    const [{ pci }] = machine.devices;
    machine.memory.write(0x4000_0000, Uint8Array.of(1, 2, 3, 4));
    const reads = (): boolean => machine.system.run("DMA", pci!.dma.read(0x4000_0000n, new Uint8Array(4)));
    pci!.writeConfig(4, 2, 6);
    expect([cat(`${GROUPS}/0/type`), reads()]).toEqual(["DMA\n", false]);
    expect(echo("identity", `${GROUPS}/0/type`)).toBeUndefined();
    expect([cat(`${GROUPS}/0/type`), reads()]).toEqual(["identity\n", true]);
    expect(echo("DMA-FQ", `${GROUPS}/0/type`)).toBeUndefined();
    expect([cat(`${GROUPS}/0/type`), reads()]).toEqual(["DMA-FQ\n", false]);
  });

  it("is for root, and while nobody uses the group", () => {
    const { machine, echo, errno, bind, client } = root([{ model: "edu" }]);
    const user = new LibraryClient(machine);
    expect(errno(() => user.writeText(`${GROUPS}/0/type`, "identity"))).toBe(EACCES);
    const device = bind(0);
    expect(echo("identity", `${GROUPS}/0/type`)).toBe(EPERM);
    client.close(device);
    expect(echo("identity", `${GROUPS}/0/type`)).toBeUndefined();
  });
});

/** What Linux 7.2 answers with VT-d, two functions in one group and virtio-pci as the kernel's driver. */
describe("a kernel driver beside vfio-pci in one group", () => {
  const twin = (driver: "edu" | "none") =>
    root([
      { model: "edu", address: "00:09.0" },
      { model: "edu", address: "00:09.1", driver },
    ]);
  const [bindEdu, unbindEdu] = [`${PCI}/drivers/edu/bind`, `${PCI}/drivers/edu/unbind`];
  const other = "0000:00:09.1";

  it("keeps users of the group away while it is bound", () => {
    const { echo, errno, bind, cat, machine } = twin("edu");
    expect(machine.core.groups.get(0)!.ownerCount).toBe(1);
    expect(errno(() => bind(0))).toBe(EPERM);
    expect(["identity", "DMA-FQ", "DMA"].map((type) => echo(type, `${GROUPS}/0/type`))).toEqual([
      EPERM,
      undefined,
      EPERM,
    ]);
    expect(echo(other, unbindEdu)).toBeUndefined();
    expect(echo("identity", `${GROUPS}/0/type`)).toBeUndefined();
    bind(0);
    expect(cat(`/sys/devices/pci0000:00/${other}/uevent`)).not.toContain("DRIVER");
  });

  it("cannot be bound while somebody has the group", () => {
    const { echo, bind, machine, client } = twin("none");
    const device = bind(0);
    expect(echo(other, bindEdu)).toBe(EBUSY);
    expect(echo(other, `${PCI}/drivers_probe`)).toBe(EINVAL);
    expect(machine.core.groups.get(0)!.ownerCount).toBe(1);
    const override = `/sys/devices/pci0000:00/${other}/driver_override`;
    expect(echo("vfio-pci", override)).toBeUndefined();
    expect(echo(other, `${PCI}/drivers_probe`)).toBeUndefined();
    expect(echo(other, `${PCI}/drivers_probe`)).toBeUndefined();
    expect(echo(other, `${PCI}/drivers/vfio-pci/bind`)).toBe(EBUSY);
    expect(echo(other, bindEdu)).toBe(ENODEV);
    expect(echo(other, unbindEdu)).toBe(ENODEV);
    expect(echo(other, `${PCI}/drivers/vfio-pci/unbind`)).toBeUndefined();
    expect(echo(other, `${PCI}/drivers/vfio-pci/unbind`)).toBe(ENODEV);
    expect(echo("", override)).toBeUndefined();
    expect(echo(other, `${PCI}/drivers/vfio-pci/bind`)).toBe(ENODEV);
    client.close(device);
    expect(echo(other, bindEdu)).toBeUndefined();
    expect(echo("0000:99:00.0", `${PCI}/drivers_probe`)).toBe(ENODEV);
    machine.system.run("power down", machine.powerDown());
    expect(machine.core.groups.size).toBe(0);
  });
});

describe("reserved regions of a machine file", () => {
  type Regions = NonNullable<NonNullable<MachineInput["devices"]>[number]["reserved"]>;
  const reserved: Regions = [
    { type: "direct-relaxable", start: 0x9000_0000, size: "8KiB" },
    { type: "reserved", start: 0x2000_0000, size: "1MiB" },
    { type: "reserved", start: 0x2010_0000, size: "1MiB" },
  ];

  it.each([
    ["smmuv3", "0x0000000008000000 0x00000000080fffff msi\n"],
    ["virtio-iommu", "0x0000000008000000 0x00000000080fffff msi\n"],
  ] as const)("are shown with those of the %s, sorted and joined", (kind, own) => {
    const { cat } = root([{ model: "edu", reserved }], { iommus: [{ kind }] });
    expect(cat(`${GROUPS}/0/reserved_regions`)).toBe(
      `${own}0x0000000020000000 0x00000000201fffff reserved\n0x0000000090000000 0x0000000090001fff direct-relaxable\n`,
    );
  });

  it.each(["smmuv3", "virtio-iommu"] as const)("that are direct stay mapped 1:1, behind a %s", (kind) => {
    const base = 0x4000_0000;
    const direct: Regions = [{ type: "direct", start: base, size: "8KiB" }];
    const { machine, client, errno, bind, echo } = root([{ model: "edu", reserved: direct }], { iommus: [{ kind }] });
    const [{ pci }] = machine.devices;
    pci!.writeConfig(4, 2, 6);
    const reads = (address: number): boolean =>
      machine.system.run("DMA", pci!.dma.read(BigInt(address), new Uint8Array(4)));
    expect([reads(base), reads(base + 8192)]).toEqual([true, false]);
    expect(errno(() => bind(0))).toBe(EINVAL);
    expect([reads(base), reads(base + 8192)]).toEqual([true, false]);
    expect(echo("DMA", `${GROUPS}/0/type`)).toBeUndefined();
    expect([reads(base), reads(base + 8192)]).toEqual([true, false]);
    const [device] = machine.devices;
    machine.system.run("release", machine.core.release(device));
    expect(reads(base)).toBe(true);
    machine.system.run("probe", machine.core.probe(device));
    expect([reads(base), reads(base + 8192)]).toEqual([true, false]);
    client.process.exit();
    machine.system.run("power down", machine.powerDown());
  });

  it("are kept free in every IOAS that the device is attached to, but for those that only the kernel needs", () => {
    const regions: Regions = [
      { type: "reserved", start: 0x10000, size: "4KiB" },
      { type: "direct-relaxable", start: 0x20000, size: "4KiB" },
    ];
    const lab = new Lab({ devices: [{ model: "edu", reserved: regions }] });
    const { client, iommu } = lab;
    const device = lab.bound(0);
    const taken = lab.ioas();
    expect(lab.errno(() => lab.attach(device, taken))).toBe(EADDRINUSE);
    const { IOAS_ALLOC, IOAS_MAP } = iommufdCommands;
    const ioas = client.ioctl(iommu, IOAS_ALLOC.number, new IoasAlloc(), { size: 12 }).out_ioas_id;
    lab.attach(device, ioas);
    const page = BigInt(client.process.memory.map(1));
    const map = (iova: bigint) => () => {
      const range = { size: 40, ioas_id: ioas, user_va: page, length: 4096n, iova };
      client.ioctl(iommu, IOAS_MAP.number, new IoasMap(), { ...range, flags: MAP_FIXED_IOVA | MAP_READABLE });
    };
    expect([map(0x10000n), map(0x20000n)].map(lab.errno)).toEqual([EINVAL, undefined]);
    lab.detach(device);
    expect(lab.errno(map(0x10000n))).toBeUndefined();
  });
});
