import { describe, expect, it } from "vitest";
import { type FeatureChoices, VirtioIommu, virtioIommuConfig } from "../../hardware/virtio-iommu/index.ts";
import {
  ALLOC_NEST_PARENT,
  Device,
  IommuCore,
  newGather,
  type PagingDomain,
  PROT_MMIO,
  PROT_READ,
  PROT_WRITE,
} from "../../iommu/index.ts";
import { PhysicalMemory, type RegisterBlock } from "../../memory/index.ts";
import {
  EADDRINUSE,
  EINVAL,
  EIO,
  ENODEV,
  ENOENT,
  ENOSPC,
  EOPNOTSUPP,
  ERANGE,
  Refusal,
  System,
  type Task,
} from "../../runtime/index.ts";
import { VirtioIommuDriver, type VirtioIommuInstance } from "./index.ts";

const PAGE = 4096;

class World {
  readonly system = new System();
  readonly memory = new PhysicalMemory(this.system, { ram: [{ base: 0, size: 2 ** 26 }] });
  readonly driver = new VirtioIommuDriver(this.system, this.memory);
  readonly core = new IommuCore(this.system, { defaultDomain: "dma" });
  readonly hardware: VirtioIommu;
  readonly told: string[] = [];
  readonly warnings: string[] = [];
  instance: VirtioIommuInstance | undefined;

  constructor(choices: FeatureChoices = {}, options: Partial<ConstructorParameters<typeof VirtioIommu>[2]> = {}) {
    this.hardware = new VirtioIommu(this.system, this.memory, {
      config: virtioIommuConfig(choices),
      endpoints: [8, 16, 17],
      interrupt: () => this.instance && this.driver.handleInterrupt(this.instance),
      ...options,
    });
    this.driver.onFault = (_, explain) => void this.told.push(explain());
    this.system.events.listen((event) => {
      if (event.kind === "virtio-iommu.warning") this.warnings.push(String(event.text));
    });
  }

  run<T>(code: Task<T>): T {
    return this.system.run("test", code);
  }

  errno(code: Task<unknown>): number {
    try {
      this.run(code);
      return 0;
    } catch (error) {
      if (error instanceof Refusal) return error.errno;
      throw error;
    }
  }

  start(registers: RegisterBlock = this.hardware): this {
    this.instance = this.run(this.driver.probe(registers, { name: "viommu" }));
    this.run(this.core.register(this.instance));
    return this;
  }

  device(...streamIds: number[]): Device {
    const device = new Device({ name: `d${streamIds[0]}`, firmware: { instance: "viommu", streamIds } });
    this.run(this.core.probe(device));
    return device;
  }

  domain(device: Device): PagingDomain {
    return this.run(this.driver.allocatePaging(device, 0, undefined));
  }

  reaches(endpoint: number, address: bigint, write = false): number | undefined {
    const physical = this.hardware.translate(endpoint, address, write)?.physical;
    this.system.tasks.drain();
    return physical;
  }
}

/** The device, with one register answering something else. */
function lying(device: RegisterBlock, offset: number, value: number): RegisterBlock {
  return {
    read32: (at) => (at === offset ? value : device.read32(at)),
    write32: (at, word) => device.write32(at, word),
    read64: (at) => device.read64(at),
    write64: (at, low, high) => device.write64(at, low, high),
  };
}

describe("probe", () => {
  it("negotiates what is offered, and leaves nothing behind when it is removed", () => {
    const world = new World({ bypass: true, inputRange: { start: 0n, last: 2n ** 40n - 1n } }).start();
    expect(world.instance!.features).toMatchObject({
      input: { start: 0n, last: 2n ** 40n - 1n },
      domains: { first: 0, last: 2 ** 32 - 1 },
      probeSize: 512,
      mmio: true,
      bypassDomains: true,
    });
    expect(world.instance!.features.pageSizes[0]).toBe(PAGE);
    expect(world.hardware.read32(0x70)).toBe(15);
    world.run(world.core.unregister(world.instance!));
    world.run(world.driver.remove(world.instance!));
    expect(world.hardware.read32(0x70)).toBe(0);
    expect(world.memory.usedFrames).toBe(0);
  });

  it.each([
    ["no virtio device", 0x000, 0, ENODEV],
    ["a legacy one", 0x004, 1, ENODEV],
    ["another device", 0x008, 1, ENODEV],
    ["no VERSION_1 or MAP_UNMAP", 0x010, 0, ENODEV],
    ["no queue", 0x034, 0, ENODEV],
    ["a queue that is not taken", 0x044, 0, ENODEV],
  ])("refuses %s", (_, register, value, errno) => {
    const world = new World();
    const registers = lying(world.hardware, register, value);
    expect(world.errno(world.driver.probe(registers, { name: "viommu" }))).toBe(errno);
    expect(world.memory.usedFrames).toBe(0);
  });

  it("refuses a device without page sizes", () => {
    const world = new World();
    const none = lying(lying(world.hardware, 0x100, 0), 0x104, 0);
    expect(world.errno(world.driver.probe(none, { name: "viommu" }))).toBe(EINVAL);
  });

  it("gives everything back at whatever point memory ends", () => {
    for (let failing = 1; ; failing++) {
      const world = new World();
      let points = 0;
      world.system.failures.inject((name) => name === "memory.frames.allocate" && ++points === failing);
      if (world.errno(world.driver.probe(world.hardware, { name: "viommu" })) === 0) {
        expect(failing).toBe(5);
        return;
      }
      expect(world.memory.usedFrames).toBe(0);
    }
  });
});

