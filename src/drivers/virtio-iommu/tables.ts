// Runs in a browser.
/**
 * Devices that translate by tables of our own, where the IOMMU walks such (a proposal: reference 7.5).
 *
 * A device has one PASID table (`pasidtable/`) and one domain id for it. ATTACH_TABLE moves its endpoints from whatever they
 * are attached to, in one step, and says what becomes of traffic without PASID: it is blocked, passes as it is, or is that of
 * context 0. From then on contexts change in the table, and INVALIDATE says what is to be forgotten. They leave when the
 * device is attached to a domain of mappings, which has no room for PASIDs. A device of several endpoints has no table: one
 * endpoint might be refused what another got.
 *
 * Under the instance's `attachments` lock, for writing.
 */
import { type ArmContext, type ArmContextTable, PasidTable } from "../../pasidtable/index.ts";
import { EBUSY, EINVAL, ENOSPC, Refusal, refuse, type Task } from "../../runtime/index.ts";
import type { Master } from "./master.ts";
import type { TableProperties } from "./properties.ts";
import { errnoOf, STATUS_OK, statusName, writeAttachTable, writeDetach, writeInvalidateContext } from "./requests.ts";

/** S1DSS: what becomes of traffic without PASID. */
const s1dss = { blocked: 0, bypass: 1, "context 0": 2 } as const;
const NO_PASID = 0;

/** A domain as contexts show it to devices. */
export interface TableTranslation {
  readonly label: string;
  readonly context: ArmContext;
  /** A table of this domain id is about to lead to it. */
  enter(domainId: number): void;
  /** It does not any more. What the IOMMU remembers goes, by requests if the endpoint is still attached to that table. */
  leave(domainId: number, isAttached: boolean): Task<void>;
}

type Own = "blocked" | "bypass" | TableTranslation;

/** What a device has that may translate by tables. */
export interface MasterTables {
  readonly properties: TableProperties;
  /** Width of its PASIDs. */
  readonly pasidBits: number;
  /** Made when first needed, and kept. */
  table: PasidTable<ArmContext, ArmContextTable> | undefined;
  domainId: number | undefined;
  /** What traffic without PASID does; undefined while the endpoint is not attached to the table. */
  own: Own | undefined;
  /** What PASIDs translate through. */
  readonly pasids: Map<number, TableTranslation>;
}

/** From now on traffic without PASID translates through `to`. A Refusal leaves it as it was. */
export function* attachToTable(master: Master, to: TableTranslation): Task<void> {
  yield* exclusively(master, function* () {
    const tables = master.tables!;
    const table = tableOf(master);
    const change = table.prepare(NO_PASID, to.context);
    const from = tables.own;
    to.enter(tables.domainId!);
    yield* table.write(change);
    try {
      yield* direct(master, to);
    } catch (error) {
      yield* table.clear(NO_PASID);
      yield* to.leave(tables.domainId!, tables.own !== undefined);
      throw error;
    }
    if (typeof from === "object") yield* from.leave(tables.domainId!, true);
  });
}

/**
 * From now on traffic without PASID is blocked, or passes as it is, beside the PASIDs that there are. Only while there are
 * some. A Refusal leaves it as it was.
 */
export function* attachBesidePasids(master: Master, to: "blocked" | "bypass"): Task<void> {
  yield* exclusively(master, function* () {
    const tables = master.tables!;
    const from = tables.own;
    yield* direct(master, to);
    if (typeof from !== "object") return;
    yield* tables.table!.clear(NO_PASID);
    yield* from.leave(tables.domainId!, true);
  });
}

/** From now on the PASID translates through `to`. Refusals, and then nothing has changed: EINVAL, ENOMEM, ENOSPC. */
export function* attachPasid(master: Master, pasid: number, to: TableTranslation): Task<void> {
  yield* exclusively(master, function* () {
    const { device, instance, translation, tables: ofMaster } = master;
    const tables = ofMaster!;
    if (pasid >= 2 ** tables.pasidBits) {
      refuse(EINVAL, () => `PASID ${pasid} is beyond the ${tables.pasidBits} bits that ${device.label} has for PASIDs`);
    }
    const passes = translation !== undefined && (translation.bypass || translation === master.identity);
    if (translation !== undefined && !passes && translation !== instance.blocked) {
      refuse(EINVAL, () => `${device.label} is attached to ${translation.label}, which has no room for PASID ${pasid}`);
    }
    const table = tableOf(master);
    const change = table.prepare(pasid, to.context);
    const from = tables.pasids.get(pasid);
    to.enter(tables.domainId!);
    yield* table.write(change);
    try {
      if (tables.own === undefined) yield* direct(master, passes ? "bypass" : "blocked");
    } catch (error) {
      yield* table.clear(pasid);
      yield* to.leave(tables.domainId!, tables.own !== undefined);
      throw error;
    }
    tables.pasids.set(pasid, to);
    if (from !== undefined) yield* from.leave(tables.domainId!, true);
  });
}

