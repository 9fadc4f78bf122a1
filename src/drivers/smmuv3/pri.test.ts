import { describe, expect, it } from "vitest";
import {
  ALLOC_PASID,
  attachPasid,
  type Domain,
  detachPasid,
  type Group,
  groupOf,
  type PageRequestGroup,
  type PagingDomain,
  PROT_READ,
  PROT_WRITE,
  REQUEST_LAST_PAGE,
  REQUEST_PASID_VALID,
  REQUEST_READ,
  REQUEST_WRITE,
  RESPONSE_FAILURE,
  RESPONSE_INVALID,
  RESPONSE_SUCCESS,
  type ResponseCode,
} from "../../iommu/index.ts";
import { EXTENDED_PRI, PRI_STATUS } from "../../pci/index.ts";
import { aheadWorld } from "./ahead.test-support.ts";
import { PRI_RESP } from "./commands.ts";

const PAGE = 4096;
const IOVA = 0x4000_0000;
const PHYSICAL = 0x800_0000;
const READ_WRITE = PROT_READ | PROT_WRITE;

/** One device with PRI, attached to a domain whose owner keeps the groups that come. */
function setUp(features: Parameters<typeof aheadWorld>[0] = {}, capacity = 8) {
  const world = aheadWorld(features);
  const { device, member } = world.probed({}, { pri: capacity });
  const groups: PageRequestGroup[] = [];
  const domain = world.domain(device, ALLOC_PASID);
  domain.pageRequestHandler = (group) => groups.push(group);
  const attach = (to: Domain, group: Group = groupOf(device)): void =>
    world.run(group.handle === undefined ? group.attach(to, to) : group.replace(to, to));
  const answer = (group: PageRequestGroup, code: ResponseCode): void => world.run(group.respond(code));
  const map = (iova: number, physical: number, to: PagingDomain = domain): void =>
    world.run(to.map(BigInt(iova), physical, PAGE, READ_WRITE));
  const responses = (): number[][] =>
    world.commands
      .filter(([word]) => (word & 0xff) === PRI_RESP)
      .map(([word, , low]) => [(low >>> 12) & 3, low & 0x1ff, (word >>> 11) & 1]);
  return { ...world, device, member, groups, domain, attach, answer, map, responses };
}

describe("a page that a device asks for", () => {
  it("is told to who answers for its domain; the device goes on when it is there", () => {
    const { attach, domain, dma, member, groups, map, answer, responses, memory } = setUp();
    attach(domain);
    const access = dma(member, IOVA + 0xff8, { write: true, length: 16 });
    expect(access.done).toBeUndefined();
    expect(groups).toHaveLength(1);
    expect(groups[0].requests).toEqual([
      { flags: 0, pasid: 0, group: 0, rights: REQUEST_WRITE, address: BigInt(IOVA) },
      { flags: REQUEST_LAST_PAGE, pasid: 0, group: 0, rights: REQUEST_WRITE, address: BigInt(IOVA + PAGE) },
    ]);
    map(IOVA, PHYSICAL);
    map(IOVA + PAGE, PHYSICAL + PAGE);
    answer(groups[0], RESPONSE_SUCCESS);
    expect([access.done, responses()]).toEqual([true, [[2, 0, 0]]]);
    expect(memory.readWord(PHYSICAL + PAGE)).toBe(0xd5d5_d5d5);
  });

  it.each([
    [RESPONSE_INVALID, 1, 0],
    [RESPONSE_FAILURE, 0, 1],
  ] as const)("is refused: %i", (code, told, failure) => {
    const { attach, domain, dma, member, groups, answer, responses } = setUp();
    attach(domain);
    const access = dma(member, IOVA);
    answer(groups[0], code);
    expect([access.done, responses()]).toEqual([false, [[told, 0, 0]]]);
    const status = member.readConfig(member.extendedCapability(EXTENDED_PRI)! + PRI_STATUS, 2);
    expect(status & 1).toBe(failure);
  });

  it("of a PASID is its own domain's", () => {
    const { attach, driver, dma, member, device, domain, groups, map, answer, run } = setUp();
    attach(driver.identityDomain);
    run(attachPasid(groupOf(device), domain, 5, domain));
    const access = dma(member, IOVA, { pasid: 5 });
    expect(groups[0].requests).toEqual([
      {
        flags: REQUEST_LAST_PAGE | REQUEST_PASID_VALID,
        pasid: 5,
        group: 0,
        rights: REQUEST_READ,
        address: BigInt(IOVA),
      },
    ]);
    map(IOVA, PHYSICAL);
    answer(groups[0], RESPONSE_SUCCESS);
    expect(access.done).toBe(true);
  });

  it("is not asked for where nobody answers", () => {
    const { attach, device, domain, dma, member, groups, driver } = setUp();
    const deaf = setUp();
    deaf.domain.pageRequestHandler = undefined;
    deaf.attach(deaf.domain);
    expect([deaf.dma(deaf.member, IOVA).done, deaf.member.pageRequester!.isEnabled]).toEqual([false, false]);
    attach(domain);
    expect(member.pageRequester!.isEnabled).toBe(true);
    attach(driver.blockedDomain);
    expect([member.pageRequester!.isEnabled, dma(member, IOVA).done, groups]).toEqual([false, false, []]);
    expect(device.iommu!.faults).toBeUndefined();
  });

  it("is answered INVALID, once, if the device is taken away while it waits", () => {
    const { attach, domain, dma, member, groups, answer, responses, driver } = setUp();
    attach(domain);
    const accesses = [dma(member, IOVA), dma(member, IOVA + PAGE)];
    attach(driver.identityDomain);
    expect(accesses.map(({ done }) => done)).toEqual([false, false]);
    expect(responses()).toEqual([
      [1, 0, 0],
      [1, 1, 0],
    ]);
    for (const group of groups) answer(group, RESPONSE_SUCCESS);
    expect(responses()).toHaveLength(2);
  });

  it("that comes when the PASID is gone is answered INVALID, and its early parts not at all", () => {
    const { attach, driver, device, domain, responses, run, hardware, member, groups, system } = setUp();
    attach(driver.identityDomain);
    run(attachPasid(groupOf(device), domain, 5, domain));
    const request = (last: boolean): void =>
      hardware.agent.requestPage(member.requesterId, {
        pasid: 5,
        address: BigInt(IOVA),
        read: true,
        write: false,
        group: 7,
        last,
      });
    request(false);
    system.tasks.drain();
    run(detachPasid(groupOf(device), 5));
    request(false);
    request(true);
    system.tasks.drain();
    expect([responses(), groups]).toEqual([[[1, 7, 0]], []]);
  });

  it("of a stream that nobody knows is a failure; a marker that a PASID stopped gets no answer", () => {
    const { responses, hardware, system } = setUp();
    const request = { pasid: 5, address: 0n, read: true, write: false, group: 3, last: true };
    hardware.agent.requestPage(0x700, request);
    hardware.agent.requestPage(0x700, { ...request, read: false });
    system.tasks.drain();
    expect(responses()).toEqual([[0, 3, 0]]);
  });
});

