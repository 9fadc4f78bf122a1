import { describe, expect, it } from "vitest";
import { CAP_SYS_RESOURCE } from "../memory/index.ts";
import { type Values, World } from "./world.test-support.ts";

const RLIMIT_MODE = 0;
const HUGE_PAGES = 1;
const SET = 0;
const GET = 1;

describe("OPTION", () => {
  it.each<[string, Values, string]>([
    ["reserved", { reserved: 1, option_id: 7 }, "EOPNOTSUPP"],
    ["an unknown option", { option_id: 2 }, "EOPNOTSUPP"],
    ["RLIMIT_MODE of an object", { option_id: RLIMIT_MODE, object_id: 1, op: GET }, "EOPNOTSUPP"],
    ["RLIMIT_MODE by an unknown op", { option_id: RLIMIT_MODE, op: 2 }, "EOPNOTSUPP"],
    ["RLIMIT_MODE when there are objects, before its value", { option_id: RLIMIT_MODE, op: SET, val64: 2 }, "EBUSY"],
    ["HUGE_PAGES of no IOAS, before its op", { option_id: HUGE_PAGES, object_id: 9, op: 7 }, "ENOENT"],
    ["HUGE_PAGES by an unknown op", { option_id: HUGE_PAGES, object_id: 1, op: 2 }, "EOPNOTSUPP"],
    ["HUGE_PAGES with another value", { option_id: HUGE_PAGES, object_id: 1, op: SET, val64: 2 }, "EINVAL"],
  ])("refuses %s", (_what, values, errno) => {
    const world = new World({ process: { capabilities: [CAP_SYS_RESOURCE] } });
    world.ioas();
    const before = world.state();
    expect(world.call("OPTION", values).errno).toBe(errno);
    expect(world.state()).toEqual(before);
  });

  it("RLIMIT_MODE needs CAP_SYS_RESOURCE, before anything else of a SET", () => {
    const world = new World();
    world.ioas();
    expect(world.call("OPTION", { option_id: RLIMIT_MODE, op: SET, val64: 2 }).errno).toBe("EPERM");
    expect(world.call("OPTION", { option_id: RLIMIT_MODE, op: GET, val64: 5 })).toMatchObject({ errno: "" });
  });

  it("RLIMIT_MODE is remembered", () => {
    const world = new World({ process: { capabilities: [CAP_SYS_RESOURCE] } });
    expect(world.call("OPTION", { option_id: RLIMIT_MODE, op: SET, val64: 2 }).errno).toBe("EINVAL");
    expect(world.call("OPTION", { option_id: RLIMIT_MODE, op: SET, val64: 1 }).errno).toBe("");
    expect(world.call("OPTION", { option_id: RLIMIT_MODE, op: GET }).out.val64).toBe(1n);
  });

  it("writes back only val64", () => {
    const world = new World();
    world.ioas();
    expect(world.call("OPTION", { option_id: HUGE_PAGES, object_id: 1, op: GET }, world.unwritable()).errno).toBe(
      "EFAULT",
    );
    expect(
      world.call("OPTION", { option_id: HUGE_PAGES, object_id: 1, op: SET, val64: 0 }, world.unwritable()).errno,
    ).toBe("");
    expect(world.call("OPTION", { option_id: HUGE_PAGES, object_id: 1, op: GET }).out.val64).toBe(0n);
  });

  const setHuge = (world: World, ioas: number, val64: number) =>
    world.call("OPTION", { option_id: HUGE_PAGES, object_id: ioas, op: SET, val64 }).errno;
  const alignment = (world: World, ioas: number) =>
    world.call("IOAS_IOVA_RANGES", { ioas_id: ioas }).out.out_iova_alignment;

  it("huge pages off raises the alignment to a page, on lowers it again", () => {
    const world = new World();
    const ioas = world.ioas();
    expect(setHuge(world, ioas, 0)).toBe("");
    expect(alignment(world, ioas)).toBe(4096n);
    expect(setHuge(world, ioas, 1)).toBe("");
    expect(alignment(world, ioas)).toBe(1n);
  });

  it("huge pages off is too late for areas that do not fit, and for areas in a domain", () => {
    const world = new World();
    const [ioas, other] = [world.ioas(), world.ioas()];
    expect(world.map(ioas, 0x10000, 512, 0x1000).errno).toBe("");
    expect(setHuge(world, ioas, 0)).toBe("EADDRINUSE");
    world.run(world.bind().attach(other));
    expect(setHuge(world, other, 0)).toBe("");
    expect(setHuge(world, other, 1)).toBe("");
    expect(world.map(other, world.pages(1), 4096, 0x1000).errno).toBe("");
    expect(setHuge(world, other, 0)).toBe("EINVAL");
    expect(setHuge(world, other, 1)).toBe("");
  });

  it("huge pages that are off already can be turned off again, whatever is mapped", () => {
    const world = new World();
    const ioas = world.ioas();
    expect(setHuge(world, ioas, 0)).toBe("");
    world.run(world.bind().attach(ioas));
    expect(world.map(ioas, world.pages(1), 4096, 0x1000).errno).toBe("");
    expect(setHuge(world, ioas, 0)).toBe("");
  });
});
