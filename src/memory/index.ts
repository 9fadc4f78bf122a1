// Runs in a browser.
/**
 * Memory: what physical addresses reach, and the processes whose pages it holds.
 *
 * Where things live. The content of RAM is in `Ram`, chunks of 2 MiB that exist once written. A frame is given out by
 * one `FrameAllocator`: one for each range of RAM, one for the window outside of RAM that numbers frames of others
 * (`ForeignFrames`). What a page of a process means is said by its address space alone (`LibraryAddressSpace` here,
 * the host has another); PhysicalMemory knows frames, never pages.
 *
 * Always true:
 * - A frame that is given out reads 0 until somebody writes it, and belongs to one owner until that frees it.
 * - A pinned frame stays, with its number and its content, whatever its owner does: freeing (RAM) or dropping (others)
 *   takes effect when the last pin goes. So unmapping, forking and exiting never look at who has pinned what.
 * - A pinned page of a library's process is that process's own: pinning ends sharing, fork copies instead of sharing.
 * - Whoever looks at pages without pinning them (`faultIn`) listens to the space's `MmNotifiers`, and hears of every change
 *   before it happens.
 * - Pins are counted for each frame. Charging them to a process or a user (`accounting.ts`) is the pinning side's
 *   business, in the order that reference 3.6 gives.
 *
 * For a moment false: between a free and the last unpin, a frame is in use though nobody owns it.
 *
 * The principle: everything takes ranges, never single pages, and a range whose frames are alike costs the same however
 * long it is. The price is that counts have two forms (`FrameCounts`) and extents must be joined and split.
 *
 * A word is 32 bits, little-endian; typed arrays make that the byte order of the machine this runs on, which is the
 * same everywhere that matters. There are no locks: nothing in this room blocks.
 */
export { type AccountMode, accountModeOf, charge, type Payer, uncharge } from "./accounting.ts";
export { LibraryAddressSpace } from "./address-space.ts";
export { LibraryProcess, type LibraryProcessOptions } from "./library.ts";
export { MemoryFile } from "./memory-file.ts";
export { type MmNotifier, MmNotifiers } from "./notifiers.ts";
export { BusError, PhysicalMemory, type PhysicalMemoryOptions } from "./physical.ts";
export * from "./process.ts";
export { CHUNK_SIZE, wordIndex } from "./ram.ts";
export type { RegisterBlock } from "./registers.ts";
export * from "./types.ts";
