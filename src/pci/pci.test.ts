import { describe, expect, it } from "vitest";
import { ENOMEM, errnoName, Refusal, refuse, System, type Task } from "../runtime/index.ts";
import {
  ACS,
  accessControl,
  addressTranslation,
  BASE_ADDRESS_0,
  CAPABILITY_EXPRESS,
  CAPABILITY_MSI,
  CAPABILITY_MSIX,
  COMMAND,
  EXTENDED_ACS,
  EXTENDED_PASID,
  enableVectors,
  express,
  MsiController,
  msi,
  msix,
  PciDevice,
  type PciFunction,
  PciHost,
  type PciIdentity,
  pageRequests,
  pasid,
  pciNodes,
  powerManagement,
  resetFunction,
  resetMethods,
  resetTogether,
  tryResetFunction,
} from "./index.ts";

class Probe extends PciDevice {
  resets = 0;

  constructor(system: System, identity: Partial<PciIdentity> = {}) {
    super(system, { vendor: 0x1234, device: 0x5678, classCode: 0x020000, interruptPin: 1, ...identity });
  }

  protected override reset(): void {
    this.resets++;
  }

  override interrupt(vector?: number): void {
    super.interrupt(vector);
  }

  override clearInterrupt(): void {
    super.clearInterrupt();
  }
}

function bar(index: number, size: number, kind?: "memory32" | "memory64" | "io") {
  return { index, size, kind, read: () => 0, write: () => {} };
}

function plug(...identities: Partial<PciIdentity>[]) {
  const system = new System();
  const accesses: [number, number | undefined, bigint, boolean][] = [];
  const target = {
    *access(
      requester: number,
      pasid: number | undefined,
      address: bigint,
      _bytes: Uint8Array,
      write: boolean,
    ): Task<boolean> {
      yield* system.tasks.point();
      accesses.push([requester, pasid, address, write]);
      return true;
    },
  };
  const interrupts = new MsiController({ start: 0x8000000n, last: 0x80fffffn }, { messages: 8 });
  const host = new PciHost(system, { target, interrupts });
  const members = identities.map((identity) => new Probe(system, identity));
  for (const [index, member] of members.entries()) host.root.add(member, index + 1);
  host.enumerate();
  for (const member of members) member.writeConfig(COMMAND, 2, 0x6);
  return { system, host, interrupts, accesses, members, member: members[0] };
}

describe("configuration space", () => {
  it.each([
    { kind: "memory32" as const, size: 0x1000, low: 0xfffff000, high: 0 },
    { kind: "memory64" as const, size: 0x10000, low: 0xffff0004, high: 0xffffffff },
    { kind: "memory64" as const, size: 2 ** 33, low: 0x4, high: 0xfffffffe },
    { kind: "io" as const, size: 32, low: 0xffffffe1, high: 0 },
  ])("a BAR of $size bytes of $kind is sized by writing ones", ({ kind, size, low, high }) => {
    const { member } = plug({ bars: [bar(0, size, kind)] });
    member.writeConfig(BASE_ADDRESS_0, 4, 0xffffffff);
    member.writeConfig(BASE_ADDRESS_0 + 4, 4, 0xffffffff);
    expect([member.readConfig(BASE_ADDRESS_0, 4), member.readConfig(BASE_ADDRESS_0 + 4, 4)]).toEqual([low, high]);
  });

  it("links capabilities, each on a multiple of 4, and finds them by id", () => {
    const { member } = plug({ capabilities: [msi(), powerManagement(), express()] });
    const seen: number[] = [];
    for (let at = member.readConfig(0x34, 1); at !== 0; at = member.readConfig(at + 1, 1)) {
      expect(at % 4).toBe(0);
      seen.push(member.readConfig(at, 1));
    }
    expect(seen).toEqual([0x05, 0x01, 0x10]);
    expect(member.capability(CAPABILITY_MSI)).toBe(0x40);
    expect(member.capability(CAPABILITY_MSIX)).toBeUndefined();
    expect(member.readConfig(6, 2) & 0x10).toBe(0x10);
  });

  it("has 4096 bytes and a chain at 0x100 with the Express capability", () => {
    const { member } = plug({
      capabilities: [express(), accessControl(0x1d), addressTranslation(), pageRequests(), pasid({ width: 16 })],
    });
    const seen: number[] = [];
    for (let at = 0x100; at !== 0; at = member.readConfig(at, 4) >>> 20) seen.push(member.readConfig(at, 2));
    expect(seen).toEqual([0x0d, 0x0f, 0x13, 0x1b]);
    expect(member.readConfig(member.extendedCapability(EXTENDED_PASID)! + 4, 2) >>> 8).toBe(16);
  });

  it("keeps read-only bits, and clears what a 1 is written to", () => {
    const { member } = plug({ capabilities: [express()] });
    member.writeConfig(0, 4, 0);
    expect(member.readConfig(0, 4)).toBe(0x56781234);
    const status = member.capability(CAPABILITY_EXPRESS)! + 10;
    member.config.set(status, 2, 0x5);
    member.writeConfig(status, 2, 0x4);
    expect(member.readConfig(status, 2)).toBe(0x1);
  });
});

