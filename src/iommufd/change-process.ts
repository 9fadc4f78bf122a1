// Runs in a browser.
/** IOAS_CHANGE_PROCESS (reference 3.4): a process that inherited the file takes over what is mapped and pinned. */
import type { Process } from "../memory/index.ts";
import { EBUSY, EINVAL, refuse } from "../runtime/index.ts";
import type { CallOf } from "./call.ts";
import { Ioas } from "./ioas.ts";
import { refuseReserved } from "./ioas-commands.ts";
import type { PageSet } from "./page-set.ts";

export function changeProcess({ context, command, process }: CallOf<"IOAS_CHANGE_PROCESS">): undefined {
  refuseReserved(command.reserved);
  const areas = context.objects.list().flatMap((object) => (object instanceof Ioas ? object.space.areas() : []));
  for (const area of areas)
    if (area.state === "building") refuse(EBUSY, () => `${area.label} is being built in another call`);
  const sets = new Set<PageSet>();
  for (const { label, pages } of areas) {
    if (pages.source.kind !== "file")
      refuse(EINVAL, () => `${label} shows ${pages.source.label}: only files can change hands`);
    sets.add(pages);
  }
  const before: [PageSet, Process][] = [];
  try {
    for (const pages of sets) {
      const { payer } = pages.account;
      pages.changePayer(process);
      before.push([pages, payer]);
    }
  } catch (error) {
    for (const [pages, payer] of before.reverse()) pages.changePayer(payer);
    throw error;
  }
}
