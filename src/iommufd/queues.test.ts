import { describe, expect, it } from "vitest";
import { reportPageRequest } from "../iommu/index.ts";
import { GUEST, GuestWorld, words } from "./guest.test-support.ts";
import { IommufdViommu } from "./viommu.ts";
import type { Values } from "./world.test-support.ts";

/** The guest world with a fault queue 4, and the device on a nested HWPT 5 whose page requests go there. */
function faulting(): { world: GuestWorld; fd: number } {
  const world = new GuestWorld();
  const [id, fd] = world.faultQueue();
  expect(id).toBe(4);
  const nested = world.nest(3, { flags: 4, fault_id: id });
  world.run(world.bound.attach(nested));
  return { world, fd };
}

/** Group id and cookie of each record read. */
function groups(bytes: Uint8Array | string): unknown {
  if (typeof bytes === "string") return bytes;
  const all = words(bytes) as number[];
  return Array.from({ length: all.length / 10 }, (_, i) => [all[i * 10 + 3], all[i * 10 + 9]]);
}

describe("a fault queue", () => {
  it("shows a page request as 40 bytes", () => {
    const { world, fd } = faulting();
    expect(world.fault(7)).toBe(true);
    expect(words(world.readFile(fd, 40))).toEqual([2, 2, 0, 7, 3, 0, 0xabc007, 0, 0, 1]);
  });

  it("is not for virtual functions that share their page requests: the HWPT is refused, with it the attach", () => {
    const { world } = faulting();
    const nested = world.bound.hwpt()!;
    const virtual = world.bind(world.device("vf"));
    Object.defineProperty(virtual.device, "sharesPageRequests", { value: true });
    const reserved = (): unknown => nested.paging.ioas.space.describe();
    const before = reserved();
    expect(world.errnoOf(virtual.attach(nested.id))).toBe("EINVAL");
    expect(reserved()).toEqual(before);
    expect(world.errnoOf(virtual.attach(world.nest()))).toBe("");
    expect(world.errnoOf(virtual.replace(nested.id))).toBe("EINVAL");
    expect(reserved()).toEqual(before);
  });

  it("is read in whole groups, first in first out, whatever is asked for above that", () => {
    const { world, fd } = faulting();
    expect(groups(world.readFile(fd, 400))).toEqual([]);
    for (const group of [5, 6, 5, 8]) world.fault(group);
    expect(groups(world.readFile(fd, 41))).toBe("ESPIPE");
    expect(groups(world.readFile(fd, 0))).toBe("EINVAL");
    expect(groups(world.readFile(fd, 80))).toEqual([
      [5, 1],
      [6, 2],
    ]);
    expect(groups(world.readFile(fd, 400))).toEqual([
      [5, 3],
      [8, 4],
    ]);
    expect(groups(world.readFile(fd, 0))).toEqual([]);
  });

  it("keeps a group together: its last request completes it, and comes last", () => {
    const { world, fd } = faulting();
    const report = (flags: number, group: number, address: bigint): void =>
      world.run(reportPageRequest(world.bound.device, { flags, pasid: 0, group, rights: 1, address }));
    report(0, 5, 0x1000n);
    report(0, 6, 0x2000n);
    report(0, 5, 0x3000n);
    expect(groups(world.readFile(fd, 400))).toEqual([]);
    report(2, 5, 0x4000n);
    expect(groups(world.readFile(fd, 80))).toBe("EINVAL");
    const read = words(world.readFile(fd, 160)) as number[];
    expect([0, 1, 2].map((i) => [read[i * 10], read[i * 10 + 6], read[i * 10 + 9]])).toEqual([
      [0, 0x1000, 1],
      [0, 0x3000, 1],
      [2, 0x4000, 1],
    ]);
    expect([world.writeFile(fd, [1, 0]), world.guests.responses]).toEqual([8, [["guest", 5, 0]]]);
  });

  it("keeps a group that the reader's memory refuses", () => {
    const { world, fd } = faulting();
    for (const group of [1, 2]) world.fault(group);
    expect(groups(world.readFile(fd, 80, 60))).toEqual([[1, 1]]);
    expect(groups(world.readFile(fd, 40, 20))).toBe("EFAULT");
    expect(groups(world.readFile(fd, 40))).toEqual([[2, 2]]);
  });

  it.each<[string, number[], number | undefined, number | string]>([
    ["a part of a response", [1, 0], 7, "ESPIPE"],
    ["nothing", [], undefined, 0],
    ["a bad code", [1, 2], undefined, "EINVAL"],
    ["an unknown cookie", [9, 0], undefined, "EINVAL"],
    ["an answer", [1, 0], undefined, 8],
    ["two answers", [2, 1, 1, 0], undefined, 16],
    ["an answer, and a bad one", [1, 0, 1, 0], undefined, 8],
    ["an answer, and one that is not there", [1, 0], 4096, 8],
  ])("accepts %s as far as it is good", (_what, response, count, result) => {
    const { world, fd } = faulting();
    for (const group of [1, 2]) world.fault(group);
    world.readFile(fd, 80);
    expect(world.writeFile(fd, response, count)).toBe(result);
    const accepted = typeof result === "number" ? result / 8 : 0;
    expect(world.guests.responses).toEqual(
      Array.from({ length: accepted }, (_, i) => ["guest", response[i * 2], response[i * 2 + 1]]),
    );
  });

  it("gives answered cookies again, the lowest first", () => {
    const { world, fd } = faulting();
    for (const group of [1, 2, 3, 4]) world.fault(group);
    world.readFile(fd, 120);
    expect(world.writeFile(fd, [2, 0, 1, 0])).toBe(16);
    world.fault(5);
    expect(groups(world.readFile(fd, 80))).toEqual([
      [4, 1],
      [5, 2],
    ]);
  });

  it("takes an answer to the cookie 0 for a wish to have it, once something awaits an answer", () => {
    const { world, fd } = faulting();
    for (const group of [1, 2, 3]) world.fault(group);
    expect(world.writeFile(fd, [0, 0])).toBe("EINVAL");
    expect(groups(world.readFile(fd, 40))).toEqual([[1, 1]]);
    expect(world.writeFile(fd, [0, 5])).toBe("EINVAL");
    expect(world.writeFile(fd, [0, 0])).toBe("EINVAL");
    expect(groups(world.readFile(fd, 80))).toEqual([
      [2, 0],
      [3, 2],
    ]);
    expect(world.writeFile(fd, [0, 1])).toBe(8);
    expect(world.writeFile(fd, [0, 1])).toBe("EINVAL");
    world.fault(4);
    expect(groups(world.readFile(fd, 40))).toEqual([[4, 0]]);
  });

  it("tells poll when there is something to read", () => {
    const { world, fd } = faulting();
    const file = world.process.file(fd);
    if (file.kind !== "ours") throw new Error("a queue");
    let told = 0;
    file.file.onReadable = () => told++;
    expect([file.file.readable!(), file.file.writable]).toEqual([false, true]);
    world.fault(1);
    expect([file.file.readable!(), told]).toEqual([true, 1]);
    world.readFile(fd, 40);
    expect(file.file.readable!()).toBe(false);
  });

  it.each<[string, (world: GuestWorld) => void]>([
    ["a detach", (world) => world.run(world.bound.detach())],
    ["a replace", (world) => world.run(world.bound.replace(3))],
    [
      "a replace by another with the same queue",
      (world) => world.run(world.bound.replace(world.nest(3, { flags: 4, fault_id: 4 }))),
    ],
  ])("answers INVALID to all that came by an attachment, at %s", (_what, leave) => {
    const { world, fd } = faulting();
    for (const group of [1, 2]) world.fault(group);
    world.readFile(fd, 40);
    leave(world);
    expect(world.guests.responses.toSorted()).toEqual([
      ["guest", 1, 1],
      ["guest", 2, 1],
    ]);
    expect([groups(world.readFile(fd, 40)), world.writeFile(fd, [1, 0])]).toEqual([[], "EINVAL"]);
    // Exactly once.
    expect(world.guests.responses.length).toBe(2);
  });

  it("gets nothing of devices that are not attached to its HWPTs", () => {
    const { world, fd } = faulting();
    const other = world.bind(world.device("other"));
    expect(world.fault(1, 0, other.device)).toBe(false);
    world.run(other.attach(3));
    expect(world.fault(2, 0, other.device)).toBe(false);
    expect(world.guests.responses).toEqual([
      ["other", 1, 1],
      ["other", 2, 1],
    ]);
    expect(groups(world.readFile(fd, 40))).toEqual([]);
  });

  it("gets the requests of a PASID by that PASID's HWPT, and of the guest's own PASIDs by the nested one", () => {
    const world = new GuestWorld();
    const [[first, firstFd], [second, secondFd]] = [world.faultQueue(), world.faultQueue()];
    const own = world.nest(3, { flags: 4 | 8, fault_id: first });
    const forPasid = world.nest(3, { flags: 4 | 8, fault_id: second });
    world.run(world.bound.attach(own));
    world.run(world.bound.attach(forPasid, 5));
    expect([world.fault(1, 5), world.fault(2, 77), world.fault(3)]).toEqual([true, true, true]);
    expect(groups(world.readFile(secondFd, 400))).toEqual([[1, 1]]);
    expect(groups(world.readFile(firstFd, 400))).toEqual([
      [2, 1],
      [3, 2],
    ]);
    world.run(world.bound.detach(5));
    expect(world.guests.responses).toEqual([["guest", 1, 1]]);
    expect(world.fault(4, 5)).toBe(true);
    // On a paging HWPT there are no PASIDs of a guest.
    const paging = world.call("HWPT_ALLOC", { dev_id: 2, pt_id: 1, flags: 4, fault_id: first }).out.out_hwpt_id;
    world.run(world.bound.replace(paging));
    expect([world.fault(5, 77), world.fault(6)]).toEqual([false, true]);
  });

  it("is used by its file and by HWPTs; what comes after its file is closed waits", () => {
    const { world, fd } = faulting();
    expect(world.call("DESTROY", { id: 4 }).errno).toBe("EBUSY");
    world.run(world.process.close(fd));
    expect(world.call("DESTROY", { id: 4 }).errno).toBe("EBUSY");
    expect([world.fault(1), world.guests.responses]).toEqual([true, []]);
    world.run(world.bound.detach());
    expect(world.guests.responses).toEqual([["guest", 1, 1]]);
    for (const id of [5, 4]) expect(world.call("DESTROY", { id }).errno).toBe("");
  });

  it("keeps its context while its file is open", () => {
    const { world, fd } = faulting();
    world.run(world.context.release());
    world.run(world.bound.unbind());
    expect(world.context.objects.list().length).toBeGreaterThan(0);
    world.run(world.process.close(fd));
    expect(world.context.objects.list()).toEqual([]);
  });

  it.each<[string, Values, boolean]>([
    ["flags", { flags: 1 }, true],
    ["a result that cannot be written", {}, false],
  ])("is not made with %s", (_what, values, writable) => {
    const world = new GuestWorld();
    const before = world.state();
    const { errno } = world.call("FAULT_QUEUE_ALLOC", values, writable ? world.process : world.unwritable());
    expect([errno, world.state()]).toEqual([writable ? "EOPNOTSUPP" : "EFAULT", before]);
  });

  it("has neither ioctls nor a position", () => {
    const { world, fd } = faulting();
    const file = world.process.file(fd);
    if (file.kind !== "ours") throw new Error("a queue");
    expect(file.file.hasPosition).toBe(false);
    expect(world.errnoOf(file.file.ioctl(world.process, 0x3b80, world.scratch))).toBe("ENOTTY");
  });
});

