// Runs in a browser.
/**
 * The address translation cache (ATC) of a function, PCI Express base specification 10.2 and 10.3: translations that it
 * asked its translation agent for, and then uses by itself.
 *
 * Always true: a translation that the agent asked to forget is used by no access once the agent was told that it is
 * forgotten. So an access that is under way with one goes ahead of that message, and an answer that was overtaken by such
 * a request is thrown away and asked for again.
 *
 * A page without access is asked for by a page request, where the function can make any; the access goes on when it was
 * promised, and ends if it was refused, or if the promise was not kept.
 */
import type { System, Task } from "../runtime/index.ts";
import {
  ATS_CONTROL,
  ATS_ENABLE,
  ATS_STU,
  type InvalidationMessage,
  type Translation,
  type TranslationAgent,
} from "./ats.ts";
import type { ConfigSpace } from "./config-space.ts";
import type { RequesterId } from "./dma.ts";
import type { PageRequester } from "./page-requester.ts";

const PAGE = 4096;
const NO_PASID = -1;
/** Translations kept; beyond, the oldest goes. */
const CAPACITY = 64;
/** How often a promised page may turn out not to be there. */
const BROKEN_PROMISES_MAX = 4;

/** Pages of 4096 bytes, by number, of one PASID; exact also for addresses of 64 bits. */
interface Span {
  readonly pasid: number;
  readonly first: number;
  readonly count: number;
}

interface Entry extends Span {
  readonly physical: number;
  readonly read: boolean;
  readonly write: boolean;
}

/** A translation that was asked for. Stale: it was to be forgotten meanwhile. */
interface Request {
  readonly span: Span;
  stale: boolean;
}

/** A piece of an access under way with a translation. */
interface Transfer {
  readonly entry: Entry;
  readonly perform: () => boolean;
  outcome: boolean | undefined;
}

/** What an ATC works with: the function around it, once it is on a bus. */
export interface CacheSurroundings {
  readonly system: System;
  readonly requester: RequesterId;
  /** Undefined: there is nobody to ask. */
  readonly agent: TranslationAgent | undefined;
}

export class TranslationCache {
  private readonly config: ConfigSpace;
  private readonly capability: number;
  private readonly pages: PageRequester | undefined;
  private readonly surroundings: () => CacheSurroundings;
  private entries: Entry[] = [];
  private readonly transfers = new Set<Transfer>();
  private readonly requests = new Set<Request>();

  constructor(
    config: ConfigSpace,
    capability: number,
    pages: PageRequester | undefined,
    surroundings: () => CacheSurroundings,
  ) {
    this.config = config;
    this.capability = capability;
    this.pages = pages;
    this.surroundings = surroundings;
  }

  get isEnabled(): boolean {
    return (this.config.read(this.capability + ATS_CONTROL, 2) & ATS_ENABLE) !== 0;
  }

  /** Translations in the cache. */
  get size(): number {
    return this.entries.length;
  }

  /** After the control register was written, or a reset: a cache that is off is empty. */
  settle(): void {
    if (!this.isEnabled) this.entries = [];
  }

  /** One DMA, translation by translation. */
  *access(address: bigint, bytes: Uint8Array, write: boolean, pasid: number | undefined): Task<boolean> {
    const { system, requester, agent } = this.surroundings();
    for (let done = 0; done < bytes.length; ) {
      const at = BigInt.asUintN(64, address + BigInt(done));
      const page = Number(at / BigInt(PAGE));
      const offset = Number(at % BigInt(PAGE));
      const left = bytes.length - done;
      const entry = yield* this.translation(page, Math.ceil((offset + left) / PAGE), write, pasid ?? NO_PASID);
      if (entry === undefined || agent === undefined) return false;
      const within = (page - entry.first) * PAGE + offset;
      const piece = bytes.subarray(done, done + Math.min(left, entry.count * PAGE - within));
      const perform = (): boolean => agent.accessTranslated(requester, entry.physical + within, piece, write);
      const transfer: Transfer = { entry, perform, outcome: undefined };
      this.transfers.add(transfer);
      if (system.tasks.exploring) yield* system.tasks.point();
      this.transfers.delete(transfer);
      if (!(transfer.outcome ?? perform())) return false;
      done += piece.length;
    }
    return true;
  }

  /** The agent wants translations forgotten; `done` hears when nothing uses them any more. */
  invalidate({ pasid, span }: InvalidationMessage, done: () => void): void {
    const first = span === undefined ? 0 : Number(span.address / BigInt(PAGE));
    const end = span === undefined ? Number.POSITIVE_INFINITY : first + Number(span.size / BigInt(PAGE));
    const isMeant = (other: Span): boolean =>
      (pasid === undefined || other.pasid === pasid) && other.first < end && other.first + other.count > first;
    this.entries = this.entries.filter((entry) => !isMeant(entry));
    for (const request of this.requests) request.stale ||= isMeant(request.span);
    for (const transfer of this.transfers) if (isMeant(transfer.entry)) transfer.outcome ??= transfer.perform();
    done();
  }

  /** A translation that allows the access to `page`, the first of `count` that it goes to; undefined: there is none. */
  private *translation(page: number, count: number, write: boolean, pasid: number): Task<Entry | undefined> {
    for (let promises = 0; promises <= BROKEN_PROMISES_MAX; promises++) {
      const cached = this.entries.find(
        (entry) =>
          entry.pasid === pasid &&
          page >= entry.first &&
          page < entry.first + entry.count &&
          (write ? entry.write : entry.read),
      );
      const entry = cached ?? (yield* this.fetch(page, write, pasid));
      if (entry === undefined) return undefined;
      if (write ? entry.write : entry.read) return entry;
      if (this.pages === undefined || !this.pages.isEnabled) return undefined;
      const wanted = { read: !write, write, pasid: pasid === NO_PASID ? undefined : pasid };
      if ((yield* this.pages.request(page, count, wanted)) !== "success") return undefined;
    }
    return undefined;
  }

  /** Asks the agent. Undefined: it does not allow ATS, or cannot answer. What allows no access is not kept. */
  private *fetch(page: number, write: boolean, pasid: number): Task<Entry | undefined> {
    const { system, requester, agent } = this.surroundings();
    if (agent === undefined) return undefined;
    const unit = 2 ** (this.config.read(this.capability + ATS_CONTROL, 2) & ATS_STU);
    for (;;) {
      const first = page - (page % unit);
      const request: Request = { span: { pasid, first, count: unit }, stale: false };
      this.requests.add(request);
      const answer = agent.requestTranslation(requester, {
        pasid: pasid === NO_PASID ? undefined : pasid,
        address: BigInt(page) * BigInt(PAGE),
        noWrite: !write,
      });
      if (system.tasks.exploring) yield* system.tasks.point();
      this.requests.delete(request);
      if (request.stale) continue;
      if (typeof answer !== "object") return undefined;
      const entry = this.entryOf(page, pasid, answer);
      if ((entry.read || entry.write) && this.isEnabled) this.keep(entry);
      return entry;
    }
  }

  private entryOf(page: number, pasid: number, { physical, size, read, write }: Translation): Entry {
    const count = size / PAGE;
    return { pasid, first: page - (page % count), count, physical: physical - (physical % size), read, write };
  }

  private keep(entry: Entry): void {
    const isOther = ({ pasid, first, count }: Entry): boolean =>
      pasid !== entry.pasid || first + count <= entry.first || first >= entry.first + entry.count;
    this.entries = this.entries.filter(isOther).slice(-(CAPACITY - 1));
    this.entries.push(entry);
  }
}
