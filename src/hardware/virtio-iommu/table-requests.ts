// Runs in a browser.
/**
 * Requests that attach tables of the driver's own, and that tell what is gone from them. A proposal (reference 7.5); their
 * layouts are in docs/virtio-tables.md.
 */
import type { ContextTables } from "../smmuv3/index.ts";
import { type Domains, INVAL } from "./domains.ts";
import { FORMAT_ARM_CONTEXTS } from "./properties.ts";

/** What goes: everything of the domain, of one PASID, or of a range of addresses. */
const GRANULARITY_DOMAIN = 0;
const GRANULARITY_PASID = 1;
const GRANULARITY_ADDRESS = 2;
/** Of which caches: of translations, or of contexts. */
const TYPE_TRANSLATIONS = 1;
const TYPE_CONTEXTS = 4;
/** Which fields count. */
const FLAG_PASID = 1;
const FLAG_ASID = 2;
const FLAG_LEAF = 4;

const PHYSICAL_LIMIT = 2 ** 52;

/** ATTACH_TABLE. */
export function attachTable(domains: Domains, request: DataView): number {
  const pointer = Number(request.getBigUint64(16, true));
  if (request.getUint16(12, true) !== FORMAT_ARM_CONTEXTS || pointer >= PHYSICAL_LIMIT) return INVAL;
  for (let at = 28; at < 76; at += 4) if (request.getUint32(at, true) !== 0) return INVAL;
  const log2Contexts = request.getUint32(24, true);
  if (log2Contexts > 20) return INVAL;
  return domains.attachTable(request.getUint32(4, true), request.getUint32(8, true), {
    format: request.getUint8(14),
    defaultSubstream: request.getUint8(15),
    pointer,
    log2Contexts,
  });
}

/** INVALIDATE. */
export function invalidate(domains: Domains, request: DataView): number {
  const granularity = request.getUint16(4, true);
  const type = request.getUint16(6, true);
  const flags = request.getUint16(8, true);
  if (granularity > GRANULARITY_ADDRESS || (flags & ~(FLAG_PASID | FLAG_ASID | FLAG_LEAF)) !== 0) return INVAL;
  const forget =
    type === TYPE_CONTEXTS
      ? contexts(granularity, flags, request)
      : type === TYPE_TRANSLATIONS
        ? translations(granularity, flags, request)
        : undefined;
  return forget === undefined ? INVAL : domains.invalidate(request.getUint32(12, true), forget);
}

type Forget = (tables: ContextTables, endpoint: number) => void;

function contexts(granularity: number, flags: number, request: DataView): Forget | undefined {
  if (granularity === GRANULARITY_DOMAIN) return (tables, endpoint) => tables.forgetContexts(endpoint);
  if (granularity !== GRANULARITY_PASID || (flags & FLAG_PASID) === 0) return undefined;
  const pasid = request.getUint32(16, true);
  return (tables, endpoint) => tables.forgetContext(endpoint, pasid);
}

function translations(granularity: number, flags: number, request: DataView): Forget | undefined {
  if (granularity === GRANULARITY_DOMAIN) return (tables) => tables.forgetTranslations(undefined);
  if ((flags & FLAG_ASID) === 0) return undefined;
  const asid = request.getUint32(20, true);
  if (granularity === GRANULARITY_PASID) return (tables) => tables.forgetTranslations(asid);
  const granuleLog2 = request.getUint8(44);
  if (granuleLog2 < 12 || granuleLog2 > 30) return undefined;
  const address = request.getBigUint64(28, true);
  const count = Number(request.getBigUint64(36, true));
  return (tables) => tables.forgetRange(asid, address, count, granuleLog2);
}
