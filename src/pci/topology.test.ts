import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { System } from "../runtime/index.ts";
import {
  ACS_CONTROL,
  accessControl,
  addressTranslation,
  type Capability,
  dmaAliases,
  EXTENDED_ACS,
  EXTENDED_ATS,
  EXTENDED_SR_IOV,
  type ExpressType,
  express,
  isolationOf,
  MsiController,
  msi,
  PciFunction,
  PciHost,
  physicalFunctionOf,
  RecordedFunction,
  SECONDARY_BUS,
  withIsolation,
} from "./index.ts";
import { accessControlRegisters } from "./isolation.ts";

function newHost(): PciHost {
  return new PciHost(new System(), {
    target: {
      *access() {
        return false;
      },
    },
    interrupts: new MsiController({ start: 0xfee00000n, last: 0xfeefffffn }),
  });
}

interface Wanted {
  readonly type?: ExpressType;
  readonly acs?: number;
  readonly ids?: readonly [vendor: number, device: number];
  readonly bridge?: boolean;
  readonly others?: readonly Capability[];
}

function made({ type, acs, ids = [0x1234, 1], bridge = false, others = [] }: Wanted): PciFunction {
  const capabilities = [
    ...(type === undefined ? [] : [express({ type })]),
    ...(acs === undefined ? [] : [accessControl(acs)]),
    ...others,
  ];
  return new PciFunction({ vendor: ids[0], device: ids[1], classCode: 0x060400, bridge, capabilities });
}

describe("recorded configuration space", () => {
  it("shows the capabilities that its bytes link", () => {
    const original = made({ type: "endpoint", acs: 0x1d, others: [msi(), addressTranslation()] });
    const recorded = new RecordedFunction(original.config.bytes);
    expect(recorded.expressType).toBe("endpoint");
    for (const id of [EXTENDED_ACS, EXTENDED_ATS]) {
      expect(recorded.extendedCapability(id)).toBe(original.extendedCapability(id));
    }
    expect(recorded.capability(5)).toBe(original.capability(5));
  });

  it("ends where the chain is broken: a circle, all ones, an offset outside", () => {
    for (const next of [0x40, 0xff, 0x10]) {
      const { bytes } = made({ type: "rootPort" }).config;
      bytes[0x41] = next;
      expect(new RecordedFunction(bytes).expressType).toBe("rootPort");
    }
    const { bytes } = made({ type: "rootPort", acs: 0x1d }).config;
    bytes.set([0x0d, 0, 1, 0x10], 0x100);
    expect(new RecordedFunction(bytes).extendedCapability(EXTENDED_ACS)).toBe(0x100);
    expect(new RecordedFunction(bytes.subarray(0, 256)).extendedCapability(EXTENDED_ACS)).toBeUndefined();
  });

  it("with isolation added keeps what was there", () => {
    for (const others of [[], [addressTranslation()]]) {
      const port = new RecordedFunction(made({ type: "rootPort", others }).config.bytes);
      expect(isolationOf(port).isolated).toBe(false);
      const changed = new RecordedFunction(withIsolation(port));
      expect(isolationOf(changed)).toMatchObject({ isolated: true, by: "controls" });
      expect(changed.extendedCapability(EXTENDED_ATS)).toBe(port.extendedCapability(EXTENDED_ATS));
    }
  });
});

describe("isolation", () => {
  it("wants, of a port, each control that it offers", () => {
    const port = made({ type: "rootPort", acs: 0x5f });
    expect(isolationOf(port)).toEqual({ isolated: false, by: "controls", missing: 0x1d, offered: 0x5f, enabled: 0 });
    port.config.set(port.extendedCapability(EXTENDED_ACS)! + ACS_CONTROL, 2, 0x0d);
    expect(isolationOf(port)).toMatchObject({ isolated: false, missing: 0x10 });
    port.config.set(port.extendedCapability(EXTENDED_ACS)! + ACS_CONTROL, 2, 0x1d);
    expect(isolationOf(port).isolated).toBe(true);
    expect(isolationOf(made({ type: "downstreamPort" }))).toEqual({ isolated: false, by: "no capability" });
  });

  it("is nothing that conventional PCI has, and bridges to it", () => {
    expect(isolationOf(made({}))).toEqual({ isolated: false, by: "kind" });
    expect(isolationOf(made({ type: "expressToPciBridge", acs: 0 }))).toEqual({ isolated: false, by: "kind" });
  });

  it("of functions matters only where there are several", () => {
    const host = newHost();
    const [one, first, second] = [made({ type: "endpoint" }), made({ type: "endpoint" }), made({ type: "endpoint" })];
    host.root.add(one, 1);
    host.root.add(first, 2, 0);
    host.root.add(second, 2, 1);
    host.enumerate();
    expect([one, first, second].map((pci) => isolationOf(pci).isolated)).toEqual([true, false, false]);
  });

  it("is known of some chipsets without ACS", () => {
    expect(isolationOf(made({ type: "rootPort", ids: [0x8086, 0x1c10] }))).toEqual({ isolated: true, by: "quirk" });
    expect(isolationOf(made({ type: "rootPort", ids: [0x8086, 0x1c20] })).isolated).toBe(false);
  });

  it("is read from the wide registers of ports with that erratum", () => {
    const port = made({ type: "rootPort", ids: [0x8086, 0xa110], acs: 0, others: [addressTranslation()] });
    const acs = port.extendedCapability(EXTENDED_ACS)!;
    port.config.set(acs + 4, 4, 0x1f);
    expect(isolationOf(port)).toMatchObject({ offered: 0x1f, isolated: false });
    const changed = new RecordedFunction(withIsolation(made({ type: "rootPort", ids: [0x8086, 0xa110] })));
    expect(isolationOf(changed)).toMatchObject({ enabled: 0x1d, isolated: true });
  });
});

