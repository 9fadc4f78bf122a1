import { describe, expect, it } from "vitest";
import { PhysicalMemory } from "../memory/index.ts";
import { lpae } from "../pagetable/index.ts";
import { AssertionError, EBUSY, ENOSPC, ESRCH, Refusal, System, type Task } from "../runtime/index.ts";
import {
  type ArmContext,
  ArmContexts,
  type ArmContextTable,
  type AsidHolder,
  PasidTable,
  readEntry,
  type Share,
  type SharedMemory,
} from "./index.ts";

const format = lpae({ stage: 1, granule: 4096, inputBits: 48, outputBits: 44 });

/** Who hears of a process's memory; nobody looks into it. */
class Notifier {
  readonly label = "notifier";
}

function setUp(options: { broadcast?: boolean; asidBits?: number; mustStall?: boolean } = {}) {
  const system = new System();
  const memory = new PhysicalMemory(system, { ram: [{ base: 0, size: 2 ** 26 }] });
  /** What happens, in order. */
  const log: string[] = [];
  const contexts = new ArmContexts(system, memory, {
    label: "SMMU",
    asidBits: 8,
    broadcast: true,
    dirtyState: false,
    mustStall: false,
    *flush(asid) {
      log.push(`flush ${asid}`);
    },
    ...options,
  });
  const run = <T>(code: Task<T>): T => system.run("test", code);
  const errno = (code: () => unknown): number | undefined => {
    try {
      code();
      return undefined;
    } catch (error) {
      if (error instanceof Refusal) return error.errno;
      throw error;
    }
  };
  let roots = 0;
  const privately = (): ArmContext & { readonly told: string[] } => {
    const told: string[] = [];
    const tell = (text: string): void => {
      told.push(text);
      log.push(text);
    };
    const holder: AsidHolder = {
      alsoUnder: (asid) => tell(`holder: also ${asid}`),
      notUnder: (asid) => tell(`holder: not ${asid}`),
    };
    const content = { label: `domain ${++roots}`, root: roots * 0x1000, format, dirtyTracking: false };
    return Object.assign(contexts.prepare(content, holder), { told });
  };
  /** A process's memory with this ASID of the CPU. */
  const process = (asid: number) => {
    const state = { pins: 0, notifiers: [] as Notifier[], reads: 0 };
    const memory: SharedMemory<Notifier> = {
      label: `process ${asid}`,
      get root() {
        state.reads++;
        return 0x10_0000 + asid * 0x1000;
      },
      format,
      pinAsid() {
        if (asid !== 0) state.pins++;
        return asid;
      },
      unpinAsid: () => void state.pins--,
      use(notifier) {
        state.notifiers.push(notifier);
        return () => void state.notifiers.splice(state.notifiers.indexOf(notifier), 1);
      },
    };
    return { memory, state };
  };
  /** A table of one device; `atSync` happens whenever the hardware is waited for. */
  const table = (log2Pasids = 4, atSync: () => void = () => undefined) => {
    const made: PasidTable<ArmContext, ArmContextTable> = new PasidTable(
      system,
      contexts,
      {
        forget: (pasid, leafOnly) => void log.push(`forget ${leafOnly ? "" : "the way to "}${pasid}`),
        *sync() {
          log.push("sync");
          atSync();
        },
        *move() {
          log.push("move");
          atSync();
        },
      },
      { log2Pasids, canStall: false },
    );
    return made;
  };
  const set = (to: PasidTable<ArmContext, ArmContextTable>, pasid: number, context: ArmContext): void =>
    run(to.write(to.prepare(pasid, context)));
  /** What the hardware finds: the ASID and the root, or how it is not to be walked. */
  const found = (in_: PasidTable<ArmContext, ArmContextTable>, pasid: number): string => {
    const [low, high, root] = readEntry(memory, in_.memory.entryAddress(pasid));
    if (low >>> 31 === 0) return "invalid";
    return `ASID ${high >>> 16}${((high >>> 15) & 1) === 0 ? " shared" : ""}, ${(low >>> 14) & 1 ? "quiet" : root.toString(16)}`;
  };
  return { system, memory, contexts, log, run, errno, privately, process, table, set, found };
}