describe("devices", () => {
  it("have the reserved regions that a PROBE tells, and a window for messages if it tells none", () => {
    const msi = { kind: "msi", start: 0x900_0000n, last: 0x90f_ffffn } as const;
    const held = { kind: "reserved", start: 0x1000n, last: 0x1fffn } as const;
    const plain = new World({ probe: false }).start();
    expect(plain.driver.reservedRegions(plain.device(8))).toEqual([
      { start: 0x800_0000n, last: 0x80f_ffffn, type: "software-msi" },
    ]);
    const told = new World({}, { reserved: [held, msi] }).start();
    expect(told.driver.reservedRegions(told.device(8))).toEqual([
      { start: 0x1000n, last: 0x1fffn, type: "reserved" },
      { start: 0x900_0000n, last: 0x90f_ffffn, type: "msi" },
    ]);
  });

  it("are refused if the IOMMU does not know them, or another has the endpoint", () => {
    const world = new World().start();
    world.device(8);
    const other = (name: string, ...streamIds: number[]): Device =>
      new Device({ name, firmware: { instance: "viommu", streamIds } });
    expect(world.errno(world.core.probe(other("x", 99)))).toBe(ENOENT);
    expect(world.errno(world.core.probe(other("y", 16, 8)))).toBe(ENODEV);
    expect(world.errno(world.core.probe(other("z")))).toBe(EINVAL);
  });

  it("are detached when they are released, and their domain goes", () => {
    const world = new World({ bypass: false }).start();
    const device = world.device(16, 17);
    expect(world.hardware.occupancy.domains).toBe(1);
    world.run(world.core.release(device));
    expect(world.hardware.occupancy.domains).toBe(0);
    expect(world.instance!.domainIds.size).toBe(0);
    expect(world.warnings).toEqual([]);
  });

  it("have no nesting, dirty tracking or PASIDs", () => {
    const world = new World().start();
    const device = world.device(8);
    expect(world.errno(world.driver.allocatePaging(device, ALLOC_NEST_PARENT, undefined))).toBe(EOPNOTSUPP);
    const data = { type: 1, length: 4, bytes: new Uint8Array(4), write: () => {} };
    expect(world.errno(world.driver.allocatePaging(device, 0, data))).toBe(EOPNOTSUPP);
    expect(world.instance!.maxPasids).toBe(0);
  });

  it("get no domain when ids or small pages run out", () => {
    const few = new World({ bypass: true, domainRange: { first: 5, last: 6 } }).start();
    const device = few.device(8);
    expect(few.errno(few.driver.allocatePaging(device, 0, undefined))).toBe(ENOSPC);
    const large = new World({ pageSizeMask: 0x1_0000n }).start();
    const one = new Device({ name: "one", firmware: { instance: "viommu", streamIds: [8] } });
    expect(large.errno(large.core.probe(one))).toBe(ENODEV);
    expect(large.hardware.occupancy.domains).toBe(0);
  });
});

