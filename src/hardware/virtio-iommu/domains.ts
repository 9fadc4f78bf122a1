// Runs in a browser.
/**
 * Domains, the endpoints attached to them and their mappings, and what becomes of them by each request (§5.13.6).
 *
 * A domain exists from its first endpoint's ATTACH to its last one's DETACH. Every method answers with a status; one
 * that is not {@link OK} means that nothing changed.
 */
import { IntervalMap } from "../../runtime/index.ts";
import type { AttachedTable, ContextTables } from "../smmuv3/index.ts";
import { type DeviceConfig, F_BYPASS_CONFIG, F_MMIO } from "./config.ts";
import type { ReservedMemory } from "./properties.ts";

/** Statuses (§5.13.6). */
export const OK = 0;
export const IOERR = 1;
export const UNSUPP = 2;
export const DEVERR = 3;
export const INVAL = 4;
export const RANGE = 5;
export const NOENT = 6;
export const FAULT = 7;
export const NOMEM = 8;

export const ATTACH_BYPASS = 1;
export const MAP_READ = 1;
export const MAP_WRITE = 2;
export const MAP_MMIO = 4;

interface Mapping {
  /** Physical address of the first byte. */
  readonly physical: number;
  readonly flags: number;
}

/** How a domain translates: by mappings; not at all, so that its endpoints see physical addresses; by tables in memory. */
type DomainKind = "mappings" | "bypass" | "tables";

interface DeviceDomain {
  readonly id: number;
  readonly kind: DomainKind;
  readonly mappings: IntervalMap<Mapping>;
  endpoints: number;
}

/** Why there is no translation (§5.13.6.9). */
export type FaultReason = "domain" | "mapping";

export class Domains {
  /** After {@link translate} said undefined. */
  physical = 0;
  /** Bytes from there to the end of the mapping. */
  reach = 0;
  /** Feature bits that the driver accepted. */
  features = 0;
  private readonly config: DeviceConfig;
  /** Addresses of every endpoint that cannot be mapped (§5.13.6.8). */
  private readonly reserved: readonly ReservedMemory[];
  /** The tables that endpoints are attached to, if that can be. */
  private readonly tables: ContextTables | undefined;
  /** The domain of each endpoint that exists. */
  private readonly endpoints: Map<number, DeviceDomain | undefined>;
  private readonly domains = new Map<number, DeviceDomain>();

  constructor(
    config: DeviceConfig,
    endpoints: Iterable<number>,
    { reserved = [], tables }: { readonly reserved?: readonly ReservedMemory[]; readonly tables?: ContextTables } = {},
  ) {
    this.config = config;
    this.reserved = reserved;
    this.tables = tables;
    this.endpoints = new Map([...endpoints].map((endpoint) => [endpoint, undefined]));
  }

  /** These endpoints exist from now on; those that did already keep their domains. */
  connect(endpoints: Iterable<number>): void {
    for (const endpoint of endpoints) if (!this.endpoints.has(endpoint)) this.endpoints.set(endpoint, undefined);
  }

  /** Forgets all that requests made. */
  reset(): void {
    this.features = 0;
    this.domains.clear();
    this.tables?.reset();
    for (const endpoint of this.endpoints.keys()) this.endpoints.set(endpoint, undefined);
  }

  /** Domains and mappings, for inspection. */
  get occupancy(): { readonly domains: number; readonly mappings: number } {
    let mappings = 0;
    for (const domain of this.domains.values()) mappings += domain.mappings.size;
    return { domains: this.domains.size, mappings };
  }

  exists(endpoint: number): boolean {
    return this.endpoints.has(endpoint);
  }

  attach(domainId: number, endpoint: number, flags: number): number {
    const known = this.accepts(F_BYPASS_CONFIG) ? ATTACH_BYPASS : 0;
    if ((flags & ~known) !== 0) return INVAL;
    return this.join(domainId, endpoint, (flags & ATTACH_BYPASS) !== 0 ? "bypass" : "mappings");
  }

  /** As {@link attach}, to a table of the driver's own. Again: to another table, from now on. */
  attachTable(domainId: number, endpoint: number, table: AttachedTable): number {
    const { tables } = this;
    if (tables === undefined) return UNSUPP;
    return this.join(domainId, endpoint, "tables", () => tables.attach(endpoint, table));
  }

  /** Forgets what it knows of the tables of a domain's endpoints. */
  invalidate(domainId: number, forget: (tables: ContextTables, endpoint: number) => void): number {
    const domain = this.domains.get(domainId);
    if (domain === undefined) return NOENT;
    if (domain.kind !== "tables") return INVAL;
    for (const [endpoint, of] of this.endpoints) if (of === domain) forget(this.tables!, endpoint);
    return OK;
  }

