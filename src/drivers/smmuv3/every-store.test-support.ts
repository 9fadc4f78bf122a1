/**
 * The driver on the model of the hardware, looked at after every single store that it makes into memory. It is looked at
 * twice: by hardware whose caches are empty, which sees what memory says at this moment; and by the hardware that the
 * driver talks to, whose caches keep all that nobody has told it to forget.
 */
import { expect } from "vitest";
import { type FeatureChoices, SmmuV3, smmuFeatures, TRANSLATED } from "../../hardware/smmuv3/index.ts";
import { IommuCore } from "../../iommu/index.ts";
import { PAGE_SIZE, PhysicalMemory } from "../../memory/index.ts";
import { changesInOneStep, type Entry, readEntry } from "../../pasidtable/index.ts";
import { System, type Task } from "../../runtime/index.ts";
import { SmmuV3Driver } from "./driver.ts";
import { ForgetfulSmmu } from "./forgetful-smmu.test-support.ts";
import type { SmmuV3Instance } from "./instance.ts";
import { CMDQ_BASE } from "./registers.ts";
import { streamTableEntryKind } from "./used-bits.ts";
import { watched } from "./watched-memory.test-support.ts";

/** The traffic without PASID, as the hardware knows it. */
export const NO_PASID = -1;

/** A read whose way is looked at. */
export interface Probe {
  readonly streamId: number;
  /** Or {@link NO_PASID}. */
  readonly pasid: number;
  readonly address: number;
}

/** Where each probe leads to: a physical address, or undefined for an abort. */
export type View = readonly (number | undefined)[];

export class WatchedDriver {
  readonly system: System = new System();
  readonly memory: PhysicalMemory = new PhysicalMemory(this.system, { ram: [{ base: 0, size: 2 ** 26 }] });
  readonly driver: SmmuV3Driver;
  readonly hardware: SmmuV3;
  readonly core: IommuCore = new IommuCore(this.system, { defaultDomain: "identity" });
  private readonly instance: SmmuV3Instance;
  private readonly features: ReturnType<typeof smmuFeatures>;
  /** The stream table has one level: an entry of which two words must change at once is invalid in between. */
  private readonly hasGaps: boolean;
  private forgetful: ForgetfulSmmu | undefined;
  private probes: readonly Probe[] = [];
  private ring = 0;
  /** What was seen since the operation began, while one is watched. */
  private seen: View[] | undefined;

  constructor(choices: FeatureChoices) {
    const { system, memory } = this;
    this.hasGaps = choices.twoLevelStreamTable === false;
    this.features = smmuFeatures({ stalls: "terminate", ...choices });
    this.driver = new SmmuV3Driver(
      system,
      watched(memory, (physical) => this.look(physical)),
    );
    this.hardware = new SmmuV3(system, memory, {
      ...this.features,
      interrupt: (line) => this.driver.handleInterrupt(this.instance, line),
    });
    this.instance = this.run(this.driver.probe(this.hardware, { name: "smmu" }));
    this.run(this.core.register(this.instance));
  }

  run<T>(code: Task<T>): T {
    return this.system.run("test", code);
  }

  /** All is set up: from now on {@link perform} looks at these. */
  watch(probes: Iterable<Probe>): void {
    this.probes = [...probes];
    this.ring = Math.floor(this.hardware.read32(CMDQ_BASE) / PAGE_SIZE);
    this.forgetful = new ForgetfulSmmu(this.system, this.memory, this.features, this.hardware);
  }

  /**
   * Carries an operation out. After each store each probe must lead where `expected` said before it or says after it, and in
   * the end to the latter. A stream may have nothing at all while its entry is invalid, where that cannot be otherwise.
   */
  perform(step: string, operation: () => void, expected: () => View): void {
    const before = expected();
    const entriesBefore = this.entries();
    this.seen = [];
    operation();
    const { seen } = this;
    this.seen = undefined;
    const after = expected();
    const mayBeInvalid = this.streamsWithGap(entriesBefore);
    for (const [index, view] of seen.entries()) {
      const gaps = this.streamsWithout(view);
      for (const [i, output] of view.entries()) {
        const { streamId } = this.probes[i];
        if (output === after[i] || output === before[i] || (gaps.has(streamId) && mayBeInvalid.has(streamId))) continue;
        const text = `${this.nameOf(i)} at store ${index >>> 1}, ${index % 2 === 0 ? "in memory" : "by the caches"}`;
        expect([text, output], step).toEqual([text, [before[i], after[i]]]);
      }
    }
    for (const view of this.views()) expect(view, step).toEqual(after);
  }

  private nameOf(index: number): string {
    const { streamId, pasid, address } = this.probes[index];
    return `stream ${streamId}${pasid === NO_PASID ? "" : `, PASID ${pasid}`}, 0x${address.toString(16)}`;
  }

  private entries(): Map<number, Entry> {
    const { streamTable } = this.instance;
    const entryOf = (streamId: number): Entry => readEntry(this.memory, streamTable.entryAddress(streamId));
    return new Map(this.probes.map(({ streamId }) => [streamId, entryOf(streamId)]));
  }

  private streamsWithGap(before: ReadonlyMap<number, Entry>): Set<number> {
    if (!this.hasGaps) return new Set();
    const changed = [...this.entries()].filter(
      ([streamId, entry]) => !changesInOneStep(before.get(streamId)!, entry, streamTableEntryKind),
    );
    return new Set(changed.map(([streamId]) => streamId));
  }

  /** Streams of which nothing goes through. */
  private streamsWithout(view: View): Set<number> {
    const without = new Set(this.probes.map(({ streamId }) => streamId));
    for (const [i, output] of view.entries()) if (output !== undefined) without.delete(this.probes[i].streamId);
    return without;
  }

  /** The ring of commands is the only memory that no translation depends on. */
  private look(physical: number): void {
    if (this.seen !== undefined && Math.floor(physical / PAGE_SIZE) !== this.ring) this.seen.push(...this.views());
  }

  private views(): [View, View] {
    return [this.viewOf(this.forgetful!.fresh), this.viewOf(this.hardware)];
  }

  private viewOf(smmu: SmmuV3): View {
    return this.probes.map(({ streamId, pasid, address }) => {
      const outcome = smmu.translate(streamId, pasid, Math.floor(address / 2 ** 32), address % 2 ** 32, false);
      return outcome === TRANSLATED ? smmu.physical : undefined;
    });
  }
}
