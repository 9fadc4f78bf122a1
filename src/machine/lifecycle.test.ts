import { describe, expect, it } from "vitest";
import { sweepFailures } from "../runtime/failures.test-support.ts";
import { HWPT_ALLOC_PASID } from "../uapi/index.ts";
import { Lab } from "./lab.test-support.ts";
import { stateOfMachine } from "./state.test-support.ts";

const GROUP = "/sys/kernel/iommu_groups/0";
const DRIVERS = "/sys/bus/pci/drivers";

/** Two functions in group 0 that use direct regions, one alone in group 1, and one that has no driver in group 2. */
function furnished(kind: "smmuv3" | "virtio-iommu"): Lab {
  const capabilities = kind === "smmuv3" ? { pasid: 4 } : {};
  const reserved = [{ type: "direct-relaxable" as const, start: 0x5000_0000, size: "8KiB" }];
  return new Lab({
    iommus: [{ kind }],
    devices: [
      { model: "edu", address: "00:01.0", functions: 2, capabilities, reserved },
      { model: "edu", address: "00:02.0", capabilities },
      { model: "edu", address: "00:03.0", driver: "none" },
    ],
  });
}

function sweep({ machine }: Lab, act: () => void, undo: () => void): string[] {
  return sweepFailures(machine.system, { act, undo, state: () => stateOfMachine(machine) });
}

describe.each(["smmuv3", "virtio-iommu"] as const)(
  "behind a %s, whichever step fails, all is as it was before",
  (kind) => {
    it("probing a device", () => {
      const lab = furnished(kind);
      const { machine } = lab;
      const device = machine.devices.at(-1)!;
      const run = (what: "probe" | "release") => machine.system.run(what, machine.core[what](device));
      run("release");
      const points = sweep(
        lab,
        () => run("probe"),
        () => run("release"),
      );
      expect(points).toContain("iommu.group.allocate");
      expect(points.length).toBeGreaterThan(8);
    });

    it("probing a function that joins a group", () => {
      const lab = furnished(kind);
      const { machine } = lab;
      const device = machine.devices[1];
      const run = (what: "probe" | "release") => machine.system.run(what, machine.core[what](device));
      machine.system.run("unbind", machine.pci.drivers.unbind(device.pci!));
      run("release");
      expect(
        sweep(
          lab,
          () => run("probe"),
          () => run("release"),
        ),
      ).not.toContain("iommu.group.allocate");
    });

    it("changing the type of a default domain", () => {
      const lab = furnished(kind);
      const to = (type: string) => () => lab.client.writeText(`${GROUP}/type`, type);
      to("identity")();
      expect(sweep(lab, to("DMA"), to("identity")).length).toBeGreaterThan(3);
    });

    it("binding a kernel driver", () => {
      const lab = furnished(kind);
      const write = (file: string) => () => lab.client.writeText(`${DRIVERS}/edu/${file}`, "0000:00:03.0");
      expect(sweep(lab, write("bind"), write("unbind"))).toEqual(["edu.device.probe"]);
    });

    it("opening and binding a device to an iommufd", () => {
      const lab = furnished(kind);
      let device: number | undefined;
      const close = (): void => {
        if (device !== undefined) lab.client.close(device);
        device = undefined;
      };
      lab.client.close(lab.bound(0));
      const points = sweep(
        lab,
        () => {
          device = lab.client.open("/dev/vfio/devices/vfio0");
          try {
            lab.bind(device);
          } catch (error) {
            close();
            throw error;
          }
        },
        close,
      );
      expect(points).toContain("iommu.domain.attach");
      expect(points).toContain("vfio.device.open");
    });

    it("attaching a group of two functions, and replacing what they are attached to", () => {
      const lab = furnished(kind);
      const [first, second] = [lab.bound(0), lab.bound(1)];
      const [one, other] = [lab.ioas(), lab.ioas()];
      const points = sweep(
        lab,
        () => lab.attach(first, one),
        () => lab.detach(first),
      );
      expect(points.filter((name) => name === "iommu.domain.attach").length).toBe(2);
      lab.attach(first, one);
      sweep(
        lab,
        () => lab.attach(second, one),
        () => lab.detach(second),
      );
      lab.attach(second, one);
      sweep(
        lab,
        () => lab.attach(first, other),
        () => lab.attach(first, one),
      );
    });
  },
);

describe("behind an smmuv3, whichever step fails, all is as it was before", () => {
  it("attaching a PASID, and replacing what it is attached to", () => {
    const lab = furnished("smmuv3");
    const device = lab.bound(2);
    const [one, other] = [1, 2].map(() => lab.hwpt(1, lab.ioas(), HWPT_ALLOC_PASID));
    lab.attach(device, one);
    expect(
      sweep(
        lab,
        () => lab.attach(device, other, 5),
        () => lab.detach(device, 5),
      ),
    ).toContain("iommu.pasid.attach");
    lab.attach(device, other, 5);
    sweep(
      lab,
      () => lab.attach(device, one, 5),
      () => lab.attach(device, other, 5),
    );
  });
});
