import { describe, expect, it } from "vitest";
import { LibraryProcess, PAGE_SIZE, PhysicalMemory } from "../memory/index.ts";
import {
  EBUSY,
  EINVAL,
  ENODEV,
  ENOMEM,
  ENOSPC,
  EOPNOTSUPP,
  EOVERFLOW,
  Refusal,
  refuse,
  System,
  type Task,
} from "../runtime/index.ts";
import { IommuCore } from "./core.ts";
import { Cpu, type CpuOptions } from "./cpu.ts";
import { Device } from "./device.ts";
import { type IommuDriver, SvaDomain } from "./driver.ts";
import { FakeDriver, FakePagingDomain, FakeStaticDomain, fakeInstance } from "./fake-driver.test-support.ts";
import {
  allowPageRequests,
  type PageRequest,
  REQUEST_LAST_PAGE,
  REQUEST_PASID_VALID,
  REQUEST_READ,
  REQUEST_WRITE,
  RESPONSE_INVALID,
  RESPONSE_SUCCESS,
  reportPageRequest,
} from "./faults.ts";
import type { Mm } from "./mm.ts";
import { attachPasid } from "./pasid.ts";
import { Sva, type SvaHandle } from "./sva.ts";

class FakeSvaDomain extends SvaDomain {
  readonly label = "a fake SVA domain";
  readonly owner: FakeDriver;
  readonly mm: Mm;
  readonly freed: () => void;
  readonly refuses: () => boolean;

  constructor(owner: FakeDriver, mm: Mm, freed: () => void, refuses: () => boolean) {
    super();
    this.owner = owner;
    this.mm = mm;
    this.freed = freed;
    this.refuses = refuses;
  }

  override *setDevicePasid(): Task<void> {
    if (this.refuses()) refuse(EINVAL, () => "a fake domain does not fit");
  }

  override free(): void {
    this.freed();
  }
}

/** Devices "a", "b", … with PASIDs of 8 bits, one IOMMU with 16, and processes. */
function setUp(options: { cpu?: CpuOptions; driver?: Partial<IommuDriver> } = {}) {
  const system = new System();
  const memory = new PhysicalMemory(system, { ram: [{ base: 0, size: 2 ** 24 }] });
  const cpu = new Cpu(system, memory, options.cpu);
  const sva = new Sva(system, cpu);
  const core = new IommuCore(system, { defaultDomain: "identity" });
  const driver = new FakeDriver(core);
  const domains = new Set<FakeSvaDomain>();
  const refused = new Set<FakeSvaDomain>();
  const responses: [number, number][] = [];
  Object.assign(driver, {
    *allocateSva(_device: Device, mm: Mm): Task<SvaDomain> {
      system.failures.point("fake.sva.allocate");
      const domain: FakeSvaDomain = new FakeSvaDomain(
        driver,
        mm,
        () => domains.delete(domain),
        () => refused.has(domain),
      );
      domains.add(domain);
      return domain;
    },
    *pageResponse(_device: Device, request: PageRequest, code: number): Task<void> {
      responses.push([request.group, code]);
    },
    ...options.driver,
  });
  const blocks: string[] = [];
  driver.blockedDomain = Object.assign(new FakeStaticDomain("blocked", driver), {
    *setDevicePasid(device: Device, pasid: number): Task<void> {
      blocks.push(`${device.name} ${pasid}`);
    },
  });
  const run = <T>(code: Task<T>): T => system.run("test", code);
  run(core.register(fakeInstance(driver, "iommu0", 2 ** 16)));
  const device = (name: string, pasidBits = 8): Device => {
    const made = new Device({ name, firmware: { instance: "iommu0", streamIds: [], pasidBits } });
    run(core.probe(made));
    return made;
  };
  let pid = 0;
  const process = (): LibraryProcess => new LibraryProcess(system, memory, { pid: ++pid });
  const bind = (to: Device, of: LibraryProcess): SvaHandle => run(sva.bind(to, of.memory));
  const unbind = (handle: SvaHandle): void => run(sva.unbind(handle));
  const errno = (code: Task<unknown>): number => {
    try {
      run(code);
      return 0;
    } catch (error) {
      if (error instanceof Refusal) return error.errno;
      throw error;
    }
  };
  return {
    ...{ system, memory, cpu, sva, core, driver, domains, refused, responses, blocks },
    ...{ run, device, process, bind, unbind, errno },
  };
}