describe("a table of one device", () => {
  it.each([4, 16])("holds what was written last, and nothing for what was cleared (%i bits)", (log2Pasids) => {
    const { privately, table, set, found, run, memory } = setUp();
    const frames = memory.usedFrames;
    const device = table(log2Pasids);
    const [a, b] = [privately(), privately()];
    set(device, 0, a);
    set(device, 3, b);
    expect([found(device, 0), found(device, 3), found(device, 1)]).toEqual(["ASID 1, 1000", "ASID 2, 2000", "invalid"]);
    set(device, 0, b);
    expect([found(device, 0), a.tables.size, b.tables.size]).toEqual(["ASID 2, 2000", 0, 1]);
    run(device.clear(0));
    expect([found(device, 0), b.tables.size]).toEqual(["invalid", 1]);
    run(device.clear(3));
    expect(b.tables.size).toBe(0);
    device.free();
    expect(memory.usedFrames).toBe(frames);
  });

  it("says to the hardware that it begins elsewhere, or that the way to one context is another", () => {
    const { privately, table, set, log } = setUp();
    const [a, b] = [privately(), privately()];
    for (const [log2Pasids, told] of [
      [4, ["move"]],
      [16, ["forget the way to 1", "sync"]],
    ] as const) {
      const device = table(log2Pasids);
      set(device, 1, a);
      log.length = 0;
      set(device, 1, b);
      expect(log).toEqual(told);
    }
  });
});

describe("a process that ends", () => {
  it.each([
    [false, "ASID 7 shared, quiet"],
    [true, "ASID 7 shared, quiet"],
  ])("leaves contexts that are valid and translate nothing (faults always stall: %s)", (mustStall, expected) => {
    const { contexts, process, table, set, found, run, memory } = setUp({ mustStall });
    const share = run(contexts.share(process(7).memory, new Notifier()));
    const [one, other] = [table(), table(16)];
    set(one, 1, share.context);
    set(other, 2000, share.context);
    run(contexts.quiesce(share.context));
    expect([found(one, 1), found(other, 2000)]).toEqual([expected, expected]);
    const [, high] = readEntry(memory, one.memory.entryAddress(1));
    expect((high >>> 12) & 3).toBe(mustStall ? 3 : 0);
  });

  it("ends also where the hardware is just being led elsewhere", () => {
    const world = setUp();
    const { contexts, process, set, found, run, privately, system, memory } = world;
    const share = run(contexts.share(process(7).memory, new Notifier()));
    let ending = false;
    const device = world.table(4, () => {
      if (!ending) return;
      ending = false;
      system.tasks.atOnce(contexts.quiesce(share.context));
    });
    set(device, 1, share.context);
    set(device, 2, share.context);
    const before = device.memory.entryAddress(0);
    const next = privately();
    ending = true;
    set(device, 1, next);
    // The table that was left, as hardware finds it that was not told yet.
    const left = [1, 2].map((pasid) => (readEntry(memory, before + pasid * 64)[0] >>> 14) & 1);
    expect(left).toEqual([1, 1]);
    expect([found(device, 1), found(device, 2)]).toEqual([`ASID ${next.asid}, 1000`, "ASID 7 shared, quiet"]);
  });

  it("ends also while its context is being written", () => {
    const world = setUp();
    const { contexts, process, set, found, run, system } = world;
    const share = run(contexts.share(process(7).memory, new Notifier()));
    let ending = true;
    const device = world.table(4, () => {
      if (!ending) return;
      ending = false;
      system.tasks.atOnce(contexts.quiesce(share.context));
    });
    set(device, 1, share.context);
    expect(found(device, 1)).toBe("ASID 7 shared, quiet");
  });
});

describe("sharing the CPU's ASID", () => {
  it("moves a private context that has the number: written everywhere, known, flushed, and only then given out", () => {
    const { contexts, privately, process, table, set, found, log, run } = setUp();
    const [first, second] = [privately(), privately()];
    const [one, other] = [table(), table(16)];
    set(one, 0, second);
    set(one, 3, second);
    set(other, 1500, second);
    set(other, 1, first);
    log.length = 0;
    const share = run(contexts.share(process(2).memory, new Notifier()));
    expect(log).toEqual([
      "holder: also 3",
      ...["forget 0", "sync", "forget 3", "sync", "forget 1500", "sync"],
      "flush 2",
      "holder: not 2",
    ]);
    expect([found(one, 0), found(one, 3), found(other, 1500)]).toEqual(Array(3).fill("ASID 3, 2000"));
    expect([found(other, 1), share.context.asid, second.asid]).toEqual(["ASID 1, 1000", 2, 3]);
    set(other, 2, share.context);
    expect(found(other, 2)).toBe("ASID 2 shared, 102000");
  });

  it("needs an ASID of the process", () => {
    const { contexts, process, run, errno } = setUp();
    expect(errno(() => run(contexts.share(process(0).memory, new Notifier())))).toBe(ESRCH);
    expect(contexts.size).toBe(0);
  });

  it("is not done without broadcast invalidation: the number is then the SMMU's own", () => {
    const { contexts, process, run, privately, table, set, found } = setUp({ broadcast: false });
    privately();
    const { memory, state } = process(1);
    const share = run(contexts.share(memory, new Notifier()));
    expect([share.context.asid, state.pins]).toEqual([2, 0]);
    const device = table();
    set(device, 1, share.context);
    expect(found(device, 1)).toBe("ASID 2, 101000");
  });
});

