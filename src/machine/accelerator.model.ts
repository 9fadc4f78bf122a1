import fc from "fast-check";
import { expect, test } from "vitest";
import { PAGE_SIZE } from "../memory/index.ts";
import { Refusal } from "../runtime/index.ts";
import {
  COPY_DONE,
  COPY_READ_FAULT,
  COPY_SUBMIT,
  COPY_WAIT,
  COPY_WRITE_FAULT,
  CopySubmit,
  CopyWait,
  UACCE_PUT_Q,
  UACCE_START_Q,
} from "../uapi/index.ts";
import { LibraryClient } from "./client.ts";
import { presets } from "./description.ts";
import { buildMachine } from "./machine.ts";

const PAGES = 8;
const FIRST = 0x1fc;
const SPACE = PAGES * PAGE_SIZE;
const addressOf = (page: number): number => (FIRST + page) * PAGE_SIZE;

const who = fc.nat();
const page = fc.nat(PAGES - 1);
const count = fc.integer({ min: 1, max: 4 });
const offset = fc.nat(SPACE - 1);
const step = fc.oneof(
  fc.record({ kind: fc.constantFrom("map" as const, "protect" as const), who, page, count, writable: fc.boolean() }),
  fc.record({ kind: fc.constantFrom("unmap" as const, "discard" as const), who, page, count }),
  fc.record({ kind: fc.constant("write" as const), who, offset, value: fc.nat(255) }),
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("open" as const), who, device: fc.nat(1) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("start" as const), who, queue: fc.nat() }) },
  fc.record({ kind: fc.constantFrom("close" as const, "stop" as const), who, queue: fc.nat() }),
  fc.record({ kind: fc.constantFrom("exit" as const, "begin" as const, "remove" as const), who }),
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constant("copy" as const),
      who,
      queue: fc.nat(),
      from: offset,
      to: offset,
      length: fc.nat(3 * PAGE_SIZE),
    }),
  },
);

/** Pages as they would be if nothing were shared. */
type Pages = Map<number, { readonly bytes: Uint8Array; writable: boolean }>;

interface Queue {
  readonly fd: number;
  state: "init" | "started" | "gone";
  readonly device: number;
}

interface Program {
  readonly client: LibraryClient;
  readonly pages: Pages;
  readonly queues: Queue[];
}

/** A copy as the manual says, on these pages: piece by piece, each read whole, then written page by page. */
function copied(pages: Pages, from: number, to: number, length: number): { status: number; copied: number } {
  for (let done = 0; done < length; ) {
    const size = Math.min(PAGE_SIZE, length - done);
    const piece = new Uint8Array(size);
    for (let i = 0; i < size; i++) {
      const at = from + done + i;
      const one = pages.get(Math.floor(at / PAGE_SIZE));
      if (one === undefined) return { status: COPY_READ_FAULT, copied: done };
      piece[i] = one.bytes[at % PAGE_SIZE];
    }
    for (let i = 0; i < size; i++) {
      const at = to + done + i;
      const one = pages.get(Math.floor(at / PAGE_SIZE));
      if (one?.writable !== true) return { status: COPY_WRITE_FAULT, copied: done };
      one.bytes[at % PAGE_SIZE] = piece[i];
    }
    done += size;
  }
  return { status: COPY_DONE, copied: length };
}

function attempt<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch (error) {
    if (error instanceof Refusal) return undefined;
    throw error;
  }
}

