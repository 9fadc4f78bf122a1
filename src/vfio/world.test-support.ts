// Runs in a browser.
/** A small machine for tests of this room: two functions behind a fake IOMMU, and a process that opens them. */

import { FakeDriver, type FakePagingDomain, fakeInstance } from "../iommu/fake-driver.test-support.ts";
import { Device, type DomainType, IommuCore, PagingDomain } from "../iommu/index.ts";
import { IommufdContext } from "../iommufd/index.ts";
import { type EventFd, type File, LibraryProcess, PhysicalMemory } from "../memory/index.ts";
import {
  type DmaTarget,
  MsiController,
  type PciBus,
  type PciFunction,
  PciHost,
  type RequesterId,
} from "../pci/index.ts";
import { errnoName, Refusal, System, type Task } from "../runtime/index.ts";
import type { Fields, Struct, StructView } from "../uapi/index.ts";
import { type DeviceFile, type VfioDevice, VfioPciDriver } from "./index.ts";

/** An eventfd that counts. */
export class CountingEvent implements EventFd {
  count = 0n;
  /** How many holders it has. */
  held = 0;
  private readonly watchers = new Set<() => void>();

  signal(): void {
    this.count++;
  }

  watch(signalled: () => void): () => void {
    this.watchers.add(signalled);
    return () => this.watchers.delete(signalled);
  }

  release(): void {
    this.held--;
  }

  /** The client adds to the counter. */
  poke(): void {
    for (const watcher of this.watchers) watcher();
  }

  /** The client reads: the counter, which is 0 then. */
  take(): bigint {
    const { count } = this;
    this.count = 0n;
    return count;
  }
}

/** Translates by asking the device's domain, as an IOMMU would. */
class Translator implements DmaTarget {
  private readonly memory: PhysicalMemory;
  private readonly deviceOf: (requester: RequesterId) => Device;
  private readonly driver: FakeDriver;

  constructor(memory: PhysicalMemory, driver: FakeDriver, deviceOf: (requester: RequesterId) => Device) {
    this.memory = memory;
    this.driver = driver;
    this.deviceOf = deviceOf;
  }

  *access(requester: RequesterId, _pasid: unknown, address: bigint, bytes: Uint8Array, write: boolean): Task<boolean> {
    const domain = this.driver.attached.get(this.deviceOf(requester));
    if (domain?.type === ("blocked" satisfies DomainType)) return false;
    for (let done = 0; done < bytes.length; ) {
      const at = address + BigInt(done);
      const part = bytes.subarray(done, done + Math.min(bytes.length - done, 4096 - Number(at % 4096n)));
      const physical = domain instanceof PagingDomain ? translate(domain as FakePagingDomain, at) : Number(at);
      if (physical === undefined) return false;
      if (write) this.memory.write(physical, part);
      else this.memory.read(physical, part);
      done += part.length;
    }
    return true;
  }
}

function translate(domain: FakePagingDomain, iova: bigint): number | undefined {
  const page = domain.pages.get(iova - (iova % 4096n));
  return page === undefined ? undefined : page + Number(iova % 4096n);
}

export type Values = Record<string, number | bigint>;

/** What an ioctl answered: the value, or minus an errno as a name; the reason of a refusal. */
export interface Answer<F extends Fields> {
  readonly result: number | string;
  readonly errno: number;
  readonly reason: string;
  readonly out: StructView<F>;
}

export class World {
  readonly system = new System();
  readonly memory = new PhysicalMemory(this.system, { ram: [{ base: 0x40000000, size: 2 ** 28 }] });
  readonly core = new IommuCore(this.system);
  readonly iommu = new FakeDriver(this.core);
  readonly interrupts = new MsiController({ start: 0x8000000n, last: 0x80fffffn }, { messages: 64 });
  readonly host: PciHost;
  readonly driver: VfioPciDriver;
  readonly process = new LibraryProcess(this.system, this.memory);
  /** Where structs of ioctls lie. */
  readonly scratch = this.process.memory.map(2);
  private readonly deviceOf = new Map<PciFunction, Device>();

  /** Puts the functions at 01.0, 02.0, … and binds them to vfio-pci. */
  constructor(members: (system: System) => readonly PciFunction[]) {
    const target = new Translator(this.memory, this.iommu, (requester) => {
      return [...this.deviceOf].find(([member]) => member.requesterId === requester)![1];
    });
    this.host = new PciHost(this.system, { target, interrupts: this.interrupts });
    this.driver = new VfioPciDriver(this.system, { device: (member) => this.deviceOf.get(member) });
    this.host.drivers.register(this.driver);
    this.run(this.core.register(fakeInstance(this.iommu, "iommu0")));
    for (const [index, member] of members(this.system).entries()) this.plug(member, this.host.root, index + 1);
  }

  /** Puts a function on a bus and binds it to vfio-pci. */
  plug(member: PciFunction, bus: PciBus, slot: number): void {
    bus.add(member, slot);
    this.host.enumerate();
    const device = new Device({ name: member.name, pci: member, firmware: { instance: "iommu0", streamIds: [] } });
    this.deviceOf.set(member, device);
    this.run(this.core.probe(device));
    this.run(this.host.drivers.bind(member, this.driver));
  }

  get devices(): readonly VfioDevice[] {
    return this.driver.devices;
  }

  run<T>(task: Task<T>): T {
    return this.system.run("test", task);
  }

  /** What a task answers: its value, or the name of the errno. */
  outcome(task: Task<number>): { result: number | string; errno: number; reason: string } {
    try {
      return { result: this.run(task), errno: 0, reason: "" };
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      return { result: errnoName(error.errno), errno: error.errno, reason: error.reason };
    }
  }

  openIommufd(): { fd: number; context: IommufdContext } {
    const context = new IommufdContext(this.system, this.core, { memory: this.memory });
    return { fd: this.process.addFile({ kind: "ours", file: context }), context };
  }

  /** Opens a device's cdev. */
  open(index = 0): DeviceFile {
    return this.run(this.devices[index].open(this.process)) as DeviceFile;
  }

  addEvent(): { fd: number; event: CountingEvent } {
    const event = new CountingEvent();
    const file = {
      kind: "eventfd" as const,
      get event(): EventFd {
        event.held++;
        return event;
      },
    };
    return { fd: this.process.addFile(file), event };
  }

  /** An ioctl with a struct, `argsz` its size unless given, and what follows it. */
  ioctl<F extends Fields>(
    file: File,
    request: number,
    struct: Struct<F>,
    values: Values = {},
    tail: Uint8Array = new Uint8Array(),
  ): Answer<F> {
    const view = new struct() as StructView<F> & Record<string, unknown>;
    const first = Object.keys(struct.fields)[0];
    for (const [field, value] of Object.entries({ [first]: struct.size + tail.length, ...values })) {
      const wide = struct.fields[field].size === 8;
      (view as Record<string, unknown>)[field] = wide ? BigInt.asUintN(64, BigInt(value)) : Number(value);
    }
    this.process.memory.write(this.scratch, view.$bytes);
    this.process.memory.write(this.scratch + view.$bytes.length, new Uint8Array(256));
    this.process.memory.write(this.scratch + view.$bytes.length, tail);
    const answer = this.outcome(file.ioctl(this.process, request, this.scratch));
    this.process.memory.read(this.scratch, view.$bytes);
    return { ...answer, out: view };
  }
}
