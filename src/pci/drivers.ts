// Runs in a browser.
import {
  assert,
  EAGAIN,
  EBUSY,
  EINVAL,
  ENODEV,
  EPROBE_DEFER,
  Refusal,
  refuse,
  type System,
  type Task,
} from "../runtime/index.ts";
import { DynamicIds } from "./dynamic-ids.ts";
import type { PciFunction } from "./function.ts";
import type { PciHost } from "./host.ts";

/** A driver of PCI functions, such as vfio-pci. */
export interface PciDriver {
  readonly name: string;
  /** It gives the function's DMA to others, and asks for it when it does. All other drivers use the kernel's DMA API. */
  readonly managesDma?: boolean;
  /** True for functions that it is made for; one without this takes those only whose `driver_override` or its `new_id` names. */
  matches?(member: PciFunction): boolean;
  /** Takes the function under its care; a Refusal leaves it unbound. */
  probe(member: PciFunction): Task<void>;
  /** Lets go of it; waits until nobody uses it. Cannot fail. */
  remove(member: PciFunction): Task<void>;
  /** What a driver that can turn virtual functions of its functions on says of that. */
  readonly virtualFunctions?: {
    /** Asked before they are turned on or off; ENOENT if the driver does not do that now. */
    permit(physical: PciFunction): void;
    /** The only driver that they may have (their `driver_override`), if there is one. */
    readonly override?: string;
  };
}

/** Who must agree before a driver uses the kernel's DMA API for a function. */
export interface KernelDma {
  /** Refusals keep the driver from the function: EBUSY if others use its DMA, EPROBE_DEFER if it is to be tried later. */
  begin(member: PciFunction): Task<void>;
  /** The mirror image. Cannot fail. */
  end(member: PciFunction): Task<void>;
}

/** The drivers of a host, and which function is bound to which (`/sys/bus/pci/drivers`). */
export class PciDrivers {
  /** Without it, everybody may use DMA. */
  kernelDma: KernelDma | undefined;
  /** Turns the virtual functions of one off, before its driver lets go of it. Cannot fail. */
  turnOff: ((physical: PciFunction) => Task<void>) | undefined;
  private readonly system: System;
  private readonly host: PciHost;
  private readonly registered = new Map<string, PciDriver>();
  private readonly dynamicIds = new Map<PciDriver, DynamicIds>();
  private readonly listeners = new Set<(member: PciFunction) => void>();

  constructor(system: System, host: PciHost) {
    this.system = system;
    this.host = host;
  }

  get all(): readonly PciDriver[] {
    return [...this.registered.values()];
  }

  register(driver: PciDriver): void {
    assert(!this.registered.has(driver.name), () => `driver ${driver.name} is registered twice`);
    this.registered.set(driver.name, driver);
    this.dynamicIds.set(driver, new DynamicIds());
  }

