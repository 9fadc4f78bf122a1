import { expect, test } from "vitest";
import { Maps } from "./maps.ts";

const text = `\
00400000-00401000 r--p 00000000 fe:00 1234 /usr/bin/a program
00401000-00403000 r-xp 00001000 fe:00 1234 /usr/bin/a program
00600000-00602000 rw-p 00000000 00:00 0 [heap]
00602000-00603000 -w-s 00000000 00:01 77 /dev/zero (deleted)
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0 [stack]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
`;
const starts = [0x400000, 0x401000, 0x600000, 0x602000, 0x7ffc00000000, 0xffffffffff600000];

test("the mappings of a process are found by address, wherever it lies", () => {
  const maps = new Maps(text);
  const behind = (address: number): number[] => [...maps.endingBehind(address)].map(({ start }) => start);
  expect(behind(0)).toEqual(starts);
  for (const [index, vma] of [...maps.endingBehind(0)].entries()) {
    for (const address of [vma.start, vma.end - 4096]) expect(behind(address)).toEqual(starts.slice(index));
    expect(behind(vma.end)).toEqual(starts.slice(index + 1));
  }
  expect([...new Maps("").endingBehind(0)]).toEqual([]);
  expect([...maps.endingBehind(0x602000)][0]).toEqual({
    ...{ start: 0x602000, end: 0x603000, readable: false, writable: true, executable: false, shared: true },
    ...{ offset: 0, device: "00:01", inode: 77, path: "/dev/zero (deleted)" },
  });
});

test("a range is covered where every byte of it is mapped, with the right", () => {
  const covering = (start: number, end: number, write: boolean): number | undefined =>
    new Maps(text).covering(start, end, write)?.length;
  expect(covering(0x400800, 0x402000, false)).toBe(2);
  expect(covering(0x400800, 0x402000, true)).toBeUndefined();
  expect(covering(0x601fff, 0x602001, true)).toBe(2);
  expect(covering(0x601fff, 0x602001, false)).toBeUndefined();
  expect(covering(0x402fff, 0x403001, false)).toBeUndefined();
  expect(covering(0x3fffff, 0x400001, false)).toBeUndefined();
  expect(covering(0x500000, 0x500001, false)).toBeUndefined();
});
