// Runs in a browser.
/** Processes on devices behind an SMMU: core, driver and the model of the hardware together. */
import { Cpu, type CpuOptions, type Device, Sva, type SvaHandle } from "../../iommu/index.ts";
import { LibraryProcess } from "../../memory/index.ts";
import type { Task } from "../../runtime/index.ts";
import { modelWorld } from "./on-model.test-support.ts";

/** Devices with streams 1, 2, … that can be stalled, and processes. `events` are the names of what the SMMU recorded. */
export function setUp(features: Parameters<typeof modelWorld>[0] = {}, options: CpuOptions = {}) {
  const world = modelWorld({ substreamIdBits: 16, ...features });
  const { system, memory, hardware, run } = world;
  const cpu = new Cpu(system, memory, options);
  cpu.broadcastTo((asid, start, size) => hardware.hearTlbInvalidation(asid, start, size));
  const sva = new Sva(system, cpu);
  const events: string[] = [];
  world.driver.onEvent = ({ name }) => events.push(name);
  let devices = 0;
  const device = (canStall = true): Device & { stream: number } => {
    const stream = ++devices;
    const made = world.probed(`d${stream}`, { streamIds: [stream], pasidBits: 16, canStall });
    return Object.assign(made, { stream });
  };
  let pid = 0;
  const process = (): LibraryProcess => new LibraryProcess(system, memory, { pid: ++pid });
  const bind = (to: Device, of: LibraryProcess): SvaHandle => run(sva.bind(to, of.memory));
  const unbind = (handle: SvaHandle): void => run(sva.unbind(handle));
  const access = (handle: SvaHandle, address: number, bytes: Uint8Array, write: boolean): boolean | undefined => {
    const { stream } = handle.device as Device & { stream: number };
    let done: boolean | undefined;
    const dma = function* (): Task<void> {
      done = yield* hardware.access(stream, handle.pasid, BigInt(address), bytes, write);
    };
    system.tasks.start("dma", dma());
    return done;
  };
  /** What the device reads with the process's PASID, as text; undefined if it is refused. */
  const reads = (handle: SvaHandle, address: number, length = 5): string | undefined => {
    const bytes = new Uint8Array(length);
    return access(handle, address, bytes, false) ? new TextDecoder().decode(bytes) : undefined;
  };
  const writes = (handle: SvaHandle, address: number, text: string): boolean | undefined =>
    access(handle, address, new TextEncoder().encode(text), true);
  return { ...world, cpu, sva, events, device, process, bind, unbind, reads, writes };
}

export function put({ memory }: LibraryProcess, address: number, text: string): void {
  memory.write(address, new TextEncoder().encode(text));
}

export function get({ memory }: LibraryProcess, address: number, length = 5): string {
  const bytes = new Uint8Array(length);
  memory.read(address, bytes);
  return new TextDecoder().decode(bytes);
}