  /** Hears of each function that was bound or unbound; returns what ends it. */
  listen(listener: (member: PciFunction) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Binds a function. EBUSY: it is bound already. What DMA's keeper or the driver answer leaves it unbound. */
  *bind(member: PciFunction, driver: PciDriver): Task<void> {
    if (member.driver !== undefined) refuse(EBUSY, () => `${member.name} is bound to ${member.driver?.name} already`);
    member.driver = driver;
    try {
      yield* this.beginDma(member, driver);
      try {
        yield* driver.probe(member);
      } catch (error) {
        yield* this.endDma(member, driver);
        throw error;
      }
    } catch (error) {
      member.driver = undefined;
      throw error;
    }
    this.changed(member);
  }

  /** While the driver waits for clients to let go, the function shows no driver any more. Cannot fail. */
  *unbind(member: PciFunction): Task<void> {
    const { driver } = member;
    if (driver === undefined) return;
    member.isLeavingDriver = true;
    this.changed(member);
    if (this.turnOff !== undefined) yield* this.turnOff(member);
    yield* driver.remove(member);
    yield* this.endDma(member, driver);
    member.driver = undefined;
    member.isLeavingDriver = false;
    this.changed(member);
  }

  /** A write of a function's name to `bind` of a driver, which must match it. EAGAIN: it is to be tried later. */
  *bindByName(name: string, driver: PciDriver): Task<void> {
    const member = this.named(name);
    if (!this.isFor(driver, member)) {
      const { driverOverride } = member;
      refuse(ENODEV, () =>
        driverOverride === undefined
          ? `${driver.name} matches ${name} only if driver_override or new_id says so`
          : `driver_override of ${name} is ${driverOverride}, not ${driver.name}`,
      );
    }
    try {
      yield* this.bind(member, driver);
    } catch (error) {
      if (error instanceof Refusal && error.errno === EPROBE_DEFER) refuse(EAGAIN, () => error.reason);
      throw error;
    }
  }

  /** A write of a function's name to `unbind` of a driver. */
  *unbindByName(name: string, driver: PciDriver): Task<void> {
    const member = this.named(name);
    if (member.driver !== driver) refuse(ENODEV, () => `${name} is not bound to ${driver.name}`);
    yield* this.unbind(member);
  }

  /**
   * A write of a function's name to `drivers_probe`: the first driver that matches is bound, if there is one and the function
   * has none. EINVAL if that fails, whatever the cause.
   */
  *probeByName(name: string): Task<void> {
    const member = this.named(name);
    const driver = this.all.find((one) => this.isFor(one, member));
    if (member.driver !== undefined || driver === undefined) return;
    try {
      yield* this.bind(member, driver);
    } catch (error) {
      if (error instanceof Refusal) refuse(EINVAL, () => error.reason);
      throw error;
    }
  }

  /** A function appeared: the first driver that matches is bound, if it will have it. */
  *bindNew(member: PciFunction): Task<void> {
    const driver = this.all.find((one) => this.isFor(one, member));
    if (driver === undefined) return;
    try {
      yield* this.bind(member, driver);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
    }
  }

  /**
   * A write to `new_id` of a driver: from now on it takes such functions, and those that have no driver at once. What keeps it
   * from one of them is nobody's business. Refusals of {@link DynamicIds.add}.
   */
  *addId(text: string, driver: PciDriver): Task<void> {
    this.dynamicIds.get(driver)!.add(text);
    for (const member of this.host.functions) {
      if (member.driver !== undefined || !this.isFor(driver, member)) continue;
      try {
        yield* this.bind(member, driver);
      } catch (error) {
        if (!(error instanceof Refusal)) throw error;
      }
    }
  }

  /** A write to `remove_id` of a driver. Refusals of {@link DynamicIds.remove}. */
  *removeId(text: string, driver: PciDriver): Task<void> {
    yield* this.system.tasks.point();
    this.dynamicIds.get(driver)!.remove(text);
  }

  /** By `driver_override` alone, where it says something. Virtual functions may be kept from all others. */
  private isFor(driver: PciDriver, member: PciFunction): boolean {
    const { driverOverride, virtual } = member;
    if (driverOverride !== undefined) return driverOverride === driver.name;
    if (virtual?.of.bindsDrivers === false) return false;
    return driver.matches?.(member) || this.dynamicIds.get(driver)!.matches(member);
  }

  private *beginDma(member: PciFunction, driver: PciDriver): Task<void> {
    if (!driver.managesDma && this.kernelDma !== undefined) yield* this.kernelDma.begin(member);
  }

  private *endDma(member: PciFunction, driver: PciDriver): Task<void> {
    if (!driver.managesDma && this.kernelDma !== undefined) yield* this.kernelDma.end(member);
  }

  private named(name: string): PciFunction {
    return this.host.find(name) ?? refuse(ENODEV, () => `there is no PCI function ${name}`);
  }

  private changed(member: PciFunction): void {
    for (const listener of this.listeners) listener(member);
    const { events } = this.system;
    if (events.on) events.emit({ kind: "pci.driver.bind", name: member.name, driver: member.driver?.name });
  }
}
