import { describe, expect, it } from "vitest";
import { Refusal } from "../runtime/index.ts";
import { Access } from "./access.ts";
import type { IommufdDevice } from "./device.ts";
import { GUEST, GuestWorld } from "./guest.test-support.ts";
import { type Values, World } from "./world.test-support.ts";

const M = 2n ** 64n - 1n;

/** A world with something of everything, in which the scenarios below run. */
function furnished(): { world: World; device: IommufdDevice; second: IommufdDevice; va: number } {
  const world = new World();
  world.ioas();
  world.ioas();
  const region = { start: 0x8000000n, last: 0x80fffffn, type: "msi" as const };
  const [device, second] = ["a", "b"].map((name) => world.bind(world.device(name, { group: "g", regions: [region] })));
  const va = world.pages(16);
  world.map(1, va, 0x3000, 0x10000);
  world.map(1, va + 0x8000, 0x3000, 0x20000);
  world.run(device.attach(1));
  world.run(second.attach(1));
  world.call("HWPT_ALLOC", { dev_id: device.id, pt_id: 1, flags: 1 });
  return { world, device, second, va };
}

interface ScenarioOf<F> {
  /** Succeeds always. */
  readonly prepare?: (all: F) => void;
  /** The call under test: its errno. */
  readonly call: (all: F) => string;
}

type Furniture = ReturnType<typeof furnished>;

const scenarios: Record<string, ScenarioOf<Furniture>> = {
  IOAS_ALLOC: { call: ({ world }) => world.call("IOAS_ALLOC").errno },
  "IOAS_MAP into two domains": { call: ({ world, va }) => world.map(1, va + 0x4000, 0x3000, 0x30000).errno },
  "IOAS_COPY of parts of two areas": {
    prepare: ({ world, va }) => world.map(1, va + 0x3000, 0x1000, 0x13000),
    call: ({ world }) => {
      const copy = { flags: 6, dst_ioas_id: 1, src_ioas_id: 1, src_iova: 0x12000, length: 0x2000 };
      return world.call("IOAS_COPY", copy).errno;
    },
  },
  "HWPT_ALLOC on a full IOAS": {
    call: ({ world, device }) => world.call("HWPT_ALLOC", { dev_id: device.id, pt_id: 1 }).errno,
  },
  "replace by an automatic HWPT of another IOAS": {
    prepare: ({ world, va }) => world.map(2, va, 0x2000, 0x50000),
    call: ({ world, device }) => world.errnoOf(device.replace(2)),
  },
  "attach to an IOAS with areas": {
    prepare: ({ world, device, second, va }) => {
      world.map(2, va, 0x2000, 0x50000);
      world.run(device.detach());
      world.run(second.detach());
    },
    call: ({ world, device }) => world.errnoOf(device.attach(2)),
  },
  "bind of another device": {
    prepare: ({ world }) => world.device("c"),
    call: ({ world }) => {
      const c = [...world.core.devicesOf(world.instance)].find(({ name }) => name === "c")!;
      return world.errnoOf(world.context.bindDevice(world.process, c, { label: "test" }));
    },
  },
};

/** Lets the first point fail, then the second, … until a run reaches fewer. */
function sweep<F extends { readonly world: World }>(
  make: () => F,
  scenario: ScenarioOf<F>,
  close: (all: F) => void,
): void {
  let failures = 0;
  for (let failed = ""; ; failed = "") {
    const all = make();
    const { world } = all;
    scenario.prepare?.(all);
    const before = world.state();
    let reached = 0;
    world.system.failures.inject((name) => {
      if (++reached !== failures + 1) return false;
      failed = name;
      return true;
    });
    const errno = scenario.call(all);
    world.system.failures.inject(undefined);
    // A candidate HWPT that refuses with EINVAL only makes a search go on.
    if (errno !== "") expect([failed, world.state()]).toEqual([failed, before]);
    close(all);
    if (failed === "") {
      expect(errno).toBe("");
      break;
    }
    failures++;
  }
  expect(failures).toBeGreaterThan(0);
}

/** Nest parent 3 of IOAS 1, viommu 4, fault queue 5, and two pages at 0x10000. */
function guestRoom(): { world: GuestWorld } {
  const world = new GuestWorld();
  world.viommu();
  world.faultQueue();
  world.map(1, world.pages(2), 0x2000, 0x10000);
  return { world };
}

const nested = (world: GuestWorld, values: Values): string => {
  const data = { data_type: GUEST, data_len: 1, data_uptr: world.data };
  return world.call("HWPT_ALLOC", { dev_id: 2, ...data, ...values }).errno;
};

