// Runs in a browser.
/**
 * The page request interface of a function (PCI Express base specification 10.4): groups of requests for pages, each
 * answered once.
 *
 * A request takes a credit until its group is answered; the function may have as many as its allocation says. Always true:
 * the indices of groups that are not answered differ.
 */
import { assert, IdAllocator, type System, type Task, WaitQueue } from "../runtime/index.ts";
import {
  type PageGroupResponse,
  type PageGroupStatus,
  PRI_ALLOCATION,
  PRI_CONTROL,
  PRI_ENABLE,
  PRI_RESPONSE_FAILURE,
  PRI_STATUS,
  PRI_STOPPED,
  PRI_UNEXPECTED_RESPONSE,
  type TranslationAgent,
} from "./ats.ts";
import type { ConfigSpace } from "./config-space.ts";
import type { RequesterId } from "./dma.ts";

const PAGE = 4096n;
const GROUPS = 512;

interface Group {
  readonly requests: number;
  readonly pasid: number | undefined;
  status: PageGroupStatus | undefined;
}

export class PageRequester {
  private readonly config: ConfigSpace;
  private readonly capability: number;
  private readonly surroundings: () => {
    readonly system: System;
    readonly requester: RequesterId;
    readonly agent: TranslationAgent | undefined;
  };
  private readonly groups = new Map<number, Group>();
  private readonly indices = new IdAllocator(0, GROUPS - 1);
  private changed: WaitQueue | undefined;

  constructor(config: ConfigSpace, capability: number, surroundings: PageRequester["surroundings"]) {
    this.config = config;
    this.capability = capability;
    this.surroundings = surroundings;
  }

  /** False also after a response failure, until software clears that. */
  get isEnabled(): boolean {
    return (
      (this.config.read(this.capability + PRI_CONTROL, 2) & PRI_ENABLE) !== 0 &&
      (this.config.read(this.capability + PRI_STATUS, 2) & PRI_RESPONSE_FAILURE) === 0
    );
  }

  /** Requests that are not answered. */
  get outstanding(): number {
    return [...this.groups.values()].reduce((sum, { requests }) => sum + requests, 0);
  }

  /**
   * Asks for `count` pages from `page` on (numbers of 4096 bytes), as one group, for as many of them as the allocation
   * allows. Returns the answer; a response failure too if the interface is turned off meanwhile.
   */
  *request(
    page: number,
    count: number,
    wanted: { readonly pasid: number | undefined; readonly read: boolean; readonly write: boolean },
  ): Task<PageGroupStatus> {
    const { system, requester, agent } = this.surroundings();
    assert(agent !== undefined, "a page request needs somebody to answer it");
    this.changed ??= new WaitQueue(system, "page request");
    const requests = Math.min(count, Math.max(this.config.read(this.capability + PRI_ALLOCATION, 4), 1));
    yield* this.changed.until(() => !this.isEnabled || this.hasRoomFor(requests));
    if (!this.isEnabled) return "response failure";

    const index = this.indices.allocate()!;
    const group: Group = { requests, pasid: wanted.pasid, status: undefined };
    this.groups.set(index, group);
    for (let at = 0; at < requests; at++) {
      const address = BigInt(page + at) * PAGE;
      agent.requestPage(requester, { ...wanted, address, group: index, last: at === requests - 1 });
      if (system.tasks.exploring) yield* system.tasks.point();
    }
    yield* this.changed.until(() => group.status !== undefined);
    return group.status!;
  }

  /** The agent's answer to a group. */
  respond({ group: index, status }: PageGroupResponse): void {
    const group = this.groups.get(index);
    if (group === undefined) {
      this.setStatus(PRI_UNEXPECTED_RESPONSE);
      return;
    }
    this.groups.delete(index);
    this.indices.free(index);
    if (status === "response failure") this.setStatus(PRI_RESPONSE_FAILURE);
    this.end(group, status);
    this.settle();
  }

  /** After the control register was written: {@link PRI_STOPPED} says that it is off and nothing is outstanding. */
  settle(): void {
    const status = this.config.read(this.capability + PRI_STATUS, 2) & ~PRI_STOPPED;
    const isOff = (this.config.read(this.capability + PRI_CONTROL, 2) & PRI_ENABLE) === 0;
    const stopped = isOff && this.groups.size === 0 ? PRI_STOPPED : 0;
    this.config.set(this.capability + PRI_STATUS, 2, status | stopped);
    this.changed?.wake();
  }

  /** A reset: nobody waits for answers any more. */
  reset(): void {
    for (const [index, group] of this.groups) {
      this.indices.free(index);
      this.end(group, "response failure");
    }
    this.groups.clear();
    this.settle();
  }

  private hasRoomFor(requests: number): boolean {
    const allocation = Math.max(this.config.read(this.capability + PRI_ALLOCATION, 4), 1);
    return this.groups.size < GROUPS && this.outstanding + requests <= allocation;
  }

  private end(group: Group, status: PageGroupStatus): void {
    group.status = status;
    this.changed?.wake();
  }

  private setStatus(bit: number): void {
    const at = this.capability + PRI_STATUS;
    this.config.set(at, 2, this.config.read(at, 2) | bit);
  }
}
