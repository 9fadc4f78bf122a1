import { describe, expect, it } from "vitest";
import { PROT_READ, PROT_WRITE } from "../../pagetable/index.ts";
import type {
  AtsRequesters,
  InvalidationMessage,
  PageGroupResponse,
  PageRequestMessage,
  TranslationCompletion,
} from "../../pci/index.ts";
import { CERROR_ATC_INV_SYNC } from "./commands.ts";
import {
  CMDQ_CONS,
  CMDQ_PROD,
  CR0,
  GERROR,
  GERRORN,
  IRQ_CTRL,
  PAGE1,
  PRIQ_BASE,
  PRIQ_CONS,
  PRIQ_IRQ_CFG2,
  PRIQ_LAST_ONLY,
  PRIQ_PROD,
} from "./registers.ts";
import {
  cdWords,
  NOWHERE,
  RAM_BASE,
  STE_ABORT,
  STE_BYPASS,
  STE_NESTED,
  STE_STAGE1,
  STE_STAGE2,
  steWords,
  Workbench,
} from "./workbench.test-support.ts";

const STREAM = 8;
const PAGE = 4096;
const IOVA = 0x4000_0000;
const DATA = RAM_BASE + 0x40_0000;
const CR0_ON = 0xf;
const ATSCHK = 0x10;
/** EATS, in word 1 of an STE. */
const EATS = 2n ** 28n;
const SYNC = [0x46n, 0n] as const;
const PRIQ = RAM_BASE + 0x50000;

/** An SMMU with ATS and PRI, and devices that note what they are told. */
class AtsBench extends Workbench implements AtsRequesters {
  readonly invalidations: (InvalidationMessage & { requester: number })[] = [];
  readonly responses: PageGroupResponse[] = [];
  /** What devices do with an invalidation: answer, answer later, or not at all. */
  manner: "at once" | "later" | "never" = "at once";
  readonly later: (() => void)[] = [];

  constructor(features: object = {}) {
    const requesters: AtsRequesters = {
      invalidate: (requester, message, done) => this.invalidate(requester, message, done),
      respond: (requester, response) => this.respond(requester, response),
    };
    super({ features: { ats: true, pri: true, ...features }, smmu: { requesters } });
    this.writeRegister64(PRIQ_BASE, PRIQ + 2);
    this.smmu.write32(IRQ_CTRL, 7);
  }

  on(checks = true): this {
    this.smmu.write32(CR0, CR0_ON + (checks ? ATSCHK : 0));
    return this;
  }

  invalidate(requester: number, message: InvalidationMessage, done: () => void): boolean {
    this.invalidations.push({ requester, ...message });
    if (this.manner === "at once") done();
    else if (this.manner === "later") this.later.push(done);
    return this.manner !== "never";
  }

  respond(_requester: number, response: PageGroupResponse): void {
    this.responses.push(response);
  }

  /** Asks for a translation. */
  ask(address: number | bigint, options: { noWrite?: boolean; pasid?: number } = {}): TranslationCompletion {
    const { noWrite = false, pasid } = options;
    return this.smmu.agent.requestTranslation(STREAM, { pasid, address: BigInt(address), noWrite });
  }

  /** Reads 4 bytes with a translated address; undefined if aborted. */
  readTranslated(physical: number): number | undefined {
    const bytes = new Uint8Array(4);
    const ok = this.smmu.agent.accessTranslated(STREAM, physical, bytes, false);
    return ok ? new DataView(bytes.buffer).getUint32(0, true) : undefined;
  }

  /** Stage 1 with a page at IOVA, another that is read-only behind it, and EATS. */
  stage1(eats = 1): void {
    const table = this.stage1Table();
    table.map(IOVA, DATA, PAGE, PROT_READ | PROT_WRITE);
    table.map(IOVA + PAGE, DATA + PAGE, PAGE, PROT_READ);
    table.map(0x20_0000, DATA, 2 ** 21, PROT_READ | PROT_WRITE);
    const contexts = this.writeCds(cdWords({ table }));
    this.writeSte(STREAM, steWords(STE_STAGE1, { contexts, word1: BigInt(eats) * EATS }));
  }

