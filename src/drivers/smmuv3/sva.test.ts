/** Processes on devices behind SMMUs: core, driver and the model of the hardware together. */
import { describe, expect, it } from "vitest";
import type { CpuOptions, SvaHandle } from "../../iommu/index.ts";
import { PAGE_SIZE } from "../../memory/index.ts";
import { readEntry } from "../../pasidtable/index.ts";
import { EOPNOTSUPP, type Task } from "../../runtime/index.ts";
import { masterOf } from "./master.ts";
import { CMDQ_PROD } from "./registers.ts";
import { get, put, setUp } from "./sva.test-support.ts";

describe("a process bound to devices", () => {
  it("is reached at its own addresses, with no mapping call at all, by two queues of one device and one of another", () => {
    const { device, process, bind, unbind, reads, writes } = setUp();
    const [a, b, p] = [device(), device(), process()];
    const [first, second, third] = [bind(a, p), bind(a, p), bind(b, p)];
    const address = p.memory.map(3);
    put(p, address + PAGE_SIZE - 2, "hello");
    expect([reads(first, address + PAGE_SIZE - 2), reads(third, address + PAGE_SIZE - 2)]).toEqual(["hello", "hello"]);
    expect(writes(third, address + 2 * PAGE_SIZE - 3, "world")).toBe(true);
    expect(get(p, address + 2 * PAGE_SIZE - 3)).toBe("world");
    unbind(first);
    expect(reads(second, address + PAGE_SIZE - 2)).toBe("hello");
    unbind(second);
    expect([reads(second, address), reads(third, address + 2 * PAGE_SIZE - 3)]).toEqual([undefined, "world"]);
    unbind(third);
    expect(reads(third, address)).toBeUndefined();
  });

  it("is not mixed up with another at the same address, nor with the device's own traffic", () => {
    const { device, process, bind, reads, dma } = setUp();
    const [a, p, q] = [device(), process(), process()];
    const [asP, asQ] = [bind(a, p), bind(a, q)];
    const address = 0x10_0000;
    for (const [one, text] of [[p, "of p."] as const, [q, "of q."] as const]) {
      one.memory.map(1, { address });
      put(one, address, text);
    }
    expect([reads(asP, address), reads(asQ, address), reads(asP, address)]).toEqual(["of p.", "of q.", "of p."]);
    // Identity: the address is a physical one.
    expect(dma(a.stream, address).done).toBe(true);
  });

  it("can be read but not written where it cannot write itself, and not be reached where it has nothing", () => {
    const { device, process, bind, reads, writes, events } = setUp();
    const [a, p] = [device(), process()];
    const handle = bind(a, p);
    const address = p.memory.map(1, { writable: false });
    expect([reads(handle, address), writes(handle, address, "x"), reads(handle, 0x1000)]).toEqual([
      "\0\0\0\0\0",
      false,
      undefined,
    ]);
    expect(events).toEqual(["F_TRANSLATION", "F_PERMISSION", "F_TRANSLATION"]);
  });

  it("is not reached by a device that cannot wait for pages, except where a page is there already", () => {
    const { device, process, bind, reads } = setUp();
    const [patient, hasty, p] = [device(), device(false), process()];
    const [onPatient, onHasty] = [bind(patient, p), bind(hasty, p)];
    const address = p.memory.map(1);
    put(p, address, "there");
    expect(reads(onHasty, address)).toBeUndefined();
    expect(reads(onPatient, address)).toBe("there");
    expect(reads(onHasty, address)).toBe("there");
  });
});