describe("enumeration", () => {
  it("places BARs one behind the other, aligned to their size", () => {
    const { members } = plug(
      { bars: [bar(0, 0x1000), bar(2, 0x100000), bar(4, 0x1000, "memory64")] },
      { bars: [bar(0, 16)] },
    );
    expect(members[0].bars.map((each) => each?.address)).toEqual([
      0x10000000,
      undefined,
      0x10100000,
      undefined,
      0x8000000000,
      undefined,
    ]);
    expect(members[1].bars[0]!.address).toBe(0x10200000);
  });

  it("marks the functions of a slot, enables ACS as Linux does, and is done once", () => {
    const { host, system, member } = plug({ capabilities: [express(), accessControl(0x7f)] });
    const second = new Probe(system);
    host.root.add(second, 2, 0);
    host.root.add(new Probe(system), 2, 1);
    host.enumerate();
    expect(host.functions.map(({ name, multifunction }) => [name, multifunction])).toEqual([
      ["0000:00:01.0", false],
      ["0000:00:02.0", true],
      ["0000:00:02.1", true],
    ]);
    expect(member.readConfig(member.extendedCapability(EXTENDED_ACS)! + 6, 2)).toBe(
      ACS.sourceValidation | ACS.requestRedirect | ACS.completionRedirect | ACS.upstreamForwarding,
    );
    expect(member.readConfig(COMMAND, 2)).toBe(0x6);
    expect(second.requesterId).toBe(0x10);
  });
});

describe("DMA", () => {
  it("carries requester and PASID, and wants bus mastering", () => {
    const { system, member, accesses } = plug({});
    expect(system.run("dma", member.dma.write(0x1000n, new Uint8Array(4), 7))).toBe(true);
    member.writeConfig(COMMAND, 2, 0x2);
    expect(system.run("dma", member.dma.read(0x1000n, new Uint8Array(4)))).toBe(false);
    expect(accesses).toEqual([[0x08, 7, 0x1000n, true]]);
  });

  it("reads of the doorbell window, and writes of another size, are ordinary ones", () => {
    const { system, member, accesses } = plug({});
    system.run("dma", member.dma.read(0x8000000n, new Uint8Array(4)));
    system.run("dma", member.dma.write(0x8000000n, new Uint8Array(8)));
    system.run("dma", member.dma.write(0x8000000n, new Uint8Array(4)));
    expect(accesses.length).toBe(2);
  });
});