describe("requester ids", () => {
  function below(bridge: PciFunction): number[] {
    const host = newHost();
    host.root.add(bridge, 3);
    bridge.config.set(SECONDARY_BUS, 1, 5);
    const leaf = made({});
    host.addBus(5, bridge).add(leaf, 2);
    return dmaAliases(leaf).map(({ requesterId }) => requesterId);
  }

  it("are replaced by bridges, each in its way, and left alone by ports", () => {
    expect(below(made({ bridge: true, type: "rootPort" }))).toEqual([0x510]);
    expect(below(made({ bridge: true, type: "expressToPciBridge" }))).toEqual([0x510, 0x500]);
    expect(below(made({ bridge: true, type: "pciToExpressBridge" }))).toEqual([0x510, 0x018]);
    expect(below(made({ bridge: true }))).toEqual([0x510, 0x018]);
    expect(below(made({ bridge: true, ids: [0x1b21, 0x1080] }))).toEqual([0x510, 0x500]);
  });

  it("are wrong in devices that are known for it", () => {
    const host = newHost();
    const sata = made({ type: "endpoint", ids: [0x1b4b, 0x9123] });
    host.root.add(sata, 4);
    expect(dmaAliases(sata).map(({ requesterId }) => requesterId)).toEqual([0x020, 0x021]);
  });
});

describe("a virtual function", () => {
  /** Two virtual functions, 0x100 behind the physical one and 2 from each other. */
  const sriov: Capability = { id: EXTENDED_SR_IOV, version: 1, bytes: new Uint8Array(64) };
  new DataView(sriov.bytes.buffer).setUint16(0x10, 2, true);
  new DataView(sriov.bytes.buffer).setUint16(0x14, 0x100, true);
  new DataView(sriov.bytes.buffer).setUint16(0x16, 2, true);

  it("is of the function whose SR-IOV capability says so", () => {
    const host = newHost();
    const [physical, other] = [
      made({ type: "endpoint", others: [sriov] }),
      made({ type: "endpoint", others: [sriov] }),
    ];
    host.root.add(physical, 1);
    host.root.add(other, 1, 1);
    const bus = host.addBus(1, undefined, host.root);
    const virtual = [0, 1, 2, 3, 4, 5].map((number) => {
      const one = made({ ids: [0xffff, 0xffff] });
      bus.add(one, 1, number);
      return one;
    });
    expect(virtual.map(physicalFunctionOf)).toEqual([physical, other, physical, other, undefined, undefined]);
    expect(physicalFunctionOf(physical)).toBeUndefined();
  });
});

describe("the order of a bus scan", () => {
  it("is a bus whole, then what is behind each bridge; virtual functions are last", () => {
    const host = newHost();
    const [first, second] = [made({ bridge: true, type: "rootPort" }), made({ bridge: true, type: "rootPort" })];
    host.root.add(first, 1);
    host.root.add(second, 2);
    // Numbered the other way round, as hot-plugged bridges may be.
    const far = host.addBus(9, first);
    const near = host.addBus(3, second);
    const [one, two, virtual] = [made({}), made({}), made({ ids: [0xffff, 0xffff] })];
    far.add(one, 0);
    near.add(two, 0);
    far.add(virtual, 0, 1);
    expect(host.scanOrder).toEqual([first, second, one, two, virtual]);
    expect(virtual.multifunction).toBe(false);
  });
});

/** What Linux 7.2 knew of devices with these ids, asked one by one (ports without ACS, ports with 32-bit ACS, functions of one device). */
const asked = JSON.parse(readFileSync(join(import.meta.dirname, "quirks.test-data.json"), "utf8")) as Record<
  "ports" | "wide" | "endpoints",
  Record<"known" | "unknown", readonly string[]>
>;

describe("ids that Linux 7.2 was asked about", () => {
  const idsOf = (text: string): [number, number] => {
    const [vendor, device] = text.split(":").map((digits) => Number.parseInt(digits, 16));
    return [vendor, device];
  };
  const isolates = (wanted: Wanted): boolean => {
    const host = newHost();
    const first = made(wanted);
    host.root.add(first, 3, 0);
    host.root.add(made(wanted), 3, 1);
    host.enumerate();
    return isolationOf(first).isolated;
  };

  it("are ports that isolate without ACS, or not", () => {
    const { known, unknown } = asked.ports;
    expect(known.filter((id) => !isolates({ type: "rootPort", ids: idsOf(id) }))).toEqual([]);
    expect(unknown.filter((id) => isolates({ type: "rootPort", ids: idsOf(id) }))).toEqual([]);
  });

  it("are functions that isolate without ACS, or not", () => {
    const { known, unknown } = asked.endpoints;
    expect(known.filter((id) => !isolates({ type: "endpoint", ids: idsOf(id) }))).toEqual([]);
    expect(unknown.filter((id) => isolates({ type: "endpoint", ids: idsOf(id) }))).toEqual([]);
  });

  it("are ports whose ACS registers are 32 bits wide, or not", () => {
    const widthOf = (id: string): number => {
      const port = made({ type: "rootPort", ids: idsOf(id), acs: 0x5f });
      return accessControlRegisters(port, port.extendedCapability(EXTENDED_ACS)!).width;
    };
    expect(asked.wide.known.filter((id) => widthOf(id) !== 4)).toEqual([]);
    expect(asked.wide.unknown.filter((id) => widthOf(id) !== 2)).toEqual([]);
  });
});