describe("what a process does to its mappings reaches the devices before it is done:", () => {
  function bound() {
    const world = setUp();
    const [a, p] = [world.device(), world.process()];
    const handle = world.bind(a, p);
    const address = p.memory.map(2);
    put(p, address, "first");
    expect(world.writes(handle, address + PAGE_SIZE, "dirty")).toBe(true);
    expect(world.reads(handle, address)).toBe("first");
    world.events.length = 0;
    return { ...world, a, p, handle, address };
  }

  it("munmap", () => {
    const { memory, p, handle, address, reads, writes, process } = bound();
    p.memory.unmap(address, 2);
    const other = process();
    const elsewhere = other.memory.map(2);
    put(other, elsewhere, "other");
    expect([reads(handle, address), writes(handle, address + PAGE_SIZE, "stale")]).toEqual([undefined, false]);
    expect(get(other, elsewhere)).toBe("other");
    p.memory.map(1, { address });
    expect(reads(handle, address)).toBe("\0\0\0\0\0");
    expect(memory.pinnedFrames).toBe(0);
  });

  it("mprotect", () => {
    const { p, handle, address, reads, writes } = bound();
    p.memory.protect(address, 2, { writable: false });
    expect([reads(handle, address), writes(handle, address + PAGE_SIZE, "no")]).toEqual(["first", false]);
    p.memory.protect(address, 2, { writable: true });
    expect(writes(handle, address, "again")).toBe(true);
    expect(get(p, address)).toBe("again");
  });

  it("madvise and mremap", () => {
    const { p, handle, address, reads, writes } = bound();
    p.memory.discard(address, 1);
    expect(reads(handle, address)).toBe("\0\0\0\0\0");
    p.memory.move(address + PAGE_SIZE, 1, 0x20_0000);
    expect([reads(handle, address + PAGE_SIZE), reads(handle, 0x20_0000)]).toEqual([undefined, "dirty"]);
    expect(writes(handle, 0x20_0000, "moved")).toBe(true);
    expect(get(p, 0x20_0000)).toBe("moved");
  });

  it("fork: the device stays with the parent, whoever writes first", () => {
    const { p, handle, address, reads, writes } = bound();
    const child = p.fork(99);
    expect(writes(handle, address, "mine!")).toBe(true);
    expect([get(p, address), get(child, address)]).toEqual(["mine!", "first"]);
    put(p, address + PAGE_SIZE, "later");
    put(child, address, "child");
    expect([reads(handle, address), reads(handle, address + PAGE_SIZE)]).toEqual(["mine!", "later"]);
    expect(get(child, address + PAGE_SIZE)).toBe("dirty");
  });

  it("1 GiB of pages of 4 KiB, with one command and one CMD_SYNC", () => {
    const { p, handle, hardware, run } = bound();
    const start = 2 ** 30;
    for (const page of [0, 262143]) {
      p.memory.map(1, { address: start + page * PAGE_SIZE });
      run(handle.mm.handleFault(BigInt(start + page * PAGE_SIZE), 1));
    }
    const before = hardware.read32(CMDQ_PROD);
    p.memory.unmap(start, 262144);
    expect(hardware.read32(CMDQ_PROD) - before).toBe(2);
    const again = hardware.read32(CMDQ_PROD);
    p.memory.unmap(start, 262144);
    expect(hardware.read32(CMDQ_PROD)).toBe(again);
  });
});

