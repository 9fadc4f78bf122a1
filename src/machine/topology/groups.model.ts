/** Random topologies: the groups that the core forms against a slow, literal reading of the rules (reference 2.3). */
import fc from "fast-check";
import { expect, test } from "vitest";
import {
  ACS_CONTROL,
  accessControl,
  type Capability,
  EXTENDED_ACS,
  type ExpressType,
  express,
  PciFunction,
  SECONDARY_BUS,
  SUBORDINATE_BUS,
} from "../../pci/index.ts";
import { formGroups, type RecordedPci } from "./index.ts";

type Kind = ExpressType | "pciBridge" | "conventional" | "marvell";

/** One function as the rules see it, without bytes. */
interface Node {
  readonly kind: Kind;
  readonly bus: number;
  readonly device: number;
  readonly number: number;
  /** The header of function 0 says so for the whole device; others may leave it out. */
  readonly saysMultifunction: boolean;
  readonly offered: number | undefined;
  readonly enabled: number;
  readonly bridge: Node | undefined;
  /** The bus behind a bridge. */
  secondary: number;
  subordinate: number;
}

interface Plan {
  readonly kind: Kind;
  readonly device: number;
  readonly number: number;
  readonly offered: number | undefined;
  readonly enabled: number;
  readonly below: readonly Plan[];
}

const bridges: readonly Kind[] = [
  "rootPort",
  "upstreamPort",
  "downstreamPort",
  "expressToPciBridge",
  "pciToExpressBridge",
  "pciBridge",
];
const leaves: readonly Kind[] = ["endpoint", "legacyEndpoint", "integratedEndpoint", "conventional", "marvell"];

function plans(depth: number): fc.Arbitrary<Plan[]> {
  const kind = depth === 0 ? fc.constantFrom(...leaves) : fc.constantFrom(...leaves, ...bridges, ...bridges);
  const bits = fc.oneof(fc.constant(0x1d), fc.constantFrom(0, 0x01, 0x0c, 0x1c, 0x0d, 0x5f), fc.nat(0x7f));
  const plan = fc.record({
    kind,
    device: fc.nat(2),
    number: fc.oneof(fc.constant(0), fc.nat(2)),
    offered: fc.option(bits, { nil: undefined }),
    enabled: bits,
    below: depth === 0 ? fc.constant([]) : plans(depth - 1),
  });
  return fc
    .uniqueArray(plan, { maxLength: depth === 0 ? 3 : 4, selector: ({ device, number }) => device * 8 + number })
    .map((list) => list.sort((left, right) => left.device * 8 + left.number - right.device * 8 - right.number));
}

/** Gives buses their numbers as firmware does, depth first; the nodes come in the order of a bus scan. */
function number(list: readonly Plan[]): Node[] {
  const nodes: Node[] = [];
  let next = 1;
  const visit = (siblings: readonly Plan[], bus: number, bridge: Node | undefined): void => {
    const here = siblings.map((plan): Node => {
      const saysMultifunction =
        siblings.some(({ device, number: n }) => device === plan.device && n > 0) && plan.number === 0;
      return { ...plan, bus, saysMultifunction, bridge, secondary: 0, subordinate: 0 };
    });
    nodes.push(...here);
    for (const [index, node] of here.entries()) {
      if (!bridges.includes(node.kind)) continue;
      node.secondary = next++;
      visit(siblings[index].below, node.secondary, node);
      node.subordinate = next - 1;
    }
  };
  visit(list, 0, undefined);
  return nodes;
}

const nameOf = ({ bus, device, number: n }: Node): string =>
  `0000:${bus.toString(16).padStart(2, "0")}:${device.toString(16).padStart(2, "0")}.${n}`;
const isConventional = ({ kind }: Node): boolean => ["pciBridge", "conventional", "marvell"].includes(kind);

