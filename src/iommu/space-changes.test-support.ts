/** Random changes of a process's pages, and what it would find in them if no page were shared with anybody. */
import fc from "fast-check";
import { expect } from "vitest";
import type { LibraryProcess } from "../memory/index.ts";
import { Refusal } from "../runtime/index.ts";

/** A process, and its pages by number: one byte each, and whether it may be written. */
export interface Person {
  readonly process: LibraryProcess;
  readonly pages: Map<number, { value: number; writable: boolean }>;
}

/** A change of pages 0 up to `pageCount`, and some behind. */
export function spaceChange(pageCount: number) {
  const page = fc.nat(pageCount - 1);
  const count = fc.integer({ min: 1, max: 4 });
  return fc.oneof(
    fc.record({ kind: fc.constantFrom("map" as const, "protect" as const), page, count, writable: fc.boolean() }),
    fc.record({ kind: fc.constantFrom("unmap" as const, "discard" as const), page, count }),
    fc.record({ kind: fc.constant("move" as const), page, count, to: page }),
    fc.record({ kind: fc.constant("write" as const), page, value: fc.nat(255) }),
  );
}
export type SpaceChange = ReturnType<typeof spaceChange> extends fc.Arbitrary<infer T> ? T : never;

/** Makes a change, if the process can. */
export function changeSpace(
  { process, pages }: Person,
  change: SpaceChange,
  addressOf: (page: number) => number,
): void {
  const { memory } = process;
  const { page } = change;
  const address = addressOf(page);
  if (change.kind === "write") {
    const written = isAllowed(() => memory.write(address, Uint8Array.of(change.value)));
    expect(written).toBe(pages.get(page)?.writable ?? false);
    if (written) pages.get(page)!.value = change.value;
    return;
  }
  const { count } = change;
  const known = Array.from({ length: count }, (_, i) => pages.get(page + i));
  switch (change.kind) {
    case "map":
      if (!memory.alive || known.some((one) => one !== undefined)) return;
      memory.map(count, { writable: change.writable, address });
      for (let i = 0; i < count; i++) pages.set(page + i, { value: 0, writable: change.writable });
      return;
    case "protect":
      if (!isAllowed(() => memory.protect(address, count, change))) return;
      for (const one of known) one!.writable = change.writable;
      return;
    case "unmap":
      memory.unmap(address, count);
      for (let i = 0; i < count; i++) pages.delete(page + i);
      return;
    case "discard":
      if (!isAllowed(() => memory.discard(address, count))) return;
      for (const one of known) one!.value = 0;
      return;
    case "move":
      if (!isAllowed(() => memory.move(address, count, addressOf(change.to)))) return;
      for (let i = 0; i < count; i++) pages.delete(page + i);
      for (const [i, one] of known.entries()) pages.set(change.to + i, one!);
      return;
  }
}

/** A child, with pages of its own that are as its parent's. */
export function forkPerson({ process, pages }: Person): Person {
  return { process: process.fork(), pages: new Map([...pages].map(([at, one]) => [at, { ...one }])) };
}

/** Every page of the process holds what it should. */
export function checkPerson({ process, pages }: Person, addressOf: (page: number) => number): void {
  const byte = new Uint8Array(1);
  for (const [page, { value }] of pages) {
    process.memory.read(addressOf(page), byte);
    expect(byte[0]).toBe(value);
  }
}

/** False if it is refused. */
export function isAllowed(action: () => void): boolean {
  try {
    action();
    return true;
  } catch (error) {
    if (error instanceof Refusal) return false;
    throw error;
  }
}
