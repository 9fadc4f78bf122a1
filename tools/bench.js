/** `npm run bench [-- NAME...]`: compiles the benchmarks with tsc, as users get the code, and runs them. */
import { execFileSync } from "node:child_process";
import { existsSync, symlinkSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dirname, "..");
const run = (...args) => execFileSync(process.execPath, args, { cwd: root, stdio: "inherit" });
try {
  run("tools/build.js", "--if-needed");
  run("node_modules/typescript/bin/tsc", "-p", "tsconfig.bench.json");
  // What code finds beside itself.
  for (const folder of ["shim", "dist"]) {
    const link = join(root, ".cache", "bench", folder);
    if (!existsSync(link)) symlinkSync(join("..", "..", folder), link);
  }
  run(".cache/bench/bench/run.js", ...process.argv.slice(2));
} catch (error) {
  process.exit(error.status ?? 1);
}
