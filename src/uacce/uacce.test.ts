import { describe, expect, it } from "vitest";
import { CopyEngine } from "../hardware/devices/index.ts";
import { FakeDriver, type FakePagingDomain, fakeInstance } from "../iommu/fake-driver.test-support.ts";
import { Device, IommuCore, type SvaHandle } from "../iommu/index.ts";
import { type AddressSpace, type File, type FileNode, LibraryProcess, PhysicalMemory } from "../memory/index.ts";
import { type DmaTarget, express, MsiController, PciHost, pasid } from "../pci/index.ts";
import {
  EAGAIN,
  EBUSY,
  EEXIST,
  EINVAL,
  EIO,
  ENXIO,
  Refusal,
  type SimulatedClock,
  System,
  type Task,
  WaitQueue,
} from "../runtime/index.ts";
import {
  COPY_DONE,
  COPY_PENDING,
  COPY_READ_FAULT,
  COPY_SUBMIT,
  COPY_WAIT,
  COPY_WAIT_FOREVER,
  CopySubmit,
  CopyWait,
  UACCE_PUT_Q,
  UACCE_START_Q,
} from "../uapi/index.ts";
import { UacceDriver, uacceNodes } from "./index.ts";
import type { QueueFile } from "./queue-file.ts";

const SCRATCH_PAGES = 1;

/** Copy engines behind an IOMMU whose PASIDs lead straight to the processes that were bound. */
function world({ queues = 2, engines = 1 } = {}) {
  const system = new System();
  const memory = new PhysicalMemory(system, { ram: [{ base: 0, size: 2 ** 26 }] });
  const core = new IommuCore(system, { defaultDomain: "dma" });
  const driver = new FakeDriver(core);
  const run = <T>(code: Task<T>): T => system.run("test", code);
  run(core.register(fakeInstance(driver, "iommu", 32)));
  const bound = new Map<number, AddressSpace>();
  const held = { pages: new Set<bigint>(), released: new WaitQueue(system, "held access") };
  const devices = new Map<number, Device>();
  const target: DmaTarget = {
    *access(requester, pasidOf, address, bytes, write) {
      if (pasidOf === undefined) {
        const domain = devices.get(requester)!.group!.domain as FakePagingDomain;
        const page = domain.pages.get(address - (address % 4096n));
        if (page === undefined) return false;
        return memory.access(page + Number(address % 4096n), bytes, write);
      }
      yield* held.released.until(() => !held.pages.has(address / 4096n));
      try {
        const space = bound.get(pasidOf)!;
        if (write) space.write(address, bytes);
        else space.read(address, bytes);
        return true;
      } catch (error) {
        if (error instanceof Refusal) return false;
        throw error;
      }
    },
  };
  const interrupts = new MsiController({ start: 0x8000000n, last: 0x80fffffn });
  const host = new PciHost(system, { target, interrupts });
  const members = Array.from({ length: engines }, (_, index) => {
    const member = new CopyEngine(system, { queues, capabilities: [express(), pasid({ width: 5 })] });
    host.root.add(member, index + 1);
    return member;
  });
  host.enumerate();
  for (const member of members) {
    const device = new Device({ name: member.name, pci: member, firmware: { instance: "iommu", streamIds: [1] } });
    run(core.probe(device));
    devices.set(member.requesterId, device);
  }
  let binds = 0;
  const uacce = new UacceDriver(system, {
    memory,
    device: (member) => devices.get(member.requesterId),
    sva: {
      *bind(_device, space) {
        const number = Number(space.label.replace("process ", ""));
        bound.set(number, space);
        binds++;
        return { pasid: number } as SvaHandle;
      },
      *unbind() {
        binds--;
      },
    },
  });
  host.drivers.register(uacce);
  for (const member of members) run(host.drivers.bind(member, uacce));
  const errno = (code: () => unknown): number => {
    try {
      code();
    } catch (error) {
      if (error instanceof Refusal) return error.errno;
      throw error;
    }
    return 0;
  };
  const pass = (time: number): void => {
    (system.clock as SimulatedClock).advance(time);
    system.tasks.drain();
  };
  const release = (): void => {
    held.pages.clear();
    held.released.wake();
    system.tasks.drain();
  };
  const node = (path: string): FileNode | undefined => uacceNodes(uacce).get(path);
  return { system, memory, run, errno, host, members, devices, uacce, held, release, pass, node, binds: () => binds };
}

type World = ReturnType<typeof world>;