it("a queue that is full loses requests: groups that are not complete are forgotten, and the device asks again", () => {
  const { attach, domain, device, hardware, member, groups, answer, responses, system, run, map, dma } = setUp(
    { pageRequestQueueLog2: 2 },
    64,
  );
  attach(domain);
  const request = (group: number, last: boolean): void =>
    hardware.agent.requestPage(member.requesterId, {
      pasid: undefined,
      address: BigInt(IOVA),
      read: true,
      write: false,
      group,
      last,
    });
  // No task runs meanwhile, so the queue of four fills up.
  request(100, true);
  for (let part = 0; part < 3; part++) request(101, false);
  request(101, true);
  system.tasks.drain();
  expect(groups.map(({ requests }) => requests.map(({ group }) => group))).toEqual([[100]]);
  expect(device.iommu!.faults!.partial).toEqual([]);
  // The SMMU answered for the lost one itself.
  expect(responses()).toEqual([]);
  answer(groups[0], RESPONSE_SUCCESS);
  expect(responses()).toEqual([[2, 100, 0]]);

  const access = dma(member, IOVA);
  map(IOVA, PHYSICAL);
  answer(groups[1], RESPONSE_SUCCESS);
  expect(access.done).toBe(true);
  run(groupOf(device).detach());
});

it("every group gets exactly one answer, in whatever order devices ask and owners answer", () => {
  for (let seed = 1; seed <= 30; seed++) {
    const { attach, domain, member, groups, system, responses, map, driver, errors, run } = setUp({}, 4);
    attach(domain);
    let state = seed;
    const random = (below: number): number => {
      state = (state * 48271) % 0x7fff_ffff;
      return state % below;
    };
    system.tasks.exploring = true;
    system.tasks.choose = (ready) => random(ready.length);
    const done: boolean[] = [];
    for (let index = 0; index < 6; index++) {
      const task = member.dma.read(BigInt(IOVA + index * PAGE), new Uint8Array(PAGE + 8));
      system.tasks.spawn("dma", task, (outcome) => done.push(outcome.ok && outcome.value));
    }
    system.tasks.drain();
    for (let round = 0; done.length < 6 && round < 50; round++) {
      const open = groups.filter((group) => !group.isAnswered);
      if (random(12) === 0) {
        attach(driver.blockedDomain);
        break;
      }
      const group = open[random(open.length)];
      if (random(3) > 0) {
        for (const { address } of group.requests) {
          if (domain.translate(address) === undefined) map(Number(address), PHYSICAL);
        }
      }
      run(group.respond(random(4) === 0 ? RESPONSE_INVALID : RESPONSE_SUCCESS));
      system.tasks.drain();
    }
    expect([done.length, errors]).toEqual([6, []]);
    expect(responses().length).toBe(groups.length);
    expect(groups.every(({ isAnswered }) => isAnswered)).toBe(true);
    expect(member.pageRequester!.outstanding).toBe(0);
  }
});
