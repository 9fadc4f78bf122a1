import { describe, expect, it } from "vitest";
import {
  EBUSY,
  EINVAL,
  ENODEV,
  ENOMEM,
  Refusal,
  refuse,
  type SimulatedClock,
  System,
  type Task,
} from "../runtime/index.ts";
import { IommuCore, type IommuCoreOptions } from "./core.ts";
import { Device } from "./device.ts";
import type { Domain, IommuDriver } from "./driver.ts";
import { FakeDriver, FakePagingDomain, FakeStaticDomain, fakeInstance } from "./fake-driver.test-support.ts";
import {
  allowPageRequests,
  cancelPageRequests,
  discardPartialRequests,
  forbidPageRequests,
  type PageRequest,
  type PageRequestGroup,
  REQUEST_LAST_PAGE,
  REQUEST_PASID_VALID,
  RESPONSE_FAILURE,
  RESPONSE_INVALID,
  RESPONSE_SUCCESS,
  reportPageRequest,
} from "./faults.ts";
import { NestedDomain } from "./nesting.ts";
import { attachPasid, detachPasid } from "./pasid.ts";

class FakeNested extends NestedDomain {
  readonly label = "a nested domain";
  readonly owner: FakeDriver;

  constructor(owner: FakeDriver) {
    super();
    this.owner = owner;
  }

  override *attachDevice(device: Device): Task<void> {
    this.owner.attach(device, this);
  }

  override free(): void {}
}

/** A device, claimed, and what its driver answered to page requests: group id and code. */
function setUp(traits: Partial<IommuDriver> = {}, options: IommuCoreOptions = {}) {
  const system = new System();
  const core = new IommuCore(system, { defaultDomain: "identity", ...options });
  const driver = new FakeDriver(core);
  const responses: [number, number][] = [];
  Object.assign(driver, {
    *pageResponse(_device: Device, request: PageRequest, code: number): Task<void> {
      responses.push([request.group, code]);
    },
    ...traits,
  });
  const setDevicePasid = function* (): Task<void> {};
  driver.blockedDomain = Object.assign(new FakeStaticDomain("blocked", driver), { setDevicePasid });
  const run = <T>(code: Task<T>): T => system.run("test", code);
  const errno = (code: Task<unknown>): number => {
    try {
      run(code);
      return 0;
    } catch (error) {
      if (error instanceof Refusal) return error.errno;
      throw error;
    }
  };
  run(core.register(fakeInstance(driver, "iommu0", 2 ** 20)));
  const device = new Device({ name: "a", firmware: { instance: "iommu0", streamIds: [], pasidBits: 8 } });
  run(core.probe(device));
  run(device.group!.claim(device, "an owner" as unknown as object));
  const taken: PageRequestGroup[] = [];
  const handling = <T extends Domain>(domain: T): T =>
    Object.assign(domain, { setDevicePasid, pageRequestHandler: (group: PageRequestGroup) => void taken.push(group) });
  const paging = (): FakePagingDomain => handling(new FakePagingDomain(driver));
  const report = (group: number, options: { pasid?: number; last?: boolean } = {}): number => {
    const { pasid, last = true } = options;
    const flags = (last ? REQUEST_LAST_PAGE : 0) | (pasid === undefined ? 0 : REQUEST_PASID_VALID);
    return errno(reportPageRequest(device, { flags, pasid: pasid ?? 0, group, rights: 1, address: BigInt(group) }));
  };
  const attach = (domain: Domain, handle: object = { of: "the device" }): void =>
    run(device.group!.attach(domain, handle));
  return { system, driver, device, run, errno, paging, handling, report, attach, responses, taken };
}

const errnoOf = (act: () => void): number => {
  try {
    act();
    return 0;
  } catch (error) {
    if (error instanceof Refusal) return error.errno;
    throw error;
  }
};

