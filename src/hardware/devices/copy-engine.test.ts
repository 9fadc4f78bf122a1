import { describe, expect, it } from "vitest";
import { COMMAND, enableVectors, MsiController, PciHost } from "../../pci/index.ts";
import { type SimulatedClock, System, type Task, WaitQueue } from "../../runtime/index.ts";
import { CopyEngine } from "./copy-engine.ts";
import { DESCRIPTOR_SIZE, JOB_DONE, JOB_READ_FAULT, JOB_WRITE_FAULT } from "./copy-queue.ts";

const SPACE = 2 ** 21;
const PASID = 0x8000_0007;
const RING = 0x1000;
/** 2^2 descriptors. */
const SIZE = 2;
const ENABLE = 1;
const ENABLE_AND_INTERRUPT = 3;
const RUNNING = 1;
const ERROR = 2;

/** One memory for each PASID, and one for none; it can refuse a page, or keep an access waiting. */
class Memory {
  readonly spaces = new Map<number | undefined, Uint8Array>();
  readonly refused = new Set<number>();
  readonly held = new Set<number>();
  readonly released: WaitQueue;

  constructor(system: System) {
    this.released = new WaitQueue(system, "held access");
  }

  space(pasid: number | undefined): Uint8Array {
    const space = this.spaces.get(pasid) ?? new Uint8Array(SPACE);
    this.spaces.set(pasid, space);
    return space;
  }

  *access(
    _requester: number,
    pasid: number | undefined,
    address: bigint,
    bytes: Uint8Array,
    write: boolean,
  ): Task<boolean> {
    const at = Number(address);
    const pages = [Math.floor(at / 4096), Math.floor((at + bytes.length - 1) / 4096)];
    yield* this.released.until(() => !pages.some((page) => this.held.has(page)));
    if (at + bytes.length > SPACE || pages.some((page) => this.refused.has(page))) return false;
    if (write) this.space(pasid).set(bytes, at);
    else bytes.set(this.space(pasid).subarray(at, at + bytes.length));
    return true;
  }

  release(): void {
    this.held.clear();
    this.released.wake();
  }
}

function plug() {
  const system = new System();
  const memory = new Memory(system);
  const interrupts = new MsiController({ start: 0x8000000n, last: 0x80fffffn });
  const host = new PciHost(system, { target: memory, interrupts });
  const engine = new CopyEngine(system);
  host.root.add(engine, 1);
  host.enumerate();
  engine.writeConfig(COMMAND, 2, 0x6);
  const read = (offset: number, size = 4): number => Number(engine.readBar(0, offset, size));
  const write = (offset: number, value: number, size = 4): void => engine.writeBar(0, offset, size, BigInt(value));
  const block = (queue: number): number => 0x100 + 0x40 * queue;
  const bell = (queue: number): number => 0x1000 * (1 + queue);
  const ring = (queue: number): number => RING * (queue + 1);
  const enable = (queue = 0, control = ENABLE_AND_INTERRUPT): void => {
    write(block(queue) + 0x08, PASID);
    write(block(queue) + 0x0c, SIZE);
    write(block(queue) + 0x10, ring(queue), 8);
    write(block(queue), control);
  };
  const descriptor = (index: number, queue = 0): DataView => {
    const { buffer } = memory.space(undefined);
    return new DataView(buffer, ring(queue) + (index % 2 ** SIZE) * DESCRIPTOR_SIZE, DESCRIPTOR_SIZE);
  };
  /** Puts a job into the ring and rings. */
  const submit = (index: number, source: number, destination: number, length: number, queue = 0): void => {
    const view = descriptor(index, queue);
    view.setBigUint64(0, BigInt(source), true);
    view.setBigUint64(8, BigInt(destination), true);
    view.setUint32(16, length, true);
    view.setUint32(20, 0, true);
    view.setUint32(24, 0, true);
    view.setUint32(28, 1, true);
    write(bell(queue), index + 1);
  };
  const result = (index: number, queue = 0): { copied: number; status: number } => {
    const view = descriptor(index, queue);
    return { copied: view.getUint32(20, true), status: view.getUint32(24, true) };
  };
  const drain = (): void => system.tasks.drain();
  const pass = (time: number): void => {
    (system.clock as SimulatedClock).advance(time);
    drain();
  };
  return { system, engine, memory, read, write, block, bell, ring, enable, submit, result, drain, pass };
}

describe("registers of the copy engine", () => {
  it("say what it is", () => {
    const { read } = plug();
    expect([read(0), read(4), read(0x200, 2)]).toEqual([0x59504f43, 4, 0]);
  });

  it("of a queue stay as they are while it is enabled", () => {
    const { read, write, block, enable, ring } = plug();
    enable(1);
    for (const register of [0x08, 0x0c, 0x10]) write(block(1) + register, 0);
    expect([read(block(1) + 0x08), read(block(1) + 0x0c), read(block(1) + 0x10, 8)]).toEqual([PASID, SIZE, ring(1)]);
    write(block(1), 0);
    write(block(1) + 0x08, 5);
    expect(read(block(1) + 0x08)).toBe(5);
  });

  it("of queues that it does not have read 0 and take nothing", () => {
    const { read, write, block, bell } = plug();
    write(block(7) + 0x0c, 3);
    write(bell(7), 1);
    expect([read(block(7) + 0x0c), read(bell(7)), read(0xf000)]).toEqual([0, 0, 0]);
  });
});

