/** Random operations on a group of two devices, against the tables of reference 2.4 to 2.6 written down once more. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { EBUSY, EINVAL, EPERM, type Task } from "../runtime/index.ts";
import type { Device } from "./device.ts";
import type { Domain } from "./driver.ts";
import { FakeDriver } from "./fake-driver.test-support.ts";
import { attachPasid, detachPasid, replacePasid } from "./pasid.ts";
import { finishReset, prepareReset } from "./reset-window.ts";
import { withTwoInOneGroup } from "./world.test-support.ts";

/** What is attached: one of three domains, with which handle. */
interface Attachment {
  readonly domain: number;
  readonly handle: number;
}

/** What the tables know of a group. */
interface Model {
  type: "dma" | "dma-fq" | "identity";
  /** Who claimed it, and how often; kernel drivers have no number. */
  owner: number | undefined;
  count: number;
  attached: Attachment | undefined;
  pasids: Map<number, Attachment>;
  /** Of a and b. */
  resets: [number, number];
}

class World {
  readonly model: Model = {
    type: "dma",
    owner: undefined,
    count: 0,
    attached: undefined,
    pasids: new Map(),
    resets: [0, 0],
  };
  readonly real = withTwoInOneGroup((driver) => driver.usePasids());
  readonly domains: readonly Domain[] = [0, 1, 2].map(() => this.real.domain());
  readonly foreign: Domain;
  readonly owners = [{ label: "owner 0" }, { label: "owner 1" }];
  readonly handles = [{}, {}, {}];

  constructor() {
    const other = new FakeDriver(this.real.core, "other");
    other.usePasids();
    this.foreign = this.real.run(other.allocatePaging());
    for (const device of this.devices) Object.defineProperty(device, "usesAts", { value: true });
  }

  get devices(): readonly [Device, Device] {
    return [this.real.a, this.real.b];
  }

  get inReset(): boolean {
    return this.model.resets.some((depth) => depth > 0);
  }

  /** How an operation ends that would take b's own traffic to a domain which b refuses. */
  refusal(refuses: boolean): number | undefined {
    return refuses && this.model.resets[1] === 0 ? EINVAL : undefined;
  }

  /** The errno of an operation, during which b refuses these domains. */
  perform(code: Task<unknown>, refused: (domain: Domain) => boolean = () => false): number | undefined {
    const { driver, b, errno } = this.real;
    driver.refuses = (device, domain) => device === b && refused(domain);
    const answer = errno(code);
    driver.refuses = () => false;
    return answer;
  }

  /** Everything that can be seen is as the model says. */
  check(): void {
    const { real, model, domains, devices } = this;
    const { group, driver } = real;
    const rest = model.owner === undefined ? group.defaultDomain : driver.blockedDomain;
    const own = model.attached === undefined ? rest : domains[model.attached.domain];
    expect(group.domain).toBe(own);
    expect(group.defaultDomain!.type).toBe(model.type);
    expect([group.owner, group.ownerCount]).toEqual([
      model.owner === undefined ? undefined : this.owners[model.owner],
      model.count,
    ]);
    expect(group.handle).toBe(model.attached && this.handles[model.attached.handle]);
    for (const [index, device] of devices.entries()) {
      const isReset = model.resets[index] > 0;
      expect(driver.attached.get(device)).toBe(isReset ? driver.blockedDomain : own);
      for (const pasid of [3, 5]) {
        const attachment = model.pasids.get(pasid);
        expect(group.handles.get(pasid)).toBe(attachment && this.handles[attachment.handle]);
        const domain = isReset ? undefined : attachment && domains[attachment.domain];
        expect(driver.pasids.get(`${device.name}:${pasid}`)).toBe(domain);
      }
    }
    expect(driver.domains.size).toBe(domains.length + (model.type === "identity" ? 0 : 1));
  }
}

/** Does it, and says which errno the tables give. */
type Operation = (world: World) => void;

const index = (count: number) => fc.nat(count - 1);
const pasidOf = fc.constantFrom(3, 5);

const claim = fc.tuple(index(2), index(2), fc.boolean()).map(
  ([device, owner, refuses]): Operation =>
    (world) => {
      const { model, real } = world;
      let expected: number | undefined;
      if (model.count > 0) expected = model.owner === owner ? undefined : EPERM;
      else if (model.attached !== undefined || model.pasids.size > 0) expected = EBUSY;
      else expected = world.refusal(refuses);
      const act = real.group.claim(world.devices[device], world.owners[owner]);
      expect(world.perform(act, ({ type }) => refuses && type === "blocked")).toBe(expected);
      if (expected !== undefined) return;
      model.owner = owner;
      model.count++;
    },
);

const disclaim = fc.constant<Operation>((world) => {
  const { model, real } = world;
  if (model.owner === undefined || (model.count === 1 && (model.attached !== undefined || model.pasids.size > 0)))
    return;
  expect(world.perform(real.group.disclaim(real.a))).toBeUndefined();
  if (--model.count === 0) model.owner = undefined;
});

const use = fc.constant<Operation>((world) => {
  const { model, real } = world;
  const isForeign = model.owner !== undefined || model.attached !== undefined || model.pasids.size > 0;
  const expected = model.count > 0 && isForeign ? EBUSY : undefined;
  expect(world.perform(real.group.useDefaultDomain(real.a))).toBe(expected);
  if (expected === undefined) model.count++;
});

