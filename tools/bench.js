/** `npm run bench [-- NAME...]`: compiles the benchmarks with tsc, as users get the code, and runs them. */
import { execFileSync } from "node:child_process";
import { join } from "node:path";

const root = join(import.meta.dirname, "..");
const run = (...args) => execFileSync(process.execPath, args, { cwd: root, stdio: "inherit" });
try {
  run("tools/build.js", "--if-needed");
  run("node_modules/typescript/bin/tsc", "-p", "tsconfig.bench.json");
  run(".cache/bench/bench/run.js", ...process.argv.slice(2));
} catch (error) {
  process.exit(error.status ?? 1);
}
