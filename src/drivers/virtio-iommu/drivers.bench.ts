import { type Benchmark, median, type Row } from "../../../bench/benchmark.ts";
import { VirtioIommu, virtioIommuConfig } from "../../hardware/virtio-iommu/index.ts";
import { Device, IommuCore, newGather, PROT_READ, PROT_WRITE } from "../../iommu/index.ts";
import { PhysicalMemory } from "../../memory/index.ts";
import { System, type Task } from "../../runtime/index.ts";
import { VirtioIommuDriver } from "./index.ts";

const MIB = 2 ** 20;
const ENDPOINT = 8;

/** One device attached to one domain, on the real model. Returns what maps, unmaps and syncs, and what does DMA. */
function setUp() {
  const system = new System();
  const memory = new PhysicalMemory(system, { ram: [{ base: 0, size: 256 * MIB }] });
  const driver = new VirtioIommuDriver(system, memory);
  const hardware = new VirtioIommu(system, memory, {
    config: virtioIommuConfig({ bypass: true }),
    endpoints: [ENDPOINT],
  });
  const core = new IommuCore(system);
  const run = <T>(code: Task<T>): T => system.run("bench", code);
  run(core.register(run(driver.probe(hardware, { name: "viommu" }))));
  const device = new Device({ name: "d", firmware: { instance: "viommu", streamIds: [ENDPOINT] } });
  run(core.probe(device));
  const domain = run(driver.allocatePaging(device, 0, undefined));
  run(device.group!.attach(domain, domain));
  // Neighbours, so that the record and the domain are not empty.
  for (let page = 0; page < 1000; page++) {
    run(domain.map(BigInt(0x1000_0000 + page * 8192), 0, 4096, PROT_READ));
  }
  const cycles =
    (size: number) =>
    (repeats: number): void =>
      run(
        (function* () {
          const gather = newGather();
          for (let i = 0; i < repeats; i++) {
            yield* domain.map(0x4000_0000n, 64 * MIB, size, PROT_READ | PROT_WRITE);
            yield* domain.unmap(0x4000_0000n, size, gather);
            yield* domain.sync(gather);
          }
        })(),
      );
  const batches = (repeats: number): void =>
    run(
      (function* () {
        const gather = newGather();
        for (let i = 0; i < repeats; i += 64) {
          for (let page = 0; page < 64; page++) {
            yield* domain.map(0x4000_0000n + BigInt(page * 4096), 64 * MIB, 4096, PROT_READ);
          }
          for (let page = 0; page < 64; page++) yield* domain.unmap(0x4000_0000n + BigInt(page * 4096), 4096, gather);
          yield* domain.sync(gather);
        }
      })(),
    );
  const bytes = new Uint8Array(64);
  const dma = (repeats: number): void => {
    for (let i = 0; i < repeats; i++) {
      const address = BigInt(0x1000_0000 + (i % 1000) * 8192);
      run(hardware.access(ENDPOINT, undefined, address, bytes, false));
    }
  };
  return { cycles, batches, dma };
}

const benchmark: Benchmark = {
  name: "virtio-iommu",
  rows(): Row[] {
    const { cycles, batches, dma } = setUp();
    const microseconds = (what: string, nanoseconds: number): Row => ({ what, value: nanoseconds / 1000, unit: "µs" });
    return [
      microseconds("virtio-iommu map, unmap, sync of 4 KiB", median(cycles(4096), 20_000)),
      microseconds("virtio-iommu map, unmap, sync of 64 MiB", median(cycles(64 * MIB), 20_000)),
      microseconds("virtio-iommu map, unmap of 4 KiB, a sync for 64", median(batches, 6400)),
      { what: "DMA read of 64 bytes through virtio-iommu", value: median(dma, 5000), unit: "ns" },
    ];
  },
};
export default benchmark;