describe("a page request", () => {
  it("is handed on with those of its group, in order, once the last has come", () => {
    const { device, paging, report, attach, taken } = setUp();
    const handle = { of: "the device" };
    attach(paging(), handle);
    allowPageRequests(device);
    for (const group of [1, 2, 1]) report(group, { last: false });
    expect(taken).toEqual([]);
    expect([report(1), report(2), report(1)]).toEqual([0, 0, 0]);
    expect(taken.map(({ requests, handle: h }) => [requests.map(({ group }) => group), h])).toEqual([
      [[1, 1, 1], handle],
      [[2, 2], handle],
      [[1], handle],
    ]);
  });

  it("is answered once, by whoever has it", () => {
    const { device, run, paging, report, attach, responses, taken } = setUp();
    attach(paging());
    allowPageRequests(device);
    report(7);
    run(taken[0].respond(RESPONSE_SUCCESS));
    run(taken[0].respond(RESPONSE_INVALID));
    run(forbidPageRequests(device));
    expect([responses, taken[0].isAnswered]).toEqual([[[7, RESPONSE_SUCCESS]], true]);
  });

  it("that nobody answers in time is answered INVALID, where there is a time for it", () => {
    const { system, device, run, paging, report, attach, responses, taken } = setUp({}, { pageRequestTimeout: 1000 });
    const clock = system.clock as SimulatedClock;
    attach(paging());
    allowPageRequests(device);
    report(1);
    clock.advance(600);
    report(2);
    run(taken[0].respond(RESPONSE_SUCCESS));
    clock.advance(999);
    expect(responses).toEqual([[1, RESPONSE_SUCCESS]]);
    clock.advance(1);
    expect(responses.slice(1)).toEqual([[2, RESPONSE_INVALID]]);
    run(taken[1].respond(RESPONSE_SUCCESS));
    run(forbidPageRequests(device));
    clock.advance(5000);
    expect(responses).toHaveLength(2);
  });

  it("that is not complete is forgotten when the queue it came by lost requests", () => {
    const { device, paging, report, attach, taken } = setUp();
    attach(paging());
    allowPageRequests(device);
    report(1, { last: false });
    discardPartialRequests([device, new Device({ name: "not probed" })]);
    report(1);
    expect(taken.map(({ requests }) => requests.length)).toEqual([1]);
  });

  it("that is not complete is forgotten when what it belongs to is detached, and goes into no other's group", () => {
    const { device, run, paging, report, attach, taken } = setUp();
    const [own, first, second] = [{ of: "the device" }, { of: "PASID 1" }, { of: "PASID 1, later" }];
    attach(paging(), own);
    const group = device.group!;
    run(attachPasid(group, paging(), 1, first));
    allowPageRequests(device);
    report(5, { last: false });
    report(5, { pasid: 1, last: false });
    report(5);
    run(detachPasid(group, 1));
    run(cancelPageRequests(device, first));
    run(attachPasid(group, paging(), 1, second));
    report(5, { pasid: 1 });
    expect(taken.map(({ requests, handle }) => [requests.length, handle])).toEqual([
      [2, own],
      [1, second],
    ]);
  });

  it.each<[string, (world: ReturnType<typeof setUp>) => void]>([
    ["nothing is attached", ({ device }) => allowPageRequests(device)],
    ["the device may report none", ({ paging, attach }) => attach(paging())],
    [
      "the domain handles none",
      ({ device, driver, attach }) => {
        attach(new FakePagingDomain(driver));
        allowPageRequests(device);
      },
    ],
  ])("is rejected, and answered INVALID, where %s", (_what, prepare) => {
    const world = setUp();
    prepare(world);
    expect([world.report(3), world.responses, world.taken]).toEqual([EINVAL, [[3, RESPONSE_INVALID]], []]);
  });

  it("that its handler refuses, or for which there is no memory, is answered FAILURE", () => {
    const { system, device, paging, report, attach, responses } = setUp();
    const domain = paging();
    domain.pageRequestHandler = () => refuse(ENOMEM, () => "no room");
    attach(domain);
    allowPageRequests(device);
    expect(report(1)).toBe(0);
    system.failures.inject((name) => name === "iommu.fault.group");
    expect(report(2)).toBe(0);
    expect(responses).toEqual([
      [1, RESPONSE_FAILURE],
      [2, RESPONSE_FAILURE],
    ]);
  });

  it("with a PASID is that PASID's business; PASID 0 is the device's own", () => {
    const { device, run, paging, report, attach, taken } = setUp();
    const [own, of5] = [{ of: "the device" }, { of: "PASID 5" }];
    attach(paging(), own);
    run(attachPasid(device.group!, paging(), 5, of5));
    allowPageRequests(device);
    expect([report(1, { pasid: 5 }), report(2, { pasid: 0 }), report(3, { pasid: 6 })]).toEqual([0, 0, EINVAL]);
    expect(taken.map(({ handle }) => handle)).toEqual([of5, own]);
  });

  it.each<[boolean, boolean, number]>([
    [true, true, 0],
    [true, false, EINVAL],
    [false, true, EINVAL],
  ])("with a PASID of nobody is the guest's: nested %s, PASID tables of guests %s", (nested, tables, errno) => {
    const { device, driver, paging, handling, report, attach } = setUp({ userPasidTables: tables });
    attach(nested ? handling(new FakeNested(driver)) : paging());
    allowPageRequests(device);
    expect(report(1, { pasid: 0xffffffff })).toBe(errno);
  });
});

describe("a device that may report page requests", () => {
  it("is allowed to once, by a driver that can answer", () => {
    const { device } = setUp();
    allowPageRequests(device);
    expect(errnoOf(() => allowPageRequests(device))).toBe(EBUSY);
    const mute = setUp({ pageResponse: undefined });
    expect(errnoOf(() => allowPageRequests(mute.device))).toBe(ENODEV);
  });

  it("is answered INVALID to all that is left when it may not any more", () => {
    const { device, run, paging, report, attach, responses } = setUp();
    attach(paging());
    allowPageRequests(device);
    report(1, { last: false });
    report(2);
    report(3);
    run(forbidPageRequests(device));
    expect(responses).toEqual([
      [2, RESPONSE_INVALID],
      [3, RESPONSE_INVALID],
    ]);
    allowPageRequests(device);
    report(1);
    run(forbidPageRequests(device));
    // The first request of group 1 was dropped: no group of two.
    expect(responses.at(-1)).toEqual([1, RESPONSE_INVALID]);
  });
});
