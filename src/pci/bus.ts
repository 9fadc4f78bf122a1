// Runs in a browser.
import { assert } from "../runtime/index.ts";
import type { BusWindows } from "./bridge-windows.ts";
import type { PciFunction } from "./function.ts";
import type { PciHost } from "./host.ts";
import type { VirtualFunctions } from "./sr-iov.ts";

/** One bus: up to 32 devices of up to 8 functions. */
export class PciBus {
  readonly host: PciHost;
  readonly number: number;
  /** The bridge that leads to it. */
  readonly bridge: PciFunction | undefined;
  /**
   * The bus towards memory; undefined for the root complex. A bus that holds only virtual functions has one although no
   * bridge leads to it.
   */
  readonly parent: PciBus | undefined;
  /** Where addresses on it lie, once it is enumerated. */
  windows: BusWindows | undefined;
  private readonly members = new Map<number, PciFunction>();
  /** Made of the members when somebody asks. */
  private inOrder: readonly PciFunction[] | undefined;

  constructor(host: PciHost, number: number, bridge?: PciFunction, parent: PciBus | undefined = bridge?.place?.bus) {
    this.host = host;
    this.number = number;
    this.bridge = bridge;
    this.parent = parent;
  }

  get isRoot(): boolean {
    return this.parent === undefined;
  }

  /** In the order of device and function. */
  get functions(): readonly PciFunction[] {
    this.inOrder ??= [...this.members].sort(([left], [right]) => left - right).map(([, member]) => member);
    return this.inOrder;
  }

  /** The buses behind the bridges on it, in the order of the bridges. */
  get behind(): PciBus[] {
    return this.functions.flatMap((member) => this.host.buses.filter(({ bridge }) => bridge === member));
  }

  /** The highest number of a bus below it, or its own. */
  get last(): number {
    return Math.max(this.number, ...this.behind.map(({ last }) => last));
  }

  /** The functions of one device. */
  slot(device: number): PciFunction[] {
    return this.functions.filter(({ place }) => place?.device === device);
  }

  /** Puts a function into a free place. */
  add(member: PciFunction, device: number, number = 0): void {
    assert(device >= 0 && device < 32 && number >= 0 && number < 8, () => `no place ${device}.${number} on a bus`);
    assert(!this.members.has(device * 8 + number), () => `bus ${this.number}: ${device}.${number} is taken`);
    assert(member.place === undefined, "a function is put on a bus once");
    this.members.set(device * 8 + number, member);
    this.inOrder = undefined;
    member.place = { bus: this, device, function: number };
    member.idAtRoot = member.requesterId;
    if (member.virtualFunctions !== undefined) this.reserve(member.virtualFunctions);
  }

  /** Virtual functions have their places from the start, and are on the bus while they are turned on. */
  private reserve({ functions, ids, physical }: VirtualFunctions): void {
    for (const [index, virtual] of functions.entries()) {
      const devfn = physical.devfn + ids.offset + index * ids.stride;
      assert(devfn < 256, () => `virtual function ${index} of ${physical.name} has no place on its bus`);
      virtual.place = { bus: this, device: Math.floor(devfn / 8), function: devfn % 8 };
    }
  }

  /** Software forgets a function, or a virtual one is turned off: it keeps its place, but is not among those of the bus. */
  hide(member: PciFunction): void {
    this.members.delete(member.devfn);
    this.inOrder = undefined;
  }

  /** The mirror image of {@link hide}. */
  show(member: PciFunction): void {
    assert(member.place?.bus === this && !this.members.has(member.devfn), () => `${member.name} is not hidden`);
    this.members.set(member.devfn, member);
    this.inOrder = undefined;
  }
}
