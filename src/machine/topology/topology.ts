// Runs in a browser.
/**
 * The PCI topology of a computer, as somebody recorded it, and the groups that Linux would make of it.
 *
 * A *topology* (this file) is names and bytes, from a recording (recording.ts), from the text of lspci (lspci.ts), or from
 * a running computer. It can be changed to ask what would be (what-if.ts). groups.ts puts it together as functions on
 * buses and lets the IOMMU core probe them, with a driver that has no hardware behind it (observer.ts): the groups are the
 * core's, there are no rules here.
 */
import type { ReservedRegion } from "../../iommu/index.ts";
import {
  MsiController,
  type PciFunction,
  PciHost,
  RecordedFunction,
  SECONDARY_BUS,
  SUBORDINATE_BUS,
} from "../../pci/index.ts";
import type { System } from "../../runtime/index.ts";

/** One function, as it was recorded. */
export interface RecordedPci {
  /** `"0000:00:01.0"`. */
  readonly name: string;
  /** Configuration space; what is cut off is zero. */
  readonly config: Uint8Array;
  /** What the recording itself calls it, for people. */
  readonly description?: string;
  /** Reserved regions of its group besides those that every device has. */
  readonly regions?: readonly ReservedRegion[];
}

export interface Topology {
  readonly name?: string;
  readonly functions: readonly RecordedPci[];
}

/** Says in one line what is wrong with a recording. */
export class TopologyError extends Error {
  override readonly name = "TopologyError";
}

const NAME = /^([0-9a-f]{4,8}):([0-9a-f]{2}):([01][0-9a-f])\.([0-7])$/;

/** The numbers in `"0000:00:01.0"`; undefined for what is not such a name. */
export function parseName(
  name: string,
): { readonly segment: number; readonly bus: number; readonly device: number; readonly function: number } | undefined {
  const match = NAME.exec(name);
  if (match === null) return undefined;
  const [segment, bus, device, number] = match.slice(1).map((digits) => Number.parseInt(digits, 16));
  return { segment, bus, device, function: number };
}

/** The recorded functions, each on its bus. */
export interface BuiltTopology {
  /** One for each segment, in their order. */
  readonly hosts: readonly PciHost[];
  readonly functions: ReadonlyMap<string, PciFunction>;
}

/** Puts the functions on buses, by the bus numbers in the bridges. Throws a {@link TopologyError} if those make no sense. */
export function buildTopology(system: System, topology: Topology): BuiltTopology {
  const functions = new Map<string, PciFunction>();
  const segments = new Map<number, SegmentBuilder>();
  for (const { name, config } of topology.functions) {
    const place = parseName(name);
    if (place === undefined)
      throw new TopologyError(`${JSON.stringify(name)} is no PCI function: 0000:00:01.0 would be`);
    if (functions.has(name)) throw new TopologyError(`${name} is there twice`);
    const made = new RecordedFunction(config);
    functions.set(name, made);
    let segment = segments.get(place.segment);
    if (segment === undefined) segments.set(place.segment, (segment = new SegmentBuilder(system, place.segment)));
    segment.add(name, made, place);
  }
  const inOrder = [...segments].sort(([left], [right]) => left - right);
  return { hosts: inOrder.map(([, segment]) => segment.build()), functions };
}

interface Placed {
  readonly name: string;
  readonly made: PciFunction;
  readonly bus: number;
  readonly device: number;
  readonly function: number;
}

class SegmentBuilder {
  private readonly host: PciHost;
  private readonly members: Placed[] = [];
  /** Buses whose way to the root is being made. */
  private readonly pending = new Set<number>();
  private readonly done = new Set<number>();

  constructor(system: System, segment: number) {
    this.host = new PciHost(system, {
      segment,
      // Nothing moves here: recorded functions do no DMA and raise no interrupts.
      target: {
        *access() {
          return false;
        },
      },
      interrupts: new MsiController({ start: 0xfee00000n, last: 0xfeefffffn }),
    });
  }

  add(name: string, made: PciFunction, place: { bus: number; device: number; function: number }): void {
    this.members.push({ name, made, ...place });
  }

  build(): PciHost {
    for (const { bus } of this.members) this.makeBus(bus);
    return this.host;
  }

  /** Makes a bus and those above it, and puts its functions on it. */
  private makeBus(number: number): void {
    if (this.done.has(number)) return;
    const leading = this.members.filter((one) => one.made.isBridge && secondary(one) === number && number !== 0);
    if (leading.length > 1) {
      const [first, second] = leading;
      throw new TopologyError(`both ${first.name} and ${second.name} lead to bus ${hex(number)}`);
    }
    if (this.pending.has(number))
      throw new TopologyError(`${leading[0]?.name ?? "a bridge"} leads to the bus above itself`);
    this.pending.add(number);
    const [bridge] = leading;
    const above = bridge?.bus ?? this.busOfVirtualFunctions(number);
    if (above !== undefined) this.makeBus(above);
    const parent = this.host.buses.find((bus) => bus.number === above);
    const bus = number === 0 ? this.host.root : this.host.addBus(number, bridge?.made, parent);
    for (const one of this.members) if (one.bus === number) bus.add(one.made, one.device, one.function);
    this.done.add(number);
  }

  /** A bus without a bridge of its own but in the range of one holds virtual functions: it hangs on that bridge's bus. */
  private busOfVirtualFunctions(number: number): number | undefined {
    const around = this.members.filter(
      (one) => one.made.isBridge && secondary(one) !== 0 && secondary(one) < number && number <= subordinate(one),
    );
    return around.sort((left, right) => secondary(right) - secondary(left)).map(secondary)[0];
  }
}

function secondary({ made }: Placed): number {
  return made.readConfig(SECONDARY_BUS, 1);
}

function subordinate({ made }: Placed): number {
  return made.readConfig(SUBORDINATE_BUS, 1);
}

function hex(bus: number): string {
  return bus.toString(16).padStart(2, "0");
}
