import { describe, expect, it } from "vitest";
import { PhysicalMemory } from "../memory/index.ts";
import { System, type Task } from "../runtime/index.ts";
import {
  addressTranslation,
  disableAts,
  disablePageRequests,
  EXTENDED_PRI,
  enableAts,
  enablePageRequests,
  express,
  MsiController,
  type PageGroupStatus,
  type PageRequestMessage,
  PciDevice,
  PciHost,
  PRI_STATUS,
  pageRequests,
  type TranslationCompletion,
  type TranslationRequest,
} from "./index.ts";

const PAGE = 4096;
const IOVA = 0x10_0000;

class Master extends PciDevice {
  constructor(system: System) {
    const capabilities = [
      express({ type: "integratedEndpoint", functionLevelReset: true }),
      addressTranslation(),
      pageRequests({ capacity: 3 }),
    ];
    super(system, { vendor: 1, device: 2, classCode: 0, capabilities });
  }

  protected override reset(): void {}
}

/** A host with one device, and an agent whose translations are a map from page to page. */
class Bench {
  readonly system = new System();
  readonly memory = new PhysicalMemory(this.system, { ram: [{ base: 0, size: 2 ** 24 }] });
  readonly host: PciHost;
  readonly device: Master;
  readonly pages = new Map<number, { physical: number; size?: number; write?: boolean }>();
  readonly asked: TranslationRequest[] = [];
  readonly requests: PageRequestMessage[] = [];
  readonly untranslated: bigint[] = [];
  /** What the agent does with a page request. */
  onRequest: (request: PageRequestMessage) => void = () => undefined;

  constructor() {
    const { memory } = this;
    const target = {
      access: function* (this: Bench, _: number, _pasid: number | undefined, address: bigint): Task<boolean> {
        this.untranslated.push(address);
        return true;
      }.bind(this),
      agent: {
        requestTranslation: (_: number, request: TranslationRequest) => this.answer(request),
        accessTranslated: (_: number, physical: number, bytes: Uint8Array, write: boolean) =>
          memory.access(physical, bytes, write),
        requestPage: (_: number, request: PageRequestMessage) => {
          this.requests.push(request);
          this.onRequest(request);
        },
      },
    };
    this.host = new PciHost(this.system, {
      target,
      interrupts: new MsiController({ start: 0x800_0000n, last: 0x80f_ffffn }),
    });
    this.device = new Master(this.system);
    this.host.root.add(this.device, 1);
    this.host.enumerate();
    this.device.writeConfig(4, 2, 6);
  }

  private answer(request: TranslationRequest): TranslationCompletion {
    this.asked.push(request);
    const page = Number(request.address);
    for (const [start, { physical, size = PAGE, write = true }] of this.pages) {
      if (page >= start && page < start + size) return { physical, size, read: true, write: write && !request.noWrite };
    }
    return { physical: 0, size: PAGE, read: false, write: false };
  }

  dma(address: number, length = 4, write = false, pasid?: number): boolean {
    const { dma } = this.device;
    const bytes = new Uint8Array(length).fill(0xaa);
    const task = write ? dma.write(BigInt(address), bytes, pasid) : dma.read(BigInt(address), bytes, pasid);
    return this.system.run("dma", task);
  }

  forget(span?: { address: bigint; size: bigint }, pasid?: number): boolean {
    let isDone = false;
    this.host.invalidate(this.device.requesterId, { pasid, span }, () => {
      isDone = true;
    });
    return isDone;
  }

  /** The agent's answer, also in the middle of a request. */
  answerGroup(group: number, status: PageGroupStatus = "success"): void {
    this.host.respond(this.device.requesterId, { pasid: undefined, group, status });
  }

  respond(group: number, status: PageGroupStatus): void {
    this.answerGroup(group, status);
    this.system.tasks.drain();
  }

  get cache() {
    return this.device.translationCache!;
  }

  get priStatus(): number {
    return this.device.readConfig(this.device.extendedCapability(EXTENDED_PRI)! + PRI_STATUS, 2);
  }
}

function enabled(): Bench {
  const bench = new Bench();
  enableAts(bench.device, PAGE);
  bench.pages.set(IOVA, { physical: 0x2000 });
  return bench;
}

