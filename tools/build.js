/**
 * Builds everything into dist/: the TypeScript with tsc, the shim and its helper with the C compiler.
 * `--if-needed`: only if dist/ is missing or older than the sources. Without a C compiler the library is built and
 * one line says what is missing.
 */
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dirname, "..");
const built = join(root, "dist", "cli", "main.js");
const shim = join(root, "dist", "shim", "libuiommu-shim.so");

function newest(folder) {
  const times = readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => statSync(join(entry.parentPath, entry.name)).mtimeMs);
  return Math.max(...times);
}

const isCurrent =
  existsSync(built) &&
  existsSync(shim) &&
  Math.min(statSync(built).mtimeMs, statSync(shim).mtimeMs) > Math.max(newest("src"), newest("shim"));
if (process.argv.includes("--if-needed") && isCurrent) process.exit(0);

try {
  execFileSync(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", "tsconfig.build.json"], {
    cwd: root,
    stdio: "inherit",
  });
} catch {
  process.exit(1);
}
const { compileShim } = await import(join(root, "dist", "host", "build.js"));
try {
  compileShim(process.env.CC ?? "cc", join(root, "dist", "shim"));
} catch (error) {
  console.error(`uiommu: ${error.message}`);
  process.exit(process.argv.includes("--if-needed") ? 1 : 0);
}
