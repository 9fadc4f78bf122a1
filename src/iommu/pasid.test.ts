import { describe, expect, it } from "vitest";
import { EBUSY, EINVAL, EOPNOTSUPP, Refusal, refuse, System, type Task } from "../runtime/index.ts";
import { IommuCore } from "./core.ts";
import { Device } from "./device.ts";
import type { Domain } from "./driver.ts";
import { FakeDriver, FakePagingDomain, FakeStaticDomain, fakeInstance } from "./fake-driver.test-support.ts";
import { attachPasid, detachPasid, replacePasid } from "./pasid.ts";

function setUp(withPasids = true) {
  const system = new System();
  const core = new IommuCore(system, { defaultDomain: "identity" });
  const driver = new FakeDriver(core);
  driver.groupFor = (_, core) => core.groups.get(0) ?? core.newGroup();
  /** What each device's PASIDs translate through, as `device:pasid`. */
  const state = new Map<string, Domain>();
  let refusing: string | undefined;
  const set = function* (this: Domain, device: Device, pasid: number): Task<void> {
    if (device.name === refusing) refuse(EINVAL, () => "no");
    state.set(`${device.name}:${pasid}`, this);
  };
  const withOperation = <T extends Domain>(domain: T): T =>
    withPasids ? Object.assign(domain, { setDevicePasid: set }) : domain;
  driver.blockedDomain = withOperation(new FakeStaticDomain("blocked", driver));
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
  run(core.register(fakeInstance(driver, "iommu0", 2 ** 20)));
  for (const [name, pasidBits] of [
    ["a", 4],
    ["none", undefined],
    ["b", 8],
  ] as const) {
    run(core.probe(new Device({ name, firmware: { instance: "iommu0", streamIds: [], pasidBits } })));
  }
  const domain = (): FakePagingDomain => withOperation(new FakePagingDomain(driver));
  const refuseFor = (name: string | undefined): void => void (refusing = name);
  return { core, driver, run, errno, domain, state, refuseFor, group: core.groups.get(0)! };
}

describe("PASIDs of a group", () => {
  it("are attached on every member that has any, replaced, and blocked again", () => {
    const { run, domain, state, group, driver } = setUp();
    const [first, second, handle] = [domain(), domain(), {}];
    run(attachPasid(group, first, 3, {}));
    expect([...state]).toEqual([
      ["a:3", first],
      ["b:3", first],
    ]);
    run(replacePasid(group, second, 3, handle));
    expect([...state.values()]).toEqual([second, second]);
    expect(group.handles.get(3)).toBe(handle);
    run(detachPasid(group, 3));
    run(detachPasid(group, 3));
    expect([...state.values()]).toEqual([driver.blockedDomain, driver.blockedDomain]);
    expect(group.handles.size).toBe(0);
  });

  it("answer as the table of reference 2.5 says", () => {
    const { core, run, errno, domain, group } = setUp();
    const used = {};
    expect(errno(attachPasid(group, domain(), 0, {}))).toBe(EINVAL);
    expect(errno(attachPasid(group, domain(), 16, {}))).toBe(EINVAL);
    const foreign = Object.assign(new FakePagingDomain(new FakeDriver(core, "other")), {
      setDevicePasid: function* () {},
    });
    expect(errno(attachPasid(group, foreign, 3, {}))).toBe(EINVAL);
    expect(errno(replacePasid(group, domain(), 3, {}))).toBe(EINVAL);
    run(attachPasid(group, domain(), 3, used));
    expect(errno(attachPasid(group, domain(), 3, {}))).toBe(EBUSY);
    expect(errno(replacePasid(group, domain(), 3, used))).toBe(EINVAL);
    expect(errno(group.claim(group.devices[0], {}))).toBe(EBUSY);
  });

  it("answer EOPNOTSUPP where the driver does not know them", () => {
    const { errno, domain, group } = setUp(false);
    expect(errno(attachPasid(group, domain(), 3, {}))).toBe(EOPNOTSUPP);
    expect(errno(replacePasid(group, domain(), 3, {}))).toBe(EOPNOTSUPP);
  });

  it("go back where they were if a member refuses, or are blocked if they were nowhere", () => {
    const { run, errno, domain, state, group, driver, refuseFor } = setUp();
    refuseFor("b");
    expect(errno(attachPasid(group, domain(), 3, {}))).toBe(EINVAL);
    expect([...state]).toEqual([["a:3", driver.blockedDomain]]);
    refuseFor(undefined);
    const old = domain();
    run(attachPasid(group, old, 3, {}));
    refuseFor("b");
    expect(errno(replacePasid(group, domain(), 3, {}))).toBe(EINVAL);
    expect([...state.values()]).toEqual([old, old]);
  });
});