function record(node: Node): RecordedPci {
  const isBridge = bridges.includes(node.kind);
  const capabilities: Capability[] = [];
  if (!isConventional(node)) {
    capabilities.push(express({ type: node.kind as ExpressType }));
    if (node.offered !== undefined) capabilities.push(accessControl(node.offered));
  }
  const [vendor, device] = node.kind === "marvell" ? [0x1b4b, 0x9123] : [0x1234, 0x5678];
  const made = new PciFunction({ vendor, device, classCode: 0xff0000, bridge: isBridge, capabilities });
  if (isBridge) {
    made.config.set(SECONDARY_BUS, 1, node.secondary);
    made.config.set(SUBORDINATE_BUS, 1, node.subordinate);
  }
  if (node.saysMultifunction) made.config.set(0x0e, 1, made.config.read(0x0e, 1) | 0x80);
  const acs = made.extendedCapability(EXTENDED_ACS);
  if (acs !== undefined) made.config.set(acs + ACS_CONTROL, 2, node.enabled);
  return { name: nameOf(node), config: made.config.bytes };
}

/** The rules, one after the other, by the letter. */
function literalGroups(nodes: readonly Node[]): Map<string, number> {
  const groups = new Map<Node, number>();

  const multifunction = (node: Node): boolean => node.saysMultifunction || node.number > 0;
  const hasAcs = (node: Node): boolean => {
    const controls = (): boolean =>
      node.offered !== undefined &&
      [0x01, 0x04, 0x08, 0x10].every((bit) => !(node.offered! & bit) || (node.enabled & bit) !== 0);
    if (node.kind === "rootPort" || node.kind === "downstreamPort") return controls();
    if (["endpoint", "legacyEndpoint", "integratedEndpoint", "upstreamPort"].includes(node.kind)) {
      return multifunction(node) ? controls() : true;
    }
    return false;
  };
  const above = (node: Node): Node[] => (node.bridge === undefined ? [] : [node.bridge, ...above(node.bridge)]);
  const standsIn = ({ kind }: Node): boolean =>
    ["expressToPciBridge", "pciToExpressBridge", "pciBridge"].includes(kind);
  const usesNumberOf = (one: Node, other: Node): boolean =>
    one.kind === "marvell" && one.device === other.device && other.number === 1;

  const search = (node: Node): number | undefined => {
    let candidate = node;
    for (const bridge of above(node).filter(standsIn)) {
      candidate = bridge;
      if (groups.has(bridge)) return groups.get(bridge);
    }
    for (const bridge of above(candidate)) {
      if ([bridge, ...above(bridge)].every(hasAcs)) break;
      candidate = bridge;
      if (groups.has(bridge)) return groups.get(bridge);
    }
    const seen = new Set<Node>();
    const aliases = (one: Node): number | undefined => {
      if (seen.has(one)) return undefined;
      seen.add(one);
      if (groups.has(one)) return groups.get(one);
      for (const other of nodes) {
        if (other === one || other.bus !== one.bus || !(usesNumberOf(one, other) || usesNumberOf(other, one))) continue;
        const group = aliases(other);
        if (group !== undefined) return group;
      }
      return undefined;
    };
    const shared = aliases(candidate);
    if (shared !== undefined || !multifunction(candidate) || hasAcs(candidate)) return shared;
    for (const other of nodes) {
      if (other === candidate || other.bus !== candidate.bus || other.device !== candidate.device || hasAcs(other))
        continue;
      const group = aliases(other);
      if (group !== undefined) return group;
    }
    return undefined;
  };

  let next = 0;
  for (const node of nodes) groups.set(node, search(node) ?? next++);
  return new Map([...groups].map(([node, group]) => [nameOf(node), group]));
}

test("the core forms the groups that the rules say, with their numbers", () => {
  fc.assert(
    fc.property(
      plans(3).filter((list) => list.length > 0),
      (list) => {
        const nodes = number(list);
        const formed = formGroups({ functions: nodes.map(record) });
        const actual = [...formed.recorded].map(([pci, { name }]): [string, number] => [name, formed.groupOf(pci).id]);
        expect(new Map(actual)).toEqual(literalGroups(nodes));
      },
    ),
    { numRuns: 400 },
  );
});

test("a group that is in several members' company always has a reason", () => {
  fc.assert(
    fc.property(
      plans(2).filter((list) => list.length > 0),
      (list) => {
        const { groups } = formGroups({ functions: number(list).map(record) });
        for (const { devices } of groups.values()) {
          // All but the one that made the group joined it for a reason that names a partner.
          const founders = devices.filter(({ iommu }) => iommu!.grouping!.rule === "alone");
          expect(founders).toHaveLength(1);
        }
      },
    ),
    { numRuns: 100 },
  );
});