  /** Both stages: IOVA → IPA 0x1000 (writable), 0x2000 → DATA, DATA + PAGE (read only at stage 2). */
  nested(eats: number, options: { stalls?: boolean } = {}): void {
    const stage2 = this.stage2Table();
    // Stage 1 tables and CDs lie where they are.
    stage2.map(RAM_BASE, RAM_BASE, 2 ** 28, PROT_READ | PROT_WRITE);
    stage2.map(0x1000, DATA, PAGE, PROT_READ | PROT_WRITE);
    stage2.map(0x2000, DATA + PAGE, PAGE, PROT_READ);
    const table = this.stage1Table();
    table.map(IOVA, 0x1000, PAGE, PROT_READ | PROT_WRITE);
    table.map(IOVA + PAGE, 0x2000, PAGE, PROT_READ | PROT_WRITE);
    table.map(IOVA + 2 * PAGE, 0x9000, PAGE, PROT_READ | PROT_WRITE);
    const contexts = this.writeCds(cdWords({ table }));
    const word1 = BigInt(eats) * EATS;
    this.writeSte(STREAM, steWords(STE_NESTED, { contexts, stage2: { table: stage2, ...options }, word1 }));
  }

  eventIds(): number[] {
    return this.takeEvents().map(([word]) => Number(word % 256n));
  }
}

const NO_ACCESS = { physical: 0, size: PAGE, read: false, write: false };

