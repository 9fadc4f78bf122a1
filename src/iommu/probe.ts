// Runs in a browser.
/**
 * How a device comes into the core's care and leaves it again, as steps in pairs (reference 2.2, invariants 1 to 6).
 *
 * Coming runs the steps downwards, leaving undoes them upwards. A step that fails has itself changed nothing, and those
 * above it are undone; there is no other unwinding code. All of it happens under the core's probe mutex, but for reading the
 * firmware.
 */
import { EINVAL, ENODEV, Refusal, refuse, type Task } from "../runtime/index.ts";
import type { IommuCore } from "./core.ts";
import { freeDefaultDomain, freeDomain } from "./default-domain.ts";
import type { Device } from "./device.ts";

interface Step {
  readonly run: (core: IommuCore, device: Device) => Task<void>;
  /** Cannot fail. */
  readonly undo: (core: IommuCore, device: Device) => Task<void>;
}

/**
 * What the firmware says of the device, if nobody read it yet. The bus does, and it may have to wait for others: meanwhile
 * somebody else may have probed the device, which is then not to be touched any more.
 */
const firmware: Step = {
  *run(core, device) {
    if (device.firmware !== undefined || device.driver !== undefined || core.configureDma === undefined) return;
    core.probeMutex.release();
    try {
      yield* core.configureDma(device);
    } catch (error) {
      // The next step says what it means that there is no firmware.
      if (!(error instanceof Refusal)) throw error;
    } finally {
      yield* core.probeMutex.take();
    }
    if (device.group !== undefined) refuse(ENODEV, () => `${device.label} was probed by another`);
  },
  *undo() {},
};

/** What core and driver keep of the device. */
const deviceData: Step = {
  *run(core, device) {
    const { firmware } = device;
    if (firmware === undefined) refuse(ENODEV, () => `${device.label}: the firmware names no IOMMU for it`);
    const instance = core.instances.get(firmware.instance);
    if (instance === undefined) refuse(ENODEV, () => `${device.label}: its IOMMU ${firmware.instance} is not there`);
    core.system.failures.point("iommu.device.allocate");
    device.iommu = {
      instance,
      pageRequestTimeout: core.pageRequestTimeout,
      maxPasids: 0,
      data: undefined,
      requireDirect: false,
      attachDeferred: false,
      stranded: false,
      resetDepth: 0,
    };
  },
  *undo(_core, device) {
    device.iommu = undefined;
  },
};

/** The driver stays loaded as long as one of its devices is probed. */
const driverReference: Step = {
  *run(core, device) {
    core.system.failures.point("iommu.driver.get", EINVAL);
    core.driverReferences(device.iommu!.instance.driver).get(device);
  },
  *undo(core, device) {
    core.driverReferences(device.iommu!.instance.driver).put(device);
  },
};

/** The domains of a group are the driver's: freed after its last device was released, before the driver may go. */
const groupDomains: Step = {
  *run() {},
  *undo(_core, { group }) {
    if (group === undefined || group.devices.length > 0) return;
    yield* freeDefaultDomain(group.defaultDomain);
    freeDomain(group.blockingDomain);
    group.domain = group.defaultDomain = group.blockingDomain = undefined;
  },
};

const driverProbe: Step = {
  *run(core, device) {
    const { instance } = device.iommu!;
    core.system.failures.point("iommu.device.probe");
    yield* instance.driver.probeDevice(device, instance);
  },
  *undo(_core, device) {
    const { driver } = device.iommu!.instance;
    yield* attachReleaseDomain(device);
    yield* driver.releaseDevice(device);
  },
};

/** The device under `/sys/class/iommu/NAME/devices`, and the way back. */
const instanceLink: Step = {
  *run(core, device) {
    core.system.failures.point("iommu.device.link");
    core.devicesOf(device.iommu!.instance).add(device);
  },
  *undo(core, device) {
    core.devicesOf(device.iommu!.instance).delete(device);
  },
};

/** One reference on the group for each member, given back last of all by {@link leaveGroup}. */
const groupReference: Step = {
  *run(core, device) {
    const { instance } = device.iommu!;
    const group = instance.driver.deviceGroup(device, core);
    group.references.get(device);
    device.group = group;
    device.iommu!.maxPasids = Math.min(device.pasids, instance.maxPasids);
    device.iommu!.attachDeferred = instance.driver.defersAttach?.(device) ?? false;
  },
  *undo() {},
};

const steps: readonly Step[] = [
  firmware,
  deviceData,
  driverReference,
  groupDomains,
  driverProbe,
  instanceLink,
  groupReference,
];

/** All steps, or none. */
export function* initDevice(core: IommuCore, device: Device): Task<void> {
  for (const [index, step] of steps.entries()) {
    try {
      yield* step.run(core, device);
    } catch (error) {
      for (const done of steps.slice(0, index).reverse()) yield* done.undo(core, device);
      throw error;
    }
  }
}

/** The mirror image of {@link initDevice}. Cannot fail. */
export function* deinitDevice(core: IommuCore, device: Device): Task<void> {
  const { group } = device;
  for (const step of steps.toReversed()) yield* step.undo(core, device);
  device.group = undefined;
  core.putGroup(group!, device);
}

/**
 * The device is left where the driver says; one that needs its direct regions always, on identity instead of blocked. One
 * that was never attached is left alone.
 */
function* attachReleaseDomain(device: Device): Task<void> {
  const { group, iommu } = device;
  const { driver } = iommu!.instance;
  let target = driver.releaseDomain;
  if (target === undefined || group === undefined || iommu!.attachDeferred) return;
  if (iommu!.requireDirect && target === driver.blockedDomain) target = driver.identityDomain ?? target;
  yield* target.attachDevice(device, group.domain);
}