it("a device that reads while a program unmaps, step by step, gets the page or nothing, whoever has the frame next", () => {
  for (let seed = 1; seed < 60; seed++) {
    const { system, memory, device, process, bind, hardware, unbind } = setUp();
    const [a, p, next] = [device(), process(), process()];
    const handle = bind(a, p);
    const address = p.memory.map(1);
    put(p, address, "mine");
    const { notifiers } = p.memory;
    system.tasks.exploring = true;
    let state = seed;
    system.tasks.choose = (ready) => (state = (state * 48271) % 2147483647) % ready.length;
    let step: "mapped" | "told" | "gone" = "mapped";
    const program = function* (): Task<void> {
      yield* system.tasks.point();
      notifiers.invalidateStart(address, address + PAGE_SIZE);
      step = "told";
      yield* system.tasks.point();
      p.memory.unmap(address, 1);
      put(next, next.memory.map(1), "next");
      yield* system.tasks.point();
      step = "gone";
      notifiers.invalidateEnd(address, address + PAGE_SIZE);
    };
    const engine = function* (): Task<void> {
      for (let i = 0; i < 3; i++) {
        const begun = step;
        const bytes = new Uint8Array(4);
        const done = yield* hardware.access(a.stream, handle.pasid, BigInt(address), bytes, false);
        if (done) expect([begun, new TextDecoder().decode(bytes)]).toEqual(["mapped", "mine"]);
        else expect(step).toBe("gone");
        yield* system.tasks.point();
      }
    };
    system.tasks.spawn("program", program());
    for (let i = 0; i < 2; i++) system.tasks.spawn("engine", engine());
    system.tasks.drain();
    expect(system.tasks.unfinished.size).toBe(0);
    system.tasks.exploring = false;
    unbind(handle);
    expect(memory.pinnedFrames).toBe(0);
  }
});

describe("a process that ends while it is bound", () => {
  it("leaves a context that is valid and translates nothing, without a record, until it is unbound", () => {
    const { device, process, bind, unbind, reads, events, instance, memory } = setUp();
    const [a, hasty, p] = [device(), device(false), process()];
    const [handle, other] = [bind(a, p), bind(hasty, p)];
    const address = p.memory.map(1);
    expect([reads(handle, address), reads(other, address)]).toEqual(["\0\0\0\0\0", "\0\0\0\0\0"]);
    events.length = 0;
    const root = handle.mm.table.root;
    p.exit();
    expect([reads(handle, address), reads(other, address), reads(handle, 0)]).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
    expect(events).toEqual([]);
    const [low, high, ttb] = readEntry(memory, masterOf(a).contextTable!.memory.entryAddress(handle.pasid));
    // V and EPD0; neither S nor R; no table.
    expect([low >>> 31, (low >>> 14) & 1, (high >>> 12) & 3, ttb, memory.isBacked(root)]).toEqual([1, 1, 0, 0, true]);
    unbind(handle);
    expect(reads(handle, address)).toBeUndefined();
    expect(events).toEqual(["C_BAD_SUBSTREAMID"]);
    unbind(other);
    expect(instance.contexts.size).toBe(0);
  });

  it("leaves its number to the next one only when all is unbound; that one sees nothing of it", () => {
    const { device, process, bind, unbind, reads } = setUp();
    const [a, p, q] = [device(), process(), process()];
    const ofP = bind(a, p);
    const address = 0x40_0000;
    p.memory.map(1, { address });
    put(p, address, "old p");
    expect(reads(ofP, address)).toBe("old p");
    p.exit();
    const ofQ = bind(a, q);
    expect(ofQ.pasid).toBe(2);
    unbind(ofP);
    const r = process();
    const ofR = bind(a, r);
    expect([ofR.pasid, reads(ofR, address)]).toEqual([1, undefined]);
    r.memory.map(1, { address });
    put(r, address, "new r");
    expect(reads(ofR, address)).toBe("new r");
  });

  it("in the middle of being bound, at any moment: nothing is reached through what is left", () => {
    for (let seed = 1; seed < 80; seed++) {
      const { system, device, process, sva, reads, events } = setUp();
      const [a, b, p] = [device(), device(), process()];
      const address = p.memory.map(1);
      const handles: SvaHandle[] = [];
      system.tasks.exploring = true;
      let state = seed;
      system.tasks.choose = (ready) => (state = (state * 48271) % 2147483647) % ready.length;
      for (const to of [a, b]) {
        system.tasks.spawn("bind", sva.bind(to, p.memory), (outcome) => {
          if (outcome.ok) handles.push(outcome.value);
        });
      }
      system.tasks.spawn(
        "exit",
        (function* (): Task<void> {
          for (let i = 0; i < seed % 8; i++) yield* system.tasks.point();
          p.exit();
        })(),
      );
      system.tasks.drain();
      expect(handles.map((handle) => reads(handle, address))).toEqual(handles.map(() => undefined));
      expect(events).toEqual([]);
      for (const handle of handles) system.run("unbind", sva.unbind(handle));
      expect(sva.mms).toEqual([]);
    }
  });
});