/** A process, and what it does with files of accelerators. */
function program({ system, memory, uacce, run }: World, pid = 1) {
  const process = new LibraryProcess(system, memory, { pid });
  const scratch = process.memory.map(SCRATCH_PAGES);
  const open = (index = 0): File => run(uacce.devices[index].open(process));
  const start = (file: File): number => run(file.ioctl(process, UACCE_START_Q, 0));
  const submit = (file: File, source: number, destination: number, length: number): number => {
    const command = new CopySubmit();
    Object.assign(command, { source: BigInt(source), destination: BigInt(destination), length });
    process.memory.write(scratch, command.$bytes);
    run(file.ioctl(process, COPY_SUBMIT, scratch));
    process.memory.read(scratch, command.$bytes);
    return command.job;
  };
  const waiting = (file: File, job: number, timeout = COPY_WAIT_FOREVER) => {
    const command = new CopyWait();
    Object.assign(command, { job, timeout });
    process.memory.write(scratch, command.$bytes);
    const answer: { status?: number; copied?: number; errno?: number } = {};
    system.tasks.start("wait", file.ioctl(process, COPY_WAIT, scratch), (outcome) => {
      process.memory.read(scratch, command.$bytes);
      if (outcome.ok) Object.assign(answer, { status: command.status, copied: command.copied });
      else if (outcome.error instanceof Refusal) answer.errno = outcome.error.errno;
      else throw outcome.error;
    });
    return answer;
  };
  return { process, open, start, submit, waiting, scratch };
}

describe("a queue", () => {
  it("copies between the process's own addresses when it is started", () => {
    const made = world();
    const { process, open, start, submit, waiting } = program(made);
    const [from, to] = [process.memory.map(3), process.memory.map(3)];
    process.memory.write(from + 4000, new TextEncoder().encode("over a page boundary"));
    const file = open();
    start(file);
    const job = submit(file, from + 4000, to + 4090, 20);
    expect(waiting(file, job)).toEqual({ status: COPY_DONE, copied: 20 });
    const bytes = new Uint8Array(20);
    process.memory.read(to + 4090, bytes);
    expect(new TextDecoder().decode(bytes)).toBe("over a page boundary");
  });

  it("does nothing before START_Q and after PUT_Q, and starts anew", () => {
    const made = world();
    const { process, open, start, submit, waiting } = program(made);
    const page = process.memory.map(2);
    const file = open();
    expect(made.errno(() => submit(file, page, page + 4096, 8))).toBe(EINVAL);
    start(file);
    expect(made.errno(() => start(file))).toBe(EINVAL);
    expect([0, 1, 2].map(() => submit(file, page, page + 4096, 8))).toEqual([0, 1, 2]);
    const put = (): number => made.run(file.ioctl(process, UACCE_PUT_Q, 0));
    expect([put(), put()]).toEqual([0, 0]);
    expect(made.errno(() => submit(file, page, page + 4096, 8))).toBe(EINVAL);
    start(file);
    expect(waiting(file, 2, 0)).toEqual({ errno: EINVAL });
    expect(submit(file, page, page + 4096, 8)).toBe(0);
  });

  it("answers EINVAL to what is no command of anybody", () => {
    const made = world();
    const { process, open } = program(made);
    const file = open();
    for (const request of [0x5702, 0xc0185712, 0x3b64]) {
      expect(made.errno(() => made.run(file.ioctl(process, request, 0)))).toBe(EINVAL);
    }
  });

  it("tells how a job ended that met no page, and of jobs that it does not know", () => {
    const made = world();
    const { process, open, start, submit, waiting } = program(made);
    const page = process.memory.map(1);
    const file = open();
    start(file);
    const job = submit(file, page, page + 0x100000, 8);
    const other = submit(file, 0xdead000, page, 8);
    expect(waiting(file, job).copied).toBe(0);
    expect(waiting(file, other)).toEqual({ status: COPY_READ_FAULT, copied: 0 });
    expect(waiting(file, 2)).toEqual({ errno: EINVAL });
    expect(waiting(file, 0xffffffff)).toEqual({ errno: EINVAL });
  });

  it("is asked, waited for, and waited for so long", () => {
    const made = world();
    const { process, open, start, submit, waiting } = program(made);
    const page = process.memory.map(2);
    made.held.pages.add(BigInt(page / 4096));
    const file = open();
    start(file);
    const job = submit(file, page, page + 4096, 8);
    expect(waiting(file, job, 0)).toEqual({ status: COPY_PENDING, copied: 0 });
    const late = waiting(file, job, 5);
    expect(late).toEqual({});
    made.pass(5e6);
    expect(late).toEqual({ status: COPY_PENDING, copied: 0 });
    const patient = waiting(file, job);
    expect(file.readable?.()).toBe(false);
    made.release();
    expect(patient).toEqual({ status: COPY_DONE, copied: 8 });
  });

  it("is readable while there is an outcome that nobody asked for", () => {
    const made = world();
    const { process, open, start, submit, waiting } = program(made);
    const page = process.memory.map(2);
    const file = open();
    let told = 0;
    file.onReadable = () => told++;
    start(file);
    const job = submit(file, page, page + 4096, 8);
    expect([file.readable?.(), told]).toEqual([true, 1]);
    waiting(file, job);
    expect(file.readable?.()).toBe(false);
  });

  it("refuses a job when its ring is full, and forgets the oldest outcomes", () => {
    const made = world();
    const { process, open, start, submit, waiting } = program(made);
    const page = process.memory.map(2);
    const file = open();
    start(file);
    made.held.pages.add(BigInt(page / 4096));
    for (let job = 0; job < 128; job++) submit(file, page, page + 4096, 8);
    expect(made.errno(() => submit(file, page, page + 4096, 8))).toBe(EAGAIN);
    made.release();
    expect(submit(file, page, page + 4096, 8)).toBe(128);
    expect(waiting(file, 0)).toEqual({ errno: EINVAL });
    expect(waiting(file, 1)).toEqual({ status: COPY_DONE, copied: 8 });
  });

  it("that is closed with a job under way waits for its access, and gives everything back", () => {
    const made = world();
    const { process, open, start, submit, waiting } = program(made);
    const before = made.memory.adoptedFrames;
    const page = process.memory.map(2);
    const file = open();
    start(file);
    made.held.pages.add(BigInt(page / 4096));
    const job = submit(file, page, page + 4096, 8);
    const answer = waiting(file, job);
    made.system.tasks.start("close", file.release());
    made.system.tasks.drain();
    expect([answer, made.binds()]).toEqual([{ errno: ENXIO }, 1]);
    made.release();
    expect([made.binds(), made.memory.adoptedFrames, made.uacce.devices[0].openFiles.size]).toEqual([0, before, 0]);
  });
});

