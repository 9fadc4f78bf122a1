// Runs in a browser.
/**
 * Accesses: how drivers without an IOMMU behind them (mediated devices), and tests, reach what an IOAS maps (reference 3.13).
 *
 * While attached, an access may read, write and pin. Whoever unmaps an area asks its user to unpin; a user that does not
 * would keep the area, so it must. `ioas` is undefined while the access changes its IOAS: then nothing new is pinned,
 * but what is pinned, in `pinnedIn`, can still be given back.
 *
 * Lock order: access mutex → domains lock. The user's `unmap` is called with none held.
 */
import type { Process } from "../memory/index.ts";
import { assert, bigintOf, EBUSY, EINVAL, ENOENT, EOVERFLOW, Mutex, refuse, type Task } from "../runtime/index.ts";
import { pinAreas, readAreas, unpinAreas, writeAreas } from "./area-access.ts";
import type { IommufdContext } from "./context.ts";
import { Ioas } from "./ioas.ts";
import type { SpaceUser } from "./iova-space.ts";
import { IommufdObject } from "./objects.ts";
import { MAX_IOVA } from "./reserved.ts";

/** Who uses an access. */
export interface AccessUser {
  readonly label: string;
  /**
   * Mappings of a range are to go: when this returns, nothing of it is pinned any more. Called without locks; absent for a
   * user whose pins cannot be taken from it.
   */
  unmap?(iova: bigint, length: bigint): Task<void>;
}

export class Access extends IommufdObject implements SpaceUser {
  static readonly noun = "access";
  readonly kind = "ACCESS";
  readonly context: IommufdContext;
  readonly pins: boolean;
  private readonly user: AccessUser;
  private readonly mutex: Mutex;
  /** Keeps its context: it is not made by an object of that. */
  private readonly holdsContext: boolean;
  private ioas: Ioas | undefined;
  private pinnedIn: Ioas | undefined;

  constructor(
    id: number,
    context: IommufdContext,
    user: AccessUser,
    options: { pins: boolean; holdsContext: boolean },
  ) {
    super(id, Access.noun, user.label);
    this.context = context;
    this.user = user;
    this.pins = options.pins;
    this.holdsContext = options.holdsContext;
    this.mutex = new Mutex(context.system, "iommufd.access");
    this.users.get(user);
    if (this.holdsContext) context.hold(this);
  }

  // ---- What it is attached to

  /** Refusals: EINVAL (attached already), ENOENT, EADDRINUSE. */
  *attach(ioasId: number): Task<void> {
    yield* this.mutex.take();
    try {
      const { ioas } = this;
      if (ioas !== undefined) refuse(EINVAL, () => `${this.label} is attached already, to ${ioas.label}`);
      yield* this.changeById(ioasId);
    } finally {
      this.mutex.release();
    }
  }

  /**
   * From one IOAS to another. Refusals: ENOENT (not attached, or no such IOAS), EADDRINUSE; then nothing has changed. EBUSY:
   * another task detaches it.
   */
  *replace(ioasId: number): Task<void> {
    yield* this.mutex.take();
    try {
      if (this.ioas === undefined) refuse(ENOENT, () => `${this.label} is not attached`);
      yield* this.changeById(ioasId);
    } finally {
      this.mutex.release();
    }
  }

  /** Nothing if it is not attached. Its user is asked to unpin all. Cannot fail. */
  *detach(): Task<void> {
    yield* this.mutex.take();
    if (this.ioas !== undefined) yield* this.change(undefined);
    this.mutex.release();
  }

  /** Its user needs it no more. Cannot fail. */
  *destroyByUser(): Task<void> {
    this.users.put(this.user);
    yield* this.context.objects.remove(this);
    if (this.holdsContext) yield* this.context.drop(this);
  }

  *destroy(): Task<void> {
    yield* this.detach();
  }

  private *changeById(ioasId: number): Task<void> {
    const { objects } = this.context;
    const ioas = objects.use(ioasId, Ioas);
    try {
      yield* this.change(ioas);
    } finally {
      objects.release(ioas);
    }
  }

  /** The new one is entered before the old one is left: if that is refused, nothing has changed. */
  private *change(to: Ioas | undefined): Task<void> {
    this.mutex.assertHeld();
    const { ioas: old, user } = this;
    if (old !== this.pinnedIn) refuse(EBUSY, () => `${this.label} is being detached by another task`);
    if (old === to) return;
    this.ioas = undefined;
    if (to !== undefined) {
      try {
        yield* to.space.addUser(this);
      } catch (error) {
        this.ioas = old;
        throw error;
      }
      to.users.get(this);
    }
    if (old !== undefined) {
      if (user.unmap !== undefined) {
        this.mutex.release();
        yield* user.unmap(0n, MAX_IOVA);
        yield* this.mutex.take();
      }
      yield* old.space.removeUser(this);
      old.users.put(this);
    }
    this.ioas = to;
    this.pinnedIn = to;
    const { events } = this.context.system;
    if (events.on) events.emit({ kind: "iommufd.access.attach", id: this.id, ioas: to?.id, old: old?.id });
  }

  *notifyUnmap(start: bigint, length: bigint): Task<void> {
    const { objects } = this.context;
    if (this.user.unmap === undefined || !objects.isPublished(this)) return;
    objects.useAny(this.id);
    try {
      yield* this.user.unmap(start, length);
    } finally {
      objects.release(this);
    }
  }

  // ---- What it does

  /** Frames of the pages of a range, pinned until {@link unpin}. Refusals: EINVAL, EOVERFLOW, ENOENT, then pinAreas'. */
  pin(caller: Process, iova: bigint, length: bigint, write: boolean, locksAreas = false): number[] {
    assert(this.pins, () => `${this.label} was made for reading and writing only`);
    const last = lastOf(iova, length);
    return pinAreas(this.attached.space, { start: iova, last, write, caller, locksAreas });
  }

  /** A range that was pinned as a whole. Cannot fail. */
  unpin(iova: bigint, length: bigint, locksAreas = false): void {
    assert(this.pinnedIn !== undefined, () => `${this.label} unpins but was never attached`);
    unpinAreas(this.pinnedIn.space, iova, iova + length - 1n, locksAreas);
  }

  /** Refusals: EINVAL (no bytes), EOVERFLOW, ENOENT, then readAreas'. `slow`: never through the process itself. */
  read(caller: Process, iova: bigint, into: Uint8Array, { slow = false }: { slow?: boolean } = {}): void {
    lastOf(iova, bigintOf(into.length));
    readAreas(this.attached.space, { start: iova, caller, slow }, into);
  }

  write(caller: Process, iova: bigint, bytes: Uint8Array, { slow = false }: { slow?: boolean } = {}): void {
    lastOf(iova, bigintOf(bytes.length));
    writeAreas(this.attached.space, { start: iova, caller, slow }, bytes);
  }

  describe(): Record<string, unknown> {
    return { ioas: this.ioas?.id, pins: this.pins };
  }

  /** The IOAS it is attached to: for those who look at its areas. Refusal ENOENT without. */
  get attached(): Ioas {
    return this.ioas ?? refuse(ENOENT, () => `${this.label} is not attached`);
  }
}

function lastOf(iova: bigint, length: bigint): bigint {
  if (length === 0n) refuse(EINVAL, () => "length is 0");
  const last = iova + (length - 1n);
  if (last > MAX_IOVA) refuse(EOVERFLOW, () => `iova 0x${iova.toString(16)} + ${length} exceeds 64 bits`);
  return last;
}
