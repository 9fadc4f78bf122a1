import { describe, expect, it } from "vitest";
import { reportPageRequest } from "../iommu/index.ts";
import { Refusal, type Task } from "../runtime/index.ts";
import type { Access } from "./access.ts";
import { GUEST, GuestWorld } from "./guest.test-support.ts";
import { Ioas } from "./ioas.ts";

const M = 2n ** 64n - 1n;

/** An access that pins now and then, and unpins what it is asked to. */
class Pinner {
  readonly label = "a pinner";
  readonly access: Access;
  private readonly world: GuestWorld;
  private pinned: [bigint, bigint][] = [];

  constructor(world: GuestWorld) {
    this.world = world;
    this.access = world.context.createAccess(this, { pins: true });
  }

  *pin(iova: bigint): Task<void> {
    yield* this.world.system.tasks.point();
    this.access.pin(this.world.process, iova, 0x1800n, true);
    this.pinned.push([iova, 0x1800n]);
  }

  *unmap(iova: bigint, length: bigint): Task<void> {
    yield* this.world.system.tasks.point();
    const goes = ([at, size]: [bigint, bigint]): boolean => at <= iova + length - 1n && iova <= at + size - 1n;
    const gone = this.pinned.filter(goes);
    this.pinned = this.pinned.filter((range) => !goes(range));
    for (const [at, size] of gone) this.access.unpin(at, size);
  }
}

/** Runs tasks in an order that `seed` chooses; what a client is refused is no matter, anything else is. */
function explore(world: GuestWorld, seed: number, programs: readonly Task<unknown>[]): void {
  const { tasks } = world.system;
  let random = seed * 2654435761;
  tasks.exploring = true;
  tasks.choose = (ready) => {
    random = (Math.imul(random, 1103515245) + 12345) >>> 0;
    return (random >>> 16) % ready.length;
  };
  for (const [index, program] of programs.entries()) {
    tasks.spawn(`program ${index}`, program, (outcome) => {
      if (!outcome.ok && !(outcome.error instanceof Refusal)) throw outcome.error;
    });
  }
  tasks.drain();
  tasks.exploring = false;
  expect([...tasks.unfinished]).toEqual([]);
}

describe("any order of steps leaves nothing behind:", () => {
  it("accesses that pin and move, while areas go and HWPTs come", () => {
    for (let seed = 1; seed <= 80; seed++) {
      const world = new GuestWorld();
      const other = world.ioas();
      const { objects } = world.context;
      const va = world.pages(4);
      for (const ioas of [1, other]) world.map(ioas, va, 0x3000, 0x10000);
      const [first, second] = [new Pinner(world), new Pinner(world)];
      for (const { access } of [first, second]) world.run(access.attach(1));
      const unmap = function* (id: number, start: bigint, last: bigint): Task<void> {
        yield* objects.find(id, Ioas).space.unmap(start, last);
      };
      explore(world, seed, [
        first.pin(0x10000n),
        unmap(1, 0n, M),
        second.pin(0x11000n),
        first.access.replace(other),
        world.bound.attach(other),
        unmap(other, 0x10000n, 0x12fffn),
        second.access.detach(),
        first.pin(0x10000n),
      ]);
      for (const { access } of [first, second]) world.run(access.destroyByUser());
      world.run(world.bound.detach());
      for (const id of [1, other]) world.call("IOAS_UNMAP", { ioas_id: id, iova: 0, length: M });
      expect([world.memory.pinnedFrames, world.process.user.lockedPages]).toEqual([0, 0]);
      expect(world.driver.domains.size).toBe(1);
    }
  });

  it("a device that goes, while a guest is given it, attaches it and faults", () => {
    for (let seed = 1; seed <= 80; seed++) {
      const world = new GuestWorld();
      const [viommu, [queue, fd]] = [world.viommu(), world.faultQueue()];
      const nested = world.nest(viommu, { flags: 4, fault_id: queue });
      const { process, context, scratch } = world;
      const room = world.pages(1);
      const ioctl = (request: number, at: number, words: number[]): Task<number> => {
        process.memory.write(at, new Uint8Array(new Uint32Array(words).buffer));
        return context.ioctl(process, request, at);
      };
      const vdevice = (at: number): Task<number> => ioctl(0x3b91, at, [24, viommu, world.bound.id, 0, 7, 0]);
      const destroyed = context.objects.any(viommu);
      const fault = { flags: 2, pasid: 0, group: 1, rights: 1, address: 0n };
      // Whoever hands a device to user space does these one after the other.
      const useAndUnbind = function* (): Task<void> {
        try {
          // Half of the time it goes at once.
          if (seed % 2 === 0) {
            yield* world.bound.attach(nested);
            yield* reportPageRequest(world.bound.device, fault);
          }
        } catch (error) {
          if (!(error instanceof Refusal)) throw error;
        }
        yield* world.bound.unbind();
      };
      explore(world, seed, [
        vdevice(scratch),
        vdevice(scratch + 64),
        useAndUnbind(),
        ioctl(0x3b80, room, [8, 7]),
        ioctl(0x3b94, room + 64, [40, 0, viommu, GUEST, 0, 0, 0x10000, 0, 0x1000, 0]),
      ]);
      expect(destroyed.users.holders().filter((holder) => holder.startsWith("vdevice"))).toEqual([]);
      expect(world.guests.attached.get("guest/0")).toBe(world.guests.identityDomain);
      expect(world.bound.device.iommu!.faults).toBeUndefined();
      world.run(context.release());
      world.run(process.close(fd));
      expect([context.objects.list(), world.driver.domains.size, world.guests.viommus.size]).toEqual([[], 0, 0]);
    }
  });
});