describe("interrupts", () => {
  const table = { bar: 0, offset: 0 };
  const withMsix = {
    bars: [bar(0, 0x1000)],
    capabilities: [msix({ vectors: 4, table, pending: { bar: 0, offset: 0x800 } })],
  };

  it("by MSI: as many vectors as were enabled, which others share", () => {
    const { system, member } = plug({ capabilities: [msi({ vectors: 4 })] });
    const heard: number[] = [];
    const vectors = enableVectors(member, "msi", 2, (vector) => heard.push(vector));
    for (const vector of [0, 1, 2, 3]) member.interrupt(vector);
    system.tasks.drain();
    expect(heard).toEqual([0, 1, 0, 1]);
    vectors.free();
    const capability = member.capability(CAPABILITY_MSI)!;
    expect([member.readConfig(capability + 2, 2) & 1, member.readConfig(capability + 4, 4)]).toEqual([0, 0]);
  });

  it("a masked MSI vector waits for its mask bit", () => {
    const { system, member } = plug({ capabilities: [msi({ maskable: true })] });
    let count = 0;
    enableVectors(member, "msi", 1, () => count++);
    const mask = member.capability(CAPABILITY_MSI)! + 16;
    member.writeConfig(mask, 4, 1);
    member.interrupt();
    system.tasks.drain();
    expect([count, member.readConfig(mask + 4, 4)]).toEqual([0, 1]);
    member.writeConfig(mask, 4, 0);
    system.tasks.drain();
    expect([count, member.readConfig(mask + 4, 4)]).toEqual([1, 0]);
  });

  it("by MSI-X: a masked entry sets its pending bit, and sends when it is unmasked", () => {
    const { system, member } = plug(withMsix);
    const heard: number[] = [];
    const vectors = enableVectors(member, "msix", 2, (vector) => heard.push(vector));
    member.interrupt(1);
    member.interrupt(3);
    system.tasks.drain();
    expect(heard).toEqual([1]);
    expect(member.readBar(0, 0x800, 4)).toBe(8n);
    expect(vectors.add(3)).toBe(true);
    system.tasks.drain();
    expect(heard).toEqual([1, 3]);
    expect(member.readBar(0, 0x800, 8)).toBe(0n);
  });

  it("takes fewer vectors where the controller has no more, and gives all back", () => {
    const { interrupts, members } = plug(
      { capabilities: [msi({ vectors: 8 })] },
      { capabilities: [msi({ vectors: 8 })] },
    );
    const first = enableVectors(members[0], "msi", 3, () => {});
    expect(interrupts.allocated).toBe(4);
    const second = enableVectors(members[1], "msi", 8, () => {});
    expect(second.count).toBe(4);
    first.free();
    second.free();
    expect(interrupts.allocated).toBe(0);
  });

  it("a message of another requester is dropped", () => {
    const { system, interrupts, members } = plug({}, {});
    let count = 0;
    const { address, data } = interrupts.allocate(members[0].requesterId, () => count++);
    const bytes = new Uint8Array([data, 0, 0, 0]);
    system.run("dma", members[1].dma.write(address, bytes));
    expect(count).toBe(0);
    system.run("dma", members[0].dma.write(address, bytes));
    expect(count).toBe(1);
  });

  it("by INTx: told once for each time that the line goes up", () => {
    const { member } = plug({});
    let count = 0;
    member.interrupts.onLine(() => count++);
    member.interrupt();
    member.interrupt();
    expect(count).toBe(1);
    member.writeConfig(COMMAND, 2, 0x406);
    member.writeConfig(COMMAND, 2, 0x006);
    expect(count).toBe(2);
    member.clearInterrupt();
    member.interrupt();
    expect(count).toBe(3);
  });
});

describe("reset", () => {
  it.each([
    { capabilities: [express({ functionLevelReset: true })], methods: ["flr"] },
    { capabilities: [powerManagement()], methods: ["pm"] },
    { capabilities: [powerManagement({ noSoftReset: true })], methods: [] },
    { capabilities: [msi()], methods: [] },
  ])("ways: $methods", ({ capabilities, methods }) => {
    const { member, system } = plug({ capabilities, bars: [bar(0, 4096)] });
    const before = member.config.bytes;
    expect(resetMethods(member)).toEqual(methods);
    expect(system.run("reset", resetFunction(member))).toBe(methods.length > 0);
    expect(member.resets).toBe(methods.length);
    expect(member.config.bytes).toEqual(before);
  });

  it("tells who watches before and after, of several functions in pairs", () => {
    const { host, members, system } = plug(
      { capabilities: [express({ functionLevelReset: true })] },
      { capabilities: [] },
    );
    const log: string[] = [];
    const note = (what: string) =>
      function* (member: PciFunction): Task<void> {
        log.push(`${what} ${member.name} (${members.map(({ resets }) => resets)})`);
      };
    host.resetWatch = { prepare: note("prepare"), done: note("done") };
    system.run("reset", resetTogether(members));
    expect(log).toEqual([
      "prepare 0000:00:01.0 (0,0)",
      "prepare 0000:00:02.0 (0,0)",
      "done 0000:00:02.0 (1,1)",
      "done 0000:00:01.0 (1,1)",
    ]);
  });

  it("does not happen if who watches refuses", () => {
    const { host, members, system } = plug(
      { capabilities: [express({ functionLevelReset: true })] },
      { capabilities: [] },
    );
    const done: string[] = [];
    host.resetWatch = {
      *prepare(member) {
        if (member === members[1]) refuse(ENOMEM, () => "no");
      },
      *done(member) {
        done.push(member.name);
      },
    };
    expect(() => system.run("reset", resetTogether(members))).toThrow(Refusal);
    expect([members.map(({ resets }) => resets), done]).toEqual([[0, 0], ["0000:00:01.0"]]);
    host.resetWatch.prepare = () => refuse(ENOMEM, () => "no");
    expect(system.run("reset", tryResetFunction(members[0]))).toBe(false);
    expect(members[0].resets).toBe(0);
  });
});