describe("an accelerator", () => {
  it("has as many queues as it has; each open takes one", () => {
    const made = world({ queues: 2 });
    const { open } = program(made);
    const instances = (): unknown => {
      const node = made.node("/sys/devices/pci0000:00/0000:00:01.0/uacce/copy_engine-0/available_instances");
      return node?.kind === "text" && node.read();
    };
    expect(instances()).toBe("2\n");
    const files = [open(), open()];
    expect(instances()).toBe("0\n");
    expect(made.errno(() => open())).toBe(EBUSY);
    expect(made.binds()).toBe(2);
    made.run(files[0].release());
    expect([instances(), made.binds()]).toEqual(["1\n", 1]);
  });

  it("that is removed takes the queues of its files, which stay open and answer ENXIO", () => {
    const made = world();
    const { process, open, start, submit, waiting } = program(made);
    const page = process.memory.map(2);
    const file = open() as QueueFile;
    start(file);
    const device = made.uacce.devices[0];
    made.held.pages.add(BigInt(page / 4096));
    const answer = waiting(file, submit(file, page, page + 4096, 8));
    made.system.tasks.start("remove", made.host.drivers.unbind(made.members[0]));
    made.release();
    expect([answer, made.binds(), file.state]).toEqual([{ errno: ENXIO }, 0, "zombie"]);
    expect(made.errno(() => start(file))).toBe(ENXIO);
    expect(made.errno(() => file.mmap(process, window(0n)))).toBe(ENXIO);
    expect(made.errno(() => made.run(device.open(process)))).toBe(EINVAL);
    made.run(file.release());
    made.run(made.host.drivers.bind(made.members[0], made.uacce));
    expect(made.uacce.devices[0].name).toBe("copy_engine-0");
  });

  it("shows itself in sysfs as uacce does", () => {
    const made = world({ engines: 2, queues: 3 });
    const nodes = uacceNodes(made.uacce);
    const path = "/sys/devices/pci0000:00/0000:00:02.0/uacce/copy_engine-1";
    const texts = Object.fromEntries(
      [...nodes].flatMap(([at, node]) => (at.startsWith(path) && node.kind === "text" ? [[at, node.read()]] : [])),
    );
    expect(texts).toEqual({
      [`${path}/dev`]: "509:1\n",
      [`${path}/uevent`]: "MAJOR=509\nMINOR=1\nDEVNAME=copy_engine-1\n",
      [`${path}/api`]: "copy_engine_v1\n",
      [`${path}/flags`]: "1\n",
      [`${path}/available_instances`]: "3\n",
      [`${path}/algorithms`]: "copy\n",
      [`${path}/region_mmio_size`]: "4096\n",
      [`${path}/region_dus_size`]: "4096\n",
    });
    expect(nodes.get("/sys/class/uacce/copy_engine-1")).toEqual({
      kind: "link",
      target: "../../devices/pci0000:00/0000:00:02.0/uacce/copy_engine-1",
    });
    expect(nodes.get(`${path}/device`)).toEqual({ kind: "link", target: "../../../0000:00:02.0" });
    expect(nodes.get("/dev/copy_engine-1")).toMatchObject({ kind: "device", major: 509, minor: 1 });
  });

  it("is not made of a function that cannot send PASIDs, or is none", () => {
    const made = world();
    const other = new CopyEngine(made.system);
    made.host.root.add(other, 9);
    made.host.enumerate();
    expect(made.errno(() => made.run(made.host.drivers.bind(other, made.uacce)))).toBe(EINVAL);
    expect(made.uacce.devices.length).toBe(1);
  });

  it("leaves nothing behind where something fails while it is opened", () => {
    const made = world();
    const { open } = program(made);
    const before = made.memory.adoptedFrames;
    const passed = new Set<string>();
    const files: File[] = [];
    for (let hasFailed = true; hasFailed; ) {
      hasFailed = false;
      made.system.failures.inject((name) => {
        if (hasFailed || passed.has(name)) return false;
        passed.add(name);
        hasFailed = true;
        return true;
      });
      if (made.errno(() => files.push(open())) === 0) break;
      expect([made.binds(), made.memory.adoptedFrames]).toEqual([0, before]);
    }
    made.system.failures.inject(undefined);
    expect([...passed]).toEqual([
      "uacce.queue.open",
      "uacce.queue.allocate",
      "memory.frames.adopt",
      "iommu.dma.map",
      "fake.domain.map",
    ]);
    for (const file of files) made.run(file.release());
    expect([made.binds(), made.memory.adoptedFrames]).toEqual([0, before]);
  });
});

