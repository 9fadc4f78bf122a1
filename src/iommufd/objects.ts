// Runs in a browser.
import {
  assert,
  EBUSY,
  ENOENT,
  ENOMEM,
  type Holder,
  IdAllocator,
  RefCount,
  refuse,
  type System,
  type Task,
  WaitQueue,
} from "../runtime/index.ts";

/** Kinds of objects, by their names in reference 3.2. All kinds of one context share one space of ids. */
export type ObjectKind =
  | "DEVICE"
  | "HWPT_PAGING"
  | "HWPT_NESTED"
  | "IOAS"
  | "ACCESS"
  | "FAULT"
  | "VIOMMU"
  | "VDEVICE"
  | "VEVENTQ"
  | "HW_QUEUE"
  | "SELFTEST";

/** A class of objects that can be looked up: `objects.find(id, Ioas)`. */
// biome-ignore lint/suspicious/noExplicitAny: constructors of all shapes
export type ObjectClass<T extends IommufdObject> = (abstract new (...args: any[]) => T) & { readonly noun: string };

/** What an id of a context names. */
export abstract class IommufdObject {
  abstract readonly kind: ObjectKind;
  readonly id: number;
  /** For people: `"IOAS 2"`. */
  readonly label: string;
  /** Who needs the object, besides the table: it can be destroyed only when this is empty. */
  readonly users: RefCount;
  /** Calls that use the object right now: destruction waits for them. */
  shortTermUses = 0;
  /** Being destroyed: not found any more, not gone yet. */
  isGoing = false;

  constructor(id: number, noun: string, name?: string) {
    this.id = id;
    this.label = name === undefined ? `${noun} ${id}` : `${noun} ${id} (${name})`;
    this.users = new RefCount(this.label);
  }

  /** Gives back what it holds. Only without users, and when no lookup finds it any more. Cannot fail. */
  abstract destroy(): Task<void>;

  /** What a person would want to know of it, as plain data. */
  abstract describe(): Record<string, unknown>;
}

/** How long destruction waits for calls that use the object, in nanoseconds. */
const DESTROY_PATIENCE = 60e9;

/**
 * The objects of one context. An id is *reserved* while its object is built, *published* when nothing can fail any more,
 * and free again once the object is destroyed; a *tombstone* stays taken until the context is gone. Only published
 * objects are found.
 */
export class ObjectTable {
  private readonly system: System;
  private readonly ids = new IdAllocator(1, 2 ** 31 - 1);
  private readonly published = new Map<number, IommufdObject>();
  private readonly unused: WaitQueue;

  constructor(system: System) {
    this.system = system;
    this.unused = new WaitQueue(system, "iommufd object in use");
  }

  /** True while no id is taken, not even by a tombstone. */
  get isEmpty(): boolean {
    return this.ids.size === 0;
  }

  /** The published objects, by ascending id. */
  list(): IommufdObject[] {
    return [...this.published.values()].sort((a, b) => a.id - b.id);
  }

  // ---- Reserve, build, publish

  /** Takes the lowest free id. Refusal ENOMEM. */
  reserve(): number {
    this.system.failures.point("iommufd.object.reserve");
    return this.ids.allocate() ?? refuse(ENOMEM, () => "all 2^31 - 1 object ids are taken");
  }

  /** Gives back an id whose object was never published. */
  abort(id: number): void {
    assert(!this.published.has(id), () => `id ${id} is aborted but published`);
    this.ids.free(id);
  }

  /** From now on lookups find the object. */
  publish(object: IommufdObject): void {
    assert(this.ids.has(object.id) && !this.published.has(object.id), () => `id ${object.id} is not reserved`);
    this.published.set(object.id, object);
    this.tell("iommufd.object.publish", object);
  }

  /** Reserves an id, builds the object of it and publishes it. What `build` throws leaves nothing behind. */
  create<T extends IommufdObject>(build: (id: number) => T): T {
    const id = this.reserve();
    let object: T;
    try {
      object = build(id);
    } catch (error) {
      this.abort(id);
      throw error;
    }
    this.publish(object);
    return object;
  }

  // ---- Look up

  /** The object of an id, whatever its kind. Refusal ENOENT. */
  any(id: number): IommufdObject {
    return this.published.get(id) ?? refuse(ENOENT, () => this.missing(id));
  }

  /** The object of an id, if it is of this class. Refusal ENOENT. */
  find<T extends IommufdObject>(id: number, type: ObjectClass<T>): T {
    this.system.failures.point("iommufd.object.find", ENOENT);
    const object = this.published.get(id);
    if (object instanceof type) return object;
    return refuse(ENOENT, () => (object ? `${object.label} is not of kind ${type.noun}` : this.missing(id)));
  }

  /** As {@link find}; the object then lives until {@link release}. For calls that may block while they use it. */
  use<T extends IommufdObject>(id: number, type: ObjectClass<T>): T {
    const object = this.find(id, type);
    object.shortTermUses++;
    return object;
  }