describe("a device with ATS", () => {
  it("asks once, and uses the translation from then on", () => {
    const bench = enabled();
    bench.pages.set(IOVA + PAGE, { physical: 0x7000 });
    expect(bench.dma(IOVA + 0xff8, 16, true)).toBe(true);
    expect([bench.memory.readWord(0x2ff8), bench.memory.readWord(0x7004)]).toEqual([0xaaaaaaaa, 0xaaaaaaaa]);
    expect(bench.dma(IOVA + 0xff0, 32, true)).toBe(true);
    expect(bench.asked.map(({ address }) => Number(address))).toEqual([IOVA, IOVA + PAGE]);
    expect([bench.cache.size, bench.untranslated]).toEqual([2, []]);
  });

  it("that is off sends what it has, untranslated; so does every interrupt message", () => {
    const bench = enabled();
    disableAts(bench.device);
    bench.dma(IOVA);
    enableAts(bench.device, PAGE);
    bench.host.sendMessage(bench.device, { address: 0x900_0000n, data: 1 });
    bench.system.tasks.drain();
    expect(bench.untranslated).toEqual([BigInt(IOVA), 0x900_0000n]);
  });

  it("asks for writing when it writes, even where it may read already", () => {
    const bench = enabled();
    expect([bench.dma(IOVA), bench.dma(IOVA, 4, true), bench.dma(IOVA)]).toEqual([true, true, true]);
    expect(bench.asked.map(({ noWrite }) => noWrite)).toEqual([true, false]);
    bench.pages.set(IOVA + PAGE, { physical: 0x3000, write: false });
    expect(bench.dma(IOVA + PAGE, 4, true)).toBe(false);
  });

  it("keeps nothing where there is no access, and asks again", () => {
    const bench = enabled();
    expect([bench.dma(IOVA + PAGE), bench.cache.size]).toEqual([false, 0]);
    bench.pages.set(IOVA + PAGE, { physical: 0x3000 });
    expect(bench.dma(IOVA + PAGE)).toBe(true);
  });

  it("uses large leaves whole, each under its own PASID", () => {
    const bench = enabled();
    bench.pages.set(0x20_0000, { physical: 0x40_0000, size: 2 ** 21 });
    bench.dma(0x20_1000, 4, true);
    bench.dma(0x3f_fff0, 16, true);
    expect([bench.asked.length, bench.memory.readWord(0x5f_fff0)]).toEqual([1, 0xaaaaaaaa]);
    bench.dma(0x20_1000, 4, true, 5);
    expect(bench.asked.map(({ pasid }) => pasid)).toEqual([undefined, 5]);
  });

  it("keeps a bounded number of translations", () => {
    const bench = enabled();
    for (let page = 0; page < 200; page++) {
      bench.pages.set(IOVA + page * PAGE, { physical: page * PAGE });
      bench.dma(IOVA + page * PAGE);
    }
    expect(bench.cache.size).toBe(64);
  });

  it("forgets a span of one PASID, or of all, when told to", () => {
    const bench = enabled();
    const fill = (): void => {
      for (const pasid of [undefined, 5]) bench.dma(IOVA, 4, false, pasid);
    };
    fill();
    expect(bench.forget({ address: BigInt(IOVA + PAGE), size: 4096n })).toBe(true);
    expect(bench.cache.size).toBe(2);
    bench.forget({ address: BigInt(IOVA), size: 4096n }, 5);
    expect(bench.cache.size).toBe(1);
    fill();
    bench.forget({ address: BigInt(IOVA), size: 4096n });
    expect(bench.cache.size).toBe(0);
    fill();
    bench.forget(undefined, 5);
    expect(bench.cache.size).toBe(1);
    bench.forget();
    expect(bench.cache.size).toBe(0);
  });

  it("forgets everything when ATS is turned off, and when it is reset, which turns it off", () => {
    const bench = enabled();
    bench.dma(IOVA);
    disableAts(bench.device);
    expect(bench.cache.size).toBe(0);
    enableAts(bench.device, PAGE);
    bench.dma(IOVA);
    bench.device.functionLevelReset();
    expect([bench.cache.size, bench.cache.isEnabled]).toEqual([0, false]);
  });

  it("finishes what is under way with a translation before it says that it has forgotten it", () => {
    const bench = enabled();
    bench.dma(IOVA, 4, true);
    const { tasks } = bench.system;
    tasks.exploring = true;
    let isForgotten = false;
    let atForgetting: number | undefined;
    tasks.spawn("dma", bench.device.dma.write(BigInt(IOVA + 8), new Uint8Array(4).fill(0xbb)));
    tasks.spawn(
      "forget",
      (function* (): Task<void> {
        isForgotten = bench.forget();
        atForgetting = bench.memory.readWord(0x2008);
        yield* tasks.point();
      })(),
    );
    // The DMA begins, and stops with its translation in hand.
    tasks.drain();
    expect([isForgotten, atForgetting]).toEqual([true, 0xbbbbbbbb]);
  });

  it("throws an answer away that an invalidation overtook", () => {
    const bench = enabled();
    const { tasks } = bench.system;
    tasks.exploring = true;
    tasks.spawn("dma", bench.device.dma.write(BigInt(IOVA), new Uint8Array(4).fill(0xbb)));
    tasks.spawn(
      "remap",
      (function* (): Task<void> {
        bench.pages.set(IOVA, { physical: 0x5000 });
        bench.forget();
        yield* tasks.point();
      })(),
    );
    tasks.drain();
    expect([bench.memory.readWord(0x2000), bench.memory.readWord(0x5000)]).toEqual([0, 0xbbbbbbbb]);
    expect(bench.asked.length).toBe(2);
  });

  it("is not found by a message for another, and refuses what it has no cache for", () => {
    const bench = enabled();
    let done = 0;
    const message = { pasid: undefined, span: undefined };
    expect(bench.host.invalidate(0x500, message, () => done++)).toBe(false);
    expect(done).toBe(0);
  });
});