describe("binding a process to a device", () => {
  it("again gives the same handle, which lasts as long as one bind is left", () => {
    const { device, process, bind, unbind, blocks, domains } = setUp();
    const [a, p] = [device("a"), process()];
    const first = bind(a, p);
    const second = bind(a, p);
    expect(second).toBe(first);
    expect([first.users, first.pasid, a.group!.handles.get(first.pasid)]).toEqual([2, 1, first]);
    unbind(first);
    expect([first.users, blocks, domains.size]).toEqual([1, [], 1]);
    unbind(second);
    expect([first.users, blocks, domains.size]).toEqual([0, ["a 1"], 0]);
    expect(a.group!.handles.size).toBe(0);
    expect(bind(a, p)).not.toBe(first);
  });

  it("shares one domain and one PASID among devices, and detaches each at its own last unbind", () => {
    const { device, process, bind, unbind, blocks, domains, sva } = setUp();
    const [a, b, p] = [device("a"), device("b"), process()];
    const [onA, alsoA, onB] = [bind(a, p), bind(a, p), bind(b, p)];
    expect([onB.pasid, onB.domain]).toEqual([onA.pasid, onA.domain]);
    expect(onB).not.toBe(onA);
    expect(sva.mms).toEqual([onA.mm]);
    unbind(onA);
    unbind(alsoA);
    expect([blocks, domains.size, b.group!.handles.get(1)]).toEqual([["a 1"], 1, onB]);
    unbind(onB);
    expect([blocks, domains.size, sva.mms]).toEqual([["a 1", "b 1"], 0, []]);
  });

  it("keeps the PASID of a process until its memory is gone for good, and gives each process its own", () => {
    const { device, process, bind, unbind, sva } = setUp();
    const [a, b, p, q] = [device("a"), device("b"), process(), process()];
    const onA = bind(a, p);
    expect(bind(a, q).pasid).toBe(2);
    unbind(onA);
    expect(bind(b, process()).pasid).toBe(3);
    const again = bind(b, p);
    expect([again.pasid, sva.pasidOf(again.mm)]).toEqual([1, 1]);
    p.exit();
    expect(bind(a, process()).pasid).toBe(4);
    unbind(again);
    expect(bind(a, process()).pasid).toBe(1);
  });

  it("survives the end of the process, translating nothing, until it is unbound; then the number may be used again", () => {
    const { memory, device, process, bind, unbind, errno, sva, domains } = setUp();
    const [a, b, p] = [device("a"), device("b"), process()];
    const handle = bind(a, p);
    p.exit();
    expect([handle.mm.released, domains.size, sva.mms]).toEqual([true, 1, [handle.mm]]);
    expect(bind(a, p)).toBe(handle);
    unbind(handle);
    const onB = bind(b, p);
    expect(onB.domain).toBe(handle.domain);
    unbind(onB);
    unbind(handle);
    expect([domains.size, memory.usedFrames]).toEqual([0, 0]);
    expect(errno(sva.bind(a, p.memory))).toBe(EINVAL);
    expect(bind(a, process()).pasid).toBe(1);
  });

  it("tries a domain of its own where those of the process do not fit, and only that one's error counts", () => {
    const { device, process, bind, errno, sva, domains, refused } = setUp();
    const [a, b, c, p] = [device("a"), device("b"), device("c"), process()];
    const onA = bind(a, p);
    const [first] = domains;
    refused.add(first);
    const onB = bind(b, p);
    expect([onB.domain === onA.domain, onB.pasid, domains.size]).toEqual([false, onA.pasid, 2]);
    expect(bind(c, p).domain).toBe(onB.domain);
    for (const domain of domains) refused.add(domain);
    p.exit();
    expect(errno(sva.bind(device("d"), p.memory))).toBe(EINVAL);
  });

  it("by several threads at once, in whatever order, ends with one handle", () => {
    for (let seed = 0; seed < 60; seed++) {
      const { system, device, process, sva, domains, blocks } = setUp();
      const [a, b, p] = [device("a"), device("b"), process()];
      system.tasks.exploring = true;
      let state = seed;
      system.tasks.choose = (ready) => {
        state = (state * 1103515245 + 12345) % 2 ** 31;
        return state % ready.length;
      };
      const thread = function* (to: Device): Task<SvaHandle> {
        const handle = yield* sva.bind(to, p.memory);
        yield* system.tasks.point();
        yield* sva.unbind(handle);
        return yield* sva.bind(to, p.memory);
      };
      const handles: SvaHandle[] = [];
      for (const to of [a, a, b]) {
        system.tasks.spawn("thread", thread(to), (outcome) => {
          if (!outcome.ok) throw outcome.error;
          handles.push(outcome.value);
        });
      }
      system.tasks.drain();
      expect(handles.map(({ pasid }) => pasid)).toEqual([1, 1, 1]);
      const onA = handles.filter((handle) => handle.device === a);
      expect([onA[0] === onA[1], onA[0].users, domains.size]).toEqual([true, 2, 1]);
      for (const handle of handles) system.run("unbind", sva.unbind(handle));
      expect([domains.size, a.group!.handles.size, b.group!.handles.size]).toEqual([0, 0, 0]);
      expect(new Set(blocks)).toEqual(new Set(["a 1", "b 1"]));
    }
  });
});

