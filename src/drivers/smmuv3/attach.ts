// Runs in a browser.
/**
 * Letting a master translate through something else.
 *
 * First everything that can fail is reserved. Then, and from here on nothing fails: the domain is told of its new user,
 * before the hardware can put translations into the TLB (invariant 30); the CD is written, then the STE; the old domain
 * loses its user, and what the TLB still holds of it. In each STE and CD the hardware sees the old or the new, see
 * `entry-writer.ts`.
 */
import type { Task } from "../../runtime/index.ts";
import type { CommandQueue } from "./command-queue.ts";
import { invalidateContext, invalidateStreamEntry, prefetchConfig } from "./commands.ts";
import { ContextTable } from "./context-table.ts";
import { type Entry, newEntry, writeEntry } from "./entry-writer.ts";
import type { Master, Translation } from "./master.ts";
import { abortEntry, bypassEntry, contextTableEntry, S1DSS_SUBSTREAM_0 } from "./stream-table-entry.ts";
import { contextDescriptorKind, streamTableEntryKind } from "./used-bits.ts";

const NO_SUBSTREAM = 0;

/** From now on all streams of the master translate as said. Refusal ENOMEM; then nothing has changed. */
export function* attach(master: Master, to: Translation): Task<void> {
  const { system } = master.instance;
  const from = master.translation;
  if (to.kind === "stage 1") reserveContextTable(master);

  if ("targets" in to) to.invalidation.add(to.targets);
  if (to.kind === "stage 1") yield* writeContext(master, NO_SUBSTREAM, to.descriptor(master.canStall));
  const entry = streamEntry(master, to);
  for (const streamId of master.streamIds) yield* writeStreamEntry(master, streamId, entry);
  master.translation = to;
  if (from.kind === "stage 1" && to.kind !== "stage 1") yield* writeContext(master, NO_SUBSTREAM, newEntry());
  if ("targets" in from) yield* from.invalidation.remove(from.targets);

  if (system.events.on) {
    const { device, instance } = master;
    system.events.emit({ kind: "smmuv3.master.attach", instance: instance.name, device: device.name, to: to.label });
  }
}

/** A master starts with a context table when it first needs one, and keeps it until it is released. */
function reserveContextTable(master: Master): void {
  if (master.contextTable !== undefined) return;
  const { system, memory } = master.instance;
  system.failures.point("smmuv3.context-table.allocate");
  master.contextTable = new ContextTable(memory, master.substreamBits);
}

function streamEntry(master: Master, to: Translation): Entry {
  const { features } = master.instance;
  switch (to.kind) {
    case "abort":
      return abortEntry();
    case "bypass":
      return bypassEntry(features);
    case "stage 1":
      return contextTableEntry(features, master.contextTable!, {
        s1dss: S1DSS_SUBSTREAM_0,
        canStall: master.canStall,
      });
    case "stage 2":
      return to.streamEntry(master.canStall);
  }
}

function* writeStreamEntry(master: Master, streamId: number, entry: Entry): Task<void> {
  const { memory, streamTable, commands } = master.instance;
  const address = streamTable.entryAddress(streamId);
  yield* writeEntry(memory, address, entry, streamTableEntryKind, () => forgetStreamEntry(commands, streamId));
  prefetchConfig(commands, streamId);
  commands.publish();
}

function forgetStreamEntry(commands: CommandQueue, streamId: number): Task<void> {
  invalidateStreamEntry(commands, streamId, true);
  return commands.sync();
}

function* writeContext(master: Master, substreamId: number, descriptor: Entry): Task<void> {
  const { memory } = master.instance;
  const address = master.contextTable!.entryAddress(substreamId);
  yield* writeEntry(memory, address, descriptor, contextDescriptorKind, () => forgetContext(master, substreamId));
}

function forgetContext({ instance, streamIds }: Master, substreamId: number): Task<void> {
  for (const streamId of streamIds) invalidateContext(instance.commands, streamId, substreamId, true);
  return instance.commands.sync();
}
