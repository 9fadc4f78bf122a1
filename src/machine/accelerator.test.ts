import { describe, expect, it } from "vitest";
import { PAGE_SIZE } from "../memory/index.ts";
import type { SimulatedClock } from "../runtime/index.ts";
import {
  COPY_DONE,
  COPY_READ_FAULT,
  COPY_SUBMIT,
  COPY_WAIT,
  COPY_WRITE_FAULT,
  CopySubmit,
  CopyWait,
  UACCE_START_Q,
} from "../uapi/index.ts";
import { LibraryClient } from "./client.ts";
import { defineMachine, presets } from "./description.ts";
import { buildMachine, type Machine } from "./machine.ts";

/** A program that uses accelerators of a machine. */
class Program extends LibraryClient {
  private readonly submitStruct = new CopySubmit();
  private readonly waitStruct = new CopyWait();

  queue(device: number): number {
    const fd = this.open(`/dev/copy_engine-${device}`);
    this.call(fd, UACCE_START_Q, 0);
    return fd;
  }

  submit(fd: number, source: number, destination: number, length: number): number {
    const fields = { source: BigInt(source), destination: BigInt(destination), length };
    return this.ioctl(fd, COPY_SUBMIT, this.submitStruct, fields).job;
  }

  outcome(fd: number, job: number): { status: number; copied: number } {
    const { status, copied } = this.ioctl(fd, COPY_WAIT, this.waitStruct, { job, timeout: 0 });
    return { status, copied };
  }

  copy(fd: number, source: number, destination: number, length: number): { status: number; copied: number } {
    return this.outcome(fd, this.submit(fd, source, destination, length));
  }

  stringAt(address: number, length: number): string {
    const bytes = new Uint8Array(length);
    this.process.memory.read(address, bytes);
    return new TextDecoder().decode(bytes);
  }

  put(address: number, text: string): void {
    this.process.memory.write(address, new TextEncoder().encode(text));
  }
}

function machine(): { machine: Machine; faults: string[] } {
  const made = buildMachine(presets.sva);
  const faults: string[] = [];
  made.onFault = (fault) => faults.push(fault.text());
  return { machine: made, faults };
}

/** Longer than what is under way takes, step by step. */
function letTimePass({ system }: Machine): void {
  for (let step = 0; step < 100; step++) {
    (system.clock as SimulatedClock).advance(1e5);
    system.tasks.drain();
  }
}

