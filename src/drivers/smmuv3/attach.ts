// Runs in a browser.
/**
 * Letting a master, or one of its PASIDs, translate through something else.
 *
 * First everything that can fail is reserved. Then, and from here on nothing fails: the domain is told of its new user,
 * before the hardware can put translations into the TLB (invariant 30); the CD is written, then the STE; the old domain
 * loses its user, and what the TLB still holds of it. Devices that translate ahead are told in between: see `ats.ts`.
 *
 * Always true: what old and new both translate is translated at each moment, as the old one or the new one says. The
 * hardware reads its structures in 64-bit words, each in one piece, in any order, and may keep what was valid until it is told
 * to forget it (Arm IHI 0070 sections 3.21.3 and 16.2). So a change takes effect by one such word: before it is written
 * everything that can be read says the old, afterwards the new, and what was kept says the old until CMD_SYNC. That is a
 * word of the entry itself if no other word matters both before and after; else the word that leads to a copy of the entry's
 * table in which only this entry differs: for a CD, see `pasidtable/`, for an STE, `stream-table.ts`. A table that was left
 * is used again only after that CMD_SYNC. Exception: a stream table of one level has no word that leads to it, and an STE of
 * which two words matter (from a stage 1 to a stage 2 and back, between two stages 2) is invalid for a moment.
 */
import { type ArmContext, type ArmContextTable, type Entry, PasidTable } from "../../pasidtable/index.ts";
import { EBUSY, EINVAL, refuse, type Task } from "../../runtime/index.ts";
import { forgetAhead, targetsOn, turnOffAts, turnOnAts } from "./ats.ts";
import { invalidateContext, prefetchConfig } from "./commands.ts";
import type { Master, Stage1, Translation } from "./master.ts";
import {
  abortEntry,
  bypassEntry,
  contextTableEntry,
  S1DSS_BYPASS,
  S1DSS_SUBSTREAM_0,
  S1DSS_TERMINATE,
  translates,
  withAts,
} from "./stream-table-entry.ts";

const NO_SUBSTREAM = 0;

/**
 * From now on the traffic without PASID of all the master's streams translates as said. Refusals, and then nothing has
 * changed: EBUSY for what has no room for PASIDs while some translate; ENOMEM.
 */
export function* attach(master: Master, to: Translation): Task<void> {
  const { system } = master.instance;
  const from = master.translation;
  if (!leavesRoomForPasids(to)) refuseBesidePasids(master, to.label);
  const change = to.kind === "stage 1" ? contextTableOf(master).prepare(NO_SUBSTREAM, to.context) : undefined;
  if (passesThroughContexts(master, to)) contextTableOf(master);

  if ("targets" in to) to.invalidation.add(targetsOn(master, to.targets));
  if (change !== undefined) yield* contextTableOf(master).write(change);
  master.translation = to;
  const wasAhead = master.ats?.isEnabled;
  yield* writeStreamEntries(master);
  // No target goes that would tell the device: nothing was translated, or the same domain in another way (for a guest).
  const isUntold = !("targets" in from) || ("targets" in to && to.invalidation === from.invalidation);
  if (wasAhead && master.ats!.isEnabled && isUntold) yield* forgetAhead(master);
  if (from.kind === "stage 1" && to.kind !== "stage 1") yield* master.contextTable!.clear(NO_SUBSTREAM);
  if ("targets" in from) yield* from.invalidation.remove(targetsOn(master, from.targets));

  if (system.events.on) {
    const { device, instance } = master;
    system.events.emit({ kind: "smmuv3.master.attach", instance: instance.name, device: device.name, to: to.label });
  }
}

/**
 * From now on the PASID translates through `to`, whatever it did before. Refusals, and then nothing has changed: EINVAL for
 * a PASID beyond the context table, and while the traffic without PASID goes through a stage 2; ENOMEM.
 */
export function* attachPasid(master: Master, pasid: number, to: Stage1): Task<void> {
  const { device, translation, substreamBits, pasids } = master;
  if (pasid >= 2 ** substreamBits) {
    refuse(EINVAL, () => `PASID ${pasid} is beyond the ${substreamBits} bits that ${device.label} has for PASIDs`);
  }
  if (!leavesRoomForPasids(translation)) {
    refuse(
      EINVAL,
      () => `${device.label} translates through ${translation.label}: PASID ${pasid} has no place beside it`,
    );
  }
  const table = contextTableOf(master);
  const change = table.prepare(pasid, to.context);

  to.invalidation.add(targetsOn(master, to.targets, pasid));
  const from = pasids.get(pasid);
  yield* table.write(change);
  pasids.set(pasid, to);
  yield* writeStreamEntries(master);
  if (from !== undefined) yield* from.invalidation.remove(targetsOn(master, from.targets, pasid));
  tellOfPasid(master, pasid, to.label);
}