it("faults, unmapping, unbinding and exit in any order leave nobody waiting, and every stalled access answered", () => {
  for (let seed = 1; seed < 60; seed++) {
    const { system, device, process, bind, sva, hardware, instance } = setUp();
    const [a, b, p] = [device(), device(), process()];
    const handles = [bind(a, p), bind(a, p), bind(b, p)];
    const address = p.memory.map(4);
    system.tasks.exploring = true;
    let state = seed;
    system.tasks.choose = (ready) => (state = (state * 48271) % 2147483647) % ready.length;
    const ends: (boolean | undefined)[] = [];
    const engine = function* ({ stream }: { stream: number }, pasid: number): Task<void> {
      for (let page = 0; page < 4; page++) {
        const bytes = new Uint8Array(8);
        ends.push(yield* hardware.access(stream, pasid, BigInt(address + page * PAGE_SIZE), bytes, page % 2 === 0));
      }
    };
    const program = function* (): Task<void> {
      for (let page = 0; page < 3; page++) {
        yield* system.tasks.point();
        p.memory.unmap(address + page * PAGE_SIZE, 1);
      }
      for (let i = 0; i < seed % 5; i++) yield* system.tasks.point();
      if (seed % 3 > 0) p.exit();
    };
    for (const to of [a, b]) system.tasks.spawn("engine", engine(to, handles[0].pasid));
    system.tasks.spawn("program", program());
    for (const handle of handles) system.tasks.spawn("unbind", sva.unbind(handle));
    system.tasks.drain();
    expect([system.tasks.unfinished.size, ends.length, ends.includes(undefined)]).toEqual([0, 8, false]);
    expect([hardware.occupancy.stalled, instance.contexts.size, sva.mms]).toEqual([0, 0, []]);
  }
});

it("a bind that fails for want of memory or numbers, at whatever point, leaves nothing behind", () => {
  for (const broadcastTlb of [false, true]) {
    for (let nth = 1; ; nth++) {
      const { system, device, process, bind, unbind, errno, sva, instance, reads, run, driver } = setUp({
        broadcastTlb,
      });
      const [a, p] = [device(), process()];
      // In the way of the process's own ASID, where that is shared.
      const own = run(driver.allocatePaging(a, 0, undefined));
      run(a.group!.attach(own, own));
      let point = 0;
      system.failures.inject(() => ++point === nth);
      const failed = errno(sva.bind(a, p.memory));
      system.failures.inject(undefined);
      if (failed === undefined) {
        expect(nth).toBeGreaterThan(6);
        break;
      }
      expect([instance.contexts.size, a.group!.handles.size, sva.mms]).toEqual([1, 1, []]);
      const handle = bind(a, p);
      const address = p.memory.map(1);
      put(p, address, "works");
      expect(reads(handle, address)).toBe("works");
      unbind(handle);
      expect(instance.contexts.size).toBe(1);
    }
  }
});

describe("a device is not given the memory of a process by an SMMU", () => {
  it.each<[string, Parameters<typeof setUp>[0], CpuOptions]>([
    ["whose accesses are not coherent with the CPU's caches", { coherent: false }, {}],
    ["without the CPU's granule", { granules: [65536] }, {}],
    ["with shorter addresses than the CPU", { outputBits: 40 }, {}],
    ["with shorter ASIDs than the CPU", { asidBits: 8 }, {}],
  ])("%s", (_, features, options) => {
    const { device, process, errno, sva, instance } = setUp(features, options);
    expect(errno(sva.bind(device(), process().memory))).toBe(EOPNOTSUPP);
    expect(instance.contexts.size).toBe(0);
  });
});
