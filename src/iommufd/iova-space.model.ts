import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Ioas } from "./ioas.ts";
import { type FakeDomain, type Values, World } from "./world.test-support.ts";

/**
 * Random programs of ioctls, against a model that takes the reference at its word: lists of areas, reserved and allowed
 * ranges, searched from one end to the other, and the placement of reference 3.5 as it is written there.
 */
const M = 2n ** 64n - 1n;
const PAGE = 4096n;
const HUGE = 2n ** 21n;
const APERTURE = { start: 0x10000n, last: 0x7fffffn };

interface Range {
  start: bigint;
  last: bigint;
}

interface ModelArea extends Range {
  /** Address of the memory at `start`. */
  address: bigint;
  writable: boolean;
  prot: number;
}

interface ModelIoas {
  areas: ModelArea[];
  reserved: (Range & { owner: number })[];
  allowed: Range[];
  huge: boolean;
  /** Ids of HWPTs, and the smallest page of their domains. */
  hwpts: { id: number; page: bigint }[];
}

const touches = (a: Range, b: Range): boolean => a.start <= b.last && b.start <= a.last;

function larger(a: bigint, b: bigint): bigint {
  if (a > b) return a;
  return b;
}

function joined(ranges: readonly Range[]): Range[] {
  const sorted = ranges.map(({ start, last }) => ({ start, last })).sort((a, b) => (a.start < b.start ? -1 : 1));
  const result: Range[] = [];
  for (const range of sorted) {
    const before = result.at(-1);
    if (before && range.start <= before.last + 1n) before.last = larger(before.last, range.last);
    else result.push(range);
  }
  return result;
}

function gaps(ranges: readonly Range[], within: Range): Range[] {
  const result: Range[] = [];
  let next = within.start;
  for (const { start, last } of joined(ranges)) {
    if (start > next && next <= within.last) {
      result.push({ start: next, last: start - 1n < within.last ? start - 1n : within.last });
    }
    if (last + 1n > next) next = last + 1n;
  }
  if (next <= within.last) result.push({ start: next, last: within.last });
  return result;
}

function powerOfTwoFrom(length: bigint): bigint {
  let power = 1n;
  while (power < length) power *= 2n;
  return power;
}

class Model {
  readonly ioases = new Map<number, ModelIoas>();
  readonly buffer: Range;

  constructor(buffer: Range) {
    this.buffer = buffer;
  }

  alignment({ huge, hwpts }: ModelIoas): bigint {
    return [1n, huge ? 1n : PAGE, ...hwpts.map(({ page }) => page)].reduce(larger);
  }

  /** Reference 3.5, "Automatic placement". */
  automatic(ioas: ModelIoas, address: bigint, length: bigint): bigint | string {
    const offset = address % PAGE;
    let align = powerOfTwoFrom(length);
    if (address !== 0n) {
      const lowest = address & -address;
      if (lowest < align) align = lowest;
    }
    if (align > HUGE) align = HUGE;
    if (length === 0n || length >= 2n ** 63n - 1n) return "EOVERFLOW";
    if (align < this.alignment(ioas)) return "EINVAL";
    const fitIn = ({ start, last }: Range): bigint | undefined => {
      const aligned = ((start + align - 1n) / align) * align;
      if (aligned > M) return undefined;
      const at = aligned | offset;
      return at < last && last - at >= length - 1n ? at : undefined;
    };
    const windows =
      ioas.allowed.length === 0
        ? [{ start: PAGE, last: M - PAGE }]
        : joined(ioas.allowed).map(({ start, last }) => ({
            start: start < PAGE ? PAGE : start,
            last: last > M - PAGE ? M - PAGE : last,
          }));
    for (const window of windows) {
      const start = fitIn(window);
      if (start === undefined) continue;
      for (const gap of gaps([...ioas.reserved, ...ioas.areas], { start, last: window.last })) {
        const place = fitIn(gap);
        if (place !== undefined) return place;
      }
    }
    return "ENOSPC";
  }

