/** How programs that a host did not start become its clients: it leaves its key in its directory, for its owner alone. */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { isHostDirectory, parents } from "./directory.ts";

/** There is no machine to join, or no saying which. */
export class JoinError extends Error {}

/** Of a host: its directory, and its process id and key, as the shim wants them. */
export interface Address {
  readonly directory: string;
  readonly host: string;
}

/** What a program's environment must have to be a client. `before` is its environment so far. */
export function clientEnvironment(
  { directory, host }: Address,
  library: string,
  before: NodeJS.ProcessEnv,
): Record<string, string> {
  const preload = [library, before.LD_PRELOAD].filter(Boolean).join(":");
  const asan = [before.ASAN_OPTIONS, "verify_asan_link_order=0"].filter(Boolean).join(":");
  return { LD_PRELOAD: preload, UIOMMU_DIR: directory, UIOMMU_HOST: host, ASAN_OPTIONS: asan };
}

const KEY = "key";

/** From now on {@link findHost} finds the host. */
export function invite({ directory, host }: Address): void {
  writeFileSync(join(directory, KEY), host, { mode: 0o600 });
}

/** The host in `directory`, or else the only one that invites us. Throws {@link JoinError}. */
export function findHost(directory?: string): Address {
  const found = directory === undefined ? invitations() : [directory];
  if (found.length === 0) throw new JoinError("no machine is served; uiommu serve would serve one");
  if (found.length > 1)
    throw new JoinError(`${found.length} machines are served; --connect takes one of ${found.join(", ")}`);
  try {
    return { directory: found[0], host: readFileSync(join(found[0], KEY), "latin1") };
  } catch {
    throw new JoinError(`no machine is served in ${found[0]}; uiommu serve tells where it does`);
  }
}

function invitations(): string[] {
  return parents().flatMap((parent) =>
    list(parent)
      .map((name) => join(parent, name))
      .filter((directory) => isHostDirectory(directory) && list(directory).includes(KEY)),
  );
}

function list(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return []; // not there, or not ours
  }
}