const unuse = fc.constant<Operation>((world) => {
  const { model, real } = world;
  if (model.count === 0 || model.owner !== undefined) return;
  real.run(real.group.unuseDefaultDomain());
  model.count--;
});

/** A domain of the driver, or (3) another driver's. */
const attach = fc.tuple(index(4), index(3), fc.boolean()).map(
  ([domain, handle, refuses]): Operation =>
    (world) => {
      const { model, real } = world;
      let expected: number | undefined;
      if (model.attached !== undefined) expected = EBUSY;
      else if (domain === 3) expected = EINVAL;
      else if (world.inReset) expected = EBUSY;
      else expected = world.refusal(refuses);
      const target = world.domains[domain] ?? world.foreign;
      const act = real.group.attach(target, world.handles[handle]);
      expect(world.perform(act, (to) => refuses && to === target)).toBe(expected);
      if (expected === undefined) model.attached = { domain, handle };
    },
);

const replace = fc.tuple(index(3), index(3), fc.boolean()).map(
  ([domain, handle, refuses]): Operation =>
    (world) => {
      const { model, real } = world;
      let expected: number | undefined;
      if (world.inReset) expected = EBUSY;
      else if (model.attached?.domain !== domain) expected = world.refusal(refuses);
      const target = world.domains[domain];
      const act = real.group.replace(target, world.handles[handle]);
      expect(world.perform(act, (to) => refuses && to === target)).toBe(expected);
      if (expected === undefined) model.attached = { domain, handle };
    },
);

const detach = fc.constant<Operation>((world) => {
  expect(world.perform(world.real.group.detach())).toBeUndefined();
  world.model.attached = undefined;
});

/** Also PASID 0, and one beyond what the devices have. */
const attachOnePasid = fc.tuple(fc.oneof(pasidOf, fc.constantFrom(0, 16)), index(4), index(3), fc.boolean()).map(
  ([pasid, domain, handle, refuses]): Operation =>
    (world) => {
      const { model, real } = world;
      let expected: number | undefined;
      if (domain === 3 || pasid === 0) expected = EINVAL;
      else if (world.inReset) expected = EBUSY;
      else if (pasid === 16) expected = EINVAL;
      else if (model.pasids.has(pasid)) expected = EBUSY;
      else expected = refuses ? EINVAL : undefined;
      const target = world.domains[domain] ?? world.foreign;
      const act = attachPasid(real.group, target, pasid, world.handles[handle]);
      expect(world.perform(act, (to) => refuses && to === target)).toBe(expected);
      if (expected === undefined) model.pasids.set(pasid, { domain, handle });
    },
);

const replaceOnePasid = fc.tuple(pasidOf, index(4), index(3), fc.boolean()).map(
  ([pasid, domain, handle, refuses]): Operation =>
    (world) => {
      const { model, real } = world;
      const old = model.pasids.get(pasid);
      let expected: number | undefined;
      if (domain === 3) expected = EINVAL;
      else if (world.inReset) expected = EBUSY;
      else if (old === undefined || old.handle === handle) expected = EINVAL;
      else if (old.domain !== domain && refuses) expected = EINVAL;
      const target = world.domains[domain] ?? world.foreign;
      const act = replacePasid(real.group, target, pasid, world.handles[handle]);
      expect(world.perform(act, (to) => refuses && to === target)).toBe(expected);
      if (expected === undefined) model.pasids.set(pasid, { domain, handle });
    },
);

const detachOnePasid = pasidOf.map(
  (pasid): Operation =>
    (world) => {
      expect(world.perform(detachPasid(world.real.group, pasid))).toBeUndefined();
      world.model.pasids.delete(pasid);
    },
);

const prepare = index(2).map(
  (device): Operation =>
    (world) => {
      expect(world.perform(prepareReset(world.devices[device]))).toBeUndefined();
      world.model.resets[device]++;
    },
);

const finish = index(2).map(
  (device): Operation =>
    (world) => {
      if (world.model.resets[device] === 0) return;
      expect(world.perform(finishReset(world.devices[device]))).toBeUndefined();
      world.model.resets[device]--;
    },
);

const setType = fc.tuple(fc.constantFrom("identity", "dma", "dma-fq", "auto"), fc.boolean()).map(
  ([type, refuses]): Operation =>
    (world) => {
      const { model, real } = world;
      // Who attaches without a claim has a driver bound, in Linux.
      if (model.attached !== undefined && model.count === 0) return;
      const isLive = type === "dma-fq" && model.type === "dma";
      let expected: number | undefined;
      if (!isLive) {
        if (model.count > 0) expected = EPERM;
        else if (type !== "identity" || model.type !== "identity") expected = world.refusal(refuses);
      }
      const { defaultDomain } = real.group;
      const act = real.core.setDefaultDomainType(real.group, type);
      expect(world.perform(act, (to) => refuses && to !== defaultDomain)).toBe(expected);
      if (expected === undefined) model.type = type === "auto" ? "dma" : type;
    },
);

const operation = fc.oneof(
  claim,
  disclaim,
  use,
  unuse,
  attach,
  replace,
  detach,
  attachOnePasid,
  replaceOnePasid,
  detachOnePasid,
  prepare,
  finish,
  finish,
  setType,
);

describe("a group of two devices", () => {
  it("answers and translates as the tables say, whatever is done with it", () => {
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 60 }), (operations) => {
        const world = new World();
        world.check();
        for (const step of operations) {
          step(world);
          world.check();
        }
      }),
      { numRuns: 300 },
    );
  });
});