describe("an event queue", () => {
  /** Viommu 4 with a queue 5 for `depth` events; `report` offers an event of one word. */
  function eventful(depth: number): { world: GuestWorld; fd: number; report: (word: number, type?: number) => string } {
    const world = new GuestWorld();
    const viommu = world.context.objects.find(world.viommu(), IommufdViommu);
    const [id, fd] = world.eventQueue(viommu.id, depth);
    expect(id).toBe(5);
    const report = (word: number, type = GUEST): string =>
      world.errnoOf(
        (function* () {
          viommu.report(type, new Uint8Array(new Uint32Array([word]).buffer));
        })(),
      );
    return { world, fd, report };
  }

  it.each<[string, Values, string]>([
    ["flags", { flags: 1, veventq_depth: 0 }, "EOPNOTSUPP"],
    ["reserved", { reserved: 1, veventq_depth: 0 }, "EOPNOTSUPP"],
    ["type 0", { type: 0, veventq_depth: 0 }, "EOPNOTSUPP"],
    ["depth 0", { veventq_depth: 0, viommu_id: 9 }, "EINVAL"],
    ["too deep", { veventq_depth: 2 ** 19 + 1, viommu_id: 9 }, "EINVAL"],
    ["no viommu", { viommu_id: 3 }, "ENOENT"],
    ["a type that has one", { type: GUEST }, "EEXIST"],
  ])("is not made with %s", (_what, values, errno) => {
    const { world } = eventful(1);
    const before = world.state();
    const answer = world.call("VEVENTQ_ALLOC", { viommu_id: 4, type: 1, veventq_depth: 1, ...values });
    expect([answer.errno, world.state()]).toEqual([errno, before]);
  });

  it("of a type without events stays empty; without a queue the driver is told so", () => {
    const { world, report } = eventful(2);
    expect(report(1, 77)).toBe("EOPNOTSUPP");
    const [id, fd] = world.eventQueue(4, 2, 77);
    expect([report(1), words(world.readFile(fd, 100))]).toEqual(["", []]);
    expect(world.call("DESTROY", { id }).errno).toBe("EBUSY");
    world.run(world.process.close(fd));
    expect(world.call("DESTROY", { id }).errno).toBe("");
    expect(world.call("DESTROY", { id: 4 }).errno).toBe("EBUSY");
  });

  it("numbers what is offered, and says where something was lost", () => {
    const { world, fd, report } = eventful(2);
    for (const word of [10, 11, 12, 13]) report(word);
    expect(words(world.readFile(fd, 12))).toEqual([0, 0, 10]);
    // There is room again, and the marker is still last: the gap in the numbers says it.
    report(14);
    expect(words(world.readFile(fd, 100))).toEqual([0, 1, 11, 0, 4, 14]);
    for (const word of [15, 16, 17]) report(word);
    expect(words(world.readFile(fd, 100))).toEqual([0, 5, 15, 0, 6, 16, 1, 7]);
  });

  it("is read in whole records", () => {
    const { world, fd, report } = eventful(2);
    expect(words(world.readFile(fd, 7))).toBe("EINVAL");
    expect(words(world.readFile(fd, 8))).toEqual([]);
    for (const word of [10, 11, 12]) report(word);
    expect(words(world.readFile(fd, 11))).toBe("EINVAL");
    expect(words(world.readFile(fd, 23))).toEqual([0, 0, 10]);
    expect(words(world.readFile(fd, 24, 14))).toEqual([0, 1, 11]);
    expect(words(world.readFile(fd, 8, 4))).toBe("EFAULT");
    expect(words(world.readFile(fd, 8))).toEqual([1, 2]);
  });

  it("takes no answers, and tells poll only what can be read", () => {
    const { world, fd, report } = eventful(1);
    const file = world.process.file(fd);
    if (file.kind !== "ours") throw new Error("a queue");
    expect([world.writeFile(fd, [1, 0]), file.file.writable, file.file.readable!()]).toEqual(["EINVAL", false, false]);
    report(1);
    expect(file.file.readable!()).toBe(true);
  });
});