describe("paging domains", () => {
  it("keep mappings for themselves until an endpoint comes, and bring them back when one comes back", () => {
    const world = new World().start();
    const [a, b] = [world.device(8), world.device(16, 17)];
    const domain = world.domain(a);
    world.run(domain.map(0x10000n, 0x8000, 2 * PAGE, PROT_READ));
    expect(world.reaches(8, 0x10000n)).toBeUndefined();
    world.run(a.group!.attach(domain, domain));
    world.run(domain.map(0x20000n, 0x4000, PAGE, PROT_READ | PROT_WRITE));
    world.run(b.group!.attach(domain, domain));
    for (const endpoint of [8, 16, 17]) {
      expect(world.reaches(endpoint, 0x11004n)).toBe(0x9004);
      expect(world.reaches(endpoint, 0x11004n, true)).toBeUndefined();
      expect(world.reaches(endpoint, 0x20000n, true)).toBe(0x4000);
    }
    world.run(a.group!.detach());
    expect(world.reaches(8, 0x10000n)).toBeUndefined();
    expect(world.reaches(16, 0x10000n)).toBe(0x8000);
    world.run(b.group!.detach());
    expect(world.hardware.occupancy.mappings).toBe(0);
    world.run(a.group!.attach(domain, domain));
    expect(world.hardware.occupancy.mappings).toBe(2);
    expect(domain.translate(0x11004n)).toBe(0x9004);
    expect(world.warnings).toEqual([]);
  });

  it("remove whole mappings only: what would be split stays, and less than asked is 0", () => {
    const world = new World().start();
    const device = world.device(8);
    const domain = world.domain(device);
    world.run(device.group!.attach(domain, domain));
    world.run(domain.map(0x10000n, 0, 4 * PAGE, PROT_READ));
    world.run(domain.map(0x14000n, 0, 2 * PAGE, PROT_READ));
    const gather = newGather();
    expect(world.run(domain.unmap(0x12000n, PAGE, gather))).toBe(0);
    expect(world.run(domain.unmap(0x10000n, PAGE, gather))).toBe(4 * PAGE);
    expect(world.run(domain.unmap(0x13000n, 2 * PAGE, gather))).toBe(2 * PAGE);
    world.run(domain.sync(gather));
    expect(world.hardware.occupancy.mappings).toBe(0);
    world.run(domain.map(0x10000n, 0, PAGE, PROT_READ));
    expect(world.run(domain.unmap(0x10000n, 2 * PAGE, gather))).toBe(0);
    world.run(domain.sync(gather));
    expect(world.reaches(8, 0x10000n)).toBeUndefined();
    expect(domain.translate(0x10000n)).toBeUndefined();
    expect(world.warnings).toEqual([]);
  });

  it("refuse what cannot be mapped, and map nothing then", () => {
    const world = new World({ mmio: false, inputRange: { start: 0x1000n, last: 0xffff_ffffn } }).start();
    const domain = world.domain(world.device(8));
    const map = (iova: bigint, physical: number, size: number, prot: number): number =>
      world.errno(domain.map(iova, physical, size, prot));
    expect(map(0x1000n, 0, PAGE, PROT_READ | PROT_MMIO)).toBe(EINVAL);
    expect(map(0x1001n, 0, PAGE, PROT_READ)).toBe(EINVAL);
    expect(map(0x1000n, 1, PAGE, PROT_READ)).toBe(EINVAL);
    expect(map(0n, 0, PAGE, PROT_READ)).toBe(ERANGE);
    expect(map(0xffff_f000n, 0, 2 * PAGE, PROT_READ)).toBe(ERANGE);
    expect(map(0x1000n, 0, 2 * PAGE, PROT_READ)).toBe(0);
    expect(map(0x2000n, 0, PAGE, PROT_READ)).toBe(EADDRINUSE);
  });

  it("belong to one IOMMU", () => {
    const [one, other] = [new World().start(), new World().start()];
    const domain = one.domain(one.device(8));
    expect(other.errno(domain.attachDevice(other.device(8), undefined))).toBe(EINVAL);
  });

  it("send more requests than the ring holds in as many batches as it takes", () => {
    const world = new World({}, { queueSize: 4 }).start();
    const device = world.device(8);
    const domain = world.domain(device);
    const iova = (page: number): bigint => BigInt(page * 2 * PAGE);
    for (let page = 0; page < 50; page++) world.run(domain.map(iova(page), 0, PAGE, PROT_READ));
    world.run(device.group!.attach(domain, domain));
    expect(world.hardware.occupancy.mappings).toBe(50);
    const gather = newGather();
    for (let page = 0; page < 50; page++) world.run(domain.unmap(iova(page), PAGE, gather));
    world.run(domain.sync(gather));
    expect(world.hardware.occupancy.mappings).toBe(0);
  });
});

describe("the identity domain", () => {
  it("bypasses where the IOMMU can, in the domain with the first id", () => {
    const world = new World({ bypass: false, domainRange: { first: 5, last: 9 } }).start();
    const device = world.device(8);
    world.run(world.driver.identityDomain.attachDevice(device));
    expect(world.reaches(8, 0x1234n, true)).toBe(0x1234);
    expect(world.hardware.occupancy).toEqual({ domains: 1, mappings: 0 });
  });

  it("maps everything 1:1 but what is reserved where it cannot", () => {
    const reserved = [{ kind: "msi", start: 0x800_0000n, last: 0x80f_ffffn }] as const;
    const world = new World({}, { reserved }).start();
    const device = world.device(8);
    world.run(world.driver.identityDomain.attachDevice(device));
    expect(world.hardware.occupancy.mappings).toBe(2);
    expect(world.reaches(8, 0x7ff_ffffn, true)).toBe(0x7ffffff);
    expect(world.reaches(8, 0x800_0000n)).toBeUndefined();
    expect(world.reaches(8, 0x810_0000n)).toBe(0x8100000);
    expect(world.reaches(8, 0xffff_ffff_f000n)).toBe(0xfffffffff000);
  });
});