function window(offset: bigint, length = 4096n) {
  return { offset, length, shared: true, executable: false };
}

describe("regions", () => {
  it("let a process submit by itself: a descriptor into the ring, its number into the doorbell", () => {
    const made = world();
    const { process, open, start } = program(made);
    const page = process.memory.map(2);
    process.memory.write(page, Uint8Array.of(1, 2, 3));
    const file = open();
    start(file);
    const doorbell = file.mmap!(process, window(0n));
    const ring = file.mmap!(process, window(4096n));
    const descriptor = new DataView(new ArrayBuffer(32));
    descriptor.setBigUint64(0, BigInt(page), true);
    descriptor.setBigUint64(8, BigInt(page + 4096), true);
    descriptor.setUint32(16, 3, true);
    made.memory.write(ring.pfn * 4096, new Uint8Array(descriptor.buffer));
    made.memory.write(doorbell.pfn * 4096, Uint8Array.of(1));
    doorbell.look!();
    made.system.tasks.drain();
    const bytes = new Uint8Array(3);
    process.memory.read(page + 4096, bytes);
    expect([...bytes]).toEqual([1, 2, 3]);
    doorbell.look!();
    made.memory.read(doorbell.pfn * 4096 + 4, bytes);
    expect(bytes[0]).toBe(1);
    made.memory.read(ring.pfn * 4096 + 24, bytes);
    expect(bytes[0]).toBe(COPY_DONE);
  });

  it("take one mapping each, shared, whole, and at their own offsets", () => {
    const made = world();
    const { process, open } = program(made);
    const file = open();
    const map = (request: Parameters<NonNullable<File["mmap"]>>[1]): number =>
      made.errno(() => file.mmap!(process, request));
    expect(map(window(8192n))).toBe(EINVAL);
    expect(map(window(0n, 8192n))).toBe(EINVAL);
    expect(map({ ...window(0n), shared: false })).toBe(EINVAL);
    const first = file.mmap!(process, window(0n));
    expect(map(window(0n))).toBe(EEXIST);
    first.release();
    expect(map(window(0n))).toBe(0);
  });

  it("outlive the queue while they are mapped", () => {
    const made = world();
    const { process, open } = program(made);
    const before = made.memory.adoptedFrames;
    const file = open();
    const [doorbell, ring] = [file.mmap!(process, window(0n)), file.mmap!(process, window(4096n))];
    made.run(made.host.drivers.unbind(made.members[0]));
    made.memory.write(ring.pfn * 4096, Uint8Array.of(1));
    made.memory.write(doorbell.pfn * 4096, Uint8Array.of(5));
    doorbell.look!();
    for (const shown of [doorbell, ring]) shown.release();
    expect(made.memory.adoptedFrames).toBe(before);
    made.run(file.release());
  });

  it("with nonsense in them harm only their own queue", () => {
    const made = world();
    const { process, open, start, submit, waiting } = program(made);
    const page = process.memory.map(2);
    const [file, other] = [open(), open()];
    start(file);
    start(other);
    const doorbell = file.mmap!(process, window(0n));
    made.memory.write(doorbell.pfn * 4096, Uint8Array.of(0xff, 0xff, 0xff, 0xff));
    doorbell.look!();
    made.system.tasks.drain();
    expect(made.errno(() => submit(file, page, page + 4096, 8))).toBe(EIO);
    expect(waiting(other, submit(other, page, page + 4096, 8))).toEqual({ status: COPY_DONE, copied: 8 });
  });
});