describe("what went wrong in the table library that was proposed to Linux, and cannot here:", () => {
  it("sharing what is shared already gives another kind of object", () => {
    const { contexts, process, run } = setUp();
    const { memory, state } = process(5);
    const [first, second] = [new Notifier(), new Notifier()];
    const shares: Share<Notifier>[] = [first, second].map((notifier) => run(contexts.share(memory, notifier)));
    expect(shares.map(({ notifier }) => notifier)).toEqual([first, second]);
    expect(shares[0].context).toBe(shares[1].context);
    expect([state.notifiers, state.pins, contexts.size]).toEqual([[first, second], 1, 1]);
    for (const share of shares) contexts.unshare(share);
    expect([state.notifiers, state.pins, contexts.size]).toEqual([[], 0, 0]);
  });

  it("a notifier that cannot be registered is lost, with what was reserved for it", () => {
    const { contexts, process, run, errno, system, privately } = setUp();
    const { memory, state } = process(5);
    privately();
    for (let nth = 1; ; nth++) {
      let points = 0;
      system.failures.inject(() => ++points === nth);
      const failed = errno(() => run(contexts.share(memory, new Notifier())));
      system.failures.inject(undefined);
      if (failed === undefined) break;
      expect([state.notifiers.length, state.pins, contexts.size]).toEqual([0, 0, 1]);
    }
    expect([state.notifiers.length, state.pins, contexts.size]).toEqual([1, 1, 2]);
  });

  it("what a notifier leads to is read after it was given back", () => {
    const { contexts, process, run, table, set, found } = setUp();
    const { memory, state } = process(5);
    const [first, second] = [1, 2].map(() => run(contexts.share(memory, new Notifier())));
    const device = table();
    set(device, 1, first.context);
    contexts.unshare(first);
    expect(found(device, 1)).toBe("ASID 5 shared, 105000");
    run(device.clear(1));
    const { reads } = state;
    contexts.unshare(second);
    expect(state.reads).toBe(reads);
    expect(() => contexts.unshare(second)).toThrow(AssertionError);
    // The number is anybody's.
    expect(run(contexts.share(process(5).memory, new Notifier())).context).not.toBe(first.context);
  });

  it("a move that fails half-way leaves the private context with a number that it has not", () => {
    const { contexts, process, run, errno, privately, table, set, found, system } = setUp({ asidBits: 3 });
    const privates = Array.from({ length: 7 }, privately);
    const device = table();
    set(device, 1, privates[4]);
    const { memory, state } = process(5);
    const tryIt = (): number | undefined => errno(() => run(contexts.share(memory, new Notifier())));
    const nothing = [5, [], "ASID 5, 5000", 0, 7];
    const now = (): unknown[] => [privates[4].asid, privates[4].told, found(device, 1), state.pins, contexts.size];
    expect(tryIt()).toBe(ENOSPC);
    expect(now()).toEqual(nothing);
    contexts.release(privates[6]);
    system.failures.inject((name) => name === "pasidtable.asid.move");
    expect(tryIt()).toBeDefined();
    system.failures.inject(undefined);
    expect(now()).toEqual([...nothing.slice(0, 4), 6]);
    expect(tryIt()).toBeUndefined();
    expect([privates[4].asid, found(device, 1)]).toEqual([7, "ASID 7, 5000"]);
  });
});

describe("ASIDs", () => {
  it("run out, and go round: each is given again once it was given back", () => {
    const { contexts, privately, errno } = setUp();
    const all = Array.from({ length: 255 }, privately);
    expect(all.map(({ asid }) => asid)).toEqual(Array.from({ length: 255 }, (_, index) => index + 1));
    expect(errno(privately)).toBe(EBUSY);
    for (const context of all.slice(100, 103)) contexts.release(context);
    expect([privately().asid, privately().asid, privately().asid]).toEqual([101, 102, 103]);
    expect(errno(privately)).toBe(EBUSY);
  });

  it("are not given back while a table has them", () => {
    const { contexts, privately, table, set } = setUp();
    const context = privately();
    set(table(), 1, context);
    expect(() => contexts.release(context)).toThrow(AssertionError);
  });
});
