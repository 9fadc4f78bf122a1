// Runs in a browser.
/** Mock devices in a context: what MOCK_DOMAIN makes, and what is done with their attachments (reference 4.2, 3.8). */
import { isMockDevice, type MockBus } from "../drivers/mock/index.ts";
import type { Device } from "../iommu/index.ts";
import { Hwpt, type IommufdContext, IommufdDevice, IommufdObject } from "../iommufd/index.ts";
import { EINVAL, refuse, type Task } from "../runtime/index.ts";
import {
  type Fields,
  MOCK_NO_DIRTY,
  MOCK_PASID,
  type Struct,
  TEST_MOCK_DOMAIN_FLAGS,
  TestMockDomain,
  TestMockDomainReplace,
  TestPasid,
} from "../uapi/index.ts";
import { type Operation, operation, type TestCall } from "./call.ts";

/** A mock device with its driver: the driver is the test, which binds the device and gives it back when it goes. */
export class SelftestDevice extends IommufdObject {
  static readonly noun = "selftest device";
  readonly kind = "SELFTEST";
  readonly bound: IommufdDevice;
  private readonly bus: MockBus;
  private readonly device: Device;

  constructor(id: number, bus: MockBus, device: Device, bound: IommufdDevice) {
    super(id, SelftestDevice.noun, device.name);
    this.bus = bus;
    this.device = device;
    this.bound = bound;
  }

  *destroy(): Task<void> {
    yield* this.bound.detach();
    yield* this.bound.unbind();
    yield* this.bus.unplug(this.device);
  }

  describe(): Record<string, unknown> {
    return { device: this.device.name, bound: this.bound.id };
  }
}

/** A bound device of the mock bus. Refusals: ENOENT, EINVAL for a device of another bus. */
export function findMockDevice({ objects }: IommufdContext, id: number): Device {
  const { device, label } = objects.find(id, IommufdDevice);
  if (!isMockDevice(device)) refuse(EINVAL, () => `${label} is not of the mock bus`);
  return device;
}

export function mockDomain(bus: MockBus): Operation {
  return operation(TestMockDomain, function* ({ call, test }) {
    const { context, process } = call;
    const flags = test.op === TEST_MOCK_DOMAIN_FLAGS ? test.dev_flags : 0;
    const { objects } = context;
    const id = objects.reserve();
    try {
      const unknown = flags & ~(MOCK_NO_DIRTY | MOCK_PASID);
      if (unknown !== 0) refuse(EINVAL, () => `unknown device flags 0x${(unknown >>> 0).toString(16)}`);
      const device = yield* bus.plug({
        tracksDirty: (flags & MOCK_NO_DIRTY) === 0,
        pasids: (flags & MOCK_PASID) !== 0,
      });
      try {
        const user = { label: `selftest device ${id}`, insideContext: true };
        const bound = yield* context.bindDevice(process, device, user);
        try {
          test.out_hwpt_id = yield* bound.attach(test.id);
          test.out_stdev_id = id;
          test.out_idev_id = bound.id;
          call.respond();
          objects.publish(new SelftestDevice(id, bus, device, bound));
        } catch (error) {
          yield* bound.unbind();
          throw error;
        }
      } catch (error) {
        yield* bus.unplug(device);
        throw error;
      }
    } catch (error) {
      objects.abort(id);
      throw error;
    }
  });
}

export const mockDomainReplace: Operation = deviceOperation(
  TestMockDomainReplace,
  function* ({ bound }, { call, test }) {
    test.pt_id = yield* bound.replace(test.pt_id);
    call.respond();
  },
);

export const pasidAttach: Operation = deviceOperation(TestPasid, function* ({ bound }, { call, test }) {
  test.pt_id = yield* bound.attach(test.pt_id, test.pasid);
  call.respond();
});

export const pasidReplace: Operation = deviceOperation(TestPasid, function* ({ bound }, { call, test }) {
  test.pt_id = yield* bound.replace(test.pt_id, test.pasid);
  call.respond();
});

export const pasidDetach: Operation = deviceOperation(TestPasid, function* ({ bound }, { test }) {
  yield* bound.detach(test.pasid);
});

/** `hwpt_id` 0: nothing may be attached. */
export const pasidCheckHwpt: Operation = deviceOperation(TestPasid, function* ({ bound }, { call, test }) {
  const attached = bound.hwpt(test.pasid);
  const expected = test.pt_id === 0 ? undefined : call.context.objects.any(test.pt_id);
  if (expected !== undefined && !(expected instanceof Hwpt)) refuse(EINVAL, () => `${expected.label} is no HWPT`);
  if (attached !== expected) {
    refuse(EINVAL, () => {
      const what = attached?.label ?? "nothing";
      return `PASID ${test.pasid} of ${bound.label} is attached to ${what}, not ${expected?.label ?? "nothing"}`;
    });
  }
});

type DeviceBody<F extends Fields> = (device: SelftestDevice, given: TestCall<F>) => Task<void>;

/** An operation on the selftest device that `id` names: it is not destroyed meanwhile. Refusal ENOENT. */
function deviceOperation<F extends Fields>(struct: Struct<F>, body: DeviceBody<F>): Operation {
  return operation(struct, (given) => withDevice(given, body));
}

function* withDevice<F extends Fields>(given: TestCall<F>, body: DeviceBody<F>): Task<void> {
  const { context, command } = given.call;
  const device = context.objects.use(command.id, SelftestDevice);
  try {
    yield* body(device, given);
  } finally {
    context.objects.release(device);
  }
}
