import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, renameSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
/** The project's folder, from src/host as well as from dist/host. */
const project = join(here, "..", "..");

export const shimSources: string = join(project, "shim");

/** Where the compiled shim lies. */
export interface ShimFiles {
  readonly library: string;
  readonly helper: string;
}

export function shimFiles(folder: string = join(project, "dist", "shim")): ShimFiles {
  return { library: join(folder, "libuiommu-shim.so"), helper: join(folder, "uiommu-fd-helper") };
}

/** A fault of this computer's set-up that a person can mend; the message says how. */
export class SetupError extends Error {
  override readonly name = "SetupError";
}

const warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

/** Compiles the shim and its helper into `folder`. Throws {@link SetupError}. */
export function compileShim(compiler: string, folder: string = join(project, "dist", "shim")): ShimFiles {
  mkdirSync(folder, { recursive: true });
  const files = shimFiles(folder);
  const helper = "fd-helper.c";
  const sources = readdirSync(shimSources).filter((name) => name.endsWith(".c") && name !== helper);
  // libc declares paths as never NULL; a program may pass it all the same, and the kernel answers EFAULT.
  const common = ["-std=gnu11", "-O2", "-U_FORTIFY_SOURCE", "-fno-delete-null-pointer-checks", ...warnings];
  const shared = [
    "-shared",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wl,-z,defs",
    "-Wl,-z,lazy",
    // Fewer parts to map: every program pays for each when it starts.
    "-Wl,-z,noseparate-code",
    "-Wl,-O1",
    "-Wl,--hash-style=gnu",
  ];
  compile(compiler, [...common, ...shared], sources, files.library, ["-lpthread", "-ldl"]);
  compile(compiler, common, [helper], files.helper, []);
  return files;
}

function compile(
  compiler: string,
  options: readonly string[],
  sources: readonly string[],
  output: string,
  libraries: readonly string[],
): void {
  const partial = `${output}.${process.pid}`;
  const { error, status, stderr } = spawnSync(
    compiler,
    [...options, "-o", partial, ...sources.map((name) => join(shimSources, name)), ...libraries],
    { encoding: "utf8" },
  );
  if (error !== undefined) {
    throw new SetupError(
      `no C compiler: ${compiler} cannot be started (${(error as NodeJS.ErrnoException).code}); ` +
        "install one, e.g. apt-get install gcc libc6-dev, or set CC",
    );
  }
  if (status !== 0) {
    const first = stderr.split("\n").find((text) => text.includes("error")) ?? stderr.trim();
    throw new SetupError(`${compiler} could not compile the shim: ${first}`);
  }
  renameSync(partial, output);
}

/** The compiled shim; compiled now if it is missing or older than its sources. Throws {@link SetupError}. */
export function findShim(compiler: string = process.env.CC ?? "cc", folder?: string): ShimFiles {
  const files = shimFiles(folder);
  if (!existsSync(shimSources)) {
    if (existsSync(files.library)) return files;
    throw new SetupError(`the shim is missing: ${files.library}`);
  }
  const newest = Math.max(
    ...readdirSync(shimSources)
      .filter((name) => /\.[ch]$/.test(name))
      .map((name) => statSync(join(shimSources, name)).mtimeMs),
  );
  const built = Math.min(
    ...[files.library, files.helper].map((file) => (existsSync(file) ? statSync(file).mtimeMs : 0)),
  );
  return built >= newest ? files : compileShim(compiler, folder);
}