describe("a translation request", () => {
  it("is answered with the leaf, and what it allows", () => {
    const bench = new AtsBench().on();
    bench.stage1();
    expect(bench.ask(IOVA + 0x123)).toEqual({ physical: DATA, size: PAGE, read: true, write: true });
    expect(bench.ask(IOVA + PAGE)).toEqual({ physical: DATA + PAGE, size: PAGE, read: true, write: false });
    expect(bench.ask(0x20_3456)).toEqual({ physical: DATA, size: 2 ** 21, read: true, write: true });
    expect(bench.ask(IOVA, { noWrite: true })).toMatchObject({ read: true, write: false });
    expect(bench.eventIds()).toEqual([]);
  });

  it("that faults is answered without access: nothing is recorded, but it is told to people", () => {
    const bench = new AtsBench().on();
    bench.stage1();
    expect(bench.ask(IOVA + 2 * PAGE)).toEqual(NO_ACCESS);
    expect(bench.ask(2n ** 60n)).toEqual(NO_ACCESS);
    expect(bench.eventIds()).toEqual([]);
    expect(bench.faults.map(({ recorded }) => recorded)).toEqual([false, false]);
    expect(bench.faults[0].text()).toMatch(/F_TRANSLATION: .*bit 0 is 0/);
  });

  it("never stalls", () => {
    const bench = new AtsBench().on();
    const table = bench.stage1Table();
    const contexts = bench.writeCds(cdWords({ table, stalls: true }));
    bench.writeSte(STREAM, steWords(STE_STAGE1, { contexts, word1: EATS }));
    expect(bench.ask(IOVA)).toEqual(NO_ACCESS);
    expect(bench.smmu.occupancy.stalled).toBe(0);
  });

  it("marks the page for hardware's own account: a write makes it dirty, a read does not", () => {
    const bench = new AtsBench({ dirtyTracking: true }).on();
    const table = bench.stage1Table();
    table.map(IOVA, DATA, PAGE, PROT_READ | PROT_WRITE);
    // HA and HD; the page is writable-clean: DBM with AP[2].
    const contexts = bench.writeCds(cdWords({ table, flip: 2n ** 42n + 2n ** 43n }));
    bench.writeSte(STREAM, steWords(STE_STAGE1, { contexts, word1: EATS }));
    let leaf = 0;
    for (const { address } of leavesOf(bench, table.root)) leaf = address;
    bench.write(leaf, bench.read(leaf) + 2n ** 51n + 0x80n);
    const isClean = (): boolean => (bench.read(leaf) / 0x80n) % 2n === 1n;
    expect(bench.ask(IOVA, { noWrite: true })).toMatchObject({ read: true, write: false });
    expect(isClean()).toBe(true);
    expect(bench.ask(IOVA)).toMatchObject({ read: true, write: true });
    expect(isClean()).toBe(false);
  });

  it.each<[string, (bench: AtsBench) => void, TranslationCompletion, number[]]>([
    ["an SMMU that is off", (bench) => bench.smmu.write32(CR0, 0xe), "unsupported request", [0x05]],
    ["EATS 0", (bench) => bench.stage1(0), "unsupported request", [0x05]],
    ["a reserved EATS", (bench) => bench.stage1(3), "unsupported request", [0x05]],
    ["bypass", (bench) => bench.writeSte(STREAM, steWords(STE_BYPASS, { word1: EATS })), "unsupported request", [0x05]],
    ["abort", (bench) => bench.writeSte(STREAM, steWords(STE_ABORT)), "unsupported request", []],
    ["no STE", (bench) => bench.writeSte(STREAM, [0n]), "completer abort", []],
    ["an STE with split stage ATS and one stage", (bench) => bench.stage1(2), "completer abort", []],
    ["an STE with stalls at stage 2", (bench) => bench.nested(1, { stalls: true }), "completer abort", []],
    [
      "a CD that is not there",
      (bench) => bench.writeSte(STREAM, steWords(STE_STAGE1, { contexts: NOWHERE, word1: EATS })),
      "completer abort",
      [],
    ],
    [
      "an invalid CD",
      (bench) => bench.writeSte(STREAM, steWords(STE_STAGE1, { contexts: RAM_BASE + 0x38000, word1: EATS })),
      "completer abort",
      [],
    ],
  ])("where there is %s", (_, prepare, answer, events) => {
    const bench = new AtsBench().on();
    prepare(bench);
    expect([bench.ask(IOVA), bench.eventIds()]).toEqual([answer, events]);
  });

  it("with a PASID that has no CD is aborted; where S1DSS skips stage 1 it gets its address back", () => {
    const bench = new AtsBench().on();
    const table = bench.stage1Table();
    table.map(IOVA, DATA, PAGE, PROT_READ);
    const contexts = bench.writeCds(cdWords({ table }), cdWords({ table }));
    bench.writeSte(STREAM, steWords(STE_STAGE1, { contexts, contextBits: 1, s1dss: 1, word1: EATS }));
    expect(bench.ask(IOVA, { pasid: 1 })).toMatchObject({ physical: DATA, read: true, write: false });
    expect(bench.ask(IOVA, { pasid: 2 })).toBe("completer abort");
    expect(bench.ask(0x1234_5678)).toEqual({ physical: 0x1234_5000, size: PAGE, read: true, write: true });
  });

  it("goes through both stages with full ATS, and through the first alone with split stage ATS", () => {
    const bench = new AtsBench().on();
    bench.nested(1);
    expect(bench.ask(IOVA)).toEqual({ physical: DATA, size: PAGE, read: true, write: true });
    expect(bench.ask(IOVA + PAGE)).toEqual({ physical: DATA + PAGE, size: PAGE, read: true, write: false });
    expect(bench.ask(IOVA + 2 * PAGE)).toEqual(NO_ACCESS);

    const split = new AtsBench().on();
    split.nested(2);
    expect(split.ask(IOVA)).toEqual({ physical: 0x1000, size: PAGE, read: true, write: true });
    expect(split.ask(IOVA + PAGE)).toEqual({ physical: 0x2000, size: PAGE, read: true, write: false });
    expect(split.ask(IOVA + 2 * PAGE)).toEqual(NO_ACCESS);
    expect(split.eventIds()).toEqual([]);
  });

  it("for split stage ATS is refused where translated requests are not checked", () => {
    const bench = new AtsBench().on(false);
    bench.nested(2);
    expect([bench.ask(IOVA), bench.eventIds()]).toEqual(["unsupported request", [0x05]]);
  });

  it("says in its event where it went wrong and what was asked for", () => {
    const bench = new AtsBench().on();
    bench.stage1(0);
    bench.ask(IOVA + 0x10, { pasid: 3 });
    bench.ask(IOVA, { noWrite: true });
    const stream = BigInt(STREAM) * 2n ** 32n;
    expect(bench.takeEvents()).toEqual([
      [stream + 0x3805n, 0xc000_0001n, BigInt(IOVA), 0n],
      [stream + 0x05n, 0x8000_0001n, BigInt(IOVA), 0n],
    ]);
  });

  it("is not understood without ATS", () => {
    const bench = new AtsBench({ ats: false }).on();
    bench.stage1();
    expect([bench.ask(IOVA), bench.eventIds()]).toEqual(["unsupported request", []]);
  });
});

