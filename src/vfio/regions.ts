// Runs in a browser.
import type { PciFunction } from "../pci/index.ts";
import { EFAULT, EINVAL, EIO, refuse, type System, type Task } from "../runtime/index.ts";
import {
  REGION_CONFIG,
  REGION_COUNT,
  REGION_FLAG_READ,
  REGION_FLAG_WRITE,
  REGION_ROM,
  REGION_STRIDE,
  REGION_VGA,
} from "../uapi/index.ts";
import type { VirtualConfig } from "./virtual-config.ts";

/** What GET_REGION_INFO says of a region. BARs cannot be mapped: there is no flag for it. */
export interface RegionDescription {
  readonly size: number;
  readonly flags: number;
}

/** EINVAL if there is no region of this index. An absent BAR is a region of size 0. */
export function describeRegion(member: PciFunction, index: number): RegionDescription {
  if (index >= REGION_COUNT) refuse(EINVAL, () => `there is no region ${index}; there are ${REGION_COUNT}`);
  if (index === REGION_VGA) refuse(EINVAL, () => `${member.name} is no VGA device`);
  const readWrite = REGION_FLAG_READ | REGION_FLAG_WRITE;
  if (index === REGION_CONFIG) return { size: member.config.size, flags: readWrite };
  const bar = index < REGION_ROM ? member.bars[index] : undefined;
  return bar === undefined ? { size: 0, flags: 0 } : { size: bar.size, flags: readWrite };
}

/** False for a memory BAR while the client has memory decoding off, or the function asleep. */
export function barAnswers(member: PciFunction, config: VirtualConfig, index: number): boolean {
  return member.bars[index]?.kind === "io" || config.memoryEnabled;
}

/** What to do with the bytes of one access: take them from the device, or give them to it. */
export type Direction = "read" | "write";

/**
 * An access of a client at a position of the device's file (reference 5.8); returns the number of bytes transferred.
 * EINVAL: no such region, or nothing behind it. EIO: memory decoding is off. EFAULT: beyond configuration space.
 */
export function* accessRegion(
  system: System,
  member: PciFunction,
  config: VirtualConfig,
  position: number,
  bytes: Uint8Array,
  direction: Direction,
): Task<number> {
  if (bytes.length === 0) return 0;
  const index = Math.floor(position / REGION_STRIDE);
  const offset = position % REGION_STRIDE;
  if (index >= REGION_COUNT) refuse(EINVAL, () => `there is no region ${index}; there are ${REGION_COUNT}`);
  yield* system.tasks.point();
  if (index === REGION_CONFIG) return yield* accessConfig(config, offset, bytes, direction);
  if (index === REGION_VGA) refuse(EINVAL, () => `${member.name} is no VGA device`);
  if (index === REGION_ROM && direction === "write") refuse(EINVAL, () => "the ROM cannot be written");
  const bar = member.bars[index];
  if (bar === undefined) refuse(EINVAL, () => `${member.name} has no BAR ${index}`);
  if (offset >= bar.size) refuse(EINVAL, () => `offset 0x${offset.toString(16)} is beyond BAR ${index}`);
  if (!barAnswers(member, config, index)) {
    refuse(EIO, () => `memory decoding of ${member.name} is off: BAR ${index} does not answer`);
  }
  const count = Math.min(bytes.length, bar.size - offset);
  yield* accessBar(system, member, index, offset, bytes.subarray(0, count), direction);
  return count;
}

function* accessConfig(config: VirtualConfig, offset: number, bytes: Uint8Array, direction: Direction): Task<number> {
  if (offset + bytes.length > config.size) {
    refuse(EFAULT, () => `${bytes.length} bytes at 0x${offset.toString(16)} end beyond ${config.size} of config space`);
  }
  if (direction === "read") config.read(offset, bytes);
  else yield* config.write(offset, bytes);
  return bytes.length;
}

/** Pieces of 8, 4, 2 or 1 bytes, each aligned to itself. The MSI-X table is not the client's: it reads all ones. */
function* accessBar(
  system: System,
  member: PciFunction,
  index: number,
  start: number,
  bytes: Uint8Array,
  direction: Direction,
): Task<void> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let done = 0; done < bytes.length; ) {
    const offset = start + done;
    const hidden = isMsixTable(member, index, offset);
    const left = bytes.length - done;
    const size = hidden ? 1 : ([8, 4, 2].find((width) => offset % width === 0 && width <= left) ?? 1);
    if (done > 0) yield* system.tasks.point();
    if (hidden) {
      if (direction === "read") bytes[done] = 0xff;
    } else if (direction === "read") {
      storeInteger(view, done, size, member.readBar(index, offset, size));
    } else {
      member.writeBar(index, offset, size, loadInteger(view, done, size));
    }
    done += size;
  }
}

function isMsixTable({ msixTable }: PciFunction, bar: number, offset: number): boolean {
  if (msixTable === undefined || msixTable.table.bar !== bar) return false;
  const { offset: start } = msixTable.table;
  return offset >= start && offset < start + msixTable.size;
}

function loadInteger(view: DataView, at: number, size: number): bigint {
  if (size === 8) return view.getBigUint64(at, true);
  if (size === 4) return BigInt(view.getUint32(at, true));
  return BigInt(size === 2 ? view.getUint16(at, true) : view.getUint8(at));
}

function storeInteger(view: DataView, at: number, size: number, value: bigint): void {
  if (size === 8) view.setBigUint64(at, value, true);
  else if (size === 4) view.setUint32(at, Number(value), true);
  else if (size === 2) view.setUint16(at, Number(value), true);
  else view.setUint8(at, Number(value));
}
