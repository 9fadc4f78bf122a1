// Runs in a browser.
/**
 * Where the entries under `devices` sit: on the root bus or behind a bridge, at the address that they name or at the first
 * free one; and the numbers of the buses, given as firmware gives them: each bridge the next one, and all that is behind it
 * before its neighbour.
 */
import { nameOf, type Path, type Report } from "./check.ts";
import { nearest } from "./nearest.ts";
import type { MachineInput } from "./schema.ts";
import { type BridgeModel, type BusRange, isBridgeModel, type PciAddress, pciAddress } from "./types.ts";
import { virtualNumbers } from "./virtual-functions.ts";

export type DeviceInput = NonNullable<MachineInput["devices"]>[number];

/** One entry in its place. */
export interface Placed {
  readonly index: number;
  readonly input: DeviceInput;
  /** The bridge that it is behind; undefined on the root bus. */
  readonly behind: Placed | undefined;
  /** Of its first function. */
  address: PciAddress;
  readonly count: number;
  /** Its slot holds several functions, of this entry or others. */
  multifunction: boolean;
  /** Of a bridge: the number of the bus behind it, and of the last one below. */
  buses: BusRange | undefined;
}

const DEVICES_ON_A_BUS = 32;
const FUNCTIONS_OF_A_DEVICE = 8;
const LAST_BUS = 255;

/** What a bus takes, by the bridge that leads to it. */
interface Seats {
  readonly bridges: readonly BridgeModel[];
  readonly devices: boolean;
  /** Device numbers given out by themselves are from the first on; the last one that there is. */
  readonly first: number;
  readonly last: number;
}

/** 00 of the root bus is the host bridge's by custom; 00 behind a bridge to conventional PCI, what the bridge says it is. */
const CONVENTIONAL: Seats = { bridges: ["pci-bridge"], devices: true, first: 1, last: DEVICES_ON_A_BUS - 1 };
/** A link has one device at its other end. */
const LINK: Seats = { bridges: ["upstream-port", "pcie-to-pci-bridge"], devices: true, first: 0, last: 0 };
const ROOT: Seats = { ...CONVENTIONAL, bridges: ["root-port", "pcie-to-pci-bridge", "pci-bridge"] };
const SEATS: Readonly<Record<BridgeModel, Seats>> = {
  "root-port": LINK,
  "downstream-port": LINK,
  "upstream-port": { bridges: ["downstream-port"], devices: false, first: 0, last: DEVICES_ON_A_BUS - 1 },
  "pcie-to-pci-bridge": CONVENTIONAL,
  "pci-bridge": CONVENTIONAL,
};

/**
 * All entries that have a place, in the order in which an operating system finds them: a bus, then what is behind it. `given`
 * are the buses of bridges that have theirs already.
 */
export function placeDevices(
  inputs: readonly DeviceInput[],
  report: Report,
  given: (index: number) => BusRange | undefined = () => undefined,
): Placed[] {
  const bridges = findBridges(inputs, report);
  const placed: Placed[] = [];
  let next = 1;
  const visit = (behind: Placed | undefined, bus: number): void => {
    const here = [...inputs.entries()].filter(([index]) => bridges[index] === (behind?.index ?? "root"));
    const found = placeOnBus(here, behind, bus, report);
    placed.push(...found);
    for (const bridge of found) {
      if (!isBridgeModel(bridge.input.model)) continue;
      const range = given(bridge.index);
      const first = range?.first ?? next++;
      visit(bridge, first);
      bridge.buses = range ?? { first, last: next - 1 };
      if (first === LAST_BUS + 1) report(["devices", bridge.index], "there are more than 256 buses");
    }
  };
  visit(undefined, 0);
  return placed;
}

