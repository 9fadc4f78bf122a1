/** Random PCI topologies, within what QEMU's machine q35 offers, as arguments for QEMU: the same for the same seed. */

/** One topology: what QEMU and the kernel are to be told. */
export interface GeneratedTopology {
  readonly name: string;
  readonly qemu: string;
  /** Kernel parameters, or "". */
  readonly kernel: string;
}

/** Devices that sit anywhere on PCI Express; those of the second list on conventional buses too. */
const expressEndpoints = ["e1000e", "nvme,serial=s", "qemu-xhci", "virtio-rng-pci,disable-legacy=on"] as const;
const conventionalEndpoints = ["edu", "e1000", "virtio-rng-pci", "ich9-usb-uhci1"] as const;

/** Bits of ACS that a kernel parameter is to set, from direct translated down to source validation; x leaves one alone. */
const controls = ["xx111x1", "xx000x0", "xx011x1", "xx101x1", "xx110x1", "xx111x0", "1x111x1", "xx001x1"] as const;
const ports = ["1b36:000c", "8086:3420"] as const;
/** The downstream port of QEMU's switch. */
const SWITCH_PORT = "104c:8233";

const MAXIMUM_BRIDGES = 14;

/** Numbers from a seed, the same everywhere. */
class Chance {
  private state: number;

  constructor(seed: number) {
    this.state = seed * 2654435761 + 12345;
  }

  below(limit: number): number {
    this.state = (Math.imul(this.state ^ (this.state >>> 15), 2246822519) + 3266489917) >>> 0;
    return ((this.state ^ (this.state >>> 13)) >>> 0) % limit;
  }

  one<T>(list: readonly T[]): T {
    return list[this.below(list.length)];
  }

  /** True in `percent` of a hundred cases. */
  in(percent: number): boolean {
    return this.below(100) < percent;
  }
}

class Generator {
  readonly arguments: string[] = [];
  private readonly chance: Chance;
  private bridges = 0;

  constructor(chance: Chance) {
    this.chance = chance;
  }

  /** Slots 03 to 1a of bus 0; QEMU has its own devices around them. */
  root(): void {
    if (this.chance.in(20)) this.expander();
    const slots = new Set(Array.from({ length: 2 + this.chance.below(4) }, () => 3 + this.chance.below(24)));
    for (const slot of slots) {
      this.slot("pcie.0", slot, () => {
        switch (this.chance.below(10)) {
          case 0:
            return this.conventionalBridge;
          case 1:
            return this.chance.in(50) ? this.dmiBridge : this.expressToPciBridge;
          case 2:
            return this.conventional;
          case 3:
            return this.endpoint;
          default:
            return this.port;
        }
      });
    }
  }

  /** A port with a controller that can make virtual functions. */
  virtualFunctions(): void {
    const port = this.bridge(
      this.chance.in(50) ? "pcie-root-port" : "pcie-root-port,disable-acs=on",
      "pcie.0",
      "1b.0",
      true,
    );
    this.add(`nvme-subsys,id=vs`);
    this.add(
      `nvme,serial=v,subsys=vs,bus=${port},addr=0.0,sriov_max_vfs=3,sriov_vq_flexible=6,sriov_vi_flexible=3,max_ioqpairs=8,msix_qsize=9`,
    );
  }

  /** A second root bus. */
  private expander(): void {
    this.add(`pxb-pcie,id=px,bus_nr=${128 + this.chance.below(64)},bus=pcie.0,addr=2`);
    for (let slot = 0; slot < 1 + this.chance.below(2); slot++) this.port("px", `${slot}.0`);
  }

  /** One device, or several functions of which 0 is there. */
  private slot(bus: string, slot: number, choose: () => (bus: string, address: string) => void): void {
    const hex = slot.toString(16);
    if (!this.chance.in(30)) {
      choose().call(this, bus, `${hex}.0`);
      return;
    }
    const functions = new Set([0, ...Array.from({ length: 1 + this.chance.below(3) }, () => 1 + this.chance.below(7))]);
    const kind = choose();
    for (const number of [...functions].sort()) {
      const one = this.chance.in(70) ? kind : choose();
      one.call(this, bus, `${hex}.${number}${number === 0 ? ",multifunction=on" : ""}`);
    }
  }

