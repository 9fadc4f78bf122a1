/** A host over the machine `sva`, for real processes whose memory its accelerators use. */
import { expect } from "vitest";
import { RealTimeClock } from "../cli/clock.ts";
import { buildMachine, type Machine, presets } from "../machine/index.ts";
import { type Ended, runClient, testProgram, testShim } from "./clients.test-support.ts";
import { Host } from "./host.ts";

export class AcceleratorHost {
  readonly machine: Machine;
  readonly host: Host;
  readonly program: string = testProgram("sva", "-D_GNU_SOURCE");
  private readonly framesAtRest: number;

  constructor() {
    const clock = new RealTimeClock();
    this.machine = buildMachine(presets.sva, { clock });
    clock.afterAlarm = () => this.machine.system.tasks.drain();
    this.host = new Host(this.machine, { shim: testShim() });
    this.framesAtRest = this.machine.memory.adoptedFrames;
  }

  /** Runs `sva WHAT`; its lines. */
  async run(...what: string[]): Promise<string[]> {
    return this.linesOf(await runClient(this.host, this.program, what));
  }

  /** What a program printed, none of it a failure. */
  linesOf({ stdout, stderr }: Ended): string[] {
    const lines = stdout.trimEnd().split("\n");
    expect(lines.filter((line) => !line.startsWith("ok "))).toEqual([]);
    expect(stderr).toBe("");
    return lines;
  }

  /** Nothing is left of programs that have ended, however they did. */
  async expectNothingLeft(): Promise<void> {
    await this.host.whenIdle();
    const { sva, uacce, memory, system } = this.machine;
    const left = () => ({
      mms: sva.mms.length,
      tasks: system.tasks.unfinished.size,
      clients: this.host.clients.size,
      files: uacce.devices.reduce((sum, { openFiles }) => sum + openFiles.size, 0),
      frames: memory.adoptedFrames - this.framesAtRest,
    });
    await expect.poll(left, { timeout: 20_000 }).toEqual({ mms: 0, tasks: 0, clients: 0, files: 0, frames: 0 });
  }

  async close(): Promise<void> {
    await this.host.close();
    this.machine.system.run("power down", this.machine.powerDown());
  }
}