  place(ioas: ModelIoas, address: bigint, length: bigint, fixed: bigint | undefined): bigint | string {
    const alignment = this.alignment(ioas);
    if (length === 0n || length > M - PAGE || length % alignment !== 0n) return "EINVAL";
    if (fixed === undefined) return this.automatic(ioas, address, length);
    if (fixed % alignment !== 0n) return "EINVAL";
    const range = { start: fixed, last: fixed + length - 1n };
    if (range.last > M) return "EOVERFLOW";
    if (ioas.reserved.some((reserved) => touches(reserved, range))) return "EINVAL";
    if (ioas.areas.some((area) => touches(area, range))) return "EEXIST";
    return fixed;
  }

  /** Memory outside of the buffer cannot be pinned. */
  pinnable({ start, last, address }: ModelArea): boolean {
    return address >= this.buffer.start && address + (last - start) <= this.buffer.last;
  }

  add(
    id: number,
    parts: { address: bigint; length: bigint; writable: boolean }[],
    fixed: bigint | undefined,
    prot: number,
  ) {
    const ioas = this.ioases.get(id)!;
    const length = parts.reduce((sum, part) => sum + part.length, 0n);
    const at = this.place(ioas, parts[0]?.address ?? 0n, length, fixed);
    if (typeof at === "string") return at;
    for (const { writable, address } of parts) {
      if ((prot & 2) !== 0 && !writable) return "EPERM";
      if ((address % PAGE) % this.alignment(ioas) !== 0n) return "EINVAL";
    }
    let start = at;
    const areas = parts.map((part) => {
      const area = { start, last: start + part.length - 1n, address: part.address, writable: part.writable, prot };
      start += part.length;
      return area;
    });
    if (ioas.hwpts.length > 0 && areas.some((area) => !this.pinnable(area))) return "EFAULT";
    ioas.areas.push(...areas);
    return at;
  }

  sort({ areas }: ModelIoas): ModelArea[] {
    return areas.sort((a, b) => (a.start < b.start ? -1 : 1));
  }

  unmap(ioas: ModelIoas, range: Range): { errno: string; bytes: bigint } {
    let bytes = 0n;
    for (const area of this.sort(ioas).filter((area) => touches(area, range))) {
      if (area.start < range.start || area.last > range.last) return { errno: "ENOENT", bytes };
      ioas.areas.splice(ioas.areas.indexOf(area), 1);
      bytes += area.last - area.start + 1n;
    }
    return { errno: "", bytes };
  }

  copy(source: ModelIoas, start: bigint, length: bigint) {
    const parts: { address: bigint; length: bigint; writable: boolean }[] = [];
    let at = start;
    const last = start + length - 1n;
    while (at <= last) {
      const area = source.areas.find((area) => area.start <= at && at <= area.last);
      if (area === undefined) return "ENOENT";
      const end = area.last < last ? area.last : last;
      parts.push({ address: area.address + (at - area.start), length: end - at + 1n, writable: area.writable });
      at = end + 1n;
    }
    return parts;
  }

  reserve(ioas: ModelIoas, range: Range, owner: number): string {
    if (ioas.areas.some((area) => touches(area, range))) return "EADDRINUSE";
    if (ioas.allowed.some((allowed) => touches(allowed, range))) return "EADDRINUSE";
    ioas.reserved.push({ ...range, owner });
    return "";
  }

  link(ioas: ModelIoas, id: number, page: bigint): string {
    if (
      page > this.alignment(ioas) &&
      ioas.areas.some(({ start, last, address }) => start % page || (last + 1n) % page || (address % PAGE) % page)
    ) {
      return "EADDRINUSE";
    }
    const before = [...ioas.reserved];
    const errno =
      this.reserve(ioas, { start: 0n, last: APERTURE.start - 1n }, id) ||
      this.reserve(ioas, { start: APERTURE.last + 1n, last: M }, id) ||
      (ioas.areas.some((area) => !this.pinnable(area)) ? "EFAULT" : "");
    if (errno !== "") ioas.reserved = before;
    else ioas.hwpts.push({ id, page });
    return errno;
  }
}

