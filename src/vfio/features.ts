// Runs in a browser.
import type { Process } from "../memory/index.ts";
import { EINVAL, ENOTTY, refuse } from "../runtime/index.ts";
import {
  FEATURE_GET,
  FEATURE_LOW_POWER_ENTRY,
  FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
  FEATURE_LOW_POWER_EXIT,
  FEATURE_MASK,
  FEATURE_MIG_PRECOPY_INFO_V2,
  FEATURE_PCI_VF_TOKEN,
  FEATURE_PROBE,
  FEATURE_SET,
  Feature,
  LowPowerEntryWithWakeup,
} from "../uapi/index.ts";
import type { VfioDevice } from "./device.ts";
import { eventFd } from "./irq-data.ts";
import type { LowPower } from "./low-power.ts";
import { TOKEN_SIZE } from "./vf-token.ts";

/** Who has features. */
interface FeatureHolder {
  readonly device: VfioDevice;
  readonly lowPower: LowPower;
}

/** A feature that a device has. Those of migration, DMA logging and dma-buf are not among them. */
interface FeatureRow {
  readonly name: string;
  /** Which of GET and SET it takes. */
  readonly directions: number;
  /** Bytes behind the header. */
  readonly payload: number;
  /** Every device has it, unless this says otherwise. */
  has?(device: VfioDevice): boolean;
  set(holder: FeatureHolder, process: Process, payload: Uint8Array): void;
}

const features: ReadonlyMap<number, FeatureRow> = new Map<number, FeatureRow>([
  [
    FEATURE_PCI_VF_TOKEN,
    {
      name: "PCI_VF_TOKEN",
      directions: FEATURE_SET,
      payload: TOKEN_SIZE,
      has: ({ token }) => token !== undefined,
      set: ({ device }, _process, payload) => {
        device.token = payload;
      },
    },
  ],
  [
    FEATURE_LOW_POWER_ENTRY,
    { name: "LOW_POWER_ENTRY", directions: FEATURE_SET, payload: 0, set: ({ lowPower }) => lowPower.enter() },
  ],
  [
    FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
    {
      name: "LOW_POWER_ENTRY_WITH_WAKEUP",
      directions: FEATURE_SET,
      payload: LowPowerEntryWithWakeup.size,
      set: ({ lowPower }, process, payload) => {
        const { wakeup_eventfd: fd } = new LowPowerEntryWithWakeup(payload);
        if (fd < 0) refuse(EINVAL, () => `wakeup eventfd ${fd} is no file descriptor`);
        lowPower.enter(eventFd(process, fd));
      },
    },
  ],
  [
    FEATURE_LOW_POWER_EXIT,
    { name: "LOW_POWER_EXIT", directions: FEATURE_SET, payload: 0, set: ({ lowPower }) => lowPower.exit() },
  ],
]);

/** The FEATURE ioctl, checks in the order of reference 5.7. */
export function deviceFeature(holder: FeatureHolder, process: Process, argument: number): void {
  const header = new Feature();
  process.memory.read(argument, header.$bytes);
  const { argsz, flags } = header;
  const number = flags & FEATURE_MASK;
  const directions = flags & (FEATURE_GET | FEATURE_SET);
  const probe = (flags & FEATURE_PROBE) !== 0;
  if (argsz < Feature.size) refuse(EINVAL, () => `argsz ${argsz} is below ${Feature.size}`);
  if (flags & ~(FEATURE_MASK | FEATURE_GET | FEATURE_SET | FEATURE_PROBE)) {
    refuse(EINVAL, () => `flags 0x${flags.toString(16)} has unknown bits`);
  }
  if (directions === (FEATURE_GET | FEATURE_SET) && !probe) {
    refuse(EINVAL, () => "GET and SET together only probe");
  }
  // Asked before anything else: a device that cannot copy in advance has no such information.
  if (number === FEATURE_MIG_PRECOPY_INFO_V2) refuse(EINVAL, () => "the device has no pre-copy migration");
  const feature = features.get(number);
  if (feature === undefined || feature.has?.(holder.device) === false)
    refuse(ENOTTY, () => `the device has no feature ${number}`);
  if (directions & ~feature.directions) refuse(EINVAL, () => `${feature.name} cannot be read`);
  if (probe) return;
  if (directions === 0) refuse(EINVAL, () => `neither GET nor SET nor PROBE of ${feature.name}`);
  if (argsz - Feature.size < feature.payload) {
    refuse(
      EINVAL,
      () => `${feature.name} wants ${feature.payload} bytes behind the header, not ${argsz - Feature.size}`,
    );
  }
  const payload = new Uint8Array(feature.payload);
  if (payload.length > 0) process.memory.read(argument + Feature.size, payload);
  feature.set(holder, process, payload);
}
