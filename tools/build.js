/**
 * Builds everything into dist/: the TypeScript with tsc, the command line in few files, the shim and its helper with the
 * C compiler.
 * `--if-needed`: only if dist/ is missing or older than the sources. Without a C compiler the library is built and
 * one line says what is missing.
 */
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";

const root = join(import.meta.dirname, "..");
const cli = join(root, "dist", "cli");
const command = join(root, "dist", "command");
const built = join(command, "main.js");
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

// Loading 150 modules one by one takes half the time that `uiommu run` needs to start a program. Flat: what code finds
// by its own place (examples, the shim) lies as far away as from the folder of a room.
rmSync(command, { recursive: true, force: true });
await build({
  entryPoints: [join(cli, "main.js"), join(cli, "terminal.js")],
  outdir: command,
  bundle: true,
  splitting: true,
  packages: "external",
  format: "esm",
  platform: "node",
  target: "node20",
  logLevel: "warning",
});

const { compileShim } = await import(join(root, "dist", "host", "build.js"));
try {
  compileShim(process.env.CC ?? "cc", join(root, "dist", "shim"));
} catch (error) {
  console.error(`uiommu: ${error.message}`);
  process.exit(process.argv.includes("--if-needed") ? 1 : 0);
}