describe("sysfs", () => {
  const read = (nodes: ReturnType<typeof pciNodes>, path: string): string => {
    const node = nodes.get(path);
    return node?.kind === "link" ? node.target : node?.kind === "text" ? String(node.read()) : "";
  };
  const device = "/sys/devices/pci0000:00/0000:00:01.0";

  it("shows a function as Linux does", () => {
    const { host } = plug({ bars: [bar(0, 4096, "memory64")], revision: 3 });
    const nodes = pciNodes(host);
    expect(read(nodes, "/sys/bus/pci/devices/0000:00:01.0")).toBe("../../../devices/pci0000:00/0000:00:01.0");
    expect(read(nodes, `${device}/vendor`)).toBe("0x1234\n");
    expect(read(nodes, `${device}/revision`)).toBe("0x03\n");
    expect(read(nodes, `${device}/class`)).toBe("0x020000\n");
    expect(read(nodes, `${device}/modalias`)).toBe("pci:v00001234d00005678sv00001234sd00005678bc02sc00i00\n");
    const [first, second, ...others] = read(nodes, `${device}/resource`).split("\n");
    expect(first).toBe("0x0000008000000000 0x0000008000000fff 0x0000000000140204");
    expect(second).toBe("0x0000000000000000 0x0000000000000000 0x0000000000000000");
    expect(others.length).toBe(12);
    expect(nodes.has(`${device}/reset`)).toBe(false);
  });

  it("binds and unbinds by driver_override and names, as a user does it", () => {
    const { system, host, member } = plug({});
    const seen: string[] = [];
    const driver = {
      name: "vfio-pci",
      *probe(): Task<void> {
        yield* system.tasks.point();
        seen.push("probe");
      },
      *remove(): Task<void> {
        yield* system.tasks.point();
        seen.push("remove");
      },
    };
    host.drivers.register(driver);
    const write = (path: string, text: string): void => {
      const node = pciNodes(host).get(path);
      if (node?.kind !== "text") throw new Error(path);
      system.run("write", node.write!(undefined as never, new TextEncoder().encode(text)));
    };
    expect(read(pciNodes(host), `${device}/driver_override`)).toBe("(null)\n");
    expect(() => write("/sys/bus/pci/drivers/vfio-pci/bind", "0000:00:01.0")).toThrow(Refusal);
    write(`${device}/driver_override`, "vfio-pci\n");
    write("/sys/bus/pci/drivers_probe", "0000:00:01.0\n");
    expect(read(pciNodes(host), `${device}/driver`)).toBe("../../../bus/pci/drivers/vfio-pci");
    expect(read(pciNodes(host), "/sys/bus/pci/drivers/vfio-pci/0000:00:01.0")).toBe(
      "../../../../devices/pci0000:00/0000:00:01.0",
    );
    write("/sys/bus/pci/drivers/vfio-pci/unbind", "0000:00:01.0");
    expect([member.driver, ...seen]).toEqual([undefined, "probe", "remove"]);
    expect(() => write("/sys/bus/pci/drivers_probe", "0000:00:09.0")).toThrow(Refusal);
  });

  /** As Linux 7.2 has it for QEMU's nvme as an endpoint of the root complex, and for what is behind a port. */
  it("tells of the link above a PCI Express function", () => {
    const linkOf = (type: "endpoint" | "integratedEndpoint") => {
      const { host } = plug({ capabilities: [express({ type })] });
      const names = ["current_link_speed", "current_link_width", "max_link_speed", "max_link_width"];
      return names.map((name) => read(pciNodes(host), `${device}/${name}`).trim());
    };
    expect(linkOf("endpoint")).toEqual(["2.5 GT/s PCIe", "1", "2.5 GT/s PCIe", "1"]);
    expect(linkOf("integratedEndpoint")).toEqual(["Unknown", "0", "Unknown", "255"]);
    expect(pciNodes(plug({}).host).has(`${device}/max_link_speed`)).toBe(false);
  });

  describe("can be written", () => {
    function sysfs(identity: Partial<PciIdentity> = {}) {
      const { system, host, member } = plug(identity);
      const driver = { name: "vfio-pci", probe: () => system.tasks.point(), remove: () => system.tasks.point() };
      host.drivers.register(driver);
      const node = (path: string) => {
        const found = pciNodes(host).get(path);
        if (found?.kind !== "text") throw new Error(path);
        return found;
      };
      /** The name of the error, or what the function's driver and its enable count are then. */
      const write = (path: string, text: string, position?: number): string => {
        try {
          system.run("write", node(path).write!(undefined as never, new TextEncoder().encode(text), position));
        } catch (error) {
          return errnoName((error as Refusal).errno);
        }
        return `${member.driver?.name} ${read(pciNodes(host), `${device}/enable`).trim()}`;
      };
      return { member, node, write };
    }

    it("config, at any place, with any length", () => {
      const { member, node, write } = sysfs();
      const config = `${device}/config`;
      expect(node(config).size).toBe(256);
      write(config, "\x55", 0x3c);
      expect(member.readConfig(0x3c, 1)).toBe(0x55);
      write(config, "\x06\x04", 4);
      expect(member.readConfig(4, 2)).toBe(0x406);
      write(config, "\x01\x02\x03\x04\x05\x06\x07", 0x3a);
      expect(member.readConfig(0x3c, 2)).toBe(0x103); // the pin cannot be written
      expect(new Uint8Array(node(config).read() as Uint8Array)[0x3c]).toBe(3);
    });

    it("enable, as long as no driver has the function", () => {
      const { write } = sysfs();
      const enable = `${device}/enable`;
      expect(["1", "1\n", "0", "0", "0", "x"].map((text) => write(enable, text))).toEqual([
        "undefined 1",
        "undefined 2",
        "undefined 1",
        "undefined 0",
        "EIO",
        "EINVAL",
      ]);
      write(`${device}/driver_override`, "vfio-pci");
      write("/sys/bus/pci/drivers/vfio-pci/bind", "0000:00:01.0");
      expect(["1", "0"].map((text) => write(enable, text))).toEqual(["EBUSY", "EBUSY"]);
    });

    it("uevent, with the name of an event", () => {
      const { write } = sysfs();
      const answers = ["add", "change\n", "nonsense", ""].map((text) => write(`${device}/uevent`, text));
      expect(answers).toEqual(["undefined 0", "undefined 0", "EINVAL", "EINVAL"]);
    });

    /** Asked of Linux 7.2, with edu instead of this function. */
    it("new_id and remove_id", () => {
      const { write } = sysfs();
      const [add, remove, bind, unbind] = ["new_id", "remove_id", "bind", "unbind"].map(
        (file) => (text: string) => write(`/sys/bus/pci/drivers/vfio-pci/${file}`, text),
      );
      const name = "0000:00:01.0";
      expect(bind(name)).toBe("ENODEV");
      expect(["x", "1234", "1234:5678"].map(add)).toEqual(["EINVAL", "EINVAL", "EINVAL"]);
      expect(add("8086 9999")).toBe("undefined 0");
      expect(add("1234 5678")).toBe("vfio-pci 0");
      expect(unbind(name)).toBe("undefined 0");
      expect(bind(name)).toBe("vfio-pci 0");
      expect(["1234 5678", "0x1234 0x5678 1af4 1101"].map(add)).toEqual(["EEXIST", "EEXIST"]);
      expect(remove("1234 5678 1af4 1100")).toBe("ENODEV");
      expect(remove("1234 5678 ffffffff")).toBe("vfio-pci 0");
      expect(remove("1234 5678")).toBe("ENODEV");
      expect(unbind(name)).toBe("undefined 0");
      expect(write("/sys/bus/pci/drivers_probe", name)).toBe("undefined 0");
      expect(add("1234 5678 1234 5678 ff0000 ff0000")).toBe("undefined 0");
      expect(add("1234 5678 1234 5678 020000 ff0000")).toBe("vfio-pci 0");
      expect([remove("1234 5678"), remove("1234 5678"), remove("1234 5678")].at(-1)).toBe("ENODEV");
      expect(add("1234 5678 ffffffff ffffffff 0 0 1")).toBe("EINVAL");
    });
  });
});
