import { describe, expect, it } from "vitest";
import {
  type PageRequestGroup,
  type PagingDomain,
  PROT_READ,
  PROT_WRITE,
  REQUEST_LAST_PAGE,
  REQUEST_READ,
  REQUEST_WRITE,
  RESPONSE_INVALID,
  RESPONSE_SUCCESS,
} from "../../iommu/index.ts";
import { EOPNOTSUPP } from "../../runtime/index.ts";
import { RESUME } from "./commands.ts";
import { modelWorld } from "./on-model.test-support.ts";

const PAGE = 0x5000;

function setUp() {
  const world = modelWorld();
  const { run, driver, probed, system } = world;
  const device = probed("a", { streamIds: [8], canStall: true });
  const groups: PageRequestGroup[] = [];
  const domain = (handles = true): PagingDomain => {
    const made = run(driver.allocatePaging(device, 0, undefined));
    if (handles) made.pageRequestHandler = (group) => void groups.push(group);
    return made;
  };
  let resumes = 0;
  system.events.listen((event) => {
    if (event.kind === "smmuv3.command.consume" && ((event.words as number[])[0] & 0xff) === RESUME) resumes++;
  });
  return { ...world, device, groups, domain, resumes: () => resumes };
}

describe("a device that may be stalled, on a domain that takes page requests", () => {
  it("does its DMA once the page is there", () => {
    const { run, device, domain, groups, dma, resumes } = setUp();
    const paging = domain();
    run(device.group!.attach(paging, {}));
    const access = dma(8, PAGE, true);
    expect(access.done).toBeUndefined();
    const [group] = groups;
    expect(group.requests).toEqual([
      { flags: REQUEST_LAST_PAGE, pasid: 0, group: expect.any(Number), rights: REQUEST_WRITE, address: BigInt(PAGE) },
    ]);

    run(paging.map(BigInt(PAGE), 0x10_0000, 4096, PROT_READ | PROT_WRITE));
    run(group.respond(RESPONSE_SUCCESS));
    expect(access.done).toBe(true);
    run(group.respond(RESPONSE_INVALID));
    expect(resumes()).toBe(1);
  });

  it("asks again, under another number, if the page is still missing", () => {
    const { run, device, domain, groups, dma } = setUp();
    run(device.group!.attach(domain(), {}));
    const access = dma(8, PAGE);
    run(groups[0].respond(RESPONSE_SUCCESS));
    expect(access.done).toBeUndefined();
    expect(groups).toHaveLength(2);
    run(groups[1].respond(RESPONSE_INVALID));
    expect(access.done).toBe(false);
  });

  it("gets an abort, once, when it is detached before the answer", () => {
    const { run, device, domain, groups, dma, resumes, hardware } = setUp();
    run(device.group!.attach(domain(), {}));
    const accesses = [dma(8, PAGE), dma(8, PAGE + 4096, true)];
    expect(groups.map(({ requests }) => requests[0].rights)).toEqual([REQUEST_READ, REQUEST_WRITE]);
    run(device.group!.detach());
    expect(accesses.map(({ done }) => done)).toEqual([false, false]);
    for (const group of groups) run(group.respond(RESPONSE_SUCCESS));
    expect(resumes()).toBe(2);
    expect(hardware.occupancy.stalled).toBe(0);
  });

  it("keeps what waits over a replace by a domain that takes them too: who attached answers those", () => {
    const { run, device, domain, groups, dma } = setUp();
    const [first, second] = [domain(), domain()];
    run(device.group!.attach(first, {}));
    const access = dma(8, PAGE);
    run(second.map(BigInt(PAGE), 0x10_0000, 4096, PROT_READ));
    run(device.group!.replace(second, {}));
    expect(access.done).toBeUndefined();
    run(groups[0].respond(RESPONSE_SUCCESS));
    expect(access.done).toBe(true);
  });

  it("gets an abort from the core on a replace by a domain that takes none", () => {
    const { run, device, domain, dma, resumes } = setUp();
    run(device.group!.attach(domain(), {}));
    const before = dma(8, PAGE);
    run(device.group!.replace(domain(false), {}));
    expect(before.done).toBe(false);
    expect(dma(8, PAGE).done).toBe(false);
    expect(resumes()).toBe(2);
  });
});

describe("page requests of", () => {
  it("a device that cannot stall: it may be attached, and never makes any", () => {
    const { run, probed, domain, groups, dma } = setUp();
    const device = probed("b", { streamIds: [9, 10] });
    run(device.group!.attach(domain(), {}));
    expect(dma(9, PAGE).done).toBe(false);
    expect(groups).toEqual([]);
    run(device.group!.detach());
  });

  it("a device with several stream ids: it is refused, and stays where it was", () => {
    const { run, errno, probed, domain, dma } = setUp();
    const device = probed("b", { streamIds: [9, 10], canStall: true });
    const plain = domain(false);
    run(device.group!.attach(plain, {}));
    expect(errno(device.group!.replace(domain(), {}))).toBe(EOPNOTSUPP);
    expect(device.group!.domain).toBe(plain);
    // Its stalls are nobody's: each is aborted on the stream that it is of.
    expect(dma(10, PAGE).done).toBe(false);
  });
});