describe("a bind is refused", () => {
  it("without a group, or a CPU whose tables devices can walk", () => {
    const { process, sva, errno } = setUp();
    const stray = new Device({ name: "stray" });
    const gone = process();
    gone.exit();
    expect(errno(sva.bind(stray, gone.memory))).toBe(ENODEV);
    const other = setUp({ cpu: { sharesTables: false } });
    expect(other.errno(other.sva.bind(other.device("a"), other.process().memory))).toBe(EBUSY);
  });

  it("where the device does not reach the PASID of the process, or has none to give", () => {
    const { device, process, bind, errno, sva } = setUp();
    const [wide, narrow, none] = [device("wide"), device("narrow", 1), device("none", 0)];
    const [p, q] = [process(), process()];
    bind(wide, p);
    // Two numbers, of which 0 stands for none and 1 is taken.
    expect(errno(sva.bind(narrow, q.memory))).toBe(ENOSPC);
    bind(wide, q);
    expect(errno(sva.bind(narrow, q.memory))).toBe(EOVERFLOW);
    expect(errno(sva.bind(none, q.memory))).toBe(EOVERFLOW);
    expect(errno(sva.bind(none, process().memory))).toBe(ENOSPC);
    expect(bind(narrow, p).pasid).toBe(1);
  });

  it("once all PASIDs are given away, until one comes back", () => {
    const { device, process, bind, unbind, errno, sva } = setUp();
    const a = device("a", 3);
    const bound = Array.from({ length: 7 }, () => {
      const p = process();
      return { p, handle: bind(a, p) };
    });
    expect(bound.map(({ handle }) => handle.pasid)).toEqual([1, 2, 3, 4, 5, 6, 7]);
    const late = process();
    expect(errno(sva.bind(a, late.memory))).toBe(ENOSPC);
    bound[4].p.exit();
    expect(errno(sva.bind(a, late.memory))).toBe(ENOSPC);
    unbind(bound[4].handle);
    expect(bind(a, late).pasid).toBe(5);
  });

  it("where something else has the PASID on that device", () => {
    const { device, process, run, errno, sva, driver } = setUp();
    const a = device("a");
    const paging = Object.assign(new FakePagingDomain(driver), { *setDevicePasid(): Task<void> {} });
    run(attachPasid(a.group!, paging, 1, { of: "somebody" }));
    expect(errno(sva.bind(a, process().memory))).toBe(EBUSY);
  });

  it("by a driver that knows nothing of it", () => {
    const { device, process, errno, sva, domains } = setUp({ driver: { allocateSva: undefined } });
    expect([errno(sva.bind(device("a"), process().memory)), domains.size]).toEqual([EOPNOTSUPP, 0]);
  });

  it("where memory is short, at whatever point, and then nothing is left of it", () => {
    for (let nth = 1; ; nth++) {
      const { system, memory, device, process, errno, sva, domains, bind, unbind } = setUp();
      const [a, p] = [device("a"), process()];
      let point = 0;
      system.failures.inject(() => ++point === nth);
      const failed = errno(sva.bind(a, p.memory));
      system.failures.inject(undefined);
      if (failed === 0) {
        expect(nth).toBeGreaterThan(4);
        break;
      }
      expect([failed, domains.size, a.group!.handles.size, sva.mms]).toEqual([ENOMEM, 0, 0, []]);
      unbind(bind(a, p));
      p.exit();
      expect(memory.usedFrames).toBe(0);
    }
  });
});

