// Runs in a browser.
/**
 * Where addresses behind a bridge lie (PCI-to-PCI bridge architecture 1.2, section 3.2.5). A bridge passes three ranges down:
 * I/O ports, memory, and prefetchable memory, which alone may lie above 4 GiB. What is behind it is placed in them. As
 * firmware does it, every bridge gets some memory: something may be plugged in.
 */
import { AddressWindow } from "./address-window.ts";
import { type Bar, PlacedBar } from "./bar.ts";
import type { PciBus } from "./bus.ts";
import type { PciFunction } from "./function.ts";
import { IO_BASE, MEMORY_BASE, PREFETCHABLE_BASE, PREFETCHABLE_BASE_UPPER, PREFETCHABLE_LIMIT_UPPER } from "./ids.ts";

export type WindowKind = Bar["kind"];
export type BusWindows = Readonly<Record<WindowKind, AddressWindow>>;

const KINDS = ["memory32", "memory64", "io"] as const satisfies readonly WindowKind[];
const MIB = 2 ** 20;
/** The steps in which a bridge knows addresses. */
const GRANULE: Readonly<Record<WindowKind, number>> = { memory32: MIB, memory64: MIB, io: 2 ** 12 };
/** What a bridge gets at least. */
const LEAST: Readonly<Record<WindowKind, number>> = { memory32: 2 * MIB, memory64: 0, io: 0 };

/** What needs a place on the bus: a function's own BARs, and those that its virtual functions have shares of. */
export function placedBars({ bars, virtualFunctions }: PciFunction): PlacedBar[] {
  return [...bars, ...(virtualFunctions?.bars ?? [])].filter((bar) => bar instanceof PlacedBar);
}

/** In which of the windows of `bus` a BAR is placed. */
export function windowKindOf({ kind, description }: Bar, bus: PciBus): WindowKind {
  const mustBeLow = kind === "memory64" && bus.bridge !== undefined && description.prefetchable !== true;
  return mustBeLow ? "memory32" : kind;
}

/** Places the windows of the bus behind a bridge in those of the bridge's bus; undefined if there is no room for all. */
export function placeWindows(behind: PciBus, above: BusWindows): BusWindows | undefined {
  const closed = new AddressWindow(0, 0);
  const placed = { memory32: closed, memory64: closed, io: closed };
  for (const kind of KINDS) {
    const { size, align } = need(behind, kind);
    if (size === 0) continue;
    const start = above[kind].allocate(size, align);
    if (start === undefined) {
      freeWindows(above, placed);
      return undefined;
    }
    placed[kind] = new AddressWindow(start, start + size);
  }
  return placed;
}

/** The mirror image of {@link placeWindows}. */
export function freeWindows(above: BusWindows, windows: BusWindows): void {
  for (const kind of KINDS) if (windows[kind].size > 0) above[kind].free(windows[kind].start);
}

/** Tells a bridge what to pass down. A window of no size has its limit below its base. */
export function programBridge(bridge: PciFunction, { memory32, memory64, io }: BusWindows): void {
  bridge.writeConfig(MEMORY_BASE, 4, baseAndLimit(memory32));
  bridge.writeConfig(PREFETCHABLE_BASE, 4, baseAndLimit(memory64));
  bridge.writeConfig(PREFETCHABLE_BASE_UPPER, 4, Math.floor(memory64.start / 2 ** 32));
  bridge.writeConfig(PREFETCHABLE_LIMIT_UPPER, 4, Math.floor(Math.max(memory64.end - 1, 0) / 2 ** 32));
  bridge.writeConfig(IO_BASE, 2, io.size === 0 ? 0x00f0 : ((io.start >>> 8) & 0xf0) | ((io.end - 1) & 0xf000));
}

/** Bits 31 to 20 of both, each in the upper 12 bits of its register. */
function baseAndLimit({ start, end, size }: AddressWindow): number {
  if (size === 0) return 0x0000fff0;
  const bits = (address: number): number => Math.floor((address % 2 ** 32) / MIB) * 16;
  return bits(start) + bits(end - 1) * 2 ** 16;
}

/** What a bridge must pass down for all that is behind it: the same places, tried from 0 on. */
function need(bus: PciBus, kind: WindowKind): { readonly size: number; readonly align: number } {
  const trial = new AddressWindow(0, Number.POSITIVE_INFINITY);
  let align = GRANULE[kind];
  const place = (size: number, alignment: number): void => {
    if (size === 0) return;
    trial.allocate(size, alignment);
    align = Math.max(align, alignment);
  };
  for (const member of bus.functions) {
    for (const bar of placedBars(member)) if (windowKindOf(bar, bus) === kind) place(bar.extent, bar.size);
  }
  for (const below of bus.behind) {
    const { size, align: alignment } = need(below, kind);
    place(size, alignment);
  }
  return { size: Math.max(LEAST[kind], Math.ceil(trial.used / GRANULE[kind]) * GRANULE[kind]), align };
}