/** Leaves of a table with 4 KiB pages, by hand. */
function* leavesOf(bench: AtsBench, root: number, level = 0): Iterable<{ address: number }> {
  for (let index = 0; index < 512; index++) {
    const descriptor = bench.read(root + 8 * index);
    if (descriptor % 2n === 0n) continue;
    if (level === 3) yield { address: root + 8 * index };
    else yield* leavesOf(bench, Number(((descriptor / 4096n) % 2n ** 36n) * 4096n), level + 1);
  }
}

describe("a translated request", () => {
  const put = (bench: AtsBench): void => bench.write(DATA, 0x1234_5678n);

  it("passes without a check, or, with ATSCHK, where the stream may have ATS", () => {
    const unchecked = new AtsBench().on(false);
    put(unchecked);
    expect(unchecked.readTranslated(DATA)).toBe(0x1234_5678);
    const bench = new AtsBench().on();
    put(bench);
    bench.stage1();
    expect(bench.readTranslated(DATA)).toBe(0x1234_5678);
    expect(bench.readTranslated(NOWHERE)).toBeUndefined();
    expect(bench.eventIds()).toEqual([]);
  });

  it("goes through stage 2 with split stage ATS; its faults are recorded like any", () => {
    const bench = new AtsBench().on();
    put(bench);
    bench.nested(2);
    expect(bench.readTranslated(0x1000)).toBe(0x1234_5678);
    expect(bench.readTranslated(0x9000)).toBeUndefined();
    expect(bench.smmu.agent.accessTranslated(STREAM, 0x2000, new Uint8Array(4), true)).toBe(false);
    const events = bench.takeEvents();
    expect(events.map(([word]) => Number(word % 256n))).toEqual([0x10, 0x13]);
    // S2, CLASS IN, and the IPA.
    expect(events.map(([, word1, input, ipa]) => [(word1 / 2n ** 39n) % 8n, input, ipa])).toEqual([
      [5n, 0x9000n, 0x9000n],
      [5n, 0x2000n, 0x2000n],
    ]);
  });

  it("beyond the address size is aborted: silently as a physical address, with an event as an intermediate one", () => {
    const [full, split] = [1, 2].map((eats) => {
      const bench = new AtsBench().on();
      bench.nested(eats);
      return bench;
    });
    expect([full.readTranslated(2 ** 50), full.eventIds()]).toEqual([undefined, []]);
    expect(split.readTranslated(2 ** 50)).toBeUndefined();
    const [[word0, word1, input]] = split.takeEvents();
    expect([word0 % 256n, word1, input]).toEqual([0x11n, 0x208_0000_0000n, 2n ** 50n]);
  });

  it("goes to as many pages as stage 2 has for it", () => {
    const bench = new AtsBench().on();
    const stage2 = bench.stage2Table();
    stage2.map(0x1000, DATA, PAGE, PROT_READ | PROT_WRITE);
    stage2.map(0x2000, DATA + 5 * PAGE, PAGE, PROT_READ | PROT_WRITE);
    const contexts = bench.writeCds(cdWords({ table: bench.stage1Table() }));
    bench.writeSte(STREAM, steWords(STE_NESTED, { contexts, stage2: { table: stage2 }, word1: 2n * EATS }));
    expect(bench.smmu.agent.accessTranslated(STREAM, 0x1ffc, new Uint8Array(8).fill(0xaa), true)).toBe(true);
    expect([bench.read(DATA + 0xff8), bench.read(DATA + 5 * PAGE)]).toEqual([0xaaaa_aaaa_0000_0000n, 0xaaaa_aaaan]);
  });

  it.each<[string, (bench: AtsBench) => void, number[]]>([
    ["an SMMU that is off", (bench) => bench.smmu.write32(CR0, 0xe), [0x07]],
    ["EATS 0", (bench) => bench.stage1(0), [0x07]],
    ["bypass", (bench) => bench.writeSte(STREAM, steWords(STE_BYPASS, { word1: EATS })), [0x07]],
    ["abort", (bench) => bench.writeSte(STREAM, steWords(STE_ABORT)), []],
    ["no STE", (bench) => bench.writeSte(STREAM, [0n]), []],
  ])("is aborted where there is %s", (_, prepare, events) => {
    const bench = new AtsBench().on();
    put(bench);
    prepare(bench);
    expect([bench.readTranslated(DATA), bench.eventIds()]).toEqual([undefined, events]);
  });

  it("beyond the output address size is aborted, and not recorded", () => {
    const bench = new AtsBench().on(false);
    expect([bench.readTranslated(2 ** 50), bench.eventIds()]).toEqual([undefined, []]);
  });
});