/** For each entry, the index of the bridge that it is behind; undefined if that makes no sense. */
function findBridges(inputs: readonly DeviceInput[], report: Report): (number | "root" | undefined)[] {
  const byName = new Map<string, number>();
  for (const [index, { name }] of inputs.entries()) {
    if (name === undefined) continue;
    const other = byName.get(name);
    if (other !== undefined) {
      report(
        ["devices", index, "name"],
        `devices[${index}] and devices[${other}] are both called "${name}"; names must differ`,
      );
    } else byName.set(name, index);
  }
  const found = inputs.map(({ behind, model }, index) => {
    if (behind === undefined) return mayBe("root", model, index, report) ? "root" : undefined;
    const path = ["devices", index, "behind"];
    const bridge = byName.get(behind);
    if (bridge === undefined) {
      const meant = nearest(behind, byName.keys());
      const known = byName.size === 0 ? "no bridge has a name" : `known names: ${[...byName.keys()].join(", ")}`;
      const right = meant === undefined ? known : `did you mean "${meant}"?`;
      report(path, `devices[${index}] is behind "${behind}", which does not exist; ${right}`);
      return undefined;
    }
    const { model: above } = inputs[bridge];
    if (!isBridgeModel(above)) {
      report(
        path,
        `devices[${index}] is behind "${behind}", which is no bridge but devices[${bridge}], a device of the model ${above}`,
      );
      return undefined;
    }
    return mayBe(above, model, index, report) ? bridge : undefined;
  });
  for (const [index] of inputs.entries()) {
    const seen = new Set<number>();
    let at = found[index];
    while (typeof at === "number" && at !== index && !seen.has(at)) {
      seen.add(at);
      at = found[at];
    }
    if (at === index)
      report(
        ["devices", index, "behind"],
        `devices[${index}] is behind itself; one of the bridges must be on the root bus`,
      );
  }
  return found;
}

/** Reports what cannot sit there. */
function mayBe(above: BridgeModel | "root", model: DeviceInput["model"], index: number, report: Report): boolean {
  const seats = above === "root" ? ROOT : SEATS[above];
  if (isBridgeModel(model) ? seats.bridges.includes(model) : seats.devices) return true;
  const bridges = Object.keys(SEATS).filter((bridge) => {
    const { bridges: fitting, devices } = SEATS[bridge as BridgeModel];
    return isBridgeModel(model) ? fitting.includes(model) : devices;
  });
  const onRoot = isBridgeModel(model) ? ROOT.bridges.includes(model) : true;
  const right = [
    ...(onRoot ? ["on the root bus"] : []),
    ...(bridges.length > 0 ? [`behind ${a(bridges.join(" or "))}`] : []),
  ];
  const where = above === "root" ? "on the root bus" : `behind ${a(above)}`;
  report(
    ["devices", index, above === "root" ? "model" : "behind"],
    `devices[${index}] is ${a(model)} ${where}; ${right.join(", or ")} is right`,
  );
  return false;
}

/** Explicit addresses first, then the others into the lowest free slots. In the order of device and function. */
function placeOnBus(
  entries: readonly (readonly [index: number, input: DeviceInput])[],
  behind: Placed | undefined,
  bus: number,
  report: Report,
): Placed[] {
  const seats = behind === undefined ? ROOT : SEATS[behind.input.model as BridgeModel];
  const taken = new Map<number, number>();
  const placed: Placed[] = [];
  const place = (index: number, input: DeviceInput, device: number, first: number): void => {
    const count = input.functions ?? 1;
    for (const devfn of numbersOf(input, device, first)) taken.set(devfn, index);
    const address = { bus, device, function: first };
    placed.push({ index, input, behind, address, count, multifunction: false, buses: undefined });
  };
  for (const [index, input] of entries) {
    if (input.address === undefined) continue;
    const path = ["devices", index, "address"];
    const address = parseAddress(input.address, { bus, behind, last: seats.last }, path, report);
    if (address === undefined || !fits(index, input, address, taken, path, report)) continue;
    place(index, input, address.device, address.function);
  }
  for (const { index, address } of placed) {
    if (taken.has(address.device * FUNCTIONS_OF_A_DEVICE)) continue;
    const right = pciAddress({ ...address, function: 0 });
    report(
      ["devices", index, "address"],
      `no device is at ${right}, so that nobody would find ${pciAddress(address)}; every device has a function 0`,
    );
  }
  const slots = new Set([...taken.keys()].map((devfn) => Math.floor(devfn / FUNCTIONS_OF_A_DEVICE)));
  const isFree = (input: DeviceInput, device: number): boolean =>
    numbersOf(input, device, 0).every((devfn) => !slots.has(Math.floor(devfn / FUNCTIONS_OF_A_DEVICE)));
  for (const [index, input] of entries) {
    if (input.address !== undefined) continue;
    let device = seats.first;
    while (device <= seats.last && !isFree(input, device)) device++;
    if (device > seats.last) {
      report(["devices", index], noPlace(index, bus, behind, seats));
      break;
    }
    if (!reachable(["devices", index, "virtualFunctions"], input, device, 0, report)) continue;
    for (const devfn of numbersOf(input, device, 0)) slots.add(Math.floor(devfn / FUNCTIONS_OF_A_DEVICE));
    place(index, input, device, 0);
  }
  for (const one of placed) {
    const others = placed.filter(({ address }) => address.device === one.address.device);
    one.multifunction = others.reduce((sum, { count }) => sum + count, 0) > 1;
  }
  return placed.sort((a, b) => a.address.device - b.address.device || a.address.function - b.address.function);
}

