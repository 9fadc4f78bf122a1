// Runs in a browser.
/** The driver with the hardware model below it: what tests of translations that change need. */
import { SmmuV3, smmuFeatures } from "../../hardware/smmuv3/index.ts";
import { Device, type FirmwareSpec, IommuCore } from "../../iommu/index.ts";
import { PhysicalMemory } from "../../memory/index.ts";
import { Refusal, System, type Task } from "../../runtime/index.ts";
import { SmmuV3Driver } from "./driver.ts";

export type ModelWorld = ReturnType<typeof modelWorld>;

/** One SMMU that works, without devices, in a machine with 256 MiB of RAM. */
export function modelWorld(features: Parameters<typeof smmuFeatures>[0] = {}) {
  const system = new System();
  const memory = new PhysicalMemory(system, { ram: [{ base: 0, size: 2 ** 28 }] });
  const driver = new SmmuV3Driver(system, memory);
  const core = new IommuCore(system, { defaultDomain: "identity" });
  const run = <T>(code: Task<T>): T => system.run("test", code);
  const hardware: SmmuV3 = new SmmuV3(system, memory, {
    ...smmuFeatures(features),
    interrupt: (line) => driver.handleInterrupt(instance, line),
  });
  const instance = run(driver.probe(hardware, { name: "smmu" }));
  run(core.register(instance));
  system.events.listen(({ kind, ...rest }) => {
    if (kind === "smmuv3.command-queue.error" || kind === "smmuv3.command-queue.timeout") {
      throw new Error(`${kind}: ${JSON.stringify(rest)}`);
    }
  });
  /** Probed, and in a group of its own. */
  const probed = (name: string, firmware: Omit<FirmwareSpec, "instance">): Device => {
    const device = new Device({ name, firmware: { instance: "smmu", ...firmware } });
    run(core.probe(device));
    return device;
  };
  /** The errno of a Refusal, or undefined. */
  const errno = (code: Task<unknown>): number | undefined => {
    try {
      run(code);
      return undefined;
    } catch (error) {
      if (error instanceof Refusal) return error.errno;
      throw error;
    }
  };
  /** One DMA of a byte. `done` says how it ended: undefined while it waits. */
  const dma = (streamId: number, address: number, write = false, pasid?: number): { done: boolean | undefined } => {
    const access: { done: boolean | undefined } = { done: undefined };
    system.tasks.spawn(
      "dma",
      (function* () {
        access.done = yield* hardware.access(streamId, pasid, BigInt(address), new Uint8Array(1), write);
      })(),
    );
    system.tasks.drain();
    return access;
  };
  return { system, memory, driver, core, hardware, instance, run, errno, probed, dma };
}
