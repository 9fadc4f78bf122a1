import { Refusal, System, type Task } from "../runtime/index.ts";
import { IommuCore, type IommuCoreOptions } from "./core.ts";
import type { DefaultDomainType } from "./default-domain.ts";
import { Device, type DeviceOptions } from "./device.ts";
import { FakeDriver, type FakePagingDomain, fakeInstance } from "./fake-driver.test-support.ts";
import { groupOf } from "./group.ts";

/** A core with a driver without hardware. `share`: all devices share one group. */
export function setUp(
  options: { share?: boolean; defaultDomain?: DefaultDomainType } = {},
  more: Pick<IommuCoreOptions, "configureDma"> = {},
) {
  const system = new System();
  const devices: Device[] = [];
  const core = new IommuCore(system, { defaultDomain: options.defaultDomain, devices: () => devices, ...more });
  const driver = new FakeDriver(core);
  if (options.share) driver.groupFor = (_, core) => core.groups.get(0) ?? core.newGroup();
  const instance = fakeInstance(driver, "iommu0", 16);
  const run = <T>(code: Task<T>): T => system.run("test", code);
  const errno = (code: Task<unknown>): number | undefined => {
    try {
      run(code);
      return undefined;
    } catch (error) {
      if (error instanceof Refusal) return error.errno;
      throw error;
    }
  };
  const device = (name: string, iommu = "iommu0", more: Partial<DeviceOptions> = {}): Device =>
    new Device({ name, firmware: { instance: iommu, streamIds: [0], pasidBits: 8 }, ...more });
  return { system, core, driver, instance, run, errno, device, devices };
}

/** The same with the devices a and b probed, in group 0. */
export function withTwoInOneGroup(change?: (driver: FakeDriver) => void) {
  const world = setUp({ share: true });
  change?.(world.driver);
  const [a, b] = [world.device("a"), world.device("b")];
  world.run(world.core.register(world.instance));
  world.run(world.core.probe(a));
  world.run(world.core.probe(b));
  const group = groupOf(a);
  const domain = (): FakePagingDomain => world.run(world.driver.allocatePaging()) as FakePagingDomain;
  const on = (): unknown[] => [world.driver.attached.get(a), world.driver.attached.get(b)];
  return { ...world, a, b, group, domain, on };
}
