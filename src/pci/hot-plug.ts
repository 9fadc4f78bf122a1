// Runs in a browser.
/**
 * Functions come and go while the machine runs.
 *
 * Software forgets a function (`remove` in its directory): its driver lets go, which takes until nobody uses it; its keeper,
 * the IOMMU core, releases it; what it still had on its way ends; its addresses are free. The function sits in its place all
 * the same, and `rescan` finds it again, as if it had just come: without `driver_override`, maybe in another group.
 * Hardware that is plugged in is found the same way; what is pulled out goes the same way, and does not come back.
 *
 * Always true: what is behind a bridge goes before the bridge. Everything here happens under `mutex`, also the wait for a
 * client that has a function in use, as in Linux: until it lets go, nothing else comes or goes.
 *
 * Lock order: pci.hot-plug → those of drivers → those of the IOMMU core.
 */
import { ENODEV, Mutex, Refusal, refuse, type System, type Task } from "../runtime/index.ts";
import type { PciBus } from "./bus.ts";
import type { PciFunction } from "./function.ts";
import type { PciHost } from "./host.ts";

/** Who cares for functions beside their drivers. */
export interface FunctionKeeper {
  /** A function was found. Cannot fail: one that it cannot care for is there all the same. */
  adopt(member: PciFunction): Task<void>;
  /** The mirror image; the driver let go before. Cannot fail. */
  release(member: PciFunction): Task<void>;
  /** A function is out of its place for good. */
  dismantled(member: PciFunction): void;
}

export class HotPlug {
  private readonly host: PciHost;
  private readonly keeper: FunctionKeeper;
  private readonly mutex: Mutex;
  /** Forgotten by software, in the order in which they went; they sit in their places. */
  private readonly hidden = new Set<PciFunction>();
  private readonly leaving = new Set<PciFunction>();
  private readonly listeners = new Set<() => void>();

  constructor(system: System, host: PciHost, keeper: FunctionKeeper) {
    this.host = host;
    this.keeper = keeper;
    this.mutex = new Mutex(system, "pci.hot-plug");
  }

  /** Hears of each step; returns what ends it. */
  listen(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** True from when somebody asked for its removal. */
  isLeaving(member: PciFunction): boolean {
    return this.leaving.has(member);
  }

  /** Software forgets a function, and all that is behind it. ENODEV: somebody asked for that before. */
  *remove(member: PciFunction): Task<void> {
    if (this.leaving.has(member) || !this.host.isSetUp(member)) refuse(ENODEV, () => `${member.name} is going already`);
    this.leaving.add(member);
    this.changed();
    yield* this.locked(this.forget(member));
  }

  /**
   * Finds what was forgotten and still sits there: on one bus and those below it, or on all. ENOSPC: the addresses of one were
   * given to others meanwhile; then it stays forgotten.
   */
  *rescan(bus?: PciBus): Task<void> {
    yield* this.locked(this.find(bus));
  }

  /**
   * Hardware is plugged in: `put` sets it into its place, and software finds it. ENOSPC: there is no room for what it needs;
   * ENOMEM; then it is not there.
   */
  *insert(put: () => readonly PciFunction[]): Task<readonly PciFunction[]> {
    return yield* this.locked(this.putIn(put));
  }

  /**
   * Hardware is pulled out: the functions of one device, with all that is behind them. Orderly, software forgets it first;
   * by surprise it is gone at once, and software finds that out while it forgets it.
   */
  *extract(bus: PciBus, device: number, how: "orderly" | "surprise"): Task<void> {
    if (how === "surprise") for (const member of this.partsOf(bus, device)) member.pullOut();
    for (const member of bus.slot(device)) this.leaving.add(member);
    this.changed();
    yield* this.locked(this.takeOut(bus, device));
  }

  private *locked<T>(code: Task<T>): Task<T> {
    yield* this.mutex.take();
    try {
      return yield* code;
    } finally {
      this.mutex.release();
    }
  }

  /** Somebody else may have seen to it while this one waited for the mutex. */
  private *forget(member: PciFunction): Task<void> {
    if (!this.host.isSetUp(member)) return;
    this.leaving.add(member);
    for (const bus of this.host.buses) {
      if (bus.bridge === member) for (const below of bus.functions.reverse()) yield* this.forget(below);
    }
    yield* this.host.drivers.unbind(member);
    yield* this.keeper.release(member);
    yield* this.host.drain(member);
    this.host.forget(member);
    this.leaving.delete(member);
    this.hidden.add(member);
    this.changed();
  }

  private *find(bus?: PciBus): Task<void> {
    for (const member of this.hidden) {
      if (bus === undefined || isBelow(member, bus)) member.place!.bus.show(member);
    }
    const candidates = this.host.scanOrder.filter((member) => !this.host.isSetUp(member));
    let refusal: Refusal | undefined;
    try {
      this.host.enumerate();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      refusal = error;
    }
    for (const member of candidates) {
      if (this.host.isSetUp(member)) {
        this.hidden.delete(member);
        yield* this.keeper.adopt(member);
      } else member.place!.bus.hide(member);
    }
    this.changed();
    if (refusal !== undefined) throw refusal;
  }

  private *putIn(put: () => readonly PciFunction[]): Task<readonly PciFunction[]> {
    this.host.system.failures.point("pci.function.insert");
    const members = put();
    try {
      this.host.enumerate();
    } catch (error) {
      for (const member of members) {
        if (this.host.isSetUp(member)) this.host.forget(member);
        this.dismantle(member);
      }
      throw error;
    }
    for (const member of members) yield* this.keeper.adopt(member);
    this.changed();
    return members;
  }

  private *takeOut(bus: PciBus, device: number): Task<void> {
    for (const member of bus.slot(device).reverse()) yield* this.forget(member);
    for (const member of this.partsOf(bus, device)) {
      if (!member.isGone) member.pullOut();
      this.hidden.delete(member);
      this.dismantle(member);
    }
  }

  private dismantle(member: PciFunction): void {
    this.host.dismantle(member);
    this.keeper.dismantled(member);
  }

  /** The functions of a device, and those behind them, whether software knows of them or not. */
  private partsOf(bus: PciBus, device: number): PciFunction[] {
    return [...this.host.functions, ...this.hidden].filter((member) => {
      for (let at: PciFunction | undefined = member; at !== undefined; at = at.place!.bus.bridge) {
        if (at.place!.bus === bus && at.place!.device === device) return true;
      }
      return false;
    });
  }

  private changed(): void {
    for (const listener of this.listeners) listener();
  }
}

function isBelow(member: PciFunction, bus: PciBus): boolean {
  for (let at: PciBus | undefined = member.place!.bus; at !== undefined; at = at.parent) if (at === bus) return true;
  return false;
}