/** From now on the PASID translates nothing. Cannot fail. */
export function* detachPasid(master: Master, pasid: number): Task<void> {
  yield* exclusively(master, function* () {
    const tables = master.tables!;
    const from = tables.pasids.get(pasid);
    if (from === undefined) return;
    yield* tables.table!.clear(pasid);
    tables.pasids.delete(pasid);
    yield* from.leave(tables.domainId!, true);
  });
}

/** The endpoint has left the table for something else. With the lock held. Cannot fail. */
export function* forgetTable({ tables }: Master): Task<void> {
  const from = tables?.own;
  if (from === undefined) return;
  tables!.own = undefined;
  if (typeof from !== "object") return;
  yield* tables!.table!.clear(NO_PASID);
  yield* from.leave(tables!.domainId!, false);
}

/** Detaches the endpoint from the table. With the lock held. Cannot fail. */
export function* leaveTable(master: Master): Task<void> {
  const { instance, endpoints, tables } = master;
  const { requests } = instance;
  const status = yield* requests.send(writeDetach(requests.request, tables!.domainId!, endpoints[0]));
  if (status !== STATUS_OK) instance.warn(`detaching from a table: the device answers ${statusName(status)}`);
  yield* forgetTable(master);
}

/** Refusal EBUSY while PASIDs of the master translate: `to` has no room for them. */
export function refuseBesidePasids({ device, tables }: Master, to: string): void {
  const count = tables?.pasids.size ?? 0;
  if (count > 0) refuse(EBUSY, () => `${device.label} has ${count} PASIDs attached: it cannot be attached to ${to}`);
}

/** Gives back what a master has of tables; its endpoints must not be attached to them. */
export function freeTables({ instance, tables }: Master): void {
  tables?.table?.free();
  if (tables?.domainId !== undefined) instance.domainIds.free(tables.domainId);
}

function* exclusively(master: Master, code: () => Task<void>): Task<void> {
  const { attachments } = master.instance;
  yield* attachments.takeWrite();
  try {
    yield* code();
  } finally {
    attachments.releaseWrite();
  }
}

/** The PASID table of a master, with a domain id for it. Refusals ENOMEM, ENOSPC. */
function tableOf(master: Master): PasidTable<ArmContext, ArmContextTable> {
  const { instance, tables: ofMaster } = master;
  const tables = ofMaster!;
  const { system, domainIds, requests, label } = instance;
  if (tables.table !== undefined) return tables.table;
  const user = {
    forget(pasid: number): void {
      if (tables.own === undefined) return;
      const bytes = writeInvalidateContext(requests.request, tables.domainId!, pasid);
      requests.push(bytes, () => `invalidating the context of PASID ${pasid} of ${master.device.label}`);
    },
    *sync(): Task<void> {
      if (!requests.trySync()) yield* requests.sync();
    },
    *move(): Task<void> {
      if (tables.own === undefined) return;
      try {
        yield* tell(master, tables.own);
      } catch (error) {
        // It took such a table before.
        if (!(error instanceof Refusal)) throw error;
        instance.warn(error.reason);
      }
    },
  };
  system.failures.point("virtio-iommu.domain.allocate");
  const domainId = domainIds.allocate() ?? refuse(ENOSPC, () => `${label}: no domain id is free`);
  try {
    const device = { log2Pasids: tables.pasidBits, canStall: false };
    tables.table = new PasidTable(system, instance.contexts!, user, device);
  } catch (error) {
    domainIds.free(domainId);
    throw error;
  }
  tables.domainId = domainId;
  return tables.table;
}

/** Lets traffic without PASID do what `own` says, whatever the endpoint was attached to before. Refusal: then it stays. */
function* direct(master: Master, own: Own): Task<void> {
  const tables = master.tables!;
  if (tables.own === undefined || modeOf(tables.own) !== modeOf(own)) yield* tell(master, own);
  tables.own = own;
  if (master.translation !== undefined) master.translation.endpoints--;
  master.translation = undefined;
}

function* tell(master: Master, own: Own): Task<void> {
  const { instance, endpoints, tables } = master;
  const [endpoint] = endpoints;
  const { requests, label } = instance;
  const { domainId, table } = tables!;
  instance.system.failures.point("virtio-iommu.endpoint.attach");
  const bytes = writeAttachTable(requests.request, domainId!, endpoint, table!.memory, s1dss[modeOf(own)]);
  const status = yield* requests.send(bytes);
  if (status === STATUS_OK) return;
  refuse(
    errnoOf(status),
    () => `${label} answers ${statusName(status)} to attaching endpoint 0x${endpoint.toString(16)} to a table`,
  );
}

function modeOf(own: Own): keyof typeof s1dss {
  return typeof own === "object" ? "context 0" : own;
}
