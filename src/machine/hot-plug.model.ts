/** Clients, plugging and unplugging in any order and any interleaving: nothing of who went may stay, or arrive late. */
import fc from "fast-check";
import { expect, test } from "vitest";
import type { File } from "../memory/index.ts";
import { LibraryProcess } from "../memory/index.ts";
import type { PciFunction } from "../pci/index.ts";
import { Refusal, type Task } from "../runtime/index.ts";
import {
  AttachIommufdPt,
  BindIommufd,
  IoasAlloc,
  IoasMap,
  IoasUnmap,
  iommufdCommands,
  MAP_FIXED_IOVA,
  MAP_READABLE,
  MAP_WRITEABLE,
  VFIO_DEVICE_ATTACH,
  VFIO_DEVICE_BIND,
} from "../uapi/index.ts";
import { buildMachine, defineMachine, type Machine, presets } from "./index.ts";

const { IOAS_ALLOC, IOAS_MAP, IOAS_UNMAP } = iommufdCommands;
const READ_WRITE = MAP_FIXED_IOVA | MAP_READABLE | MAP_WRITEABLE;
const IOVA = 0x10_0000n;
const CONFIG = 7 * 2 ** 40;
const BUFFER = 0x40000n;
const PAGE = 4096;

type Step = "open" | "dma" | "unmap" | "map" | "close";

/** A client of whatever is the first VFIO device; refusals are answers like others. */
class Client {
  /** What was in the page when its last unmap returned; it must stay. */
  private kept: Uint8Array | undefined;
  private readonly machine: Machine;
  private readonly process: LibraryProcess;
  private readonly scratch: number;
  private readonly page: number;
  private iommu: File | undefined;
  private device: File | undefined;
  private ioas = 0;

  constructor(machine: Machine) {
    this.machine = machine;
    this.process = new LibraryProcess(machine.system, machine.memory);
    this.scratch = this.process.memory.map(1);
    this.page = this.process.memory.map(1);
  }

  *run(steps: readonly Step[]): Task<void> {
    for (const step of [...steps, "close" as const]) {
      yield* this.machine.system.tasks.point();
      try {
        yield* this[step]();
      } catch (error) {
        if (!(error instanceof Refusal)) throw error;
      }
      this.check();
    }
    for (const page of [this.scratch, this.page]) this.process.memory.unmap(page, 1);
  }

  /** No DMA came after the unmap. */
  check(): void {
    if (this.kept === undefined) return;
    const now = new Uint8Array(PAGE);
    this.process.memory.read(this.page, now);
    expect(now).toEqual(this.kept);
  }

  *open(): Task<void> {
    if (this.device !== undefined) return;
    const path = [...this.machine.files.nodes.keys()].find((name) => /^\/dev\/vfio\/devices\/vfio\d/.test(name));
    if (path === undefined) return;
    this.device = yield* this.openFile(path);
    this.iommu ??= yield* this.openFile("/dev/iommu");
    const fd = this.process.addFile({ kind: "ours", file: this.iommu });
    yield* this.call(this.device, VFIO_DEVICE_BIND, new BindIommufd(), { argsz: 16, iommufd: fd });
    const { out_ioas_id } = yield* this.call(this.iommu, IOAS_ALLOC.number, new IoasAlloc(), { size: 12 });
    this.ioas = out_ioas_id;
    yield* this.call(this.device, VFIO_DEVICE_ATTACH, new AttachIommufdPt(), { argsz: 12, pt_id: this.ioas });
    yield* this.device.write!(this.process, CONFIG + 4, Uint8Array.of(6, 0));
    yield* this.map();
  }

  *map(): Task<void> {
    if (this.iommu === undefined) return;
    this.kept = undefined;
    const where = { user_va: BigInt(this.page), length: BigInt(PAGE), iova: IOVA };
    yield* this.call(this.iommu, IOAS_MAP.number, new IoasMap(), {
      size: 40,
      flags: READ_WRITE,
      ioas_id: this.ioas,
      ...where,
    });
  }

  *unmap(): Task<void> {
    if (this.iommu === undefined) return;
    const range = { size: 24, ioas_id: this.ioas, iova: IOVA, length: BigInt(PAGE) };
    yield* this.call(this.iommu, IOAS_UNMAP.number, new IoasUnmap(), range);
    this.kept = new Uint8Array(PAGE);
    this.process.memory.read(this.page, this.kept);
  }

  /** Starts a DMA into the page, which goes on by itself. */
  *dma(): Task<void> {
    if (this.device === undefined) return;
    for (const [register, value] of [
      [0x60, 1n],
      [0x80, BUFFER],
      [0x88, IOVA],
      [0x90, BigInt(PAGE)],
      [0x98, 3n],
    ] as const) {
      const bytes = new Uint8Array(register < 0x80 ? 4 : 8);
      const view = new DataView(bytes.buffer);
      if (register < 0x80) view.setUint32(0, Number(value), true);
      else view.setBigUint64(0, value, true);
      yield* this.device.write!(this.process, register, bytes);
    }
  }

  *close(): Task<void> {
    const { device, iommu } = this;
    this.device = this.iommu = undefined;
    yield* device?.release() ?? (function* () {})();
    yield* iommu?.release() ?? (function* () {})();
  }