const ioas = fc.constantFrom(0, 1);
/** An area that is there when the step runs, by its place in the list: its range replaces the step's. */
const area = fc.option(fc.nat(20), { freq: 4, nil: undefined });
const iova = fc.oneof(
  { weight: 8, arbitrary: fc.integer({ min: 0, max: 24 }).map((page) => 0x10000n + BigInt(page) * PAGE) },
  { weight: 2, arbitrary: fc.integer({ min: 0, max: 48 }).map((half) => 0x10000n + BigInt(half) * 2048n) },
  { weight: 1, arbitrary: fc.constantFrom(0n, 1n, PAGE, 0x7ff000n, M - PAGE + 1n, M - 1n, M) },
);
const length = fc.oneof(
  { weight: 16, arbitrary: fc.integer({ min: 1, max: 4 }).map((pages) => BigInt(pages) * PAGE) },
  { weight: 2, arbitrary: fc.constantFrom(2048n, 6144n, 512n, 1n, 4095n) },
  { weight: 1, arbitrary: fc.constantFrom(0n, M, M - PAGE, M - PAGE + 1n, 2n ** 63n - 1n, 2n ** 63n, 2n ** 62n) },
);
const offset = fc.oneof(
  { weight: 12, arbitrary: fc.integer({ min: 0, max: 24 }).map((page) => page * 4096) },
  { weight: 2, arbitrary: fc.integer({ min: 0, max: 40 }).map((half) => half * 2048) },
  { weight: 1, arbitrary: fc.constantFrom(512, 1, 31 * 4096, 33 * 4096) },
);
const flags = fc.oneof(
  { weight: 12, arbitrary: fc.constantFrom(6, 7) },
  { weight: 3, arbitrary: fc.constantFrom(4, 5) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 8 }) },
);