test("accelerators copy what the process would, whatever it does with its pages meanwhile", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80, size: "max" }), (steps) => {
      const machine = buildMachine(presets.sva);
      const atRest = machine.memory.adoptedFrames;
      const programs: Program[] = [];
      let lastPid = 0;
      const add = (): void => {
        const client = new LibraryClient(machine, { pid: ++lastPid });
        const pages: Pages = new Map();
        client.process.memory.map(PAGES, { address: addressOf(0) });
        for (let at = 0; at < PAGES; at++) {
          const bytes = Uint8Array.from({ length: PAGE_SIZE }, (_, i) => lastPid + 31 * at + i);
          client.process.memory.write(addressOf(at), bytes);
          pages.set(at, { bytes, writable: true });
        }
        programs.push({ client, pages, queues: [] });
      };
      const lose = (device: number): void => {
        for (const { queues } of programs)
          for (const queue of queues) if (queue.device === device) queue.state = "gone";
      };
      for (const step of steps) {
        if (programs.length === 0) add();
        const index = step.who % programs.length;
        const { client, pages, queues } = programs[index];
        const { memory } = client.process;
        switch (step.kind) {
          case "map":
            for (let at = step.page; at < step.page + step.count; at++) {
              if (pages.has(at)) continue;
              memory.map(1, { address: addressOf(at), writable: step.writable });
              pages.set(at, { bytes: new Uint8Array(PAGE_SIZE), writable: step.writable });
            }
            break;
          case "protect":
            for (let at = step.page; at < step.page + step.count; at++) {
              if (!pages.has(at)) continue;
              memory.protect(addressOf(at), 1, step);
              pages.get(at)!.writable = step.writable;
            }
            break;
          case "unmap":
            memory.unmap(addressOf(step.page), step.count);
            for (let at = step.page; at < step.page + step.count; at++) pages.delete(at);
            break;
          case "discard":
            for (let at = step.page; at < step.page + step.count; at++) {
              if (!pages.has(at)) continue;
              memory.discard(addressOf(at), 1);
              pages.get(at)!.bytes.fill(0);
            }
            break;
          case "write": {
            const one = pages.get(Math.floor(step.offset / PAGE_SIZE));
            if (one?.writable !== true) break;
            memory.write(addressOf(0) + step.offset, Uint8Array.of(step.value));
            one.bytes[step.offset % PAGE_SIZE] = step.value;
            break;
          }
          case "open": {
            const fd = attempt(() => client.open(`/dev/copy_engine-${step.device}`));
            const inUse = programs.flatMap((one) => one.queues).filter((one) => one.state !== "gone");
            expect(fd === undefined).toBe(inUse.filter(({ device }) => device === step.device).length === 4);
            if (fd !== undefined) queues.push({ fd, state: "init", device: step.device });
            break;
          }
          case "close": {
            const [queue] = queues.splice(step.queue % Math.max(queues.length, 1), 1);
            if (queue !== undefined) client.close(queue.fd);
            break;
          }
          case "start":
          case "stop": {
            const queue = queues[step.queue % Math.max(queues.length, 1)];
            if (queue === undefined) break;
            const request = step.kind === "start" ? UACCE_START_Q : UACCE_PUT_Q;
            const isDone = attempt(() => client.call(queue.fd, request, 0)) === 0;
            expect(isDone).toBe(queue.state !== "gone" && (step.kind === "stop" || queue.state === "init"));
            if (isDone) queue.state = step.kind === "start" ? "started" : "init";
            break;
          }
          case "copy": {
            const queue = queues[step.queue % Math.max(queues.length, 1)];
            if (queue === undefined) break;
            const fields = { source: BigInt(addressOf(0) + step.from), destination: BigInt(addressOf(0) + step.to) };
            const job = attempt(
              () => client.ioctl(queue.fd, COPY_SUBMIT, new CopySubmit(), { ...fields, length: step.length }).job,
            );
            expect(job === undefined).toBe(queue.state !== "started");
            if (job === undefined) break;
            const { status, copied: moved } = client.ioctl(queue.fd, COPY_WAIT, new CopyWait(), { job });
            expect({ status, copied: moved }).toEqual(copied(pages, step.from, step.to, step.length));
            break;
          }
          case "begin":
            if (programs.length < 3) add();
            break;
          case "remove": {
            const device = step.who % 2;
            const member = machine.pci.find(`0000:00:0${device + 1}.0`)!;
            machine.system.run("unbind", machine.pci.drivers.unbind(member));
            lose(device);
            machine.system.run("bind", machine.pci.drivers.bind(member, machine.uacce));
            break;
          }
          case "exit":
            client.process.exit();
            programs.splice(index, 1);
            break;
        }
        for (const one of programs) check(one);
      }
      for (const { client } of programs) client.process.exit();
      expect([machine.sva.mms.length, machine.system.tasks.unfinished.size]).toEqual([0, 0]);
      expect(machine.memory.adoptedFrames).toBe(atRest);
      machine.system.run("power down", machine.powerDown());
      expect(machine.memory.usedFrames).toBe(0);
    }),
    { numRuns: 30 },
  );
});

function check({ client, pages }: Program): void {
  const bytes = new Uint8Array(PAGE_SIZE);
  for (const [at, { bytes: expected }] of pages) {
    client.process.memory.read(addressOf(at), bytes);
    if (!Buffer.from(bytes).equals(expected)) expect(bytes).toEqual(expected);
  }
}