describe("jobs", () => {
  it("copy under the PASID of their queue, over page boundaries, and tell when they are done", () => {
    const { memory, engine, enable, submit, result, drain, read, bell, write } = plug();
    let interrupts = 0;
    enableVectors(engine, "msi", 1, () => interrupts++);
    const space = memory.space(7);
    for (let i = 0; i < 10_000; i++) space[0x10f00 + i] = i % 251;
    enable();
    submit(0, 0x10f00, 0x20123, 10_000);
    expect(result(0).status).toBe(0);
    drain();
    expect(result(0)).toEqual({ status: JOB_DONE, copied: 10_000 });
    expect(space.subarray(0x20123, 0x20123 + 10_000)).toEqual(space.subarray(0x10f00, 0x10f00 + 10_000));
    expect([interrupts, read(8), read(bell(0) + 4)]).toEqual([1, 1, 1]);
    write(8, 1);
    expect(read(8)).toBe(0);
  });

  it("are done in order, around the ring; one of no bytes too", () => {
    const { memory, enable, submit, result, drain, read, bell } = plug();
    const space = memory.space(7);
    space[0x8000] = 1;
    enable(0, ENABLE);
    for (let job = 0; job < 6; job++) {
      submit(job, 0x8000 + job, 0x8001 + job, job === 5 ? 0 : 1);
      if (job % 2 === 1) drain();
    }
    expect([...space.subarray(0x8000, 0x8007)]).toEqual([1, 1, 1, 1, 1, 1, 0]);
    expect([result(5), read(bell(0) + 4), read(8)]).toEqual([{ status: JOB_DONE, copied: 0 }, 6, 0]);
  });

  it("end with an error where an access is refused, and the next one begins", () => {
    const { memory, enable, submit, result, drain } = plug();
    enable();
    memory.refused.add(0x22);
    submit(0, 0x20000, 0x30000, 0x4000);
    submit(1, 0x30000, 0x21000, 0x4000);
    submit(2, 0x30000, 0x40000, 8);
    drain();
    expect([0, 1, 2].map((job) => result(job))).toEqual([
      { status: JOB_READ_FAULT, copied: 0x2000 },
      { status: JOB_WRITE_FAULT, copied: 0x1000 },
      { status: JOB_DONE, copied: 8 },
    ]);
  });

  it("that wait for a page hold up their own queue only", () => {
    const { memory, enable, submit, result, drain, read, block } = plug();
    enable(0);
    enable(1);
    memory.held.add(0x21);
    submit(0, 0x20000, 0x30000, 0x2000, 0);
    submit(0, 0x40000, 0x50000, 0x2000, 1);
    drain();
    expect([result(0, 0).status, result(0, 1).status]).toEqual([0, JOB_DONE]);
    expect([read(block(0) + 4), read(block(1) + 4)]).toEqual([RUNNING, 0]);
    memory.release();
    drain();
    expect(result(0, 0)).toEqual({ status: JOB_DONE, copied: 0x2000 });
  });

  it("that are long let time pass", () => {
    const { enable, submit, result, drain, pass } = plug();
    enable();
    submit(0, 0x10000, 0x100000, 0x90000);
    drain();
    expect(result(0).status).toBe(0);
    pass(61_034);
    pass(1);
    expect(result(0).status).toBe(0);
    pass(61_035);
    expect(result(0)).toEqual({ status: JOB_DONE, copied: 0x90000 });
  });
});

describe("a queue", () => {
  it("that is disabled finishes the access under way, says so, and leaves the job as it is", () => {
    const { memory, enable, submit, result, drain, read, write, block, bell } = plug();
    enable();
    memory.held.add(0x20);
    submit(0, 0x20000, 0x30000, 0x2000);
    drain();
    write(block(0), 0);
    drain();
    expect([read(block(0) + 4), read(8)]).toEqual([RUNNING, 0]);
    memory.release();
    drain();
    expect([read(block(0) + 4), read(8), read(bell(0) + 4)]).toEqual([0, 1, 0]);
    expect(result(0).status).toBe(0);
    write(bell(0), 5);
    expect(read(bell(0))).toBe(1);
  });

  it("that is disabled in the middle of a long job does not wait for its time", () => {
    const { enable, submit, drain, read, write, block } = plug();
    enable();
    submit(0, 0x10000, 0x100000, 0x90000);
    drain();
    write(block(0), 0);
    drain();
    expect(read(block(0) + 4)).toBe(0);
  });

  it("stops with an error if the doorbell promises more than the ring holds, or the ring cannot be read", () => {
    const { memory, enable, drain, read, write, block, bell } = plug();
    enable();
    write(bell(0), 5);
    drain();
    expect([read(bell(0) + 8), read(8)]).toEqual([ERROR, 1]);
    memory.refused.add(RING / 4096);
    write(block(0), 0);
    enable();
    expect(read(bell(0) + 8)).toBe(0);
    write(bell(0), 1);
    drain();
    expect(read(bell(0) + 8)).toBe(ERROR);
  });

  it("has forgotten everything after a reset, also what was under way", () => {
    const { engine, memory, enable, submit, result, drain, read, block } = plug();
    enable();
    memory.held.add(0x20);
    submit(0, 0x20000, 0x30000, 0x2000);
    drain();
    engine.functionLevelReset();
    memory.release();
    drain();
    expect([read(block(0)), read(block(0) + 4), read(8), result(0).status]).toEqual([0, 0, 0, 0]);
    engine.writeConfig(COMMAND, 2, 0x6);
    enable();
    submit(0, 0x20000, 0x30000, 0x2000);
    drain();
    expect(result(0).status).toBe(JOB_DONE);
  });
});