  /** `accept` is the last that can say no (INVAL). */
  private join(domainId: number, endpoint: number, kind: DomainKind, accept: () => boolean = () => true): number {
    if (!this.endpoints.has(endpoint)) return NOENT;
    const { first, last } = this.config.domainRange;
    if (domainId < first || domainId > last) return RANGE;
    let domain = this.domains.get(domainId);
    if ((domain !== undefined && domain.kind !== kind) || !accept()) return INVAL;
    const old = this.endpoints.get(endpoint);
    if (domain === old && old !== undefined) return OK;
    if (domain === undefined) {
      domain = { id: domainId, kind, mappings: new IntervalMap(), endpoints: 0 };
      this.domains.set(domainId, domain);
    }
    if (old !== undefined) this.leave(endpoint, old);
    if (old?.kind === "tables" && kind !== "tables") this.tables!.detach(endpoint);
    domain.endpoints++;
    this.endpoints.set(endpoint, domain);
    return OK;
  }

  detach(domainId: number, endpoint: number): number {
    if (!this.endpoints.has(endpoint)) return NOENT;
    const domain = this.endpoints.get(endpoint);
    if (domain?.id !== domainId) return INVAL;
    this.leave(endpoint, domain);
    if (domain.kind === "tables") this.tables!.detach(endpoint);
    return OK;
  }

  map(domainId: number, start: bigint, last: bigint, physical: bigint, flags: number): number {
    const known = MAP_READ | MAP_WRITE | (this.accepts(F_MMIO) ? MAP_MMIO : 0);
    if ((flags & ~known) !== 0) return INVAL;
    const domain = this.domains.get(domainId);
    if (domain === undefined) return NOENT;
    if (domain.kind !== "mappings" || last < start) return INVAL;
    const { granule, inputRange } = this.config;
    if (start % granule !== 0n || (last + 1n) % granule !== 0n || physical % granule !== 0n) return RANGE;
    if (start < inputRange.start || last > inputRange.last) return RANGE;
    if (this.reserved.some((region) => start <= region.last && last >= region.start)) return INVAL;
    if (domain.mappings.firstIntersecting(start, last) !== undefined) return INVAL;
    domain.mappings.insert(start, last, { physical: Number(physical), flags });
    return OK;
  }

  /** Removes the mappings in a range, whole ones only: one that sticks out would be split, and then none is removed. */
  unmap(domainId: number, start: bigint, last: bigint): number {
    const domain = this.domains.get(domainId);
    if (domain === undefined) return NOENT;
    if (domain.kind !== "mappings" || last < start) return INVAL;
    const { mappings } = domain;
    for (const mapping of [mappings.at(start), mappings.at(last)]) {
      if (mapping !== undefined && (mapping.start < start || mapping.last > last)) return RANGE;
    }
    for (let found = mappings.firstIntersecting(start, last); found !== undefined && found.start <= last; ) {
      const next = mappings.next(found);
      mappings.remove(found);
      found = next;
    }
    return OK;
  }

  /** Translates an access; `bypass` is what endpoints without a domain may do. Undefined: see {@link physical}. */
  translate(
    endpoint: number,
    pasid: number | undefined,
    address: bigint,
    write: boolean,
    bypass: boolean,
  ): FaultReason | undefined {
    const domain = this.endpoints.get(endpoint);
    if (domain?.kind === "tables") {
      const { tables } = this;
      if (!tables!.translate(endpoint, pasid, address, write)) return "mapping";
      this.physical = tables!.physical;
      this.reach = tables!.reach;
      return undefined;
    }
    // Address spaces by PASID are only in tables.
    if (pasid !== undefined) return "domain";
    if (domain === undefined ? bypass && this.endpoints.has(endpoint) : domain.kind === "bypass") {
      this.physical = Number(address);
      this.reach = Number.POSITIVE_INFINITY;
      return undefined;
    }
    if (domain === undefined) return "domain";
    const found = domain.mappings.at(address);
    if (found === undefined || (found.value.flags & (write ? MAP_WRITE : MAP_READ)) === 0) return "mapping";
    const offset = Number(address - found.start);
    this.physical = found.value.physical + offset;
    this.reach = Number(found.last - address) + 1;
    return undefined;
  }

  private accepts(feature: number): boolean {
    return (this.features & feature) !== 0;
  }

  /** With its last endpoint a domain goes, and its mappings with it. */
  private leave(endpoint: number, domain: DeviceDomain): void {
    this.endpoints.set(endpoint, undefined);
    if (--domain.endpoints === 0) this.domains.delete(domain.id);
  }
}