  /** Does what is left of `code`, and the object lives until it is done. */
  *whileUsed<T>(object: IommufdObject, code: Task<T>): Task<T> {
    object.shortTermUses++;
    try {
      return yield* code;
    } finally {
      this.release(object);
    }
  }

  /** As {@link any}; the object then lives until {@link release}. */
  useAny(id: number): IommufdObject {
    const object = this.any(id);
    object.shortTermUses++;
    return object;
  }

  /** As {@link useAny}; undefined if there is no such object. */
  tryUse(id: number): IommufdObject | undefined {
    const object = this.published.get(id);
    if (object !== undefined) object.shortTermUses++;
    return object;
  }

  /** False once the object is being destroyed. */
  isPublished(object: IommufdObject): boolean {
    return this.published.get(object.id) === object;
  }

  release(object: IommufdObject): void {
    assert(object.shortTermUses > 0, () => `${object.label} is not in use`);
    if (--object.shortTermUses === 0) this.unused.wake();
  }

  // ---- Destroy

  /** DESTROY: ENOENT if there is no such object, EBUSY while it has users; then nothing has changed. */
  *destroy(id: number): Task<void> {
    const object = this.any(id);
    refuseUsed(object);
    if (!(yield* this.waitForCalls(object))) {
      refuse(EBUSY, () => `${object.label} was in use by other calls for 60 seconds`);
    }
    if (this.published.get(id) !== object) refuse(ENOENT, () => `${object.label} was destroyed meanwhile`);
    refuseUsed(object);
    this.hide(object);
    yield* this.finish(object);
  }

  /** Gives back one use of an object that only its users keep alive: with the last one it goes. */
  *putAndRemove(object: IommufdObject, holder: Holder): Task<void> {
    if (object.users.put(holder) > 0) return;
    const idle = yield* this.waitForCalls(object);
    if (!idle || object.users.count > 0 || this.published.get(object.id) !== object) return;
    this.hide(object);
    yield* this.finish(object);
  }

  /** Destroys an object that its owner gives up: it has no users, nobody finds it, and calls that use it are waited for. */
  *remove(object: IommufdObject): Task<void> {
    this.hide(object);
    yield* this.waitUntilUnused(object);
    yield* this.finish(object);
  }

  /**
   * As {@link remove}, but the id stays taken: whoever still knows it finds nothing. Waits for another task that is
   * destroying the object already.
   */
  *bury(object: IommufdObject): Task<void> {
    if (!this.isPublished(object)) {
      yield* this.unused.untilUninterrupted(() => !object.isGoing);
      return;
    }
    this.hide(object);
    yield* this.waitUntilUnused(object);
    yield* object.destroy();
    object.isGoing = false;
    this.tell("iommufd.object.bury", object);
  }

  /** Destroys all, those first that nobody uses, round by round. */
  *destroyAll(): Task<void> {
    for (let left = this.list(); left.length > 0; left = this.list()) {
      const free = left.filter((object) => object.users.count === 0);
      assert(free.length > 0, () => `left behind: ${left.map((o) => `${o.label} (${o.users.holders()})`).join("; ")}`);
      for (const object of free) if (this.isPublished(object)) yield* this.remove(object);
    }
  }

  /** False if calls still use the object after 60 seconds. */
  private *waitForCalls(object: IommufdObject): Task<boolean> {
    if (object.shortTermUses === 0) return true;
    let expired = false;
    const cancel = this.system.clock.after(DESTROY_PATIENCE, () => {
      expired = true;
      this.unused.wake();
    });
    yield* this.unused.until(() => object.shortTermUses === 0 || expired);
    cancel();
    return object.shortTermUses === 0;
  }

  /** No lookup finds the object any more; it is about to be destroyed. */
  private hide(object: IommufdObject): void {
    this.published.delete(object.id);
    object.isGoing = true;
  }

  private *waitUntilUnused(object: IommufdObject): Task<void> {
    const idle = yield* this.waitForCalls(object);
    assert(idle && object.users.count === 0, () => `${object.label} goes but is used by ${object.users.holders()}`);
  }

  private *finish(object: IommufdObject): Task<void> {
    yield* object.destroy();
    object.isGoing = false;
    this.ids.free(object.id);
    this.unused.wake();
    this.tell("iommufd.object.destroy", object);
  }

  private missing(id: number): string {
    return this.ids.has(id)
      ? `id ${id} is taken by an object that is not complete, or gone`
      : `there is no object with id ${id}`;
  }

  private tell(kind: string, object: IommufdObject): void {
    if (this.system.events.on) this.system.events.emit({ kind, id: object.id, object: object.label });
  }
}

function refuseUsed(object: IommufdObject): void {
  if (object.users.count > 0) refuse(EBUSY, () => `${object.label} is used by ${object.users.holders().join(", ")}`);
}
