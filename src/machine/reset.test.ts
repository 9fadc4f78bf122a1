import { describe, expect, it } from "vitest";
import { VFIO_DEVICE_RESET } from "../uapi/index.ts";
import { Lab } from "./lab.test-support.ts";

const RESET_FILE = "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/reset";

/** An edu device alone behind a root port, so that it can be reset, and what the core does about that. */
function behindPort(kind: "smmuv3" | "virtio-iommu", ats: boolean) {
  const lab = new Lab({
    iommus: [{ kind }],
    devices: [
      { model: "root-port", name: "port" },
      { model: "edu", behind: "port", capabilities: { express: true, ats } },
    ],
  });
  const steps: string[] = [];
  lab.machine.system.events.listen(({ kind, device, domain }) => {
    if (device !== "0000:01:00.0") return;
    if (kind === "iommu.domain.attach") steps.push(String(domain));
    else if (kind.startsWith("iommu.reset")) steps.push(kind);
  });
  const edu = lab.machine.devices.findIndex(({ name }) => name === "0000:01:00.0");
  return { lab, edu, heard: (): string[] => steps.splice(0) };
}

describe.each(["smmuv3", "virtio-iommu"] as const)("a reset of a device behind a %s", (kind) => {
  it("blocks it while it lasts if it has ATS, and leaves it attached to what it was", () => {
    const { lab, edu, heard } = behindPort(kind, true);
    const device = lab.bound(0);
    lab.attach(device, lab.ioas(42));
    const { domain, blockingDomain } = lab.machine.devices[edu].group!;
    const window = ["iommu.reset.prepare", "iommu.reset.done"];
    heard();
    lab.client.call(device, VFIO_DEVICE_RESET, 0);
    expect(heard()).toEqual([blockingDomain!.label, window[0], domain!.label, window[1]]);
    expect(lab.dma(edu, 0x10000)).toBe(42);
    lab.client.writeText(RESET_FILE, "1");
    expect(heard()).toEqual([blockingDomain!.label, window[0], domain!.label, window[1]]);
    lab.detach(device);
    heard();
    lab.client.call(device, VFIO_DEVICE_RESET, 0);
    expect(heard()).toEqual(window);
  });

  it("is nothing to the core if it has none", () => {
    const { lab, edu, heard } = behindPort(kind, false);
    const device = lab.bound(0);
    lab.attach(device, lab.ioas(42));
    heard();
    lab.client.call(device, VFIO_DEVICE_RESET, 0);
    expect([heard(), lab.dma(edu, 0x10000)]).toEqual([[], 42]);
  });
});
