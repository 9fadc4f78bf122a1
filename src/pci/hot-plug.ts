// Runs in a browser.
/**
 * Functions come and go while the machine runs.
 *
 * Software forgets a function (`remove` in its directory): its driver lets go, which takes until nobody uses it; its keeper,
 * the IOMMU core, releases it; what it still had on its way ends; its addresses are free. The function sits in its place all
 * the same, and `rescan` finds it again, as if it had just come: without `driver_override`, maybe in another group.
 * Hardware that is plugged in is found the same way; what is pulled out goes the same way, and does not come back. So do the
 * virtual functions of a function, when its driver turns them on (`sriov_numvfs`) or off.
 *
 * Always true: what is behind a bridge goes before the bridge, and virtual functions before the driver of their physical
 * one lets go of it. Everything here happens under `mutex`, also the wait for a
 * client that has a function in use, as in Linux: until it lets go, nothing else comes or goes.
 *
 * Lock order: pci.hot-plug → those of drivers → those of the IOMMU core.
 */
import { EBUSY, ENODEV, ENOENT, ERANGE, Mutex, Refusal, refuse, type System, type Task } from "../runtime/index.ts";
import type { PciBus } from "./bus.ts";
import type { PciFunction } from "./function.ts";
import type { PciHost } from "./host.ts";
import type { VirtualFunctions } from "./sr-iov.ts";

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
    host.drivers.turnOff = (physical) => this.turnOff(physical);
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
    for (const member of realFunctions(bus, device)) this.leaving.add(member);
    this.changed();
    yield* this.locked(this.takeOut(bus, device));
  }

  /**
   * A write to `sriov_numvfs`: turns the first `count` virtual functions of a function on, or with 0 all off, which waits for
   * who uses them. ERANGE: it has fewer. ENOENT: no driver of it does that. EBUSY: some are on already; they go first. ENOMEM.
   */
  *setVirtualFunctions(physical: PciFunction, count: number): Task<void> {
    const { functions } = physical.virtualFunctions!;
    if (count > functions.length) {
      refuse(ERANGE, () => `${physical.name} has ${functions.length} virtual functions, not ${count}`);
    }
    yield* this.locked(this.changeVirtual(physical, count));
  }

  /** Whoever has the mutex may ask for more of the same. */
  private *locked<T>(code: Task<T>): Task<T> {
    if (this.mutex.isMine) return yield* code;
    yield* this.mutex.take();
    try {
      return yield* code;
    } finally {
      this.mutex.release();
    }
  }

  private *changeVirtual(physical: PciFunction, count: number): Task<void> {
    const { known } = physical.virtualFunctions!;
    const { name } = physical;
    const driver = physical.isLeavingDriver ? undefined : physical.driver;
    if (!this.host.isSetUp(physical)) refuse(ENODEV, () => `${name} is gone`);
    if (count === known) return;
    const rules = driver?.virtualFunctions;
    if (rules === undefined) {
      const who = driver === undefined ? `${name} has none` : `${driver.name}, that of ${name}, does not do that`;
      refuse(ENOENT, () => `virtual functions are turned on by drivers; ${who}`);
    }
    if (count > 0 && known > 0) refuse(EBUSY, () => `${known} virtual functions of ${name} are on: 0 comes first`);
    rules.permit(physical);
    if (count > 0) yield* this.turnOn(physical, count, rules.override);
    else yield* this.turnOff(physical);
  }

  private *turnOn(physical: PciFunction, count: number, override: string | undefined): Task<void> {
    const virtual = physical.virtualFunctions!;
    this.host.system.failures.point("pci.virtual-functions.turn-on");
    virtual.turnOn(count);
    for (const member of virtual.functions.slice(0, count)) {
      member.place!.bus.show(member);
      this.host.enumerate();
      virtual.known++;
      yield* this.keeper.adopt(member);
      member.driverOverride = override;
      yield* this.host.drivers.bindNew(member);
      this.changed();
    }
  }

  /** The mirror image of turning on, in the same order, as Linux has it. Cannot fail. */
  private *turnOff(physical: PciFunction): Task<void> {
    if (physical.virtualFunctions === undefined || physical.virtualFunctions.known === 0) return;
    yield* this.locked(this.forgetVirtual(physical.virtualFunctions));
  }

  private *forgetVirtual(virtual: VirtualFunctions): Task<void> {
    for (const member of virtual.present) yield* this.forget(member);
    virtual.known = 0;
    virtual.turnOn(0);
    this.changed();
  }

  /** Somebody else may have seen to it while this one waited for the mutex. As in Linux, all drivers let go before the first is forgotten. */
  private *forget(member: PciFunction): Task<void> {
    if (!this.host.isSetUp(member)) return;
    yield* this.stop(member);
    yield* this.forgetStopped(member);
  }

  private *stop(member: PciFunction): Task<void> {
    this.leaving.add(member);
    for (const below of this.behind(member)) yield* this.stop(below);
    yield* this.host.drivers.unbind(member);
  }

  /** A driver may have come back while others were waited for. */
  private *forgetStopped(member: PciFunction): Task<void> {
    for (const below of this.behind(member)) yield* this.forgetStopped(below);
    yield* this.host.drivers.unbind(member);
    yield* this.keeper.release(member);
    yield* this.host.drain(member);
    this.host.forget(member);
    this.leaving.delete(member);
    if (!member.isVirtual) this.hidden.add(member);
    this.changed();
  }

  /** The functions on the bus behind a bridge, in the order in which they go. */
  private behind(bridge: PciFunction): readonly PciFunction[] {
    return this.host.buses.filter((bus) => bus.bridge === bridge).flatMap((bus) => bus.functions.toReversed());
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
    for (const member of realFunctions(bus, device).reverse()) yield* this.forget(member);
    for (const member of this.partsOf(bus, device)) {
      if (!member.isGone) member.pullOut();
      this.hidden.delete(member);
      this.dismantle(member);
    }
  }

  private dismantle(member: PciFunction): void {
    this.host.dismantle(member);
    this.keeper.dismantled(member);
    for (const virtual of member.virtualFunctions?.functions ?? []) this.keeper.dismantled(virtual);
  }

  /** The functions of a device, and those behind them, whether software knows of them or not; virtual ones go with theirs. */
  private partsOf(bus: PciBus, device: number): PciFunction[] {
    return [...this.host.functions, ...this.hidden].filter((member) => {
      if (member.isVirtual) return false;
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

/** The functions of one device that were plugged in with it. */
function realFunctions(bus: PciBus, device: number): PciFunction[] {
  return bus.slot(device).filter(({ isVirtual }) => !isVirtual);
}

function isBelow(member: PciFunction, bus: PciBus): boolean {
  for (let at: PciBus | undefined = member.place!.bus; at !== undefined; at = at.parent) if (at === bus) return true;
  return false;
}