describe("a device with page requests", () => {
  function asking(allocation = 3): Bench {
    const bench = enabled();
    enablePageRequests(bench.device, allocation);
    return bench;
  }

  it("asks for what is not there, as one group, and goes on when it is", () => {
    const bench = asking();
    bench.onRequest = ({ last, group }) => {
      if (!last) return;
      bench.pages.set(0x5000, { physical: 0x8000 });
      bench.pages.set(0x6000, { physical: 0x9000 });
      bench.answerGroup(group);
    };
    expect(bench.dma(0x5ff8, 16, true, 7)).toBe(true);
    expect(bench.requests).toEqual([
      { pasid: 7, address: 0x5000n, read: false, write: true, group: 0, last: false },
      { pasid: 7, address: 0x6000n, read: false, write: true, group: 0, last: true },
    ]);
    expect(bench.memory.readWord(0x9000)).toBe(0xaaaaaaaa);
  });

  it("has no more requests outstanding than it was allowed", () => {
    const bench = asking(3);
    const outcomes: boolean[] = [];
    const start = (address: number, pages: number): void => {
      const task = bench.device.dma.read(BigInt(address), new Uint8Array(pages * PAGE));
      bench.system.tasks.start("dma", task, (outcome) => outcomes.push(outcome.ok && outcome.value));
    };
    start(0x5_0000, 2);
    start(0x6_0000, 2);
    start(0x7_0000, 1);
    expect(bench.requests.map(({ address, group }) => [Number(address), group])).toEqual([
      [0x5_0000, 0],
      [0x5_1000, 0],
      [0x7_0000, 1],
    ]);
    bench.respond(0, "invalid request");
    expect(bench.requests.slice(3).map(({ address, group }) => [Number(address), group])).toEqual([
      [0x6_0000, 0],
      [0x6_1000, 0],
    ]);
    expect(outcomes).toEqual([false]);
    bench.respond(1, "invalid request");
    bench.respond(0, "invalid request");
    expect(outcomes).toEqual([false, false, false]);
  });

  it("gives up a page that was promised in vain, after a while", () => {
    const bench = asking();
    bench.onRequest = ({ group }) => bench.answerGroup(group);
    expect(bench.dma(0x5000)).toBe(false);
    expect(bench.requests.length).toBe(5);
  });

  it("asks no more after a failure, until that is cleared", () => {
    const bench = asking();
    bench.onRequest = ({ group }) => bench.answerGroup(group, "response failure");
    expect([bench.dma(0x5000), bench.dma(0x5000), bench.requests.length]).toEqual([false, false, 1]);
    expect(bench.priStatus & 1).toBe(1);
    enablePageRequests(bench.device, 3);
    expect([bench.dma(0x5000), bench.requests.length]).toEqual([false, 2]);
  });

  it("tells answers that nobody waits for, and when it has stopped", () => {
    const bench = asking();
    bench.respond(9, "success");
    expect(bench.priStatus & 2).toBe(2);
    const outcomes: boolean[] = [];
    const task = bench.device.dma.read(0x5000n, new Uint8Array(4));
    bench.system.tasks.start("dma", task, (outcome) => outcomes.push(outcome.ok && outcome.value));
    disablePageRequests(bench.device);
    expect(bench.priStatus & 0x100).toBe(0);
    bench.respond(0, "invalid request");
    expect([bench.priStatus & 0x100, outcomes]).toEqual([0x100, [false]]);
  });

  it("waits for nothing after a reset", () => {
    const bench = asking();
    const outcomes: boolean[] = [];
    const task = bench.device.dma.read(0x5000n, new Uint8Array(4));
    bench.system.tasks.start("dma", task, (outcome) => outcomes.push(outcome.ok && outcome.value));
    bench.device.functionLevelReset();
    bench.system.tasks.drain();
    expect(outcomes).toEqual([false]);
  });
});