const step = fc.oneof(
  { weight: 8, arbitrary: fc.record({ op: fc.constant("map" as const), ioas, flags, offset, length, iova }) },
  { weight: 5, arbitrary: fc.record({ op: fc.constant("unmap" as const), ioas, iova, length, area }) },
  {
    weight: 8,
    arbitrary: fc.record({ op: fc.constant("copy" as const), ioas, to: ioas, flags, length, iova, at: iova, area }),
  },
  { weight: 1, arbitrary: fc.record({ op: fc.constant("unmap all" as const), ioas }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant("reserve" as const), ioas, iova, length }) },
  {
    weight: 2,
    arbitrary: fc.record({
      op: fc.constant("allow" as const),
      ioas,
      ranges: fc.array(fc.tuple(iova, length), { maxLength: 3 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ op: fc.constant("huge pages" as const), ioas, on: fc.boolean() }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant("link" as const), ioas, device: fc.constantFrom(0, 1) }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant("unlink" as const), ioas, which: fc.nat(3) }) },
);
/** Half of the programs begin with a domain: linked later, areas are often in its way. */
const beginning = fc.constantFrom<Step[]>(
  [],
  [{ op: "link", ioas: 0, device: 1 }],
  [{ op: "link", ioas: 0, device: 0 }],
  [],
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

const PAGES = [2048n, 4096n];

function play(steps: readonly Step[]): void {
  const world = new World();
  const ids = [world.ioas(), world.ioas()];
  const array = world.pages(1);
  const address = BigInt(world.pages(32, { address: 0x100000000 }));
  const devices = PAGES.map((page, index) =>
    world.bind(world.device(`dev${index}`, { page: Number(page), aperture: APERTURE })),
  );
  const model = new Model({ start: address, last: address + 32n * PAGE - 1n });
  for (const id of ids) model.ioases.set(id, { areas: [], reserved: [], allowed: [], huge: true, hwpts: [] });
  const spaceOf = (id: number) => (world.context.objects.any(id) as Ioas).space;

  for (const given of steps) {
    const id = ids[given.ioas];
    const mine = model.ioases.get(id)!;
    const s = onArea(given, mine.areas);
    if (s.op === "map") {
      const user_va = address + BigInt(s.offset);
      const answer = world.call("IOAS_MAP", { flags: s.flags, ioas_id: id, user_va, length: s.length, iova: s.iova });
      const expected = checkMap(s.flags, [s.iova, s.length]) || (user_va + s.length > M ? "EOVERFLOW" : "");
      const fixed = (s.flags & 1) !== 0 ? s.iova : undefined;
      const part = { address: user_va, length: s.length, writable: (s.flags & 2) !== 0 };
      const result = expected || model.add(id, [part], fixed, protOf(s.flags));
      expect([s, answer.errno || answer.out.iova]).toEqual([s, result]);
    } else if (s.op === "copy") {
      const to = ids[s.to];
      const values: Values = {
        flags: s.flags,
        src_ioas_id: id,
        dst_ioas_id: to,
        length: s.length,
        src_iova: s.iova,
        dst_iova: s.at,
      };
      const answer = world.call("IOAS_COPY", values);
      let result: string | bigint = checkMap(s.flags, [s.length, s.iova, s.at]);
      if (result === "") result = s.length === 0n ? "EINVAL" : s.iova + s.length - 1n > M ? "EOVERFLOW" : "";
      if (result === "") {
        const parts = model.copy(mine, s.iova, s.length);
        result =
          typeof parts === "string"
            ? parts
            : model.add(to, parts, (s.flags & 1) !== 0 ? s.at : undefined, protOf(s.flags));
      }
      expect([s, answer.errno || answer.out.dst_iova]).toEqual([s, result]);
    } else if (s.op === "unmap" || s.op === "unmap all") {
      const [start, size] = s.op === "unmap" ? [s.iova, s.length] : [0n, M];
      const answer = world.call("IOAS_UNMAP", { ioas_id: id, iova: start, length: size });
      let result: string | bigint;
      if (start === 0n && size === M) result = answer.errno || model.unmap(mine, { start, last: M }).bytes;
      else if (start === M || size === M) result = "EOVERFLOW";
      else if (size === 0n) result = "EINVAL";
      else if (start + size - 1n > M) result = "EOVERFLOW";
      else {
        const { errno, bytes } = model.unmap(mine, { start, last: start + size - 1n });
        result = errno || (bytes === 0n ? "ENOENT" : bytes);
      }
      expect([s, answer.errno || answer.out.length]).toEqual([s, result]);
    } else if (s.op === "reserve") {
      const range = { start: s.iova, last: s.iova + s.length - 1n };
      if (s.length === 0n || range.last > M) continue;
      const errno = errnoOf(world, () => spaceOf(id).reserve(range.start, range.last, undefined));
      expect([s, errno]).toEqual([s, model.reserve(mine, range, 0)]);
    } else if (s.op === "allow") {
      const ranges = s.ranges.map(([start, size]) => ({ start, last: BigInt.asUintN(64, start + size - 1n) }));
      world.process.memory.write(
        array,
        new Uint8Array(new BigUint64Array(ranges.flatMap((r) => [r.start, r.last])).buffer),
      );
      const answer = world.call("IOAS_ALLOW_IOVAS", { ioas_id: id, num_iovas: ranges.length, allowed_iovas: array });
      const bad = ranges.some((r, i) => r.start >= r.last || ranges.slice(0, i).some((earlier) => touches(earlier, r)));
      const taken = ranges.some((r) => mine.reserved.some((reserved) => touches(reserved, r)));
      const errno = bad ? "EINVAL" : taken ? "EADDRINUSE" : "";
      expect([s, answer.errno]).toEqual([s, errno]);
      if (errno === "") mine.allowed = ranges;
    } else if (s.op === "huge pages") {
      const answer = world.call("OPTION", { option_id: 1, op: 0, object_id: id, val64: s.on ? 1 : 0 });
      let errno = "";
      if (!s.on && mine.huge) {
        if (mine.hwpts.length > 0 && mine.areas.length > 0) errno = "EINVAL";
        else if (mine.areas.some((a) => a.start % PAGE || (a.last + 1n) % PAGE || a.address % PAGE))
          errno = "EADDRINUSE";
      }
      expect([s, answer.errno]).toEqual([s, errno]);
      if (errno === "") mine.huge = s.on;
    } else if (s.op === "link") {
      const answer = world.call("HWPT_ALLOC", { dev_id: devices[s.device].id, pt_id: id });
      expect([s, answer.errno]).toEqual([s, model.link(mine, answer.out.out_hwpt_id, PAGES[s.device])]);
    } else if (s.op === "unlink") {
      const hwpt = mine.hwpts[s.which];
      if (hwpt === undefined) continue;
      expect([s, world.call("DESTROY", { id: hwpt.id }).errno]).toEqual([s, ""]);
      mine.hwpts.splice(s.which, 1);
      mine.reserved = mine.reserved.filter(({ owner }) => owner !== hwpt.id);
    }
    compare(world, model);
  }
  world.run(world.context.release());
  for (const device of devices) world.run(device.unbind());
  expect([world.memory.pinnedFrames, world.process.user.lockedPages, world.process.memory.pinnedPages]).toEqual([
    0, 0, 0,
  ]);
}

/** A step on an area, half of them on its second page and one page more: what follows it is met too. */
function onArea(step: Step, areas: readonly ModelArea[]): Step {
  if ((step.op !== "unmap" && step.op !== "copy") || step.area === undefined || areas.length === 0) return step;
  const { start, last } = areas[step.area % areas.length];
  const shift = step.area % 3 === 2 ? PAGE : 0n;
  return { ...step, iova: BigInt.asUintN(64, start + shift), length: last - start + 1n };
}

function checkMap(flags: number, values: readonly bigint[]): string {
  if ((flags & ~7) !== 0) return "EOPNOTSUPP";
  if (values.includes(M)) return "EOVERFLOW";
  return (flags & 6) === 0 ? "EINVAL" : "";
}

function protOf(flags: number): number {
  return ((flags & 4) !== 0 ? 1 : 0) | (flags & 2);
}

function errnoOf(world: World, action: () => void): string {
  return world.errnoOf(
    (function* () {
      action();
    })(),
  );
}

/** What every part of the room must agree on: ranges, alignment, each domain's translation, and what is pinned. */
function compare(world: World, model: Model): void {
  const pinned = new Set<number>();
  for (const [id, ioas] of model.ioases) {
    const { space } = world.context.objects.any(id) as Ioas;
    expect(space.alignment).toBe(Number(model.alignment(ioas)));
    expect(space.usableRanges()).toEqual(gaps(ioas.reserved, { start: 0n, last: M }));
    expect(space.areas().map(({ start, last }) => ({ start, last }))).toEqual(
      model.sort(ioas).map(({ start, last }) => ({ start, last })),
    );
    for (const { id: hwptId } of ioas.hwpts) {
      const { domain } = world.context.objects.any(hwptId) as unknown as { domain: FakeDomain };
      let bytes = 0;
      for (const { start, last, address } of ioas.areas) {
        for (let at = start; at <= last; at += 2048n) {
          const user = address + (at - start);
          const physical = domain.translate(at)!;
          expect(BigInt(physical % 4096)).toBe(user % PAGE);
          pinned.add(Number(user / PAGE));
          bytes += 2048;
        }
      }
      expect(domain.leaves.reduce((sum, leaf) => sum + leaf.size, 0)).toBe(bytes);
    }
  }
  expect(world.memory.pinnedFrames).toBe(pinned.size);
}

describe("the IOVA space of an IOAS", () => {
  it("answers random programs as the model does", () => {
    fc.assert(
      fc.property(beginning, fc.array(step, { minLength: 1, maxLength: 40 }), (first, rest) =>
        play([...first, ...rest]),
      ),
      { numRuns: 150 },
    );
  });
});