  private *openFile(path: string): Task<File> {
    const node = this.machine.files.nodes.get(path);
    if (node?.kind !== "device") throw new Error(`${path} is no device`);
    return yield* node.open(this.process);
  }

  private *call<V extends { readonly $bytes: Uint8Array }>(
    file: File,
    request: number,
    command: V,
    fields: Partial<V>,
  ): Task<V> {
    Object.assign(command, fields);
    this.process.memory.write(this.scratch, command.$bytes);
    yield* file.ioctl(this.process, request, this.scratch);
    this.process.memory.read(this.scratch, command.$bytes);
    return command;
  }
}

type Move = "unplug" | "surprise" | "plug" | "remove" | "rescan" | "on" | "off";

/** Its clients get virtual functions, which a driver of the kernel turns on. */
const virtualFunctions = defineMachine({
  devices: [{ model: "edu", driver: "edu", virtualFunctions: { total: 3, enabled: 1, device: 0x11e9 } }],
});

/** Turns virtual functions on, for clients, or off. */
function* turn(machine: Machine, physical: PciFunction, count: number): Task<void> {
  const { virtualFunctions: virtual } = physical;
  if (virtual === undefined) return;
  yield* machine.hotPlug.setVirtualFunctions(physical, count);
  for (const member of virtual.present) {
    member.driverOverride = "vfio-pci";
    yield* machine.pci.drivers.probeByName(member.name);
  }
}

function* move(machine: Machine, what: Move): Task<void> {
  const [first] = machine.pci.functions;
  const name = first?.name;
  const node = machine.files.nodes;
  const command = (path: string): Task<void> => {
    const file = node.get(path);
    if (file?.kind !== "text" || file.write === undefined) return (function* () {})();
    return file.write(new LibraryProcess(machine.system, machine.memory), new TextEncoder().encode("1\n"));
  };
  if (what === "plug") yield* machine.plug({ model: "edu" });
  else if (what === "rescan") yield* command("/sys/bus/pci/rescan");
  else if (name === undefined) return;
  else if (what === "on" || what === "off") yield* turn(machine, first, what === "on" ? 2 : 0);
  else if (what === "remove") yield* command(`/sys/devices/pci0000:00/${name}/remove`);
  else yield* machine.unplug(name, what === "surprise" ? "surprise" : "orderly");
}

function* moves(machine: Machine, list: readonly Move[]): Task<void> {
  for (const what of list) {
    yield* machine.system.tasks.point();
    try {
      yield* move(machine, what);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
    }
  }
}

const steps = fc.array(fc.constantFrom<Step>("open", "dma", "dma", "unmap", "map", "close"), {
  minLength: 2,
  maxLength: 10,
});
const someMoves = fc.array(fc.constantFrom<Move>("unplug", "surprise", "plug", "remove", "rescan", "on", "off"), {
  minLength: 1,
  maxLength: 5,
});

test.each([
  ["two-edu", presets["two-edu"]],
  ["virtio", presets.virtio],
  ["virtual functions", virtualFunctions],
])("%s: clients and hot-plug in any interleaving", (_name, description) => {
  fc.assert(
    fc.property(
      fc.array(steps, { minLength: 1, maxLength: 2 }),
      fc.array(someMoves, { minLength: 1, maxLength: 2 }),
      fc.infiniteStream(fc.nat()),
      (clients, movers, choices) => {
        const machine = buildMachine(description);
        const { tasks } = machine.system;
        tasks.exploring = true;
        tasks.choose = (ready) => {
          const choice = choices.next().value!;
          // Most often DMA is slower than everybody else.
          const others = ready.flatMap(({ name: task }, index) => (task.startsWith("DMA") ? [] : [index]));
          return choice % 16 > 0 && others.length > 0 ? others[choice % others.length] : choice % ready.length;
        };
        const ended: string[] = [];
        for (const [index, list] of clients.entries())
          tasks.spawn(`client ${index}`, new Client(machine).run(list), (outcome) => {
            if (!outcome.ok) throw outcome.error;
            ended.push(`client ${index}`);
          });
        for (const [index, list] of movers.entries())
          tasks.spawn(`mover ${index}`, moves(machine, list), (outcome) => {
            if (!outcome.ok) throw outcome.error;
            ended.push(`mover ${index}`);
          });
        tasks.drain();
        expect(ended).toHaveLength(clients.length + movers.length);
        expect([...tasks.unfinished].map(({ name: task }) => task)).toEqual([]);

        tasks.exploring = false;
        tasks.choose = undefined;
        expect(machine.memory.pinnedFrames).toBe(0);
        for (const group of machine.core.groups.values()) {
          const kernel = group.devices.filter(({ pci }) => pci!.driver !== undefined && !pci!.driver.managesDma);
          expect([group.ownerCount, group.handles.size]).toEqual([kernel.length, 0]);
        }
        const grouped = [...machine.core.groups.values()].flatMap(({ devices }) =>
          devices.map((device) => device.name),
        );
        expect(grouped.sort()).toEqual(machine.pci.functions.map((member) => member.name).sort());
        const before = machine.files.nodes;
        machine.files.refresh();
        expect([...machine.files.nodes.keys()]).toEqual([...before.keys()]);
        machine.system.run("power down", machine.powerDown());
        expect([machine.core.groups.size, machine.memory.usedFrames]).toEqual([0, 0]);
      },
    ),
    { numRuns: 40, includeErrorInReport: true },
  );
});