/** From now on the PASID translates nothing. Cannot fail. */
export function* detachPasid(master: Master, pasid: number): Task<void> {
  const from = master.pasids.get(pasid);
  if (from === undefined) return;
  yield* master.contextTable!.clear(pasid);
  master.pasids.delete(pasid);
  yield* writeStreamEntries(master);
  yield* from.invalidation.remove(targetsOn(master, from.targets, pasid));
  tellOfPasid(master, pasid, undefined);
}

function tellOfPasid({ instance, device }: Master, pasid: number, to: string | undefined): void {
  const { events } = instance.system;
  if (events.on) {
    events.emit({
      kind: "smmuv3.master.pasid",
      instance: instance.name,
      device: device.name,
      pasid,
      to: to ?? "nothing",
    });
  }
}

/** PASIDs need the device's own context table, also where the rest of its traffic is blocked or passes as it is. */
function leavesRoomForPasids({ kind }: Translation): boolean {
  return kind === "stage 1" || kind === "abort" || kind === "bypass";
}

/** Refusal EBUSY while PASIDs of the master translate: `to` has no room for them. */
export function refuseBesidePasids({ device, pasids }: Master, to: string): void {
  if (pasids.size === 0) return;
  refuse(EBUSY, () => `${device.label} has ${pasids.size} PASIDs attached: it cannot translate through ${to}`);
}

/** A master gets its context table when it first needs one, and keeps it until it is released. Refusal ENOMEM. */
function contextTableOf(master: Master): PasidTable<ArmContext, ArmContextTable> {
  if (master.contextTable !== undefined) return master.contextTable;
  const { instance, streamIds, substreamBits, canStall } = master;
  const { system, contexts, commands } = instance;
  const user = {
    forget(pasid: number, leafOnly: boolean): void {
      for (const streamId of streamIds) invalidateContext(commands, streamId, pasid, leafOnly);
    },
    sync: () => commands.sync(),
    move: () => writeStreamEntries(master),
  };
  return (master.contextTable = new PasidTable(system, contexts, user, { log2Pasids: substreamBits, canStall }));
}

/** Lets the STEs of all streams say what the master's fields say; the device translates ahead while they allow it. */
function* writeStreamEntries(master: Master): Task<void> {
  const { streamTable, commands } = master.instance;
  const plain = streamEntry(master);
  const allowsAts = master.ats !== undefined && translates(plain) && !forbidsAts(master.translation);
  if (!allowsAts) yield* turnOffAts(master);
  const entry = allowsAts ? withAts(plain) : plain;
  for (const streamId of master.streamIds) {
    if (!(yield* streamTable.change(streamId, entry, commands))) continue;
    prefetchConfig(commands, streamId);
    commands.publish();
  }
  if (allowsAts) turnOnAts(master);
}

/** What becomes of traffic without PASID, where a context table is there for the others. */
const s1dss = { abort: S1DSS_TERMINATE, bypass: S1DSS_BYPASS, "stage 1": S1DSS_SUBSTREAM_0 } as const;

/** A guest may want none for what it translates itself. */
function forbidsAts(translation: Translation): boolean {
  return translation.kind === "stage 2" && translation.forbidsAts === true;
}

/** A device that requires ATS asks for translations also where it gets its addresses back. */
function passesThroughContexts({ ats }: Master, { kind }: Translation): boolean {
  return kind === "bypass" && ats?.isRequired === true;
}

function streamEntry(master: Master): Entry {
  const { instance, translation, pasids, contextTable, canStall } = master;
  const { features } = instance;
  if (translation.kind === "stage 2") return translation.streamEntry(canStall);
  if (translation.kind === "stage 1" || pasids.size > 0 || passesThroughContexts(master, translation)) {
    return contextTableEntry(features, contextTable!.memory, { s1dss: s1dss[translation.kind], canStall });
  }
  return translation.kind === "abort" ? abortEntry() : bypassEntry(features);
}