describe("CMD_ATC_INV", () => {
  const invalidate = (address: bigint, size: bigint, pasid?: bigint): readonly [bigint, bigint] => [
    0x40n + BigInt(STREAM) * 2n ** 32n + (pasid === undefined ? 0n : 0x800n + pasid * 0x1000n),
    address + size,
  ];

  it("names the span, aligned to its size, and the PASID; size 52 is everything", () => {
    const bench = new AtsBench().on();
    bench.commands(invalidate(0x1234_5000n, 0n), invalidate(0x1234_5000n, 9n, 7n), invalidate(0n, 52n), SYNC);
    expect(bench.invalidations).toEqual([
      { requester: STREAM, pasid: undefined, span: { address: 0x1234_5000n, size: 0x1000n } },
      { requester: STREAM, pasid: 7, span: { address: 0x1220_0000n, size: 0x20_0000n } },
      { requester: STREAM, pasid: undefined, span: undefined },
    ]);
    expect(bench.smmu.read32(CMDQ_CONS)).toBe(4);
  });

  it("is for every PASID if it is global, which it can be with a PASID only", () => {
    const bench = new AtsBench().on();
    const [word0, word1] = invalidate(0n, 52n, 7n);
    bench.commands([word0 + 2n ** 9n, word1], [invalidate(0n, 52n)[0] + 2n ** 9n, word1], SYNC);
    expect(bench.invalidations.map(({ pasid }) => pasid)).toEqual([undefined, undefined]);
  });

  it("delays the CMD_SYNC behind it until the device has answered", () => {
    const bench = new AtsBench().on();
    bench.manner = "later";
    bench.commands(invalidate(0n, 52n), invalidate(0n, 52n), SYNC, SYNC);
    expect(bench.smmu.read32(CMDQ_CONS)).toBe(2);
    bench.later[0]();
    expect(bench.smmu.read32(CMDQ_CONS)).toBe(2);
    bench.later[1]();
    expect(bench.smmu.read32(CMDQ_CONS)).toBe(4);
  });

  it("that nobody answers fails the CMD_SYNC behind it, once", () => {
    const bench = new AtsBench().on();
    bench.manner = "never";
    bench.commands(invalidate(0n, 52n), SYNC, SYNC);
    expect([bench.smmu.read32(CMDQ_CONS), bench.smmu.read32(GERROR) & 1]).toEqual([
      CERROR_ATC_INV_SYNC * 2 ** 24 + 1,
      1,
    ]);
    expect(bench.interrupts).toContain("gerror");
    bench.smmu.write32(GERRORN, bench.smmu.read32(GERROR));
    expect(bench.smmu.read32(CMDQ_CONS) % 2 ** 24).toBe(3);
  });

  it("is ignored while the SMMU is off, and illegal with a larger size or without ATS", () => {
    const off = new AtsBench();
    off.smmu.write32(CR0, 8);
    off.commands(invalidate(0n, 0n), SYNC);
    expect([off.invalidations, off.smmu.read32(CMDQ_CONS)]).toEqual([[], 2]);
    const large = new AtsBench().on();
    large.commands(invalidate(0n, 53n));
    expect(large.smmu.read32(CMDQ_CONS)).toBe(2 ** 24);
    const without = new AtsBench({ ats: false }).on();
    without.commands(invalidate(0n, 0n));
    expect(without.smmu.read32(CMDQ_CONS)).toBe(2 ** 24);
  });
});

