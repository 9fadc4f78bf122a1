// Runs in a browser.
import { assert, ENODEV, refuse, type System, type Task } from "../runtime/index.ts";
import type { PciFunction } from "./function.ts";
import type { PciHost } from "./host.ts";

/** A driver of PCI functions, such as vfio-pci. */
export interface PciDriver {
  readonly name: string;
  /** Takes the function under its care; a Refusal leaves it unbound. */
  probe(member: PciFunction): Task<void>;
  /** Lets go of it; waits until nobody uses it. Cannot fail. */
  remove(member: PciFunction): Task<void>;
}

/** The drivers of a host, and which function is bound to which (`/sys/bus/pci/drivers`). */
export class PciDrivers {
  private readonly system: System;
  private readonly host: PciHost;
  private readonly registered = new Map<string, PciDriver>();
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
  }

  /** Hears of each function that was bound or unbound; returns what ends it. */
  listen(listener: (member: PciFunction) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Binds a function without a driver. The driver's Refusal leaves it unbound. */
  *bind(member: PciFunction, driver: PciDriver): Task<void> {
    if (member.driver !== undefined) refuse(ENODEV, () => `${member.name} is bound to ${member.driver?.name} already`);
    member.driver = driver;
    try {
      yield* driver.probe(member);
    } catch (error) {
      member.driver = undefined;
      throw error;
    }
    this.changed(member);
  }

  *unbind(member: PciFunction): Task<void> {
    const { driver } = member;
    if (driver === undefined) return;
    yield* driver.remove(member);
    member.driver = undefined;
    this.changed(member);
  }

  /** A write of a function's name to `bind` of a driver: it must be the one that `driver_override` names. */
  *bindByName(name: string, driver: PciDriver): Task<void> {
    const member = this.named(name);
    if (member.driverOverride !== driver.name) {
      refuse(
        ENODEV,
        () => `${name}: driver_override is not ${driver.name}, and ${driver.name} matches nothing by itself`,
      );
    }
    yield* this.bind(member, driver);
  }

  /** A write of a function's name to `unbind` of a driver. */
  *unbindByName(name: string, driver: PciDriver): Task<void> {
    const member = this.named(name);
    if (member.driver !== driver) refuse(ENODEV, () => `${name} is not bound to ${driver.name}`);
    yield* this.unbind(member);
  }

  /** A write of a function's name to `drivers_probe`: the driver that `driver_override` names is bound, if there is one. */
  *probeByName(name: string): Task<void> {
    const member = this.named(name);
    const driver = this.registered.get(member.driverOverride ?? "");
    if (member.driver === undefined && driver !== undefined) yield* this.bind(member, driver);
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
