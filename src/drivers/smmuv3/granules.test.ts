import { describe, expect, it } from "vitest";
import { SmmuV3, smmuFeatures } from "../../hardware/smmuv3/index.ts";
import { ALLOC_NEST_PARENT, Device, groupOf, IommuCore, newGather, PROT_READ, PROT_WRITE } from "../../iommu/index.ts";
import { PhysicalMemory } from "../../memory/index.ts";
import { System, type Task } from "../../runtime/index.ts";
import { SmmuV3Driver } from "./driver.ts";

const STREAM = 8;
const KIB = 1024;

/** An SMMU with one granule and one device, and RAM from `base` on. */
function setUp(features: Parameters<typeof smmuFeatures>[0], base: number) {
  const system = new System();
  const memory = new PhysicalMemory(system, { ram: [{ base, size: 2 ** 30 }] });
  const driver = new SmmuV3Driver(system, memory);
  const core = new IommuCore(system, { defaultDomain: "identity" });
  const run = <T>(code: Task<T>): T => system.run("test", code);
  const hardware: SmmuV3 = new SmmuV3(system, memory, {
    ...smmuFeatures(features),
    interrupt: (line) => driver.handleInterrupt(instance, line),
  });
  const instance = run(driver.probe(hardware, { name: "smmu" }));
  run(core.register(instance));
  const device = new Device({ name: "device", firmware: { instance: "smmu", streamIds: [STREAM] } });
  run(core.probe(device));
  const write = (iova: number, byte: number): boolean =>
    run(hardware.access(STREAM, undefined, BigInt(iova), Uint8Array.of(byte), true));
  return { memory, driver, device, run, write };
}

describe.each([
  { name: "4 KiB", granule: 4096, leaves: [4 * KIB, 2 ** 21, 2 ** 30], outputBits: 48, base: 2 ** 40 },
  { name: "16 KiB", granule: 16384, leaves: [16 * KIB, 2 ** 25], outputBits: 48, base: 2 ** 47 },
  { name: "64 KiB", granule: 65536, leaves: [64 * KIB, 2 ** 29], outputBits: 48, base: 2 ** 40 },
  { name: "64 KiB and 52 bits", granule: 65536, leaves: [64 * KIB, 2 ** 29], outputBits: 52, base: 2 ** 51 },
] as const)("pages of $name", ({ granule, leaves, outputBits, base }) => {
  it.each([
    ["stage 1", 0],
    ["stage 2", ALLOC_NEST_PARENT],
  ] as const)("%s: every size of leaf is mapped, used, and gone after an unmap", (_, flags) => {
    const { memory, driver, device, run, write } = setUp({ granules: [granule], outputBits }, base);
    const domain = run(driver.allocatePaging(device, flags, undefined));
    run(groupOf(device).attach(domain, domain));
    const inputBits = outputBits === 52 ? 52 : 48;
    expect(domain.aperture.last).toBe(2n ** BigInt(inputBits) - 1n);
    expect(domain.pageSizes).toEqual(expect.arrayContaining([...leaves]));
    for (const [index, size] of leaves.entries()) {
      const iova = 2 ** (inputBits - 1) + index * 2 ** 31;
      run(domain.map(BigInt(iova), base, size, PROT_READ | PROT_WRITE));
      expect([write(iova, index + 1), write(iova + size - 1, index + 1), write(iova + size, 1)]).toEqual([
        true,
        true,
        false,
      ]);
      expect([memory.readWord(base) % 256, Math.floor(memory.readWord(base + size - 4) / 2 ** 24)]).toEqual([
        index + 1,
        index + 1,
      ]);
      const gather = newGather();
      run(domain.unmap(BigInt(iova), size, gather));
      run(domain.sync(gather));
      expect([write(iova, 9), write(iova + size - 1, 9)]).toEqual([false, false]);
    }
  });
});