describe("page requests", () => {
  const request = (more: Partial<PageRequestMessage> = {}): PageRequestMessage => ({
    pasid: undefined,
    address: BigInt(IOVA),
    read: true,
    write: false,
    group: 5,
    last: true,
    ...more,
  });
  const send = (bench: AtsBench, more: Partial<PageRequestMessage> = {}): void =>
    bench.smmu.agent.requestPage(STREAM, request(more));
  const record = (bench: AtsBench, index: number): bigint[] => [0, 8].map((at) => bench.read(PRIQ + 16 * index + at));
  const acknowledge = (bench: AtsBench): void =>
    bench.smmu.write32(PAGE1 + PRIQ_CONS, bench.smmu.read32(PAGE1 + PRIQ_PROD));

  it("are records in their queue, with an interrupt when the first one comes", () => {
    const bench = new AtsBench().on();
    send(bench, { pasid: 0x12345, write: true, last: false, group: 0x1ff });
    send(bench, { address: 0xffff_ffff_ffff_f000n });
    expect(record(bench, 0)).toEqual([
      BigInt(STREAM) + 2n ** 63n + (2n ** 61n + 2n ** 60n) + 0x12345n * 2n ** 32n,
      BigInt(IOVA) + 0x1ffn,
    ]);
    expect(record(bench, 1)).toEqual([BigInt(STREAM) + 2n ** 62n + 2n ** 60n, 0xffff_ffff_ffff_f005n]);
    expect(bench.interrupts).toEqual(["pri"]);
    expect([bench.smmu.read32(PAGE1 + PRIQ_PROD), bench.responses]).toEqual([2, []]);
  });

  it("interrupts for the last ones of groups, lost or not, where LO asks for it", () => {
    const bench = new AtsBench();
    bench.smmu.write32(IRQ_CTRL, 0);
    bench.smmu.write32(PRIQ_IRQ_CFG2, PRIQ_LAST_ONLY);
    bench.smmu.write32(IRQ_CTRL, 7);
    bench.on();
    const interrupts = [false, true, true, false, true, false].map((last) => {
      const before = bench.interrupts.length;
      send(bench, { last });
      return bench.interrupts.length - before;
    });
    expect(interrupts).toEqual([0, 1, 1, 0, 1, 0]);
  });

  it("overflow: further ones are lost, and the last of a group is answered so that the device tries again", () => {
    const bench = new AtsBench().on();
    for (let index = 0; index < 4; index++) send(bench, { group: index });
    send(bench, { group: 4, last: false });
    send(bench, { group: 4, pasid: 9 });
    expect(bench.smmu.read32(PAGE1 + PRIQ_PROD)).toBe(2 ** 31 + 4);
    expect(bench.responses).toEqual([{ pasid: 9, group: 4, status: "success" }]);
    expect(bench.interrupts).toEqual(["pri"]);
    // Room alone is not enough: the overflow must be acknowledged.
    bench.smmu.write32(PAGE1 + PRIQ_CONS, 4);
    send(bench, { group: 6 });
    expect(bench.responses).toHaveLength(2);
    acknowledge(bench);
    send(bench, { group: 7 });
    expect([bench.smmu.read32(PAGE1 + PRIQ_PROD) % 2 ** 31, bench.responses.length]).toEqual([5, 2]);
  });

  it.each([
    ["off", (bench: AtsBench) => bench.smmu.write32(CR0, CR0_ON - 2)],
    ["with the SMMU off", (bench: AtsBench) => bench.smmu.write32(CR0, CR0_ON - 1)],
  ])("to a queue that is %s are failures", (_, prepare) => {
    const bench = new AtsBench().on();
    prepare(bench);
    send(bench, { pasid: 1 });
    // A marker that a PASID stopped is never answered.
    send(bench, { pasid: 1, read: false });
    expect(bench.responses).toEqual([{ pasid: undefined, group: 5, status: "response failure" }]);
    expect(bench.smmu.read32(PAGE1 + PRIQ_PROD)).toBe(0);
  });

  it("to a queue in no memory are failures, and a global error until it is acknowledged", () => {
    const bench = new AtsBench();
    bench.writeRegister64(PRIQ_BASE, NOWHERE + 2);
    bench.on();
    send(bench);
    send(bench);
    expect(bench.responses.map(({ status }) => status)).toEqual(["response failure", "response failure"]);
    expect([bench.smmu.read32(GERROR), bench.smmu.read32(PAGE1 + PRIQ_PROD)]).toEqual([8, 0]);
  });

  it("are answered by CMD_PRI_RESP", () => {
    const bench = new AtsBench().on();
    const answer = (code: bigint, pasid = 0n): readonly [bigint, bigint] => [
      0x41n + pasid + BigInt(STREAM) * 2n ** 32n,
      5n + code * 0x1000n,
    ];
    bench.commands(answer(0n), answer(1n), answer(2n, 0x800n + 0x3000n));
    expect(bench.responses).toEqual([
      { pasid: undefined, group: 5, status: "response failure" },
      { pasid: undefined, group: 5, status: "invalid request" },
      { pasid: 3, group: 5, status: "success" },
    ]);
    bench.commands(answer(3n));
    expect(bench.smmu.read32(CMDQ_CONS)).toBe(2 ** 24 + 3);
  });
});

it("registers and stages that ATS needs are there only with it", () => {
  const without = new AtsBench({ ats: false });
  without.smmu.write32(CR0, CR0_ON + ATSCHK);
  expect(without.smmu.read32(CR0)).toBe(0xd);
  without.smmu.write32(PAGE1 + PRIQ_CONS, 1);
  expect(without.smmu.read32(PAGE1 + PRIQ_CONS)).toBe(0);
  expect(without.smmu.read32(CMDQ_PROD)).toBe(0);
  const stage2 = new AtsBench().on();
  const table = stage2.stage2Table();
  table.map(IOVA, DATA, PAGE, PROT_READ);
  stage2.writeSte(STREAM, steWords(STE_STAGE2, { stage2: { table }, word1: EATS }));
  expect(stage2.ask(IOVA)).toMatchObject({ physical: DATA, read: true, write: false });
});