  /** What a port leads to: the one slot that it has. */
  private below(bus: string, choices: number): void {
    if (this.chance.in(10)) return;
    this.slot(bus, 0, () => {
      switch (this.bridges > MAXIMUM_BRIDGES ? 9 : this.chance.below(choices)) {
        case 0:
        case 1:
          return this.switchUpstream;
        case 2:
          return this.expressToPciBridge;
        case 3:
          return this.port;
        case 4:
          return this.conventional;
        default:
          return this.endpoint;
      }
    });
  }

  private port(bus: string, address: string): void {
    const id = this.bridge(
      this.chance.in(15) ? "ioh3420" : `pcie-root-port${this.chance.in(40) ? ",disable-acs=on" : ""}`,
      bus,
      address,
      true,
    );
    this.below(id, 9);
  }

  private switchUpstream(bus: string, address: string): void {
    const up = this.bridge("x3130-upstream", bus, address, false);
    const slots = new Set(Array.from({ length: 1 + this.chance.below(3) }, () => this.chance.below(6)));
    for (const slot of slots) {
      this.slot(up, slot, () => (this.chance.in(60) ? this.switchDownstream : this.port));
    }
  }

  private switchDownstream(bus: string, address: string): void {
    this.below(this.bridge("xio3130-downstream", bus, address, true), 12);
  }

  private expressToPciBridge(bus: string, address: string): void {
    this.conventionalBus(this.bridge("pcie-pci-bridge", bus, address, false));
  }

  private dmiBridge(bus: string, address: string): void {
    this.conventionalBus(this.bridge("i82801b11-bridge", bus, address, false));
  }

  private conventionalBridge(bus: string, address: string): void {
    this.conventionalBus(this.bridge("pci-bridge", bus, address, false, `,chassis_nr=${this.bridges + 100}`));
  }

  private conventionalBus(bus: string): void {
    const slots = new Set(Array.from({ length: 1 + this.chance.below(2) }, () => 1 + this.chance.below(8)));
    for (const slot of slots) {
      this.slot(bus, slot, () =>
        this.bridges < MAXIMUM_BRIDGES && this.chance.in(25) ? this.conventionalBridge : this.conventional,
      );
    }
  }

  private endpoint(bus: string, address: string): void {
    this.add(`${this.chance.one(expressEndpoints)},bus=${bus},addr=${address}`);
  }

  private conventional(bus: string, address: string): void {
    this.add(`${this.chance.one(conventionalEndpoints)},bus=${bus},addr=${address}`);
  }

  private bridge(kind: string, bus: string, address: string, hasSlot: boolean, more = ""): string {
    const number = ++this.bridges;
    this.add(
      `${kind},id=b${number},bus=${bus},addr=${address}${hasSlot ? `,chassis=${number},slot=${number}` : ""}${more}`,
    );
    return `b${number}`;
  }

  private add(device: string): void {
    this.arguments.push("-device", device);
  }
}

/** The topology of a seed. Some make no machine: QEMU refuses them. */
export function generateTopology(seed: number): GeneratedTopology {
  const chance = new Chance(seed);
  const generator = new Generator(chance);
  generator.root();
  const changes = chance.in(30) ? [`config_acs=${chance.one(controls)}@pci:${chance.one(ports)}`] : [];
  if (chance.in(25)) generator.virtualFunctions();
  if (changes.length === 0 && chance.in(25)) changes.push(`config_acs=${chance.one(controls)}@pci:${SWITCH_PORT}`);
  if (chance.in(20)) changes.push(`disable_acs_redir=pci:${chance.one([...ports, SWITCH_PORT])}`);
  const kernel = changes.length === 0 ? "" : `pci=${changes.join(",")}`;
  return { name: `random-${seed}`, qemu: generator.arguments.join(" "), kernel };
}