describe("trouble", () => {
  it("a fault is explained", () => {
    const world = new World().start();
    world.device(8);
    expect(world.reaches(8, 0x5000n, true)).toBeUndefined();
    expect(world.reaches(16, 0x5000n)).toBeUndefined();
    expect(world.told).toEqual([
      "write of d8 at 0x5000 was refused: viommu domain 0 does not map that address for such an access",
      "read of endpoint 0x10 at 0x5000 was refused: it is attached to no domain",
    ]);
    for (let i = 0; i < 300; i++) world.reaches(8, 0x5000n);
    expect(world.told).toHaveLength(302);
  });

  it("an endpoint that cannot be attached takes the others of its device back", () => {
    const world = new World().start();
    const device = world.device(16, 17);
    const [first, second] = [world.domain(device), world.domain(device)];
    world.run(first.map(0x1000n, 0x1000, PAGE, PROT_READ));
    world.run(second.map(0x1000n, 0x2000, PAGE, PROT_READ));
    world.run(device.group!.attach(first, first));
    let attached = 0;
    world.system.failures.inject((name) => name === "virtio-iommu.endpoint.attach" && ++attached === 2);
    expect(world.errno(device.group!.replace(second, second))).not.toBe(0);
    world.system.failures.inject(undefined);
    for (const endpoint of [16, 17]) expect(world.reaches(endpoint, 0x1000n)).toBe(0x1000);
    expect(world.hardware.occupancy).toEqual({ domains: 1, mappings: 1 });
    world.run(device.group!.replace(second, second));
    for (const endpoint of [16, 17]) expect(world.reaches(endpoint, 0x1000n)).toBe(0x2000);
  });

  it("a device that breaks is told of once, and every request is EIO from then on", () => {
    const world = new World().start();
    const device = world.device(8);
    const domain = world.domain(device);
    world.run(device.group!.attach(domain, domain));
    // Somebody scribbles over the request queue: its descriptors are in the first frame that the driver took.
    for (let word = 0; word < 512; word++) world.memory.writeWord(word * 4, 0xffffffff);
    expect(world.errno(domain.map(0x1000n, 0, PAGE, PROT_READ))).toBe(EIO);
    expect(world.errno(domain.map(0x1000n, 0, PAGE, PROT_READ))).toBe(EIO);
    expect(domain.translate(0x1000n)).toBeUndefined();
    expect(world.warnings.filter((text) => text.includes("needs a reset"))).toHaveLength(1);
  });

  it("a device that does not answer is given up", () => {
    const world = new World();
    const deaf: RegisterBlock = {
      ...lying(world.hardware, -1, 0),
      write32: (at, value) => at !== 0x50 && world.hardware.write32(at, value),
    };
    world.start(deaf);
    const device = new Device({ name: "d", firmware: { instance: "viommu", streamIds: [8] } });
    expect(world.errno(world.core.probe(device))).toBe(EIO);
    expect(world.warnings[0]).toContain("does not answer");
  });

  it("a failure at any point of a device's life leaves nothing behind", () => {
    for (let failing = 1, done = false; !done; failing++) {
      const world = new World({ bypass: false }).start();
      const frames = world.memory.usedFrames;
      let points = 0;
      world.system.failures.inject(() => ++points === failing);
      const device = new Device({ name: "d", firmware: { instance: "viommu", streamIds: [16, 17] } });
      const life = function* (): Task<void> {
        yield* world.core.probe(device);
        try {
          const domain = yield* world.driver.allocatePaging(device, 0, undefined);
          try {
            yield* domain.map(0x1000n, 0, PAGE, PROT_READ);
            yield* device.group!.attach(domain, domain);
            try {
              yield* domain.map(0x2000n, 0, PAGE, PROT_READ);
            } finally {
              yield* device.group!.detach();
            }
          } finally {
            domain.free();
          }
        } finally {
          yield* world.core.release(device);
        }
      };
      done = world.errno(life()) === 0;
      world.system.failures.inject(undefined);
      expect(world.hardware.occupancy, `failure ${failing}`).toEqual({ domains: 0, mappings: 0 });
      expect(world.instance!.domainIds.size, `failure ${failing}`).toBe(0);
      expect(world.memory.usedFrames, `failure ${failing}`).toBe(frames);
      if (done) expect(failing).toBeGreaterThan(10);
    }
  });
});