describe("the accelerators of the machine sva", () => {
  it("copy between a process's own pages, two queues of one and one of another", () => {
    const { machine: made } = machine();
    const program = new Program(made);
    const memory = program.process.memory.map(8);
    program.put(memory + 4090, "over a page boundary");
    const queues = [program.queue(0), program.queue(0), program.queue(1)];
    for (const [index, fd] of queues.entries()) {
      const to = memory + (2 * index + 2) * PAGE_SIZE - 3;
      expect(program.copy(fd, memory + 4090, to, 20)).toEqual({ status: COPY_DONE, copied: 20 });
      expect(program.stringAt(to, 20)).toBe("over a page boundary");
    }
    expect(made.sva.mms.length).toBe(1);
    for (const fd of queues) program.close(fd);
    expect(made.sva.mms).toEqual([]);
    made.system.run("power down", made.powerDown());
  });

  it.each(["dma", "dma-fq", "identity"] as const)("find their rings in a default domain of type %s", (type) => {
    const devices = [{ model: "copy-engine" as const, canStall: true }];
    const made = buildMachine(defineMachine({ name: type, defaultDomain: type, devices }));
    const program = new Program(made);
    const memory = program.process.memory.map(2);
    program.put(memory, "by ring");
    for (let round = 0; round < 3; round++) {
      const fd = program.queue(0);
      expect(program.copy(fd, memory, memory + PAGE_SIZE, 7)).toEqual({ status: COPY_DONE, copied: 7 });
      program.close(fd);
    }
    expect(program.stringAt(memory + PAGE_SIZE, 7)).toBe("by ring");
    program.process.exit();
    made.system.run("power down", made.powerDown());
    expect(made.memory.usedFrames).toBe(0);
  });

  it("end a job with an error where the process has no page, or may not write, and go on", () => {
    const { machine: made, faults } = machine();
    const program = new Program(made);
    const page = program.process.memory.map(1);
    const constant = program.process.memory.map(1, { writable: false });
    const fd = program.queue(0);
    expect(program.copy(fd, 0x10000, page, 8)).toEqual({ status: COPY_READ_FAULT, copied: 0 });
    expect(program.copy(fd, page, constant, 8)).toEqual({ status: COPY_WRITE_FAULT, copied: 0 });
    expect(program.copy(fd, constant, page, 8)).toEqual({ status: COPY_DONE, copied: 8 });
    // What was missing and came is no fault to speak of.
    expect(faults).toEqual([
      expect.stringMatching(/^read from 0x10000 by stream 0x8, substream 0x1: F_TRANSLATION/),
      expect.stringMatching(/^write to 0x\w+ by stream 0x8, substream 0x1: F_(PERMISSION|TRANSLATION)/),
    ]);
  });

  it("do the same without stalling: they translate ahead, and ask for pages", () => {
    const capabilities = { ats: true, pri: true, pasid: 16 };
    const input = { name: "asking", devices: [{ model: "copy-engine" as const, canStall: false, capabilities }] };
    const made = buildMachine(defineMachine(input));
    const member = made.pci.functions[0];
    const program = new Program(made);
    const memory = program.process.memory.map(8);
    program.put(memory + 4090, "over a page boundary");
    const fd = program.queue(0);
    expect(member.pageRequester!.isEnabled).toBe(true);
    expect(program.copy(fd, memory + 4090, memory + 3 * PAGE_SIZE - 3, 20)).toEqual({ status: COPY_DONE, copied: 20 });
    expect(program.stringAt(memory + 3 * PAGE_SIZE - 3, 20)).toBe("over a page boundary");
    expect(program.copy(fd, 0x10000, memory, 8)).toEqual({ status: COPY_READ_FAULT, copied: 0 });
    program.process.memory.unmap(memory + PAGE_SIZE, 1);
    expect(program.copy(fd, memory + PAGE_SIZE, memory, 8).status).toBe(COPY_READ_FAULT);
    program.close(fd);
    expect([made.sva.mms, member.pageRequester!.isEnabled, member.pageRequester!.outstanding]).toEqual([[], false, 0]);
    made.system.run("power down", made.powerDown());
  });

  it("lose a page at once that the process unmaps, in the middle of a job too", () => {
    const { machine: made } = machine();
    const program = new Program(made);
    const pages = 256;
    const source = program.process.memory.map(pages);
    const destination = program.process.memory.map(pages);
    const fd = program.queue(0);
    const job = program.submit(fd, source, destination, pages * PAGE_SIZE);
    expect(program.outcome(fd, job).status).toBe(0);
    program.process.memory.unmap(source + (pages - 1) * PAGE_SIZE, 1);
    letTimePass(made);
    expect(program.outcome(fd, job)).toEqual({ status: COPY_READ_FAULT, copied: (pages - 1) * PAGE_SIZE });
  });

  it("keep processes apart", () => {
    const { machine: made } = machine();
    const [first, second] = [new Program(made, { pid: 1 }), new Program(made, { pid: 2 })];
    const address = first.process.memory.map(2);
    expect(second.process.memory.map(2)).toBe(address);
    first.put(address, "first");
    second.put(address, "other");
    const queues = [first.queue(0), second.queue(0)];
    first.copy(queues[0], address, address + PAGE_SIZE, 5);
    second.copy(queues[1], address, address + PAGE_SIZE, 5);
    expect([first, second].map((program) => program.stringAt(address + PAGE_SIZE, 5))).toEqual(["first", "other"]);
  });

  it("give a forked child nothing and the parent its own pages", () => {
    const { machine: made } = machine();
    const parent = new Program(made);
    const address = parent.process.memory.map(2);
    parent.put(address, "before");
    const fd = parent.queue(0);
    parent.copy(fd, address, address + PAGE_SIZE, 6);
    const child = parent.process.fork();
    parent.put(address, "parent");
    expect(parent.copy(fd, address, address + PAGE_SIZE, 6)).toEqual({ status: COPY_DONE, copied: 6 });
    const bytes = new Uint8Array(6);
    child.memory.read(address + PAGE_SIZE, bytes);
    expect([new TextDecoder().decode(bytes), parent.stringAt(address + PAGE_SIZE, 6)]).toEqual(["before", "parent"]);
  });

  it("let go of a process that ends with jobs in flight and queues open", () => {
    const { machine: made } = machine();
    const program = new Program(made);
    const pages = 256;
    const source = program.process.memory.map(2 * pages);
    for (const device of [0, 0, 1]) {
      program.submit(program.queue(device), source, source + pages * PAGE_SIZE, pages * PAGE_SIZE);
    }
    program.process.exit();
    letTimePass(made);
    expect([made.sva.mms.length, made.system.tasks.unfinished.size]).toEqual([0, 0]);
    expect(made.uacce.devices.map(({ openFiles }) => openFiles.size)).toEqual([0, 0]);
    made.system.run("power down", made.powerDown());
  });

  it("without stalls cannot bring pages in: a job meets only what is there already", () => {
    const made = buildMachine(defineMachine({ devices: [{ model: "copy-engine", canStall: false }] }));
    const program = new Program(made);
    const page = program.process.memory.map(2);
    expect(program.copy(program.queue(0), page, page + PAGE_SIZE, 8).status).toBe(COPY_READ_FAULT);
  });

  it("show their free queues in sysfs", () => {
    const { machine: made } = machine();
    const path = "/sys/devices/pci0000:00/0000:00:01.0/uacce/copy_engine-0/available_instances";
    const told: string[] = [];
    made.files.listen((changed) => told.push(changed));
    const program = new Program(made);
    const fd = program.queue(0);
    const node = made.files.nodes.get(path);
    expect([node?.kind === "text" && node.read(), told]).toEqual(["3\n", [path]]);
    program.close(fd);
    expect([node?.kind === "text" && node.read(), told.length]).toEqual(["4\n", 2]);
  });
});
