import { expect, it } from "vitest";
import { EFAULT, EINVAL, EIO, ENOENT, ENOMEM, ENOSYS, ERANGE, Refusal } from "../../runtime/index.ts";
import { decodeFault } from "./fault-record.ts";
import { reservedRegionsIn } from "./properties.ts";
import { errnoOf, REQUEST_WORDS, writeAttach, writeDetach, writeMap, writeUnmap } from "./requests.ts";

/** What a writer wrote, as bytes; the words were not empty before. */
function written(write: (into: Uint32Array) => number): number[] {
  const words = new Uint32Array(REQUEST_WORDS).fill(0xeeeeeeee);
  return [...new Uint8Array(words.buffer, 0, write(words))];
}

const START = [0, 0x10, 0x32, 0x54, 0x76, 0, 0, 0];
const LAST = [0xff, 0x2f, 0x32, 0x54, 0x76, 0, 0, 0];

it("requests have the bytes of the specification", () => {
  expect(written((into) => writeAttach(into, 0x01020304, 0x10, 1))).toEqual([
    ...[1, 0, 0, 0, 4, 3, 2, 1, 0x10, 0, 0, 0],
    ...[1, 0, 0, 0, 0, 0, 0, 0],
  ]);
  expect(written((into) => writeDetach(into, 5, 0x10))).toEqual([
    ...[2, 0, 0, 0, 5, 0, 0, 0, 0x10, 0, 0, 0],
    ...[0, 0, 0, 0, 0, 0, 0, 0],
  ]);
  expect(written((into) => writeMap(into, 5, 0x76_5432_1000n, 0x76_5432_2fffn, 0x1_8000_0000, 3))).toEqual([
    ...[3, 0, 0, 0, 5, 0, 0, 0],
    ...START,
    ...LAST,
    ...[0, 0, 0, 0x80, 1, 0, 0, 0],
    ...[3, 0, 0, 0],
  ]);
  expect(written((into) => writeUnmap(into, 5, 0x76_5432_1000n, 0x76_5432_2fffn))).toEqual([
    ...[4, 0, 0, 0, 5, 0, 0, 0],
    ...START,
    ...LAST,
    ...[0, 0, 0, 0],
  ]);
});

it("statuses are these errnos", () => {
  const expected = [0, EIO, ENOSYS, EIO, EINVAL, ERANGE, ENOENT, EFAULT, ENOMEM, EIO];
  expect(expected.map((_, status) => errnoOf(status))).toEqual(expected);
});

it("properties: unknown ones are passed over, unknown regions are reserved, a list cut short is refused", () => {
  const unknown = [9, 0, 2, 0, 1, 1];
  const region = (subtype: number): number[] => [
    ...[1, 0xf0, 20, 0, subtype, 0, 0, 0],
    ...[0, 0x10, 0, 0, 0, 0, 0, 0, 0xff, 0x1f, 0, 0, 0, 0, 0, 0],
  ];
  const list = Uint8Array.from([...unknown, ...region(1), ...region(7), 0, 0, 9, 9, 1]);
  const range = { start: 0x1000n, last: 0x1fffn };
  expect(reservedRegionsIn(list, "x")).toEqual([
    { ...range, type: "msi" },
    { ...range, type: "reserved" },
  ]);
  expect(() => reservedRegionsIn(Uint8Array.from(region(0).slice(0, 20)), "x")).toThrow(Refusal);
  expect(() => reservedRegionsIn(Uint8Array.of(1, 0, 4, 0, 0, 0, 0, 0), "x")).toThrow(Refusal);
});

it("events: reason, rights, address if it is known; a head with more than a reason is no fault", () => {
  const bytes = Uint8Array.of(2, 0, 0, 0, 6, 1, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 1, 0, 0, 0);
  const fault = { reason: "mapping", endpoint: 8, read: false, write: true, exec: true, address: 0x1_0000_1000n };
  expect(decodeFault(bytes)).toEqual(fault);
  bytes[5] = 0;
  expect(decodeFault(bytes)?.address).toBeUndefined();
  bytes[0] = 77;
  expect(decodeFault(bytes)?.reason).toBe("unknown");
  bytes[1] = 1;
  expect(decodeFault(bytes)).toBeUndefined();
});