describe("a page request of a bound device", () => {
  function withFaults() {
    const world = setUp();
    const [a, p] = [world.device("a"), world.process()];
    const handle = world.bind(a, p);
    allowPageRequests(a);
    const { table } = handle.mm;
    const address = p.memory.map(2);
    const readOnly = p.memory.map(1, { writable: false });
    let group = 0;
    const report = (...pages: { at: number; rights?: number; flags?: number }[]): void => {
      group++;
      for (const [i, { at, rights = REQUEST_READ, flags = REQUEST_PASID_VALID }] of pages.entries()) {
        const last = i === pages.length - 1 ? REQUEST_LAST_PAGE : 0;
        const request = { flags: flags | last, pasid: handle.pasid, group, rights, address: BigInt(at) };
        world.system.tasks.start("report", reportPageRequest(a, request));
      }
    };
    return { ...world, a, p, handle, table, address, readOnly, report };
  }

  it("brings in what the process would find there", () => {
    const { table, address, report, responses } = withFaults();
    report({ at: address + 10 }, { at: address + PAGE_SIZE, rights: REQUEST_WRITE });
    expect(responses).toEqual([[1, RESPONSE_SUCCESS]]);
    expect([...table.leaves()].map(({ iova }) => iova)).toEqual([address, address + PAGE_SIZE]);
  });

  it("ends at the first page that the process may not use so", () => {
    const { table, address, readOnly, report, responses } = withFaults();
    report({ at: address }, { at: readOnly, rights: REQUEST_WRITE }, { at: address + PAGE_SIZE });
    report({ at: 0x1000 });
    expect(responses).toEqual([
      [1, RESPONSE_INVALID],
      [2, RESPONSE_INVALID],
    ]);
    expect([...table.leaves()].map(({ iova }) => iova)).toEqual([address]);
  });

  it("is answered INVALID once the process is gone", () => {
    const { p, address, report, responses } = withFaults();
    p.exit();
    report({ at: address });
    expect(responses).toEqual([[1, RESPONSE_INVALID]]);
  });

  it("that waits for a change of the mappings is answered INVALID by the unbind, once, and the change still ends", () => {
    const { system, p, handle, address, report, responses, unbind, memory } = withFaults();
    const [start, end] = [address, address + PAGE_SIZE];
    p.memory.notifiers.invalidateStart(start, end);
    report({ at: address });
    expect(responses).toEqual([]);
    unbind(handle);
    expect(responses).toEqual([[1, RESPONSE_INVALID]]);
    p.memory.notifiers.invalidateEnd(start, end);
    system.tasks.drain();
    expect(responses).toHaveLength(1);
    p.exit();
    expect(memory.usedFrames).toBe(0);
  });
});

it("hardware forgets all of every bound process when tables of the kernel's own addresses go", () => {
  const { device, process, bind, sva } = setUp();
  const [p, q] = [process(), process()];
  const told: number[] = [];
  for (const [i, one] of [p, q].entries()) {
    bind(device(`d${i}`), one).mm.use({
      invalidate: ({ start, end }) => told.push(end - start),
      release: () => undefined,
    });
  }
  sva.kernelTablesFreed();
  expect(told).toEqual([2 ** 48, 2 ** 48]);
});