const guestScenarios: Record<string, ScenarioOf<{ world: GuestWorld }>> = {
  "a nested HWPT with a fault queue": { call: ({ world }) => nested(world, { pt_id: 3, flags: 4, fault_id: 5 }) },
  "a nested HWPT by a viommu": { call: ({ world }) => nested(world, { pt_id: 4 }) },
  VIOMMU_ALLOC: { call: ({ world }) => world.call("VIOMMU_ALLOC", { type: GUEST, dev_id: 2, hwpt_id: 3 }).errno },
  VDEVICE_ALLOC: { call: ({ world }) => world.call("VDEVICE_ALLOC", { viommu_id: 4, dev_id: 2, virt_id: 5 }).errno },
  VEVENTQ_ALLOC: {
    call: ({ world }) => world.call("VEVENTQ_ALLOC", { viommu_id: 4, type: GUEST, veventq_depth: 1 }).errno,
  },
  FAULT_QUEUE_ALLOC: { call: ({ world }) => world.call("FAULT_QUEUE_ALLOC").errno },
  HW_QUEUE_ALLOC: {
    call: ({ world }) => {
      const queue = { viommu_id: 4, type: GUEST, nesting_parent_iova: 0x10000, length: 0x2000 };
      return world.call("HW_QUEUE_ALLOC", queue).errno;
    },
  },
  "an access that comes and pins": {
    call: ({ world }) =>
      world.errnoOf(
        (function* () {
          const access = world.context.createAccess({ label: "test" }, { pins: true });
          try {
            yield* access.attach(1);
            access.pin(world.process, 0x10000n, 0x2000n, true);
            access.unpin(0x10000n, 0x2000n);
          } catch (error) {
            yield* access.destroyByUser();
            throw error;
          }
        })(),
      ),
  },
};

describe("a call that fails at any point leaves everything as before:", () => {
  it.each(Object.entries(scenarios))("%s", (_name, scenario) => sweep(furnished, scenario, closeAll));

  it.each(Object.entries(guestScenarios))("%s", (_name, scenario) => {
    sweep(guestRoom, scenario, ({ world }) => {
      world.process.exit();
      world.run(world.context.release());
      world.run(world.bound.unbind());
      for (const object of world.context.objects.list())
        if (object instanceof Access) world.run(object.destroyByUser());
      expect([world.context.objects.list(), world.memory.pinnedFrames, world.driver.domains.size]).toEqual([[], 0, 0]);
    });
  });
});

function closeAll({ world, device, second }: Furniture): void {
  expect(world.call("IOAS_UNMAP", { ioas_id: 1, iova: 0, length: M }).errno).toBe("");
  world.run(world.context.release());
  for (const bound of world.context.objects.list()) {
    if (bound.kind === "DEVICE" && bound !== device && bound !== second) world.run((bound as IommufdDevice).unbind());
  }
  world.run(device.unbind());
  world.run(second.unbind());
  expect([world.memory.pinnedFrames, world.driver.domains.size, world.context.objects.isEmpty]).toEqual([0, 0, true]);
}

describe("any order of steps", () => {
  it("two tasks that map, unmap, attach and destroy leave nothing behind", () => {
    for (let seed = 1; seed <= 60; seed++) {
      const { world, device, second, va } = furnished();
      const { system, context, process } = world;
      let random = seed * 2654435761;
      system.tasks.exploring = true;
      system.tasks.choose = (ready) => {
        random = (Math.imul(random, 1103515245) + 12345) >>> 0;
        return random % ready.length;
      };
      const space = (id: number) => (context.objects.any(id) as import("./ioas.ts").Ioas).space;
      const pages = (writable: boolean) => ({
        pages: context.newPageSet(process, source(world), writable),
        page: va / 4096,
        offset: 0,
        length: 0x2000n,
      });
      const attempt = function* (task: () => Generator<never, unknown, void>) {
        try {
          yield* task();
        } catch (error) {
          if (!(error instanceof Refusal)) throw error;
        }
      } as unknown as (task: () => unknown) => import("../runtime/index.ts").Task<void>;
      const request = (fixed: bigint) => ({ slices: [pages(true)], length: 0x2000n, fixed, prot: 3, caller: process });
      const programs: (() => unknown)[] = [
        () => space(1).map(request(0x40000n)),
        () => space(1).unmap(0n, M),
        () => space(1).map(request(0x40000n)),
        () => device.replace(2),
        () => space(1).map(request(0x10000n)),
        () => second.detach(),
      ];
      for (const [index, program] of programs.entries()) {
        system.tasks.spawn(`program ${index}`, attempt(program), (outcome) => {
          if (!outcome.ok) throw outcome.error;
        });
      }
      system.tasks.drain();
      system.tasks.exploring = false;
      for (const { leaves } of world.driver.domains) {
        const areas = [1, 2].flatMap((id) => space(id).areas());
        for (const { iova } of leaves)
          expect(areas.some(({ start, last }) => start <= iova && iova <= last)).toBe(true);
      }
      closeAll({ world, device, second, va });
    }
  });
});

function source(world: World): import("./page-set.ts").PageSource {
  return {
    label: "test memory",
    kind: "memory",
    pin: (page, count, writable) => world.process.memory.pin(page, count, writable),
  };
}
