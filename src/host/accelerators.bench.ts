import type { Benchmark } from "../../bench/benchmark.ts";
import { middle } from "../../bench/benchmark.ts";
import { AcceleratorHost } from "./accelerators.test-support.ts";
import { runClient } from "./clients.test-support.ts";

const ROUNDS = 5;

const benchmark: Benchmark = {
  name: "accelerators",
  async rows() {
    const served = new AcceleratorHost();
    await served.host.listen();
    const samples: number[][] = [];
    for (let round = 0; round < ROUNDS; round++) {
      const { stdout } = await runClient(served.host, served.program, ["speed"]);
      samples.push(stdout.trim().split(" ").map(Number));
    }
    await served.close();
    const [job, fault, unmap] = [0, 1, 2].map((column) => middle(samples.map((sample) => sample[column])));
    return [
      { what: "accelerator: a copy of 4 KiB from C, submitted and waited for", value: job, unit: "µs" },
      { what: "accelerator: a page of a program that the device brings in and writes", value: fault, unit: "µs" },
      { what: "accelerator: munmap in a program that is bound", value: unmap, unit: "µs" },
    ];
  },
};
export default benchmark;