function noPlace(index: number, bus: number, behind: Placed | undefined, { first, last }: Seats): string {
  if (first === last) {
    return `devices[${index}] has no place: ${a(behind!.input.model)} leads to one device; a switch has room for more`;
  }
  const [from, to] = [first, last].map((device) => pciAddress({ bus, device, function: 0 }).slice(0, -2));
  return `devices[${index}] has no place: all of ${from} to ${to} are taken; a bus holds ${DEVICES_ON_A_BUS} devices`;
}

/** The numbers on its bus of the functions of an entry, and of their virtual ones. */
function numbersOf(input: DeviceInput, device: number, first: number): number[] {
  const { total, offset, stride } = virtualNumbers(input);
  const own = Array.from(
    { length: input.functions ?? 1 },
    (_, number) => device * FUNCTIONS_OF_A_DEVICE + first + number,
  );
  return own.flatMap((devfn) => [
    devfn,
    ...Array.from({ length: total }, (_, index) => devfn + offset + index * stride),
  ]);
}

/** Whether the numbers of all virtual functions differ, and are numbers of one bus. */
function reachable(path: Path, input: DeviceInput, device: number, first: number, report: Report): boolean {
  const numbers = numbersOf(input, device, first);
  const last = Math.max(...numbers);
  if (last >= DEVICES_ON_A_BUS * FUNCTIONS_OF_A_DEVICE) {
    report(
      path,
      `${nameOf(path)} go up to number ${last}; a bus has 255, so fewer, or a smaller offset or stride is right`,
    );
    return false;
  }
  if (new Set(numbers).size < numbers.length) {
    report(
      path,
      `${nameOf(path)} of two functions are in the same places; another offset or stride, or none, is right`,
    );
    return false;
  }
  return true;
}

/** Whether the entry's functions are free, and there are so many. */
function fits(
  index: number,
  input: DeviceInput,
  address: PciAddress,
  taken: ReadonlyMap<number, number>,
  path: Path,
  report: Report,
): boolean {
  const { functions: count = 1 } = input;
  if (address.function + count > FUNCTIONS_OF_A_DEVICE) {
    const most = FUNCTIONS_OF_A_DEVICE - address.function;
    report(
      ["devices", index, "functions"],
      `devices[${index}] has ${count} functions from ${pciAddress(address)} on; a device has functions 0 to 7, so at most ${most} fit`,
    );
    return false;
  }
  if (!reachable(["devices", index, "virtualFunctions"], input, address.device, address.function, report)) return false;
  for (const devfn of numbersOf(input, address.device, address.function)) {
    const other = taken.get(devfn);
    if (other === undefined) continue;
    const number = devfn % FUNCTIONS_OF_A_DEVICE;
    const place = pciAddress({ ...address, device: Math.floor(devfn / FUNCTIONS_OF_A_DEVICE), function: number });
    report(
      path,
      `devices[${index}] and devices[${other}] are both at ${place}; another address, or none for an automatic one, is right`,
    );
    break;
  }
  return true;
}

/** `00:01.0`, with the segment before it or without the function behind it; the bus is known. */
function parseAddress(
  text: string,
  place: { readonly bus: number; readonly behind: Placed | undefined; readonly last: number },
  path: Path,
  report: Report,
): PciAddress | undefined {
  const [, segment = "0000", bus, device, number = "0"] =
    /^(?:([0-9a-f]{4}):)?([0-9a-f]{2}):([0-9a-f]{2})(?:\.([0-7]))?$/i.exec(text) ?? [];
  const wrong = (what: string) => void report(path, `${nameOf(path)} is "${text}"; ${what}`);
  if (segment !== "0000") return wrong("the only PCI segment is 0000");
  if (Number.parseInt(bus, 16) !== place.bus) {
    if (place.behind === undefined)
      return wrong('it is on the root bus, 00; what is elsewhere says "behind" which bridge');
    const { input, address } = place.behind;
    const right = pciAddress({ bus: place.bus, device: 0, function: 0 }).slice(0, 2);
    return wrong(`the bus behind ${input.name} at ${pciAddress(address)} is ${right}`);
  }
  const slot = Number.parseInt(device, 16);
  if (slot >= DEVICES_ON_A_BUS) return wrong("the device number must be 00 to 1f");
  if (slot > place.last) return wrong(`${a(place.behind!.input.model)} leads to one device, 00`);
  return { bus: place.bus, device: slot, function: Number(number) };
}

/** With the article before it. */
function a(noun: string): string {
  return `${/^[aeiou]/.test(noun) ? "an" : "a"} ${noun}`;
}
