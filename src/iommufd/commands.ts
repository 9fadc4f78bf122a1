// Runs in a browser.
import { type CommandName, type CommandRow, defineStruct, iommufdCommands, u32 } from "../uapi/index.ts";
import type { Call, CallOf, Handler } from "./call.ts";
import { changeProcess } from "./change-process.ts";
import { hwptGetDirtyBitmap, hwptSetDirtyTracking } from "./dirty-commands.ts";
import type { ExtensionCommand, IommufdExtension } from "./extension.ts";
import { getHwInfo } from "./hw-info.ts";
import { hwptAlloc } from "./hwpt-commands.ts";
import { hwptInvalidate } from "./invalidate.ts";
import { ioasAlloc, ioasAllowIovas, ioasIovaRanges, vfioIoas } from "./ioas-commands.ts";
import { ioasCopy, ioasMap, ioasMapFile, ioasUnmap } from "./map-commands.ts";
import { option } from "./option.ts";
import { faultQueueAlloc, veventqAlloc } from "./queue-commands.ts";
import { hwQueueAlloc, vdeviceAlloc, viommuAlloc } from "./viommu-commands.ts";

/** Who executes each command. */
const handlers: { readonly [N in CommandName]: Handler<N> } = {
  DESTROY: ({ context, command }: CallOf<"DESTROY">) => context.objects.destroy(command.id),
  IOAS_ALLOC: ioasAlloc,
  IOAS_ALLOW_IOVAS: ioasAllowIovas,
  IOAS_COPY: ioasCopy,
  IOAS_IOVA_RANGES: ioasIovaRanges,
  IOAS_MAP: ioasMap,
  IOAS_UNMAP: ioasUnmap,
  OPTION: option,
  VFIO_IOAS: vfioIoas,
  HWPT_ALLOC: hwptAlloc,
  GET_HW_INFO: getHwInfo,
  HWPT_SET_DIRTY_TRACKING: hwptSetDirtyTracking,
  HWPT_GET_DIRTY_BITMAP: hwptGetDirtyBitmap,
  HWPT_INVALIDATE: hwptInvalidate,
  FAULT_QUEUE_ALLOC: faultQueueAlloc,
  IOAS_MAP_FILE: ioasMapFile,
  VIOMMU_ALLOC: viommuAlloc,
  VDEVICE_ALLOC: vdeviceAlloc,
  IOAS_CHANGE_PROCESS: changeProcess,
  VEVENTQ_ALLOC: veventqAlloc,
  HW_QUEUE_ALLOC: hwQueueAlloc,
};

/** A view of some command's struct. */
export type AnyCommand = { readonly $bytes: Uint8Array };

/** A row of the table of uapi, and who executes it. */
export interface Entry {
  readonly row: Pick<CommandRow, "number" | "name" | "minimum"> & {
    readonly struct: { new (): AnyCommand; readonly size: number };
  };
  readonly execute: (
    call: Call<AnyCommand>,
  ) => ReturnType<Handler<CommandName>> | ReturnType<ExtensionCommand["execute"]>;
}

/** By the low 8 bits of the ioctl number. */
export const entries: ReadonlyMap<number, Entry> = new Map(
  Object.entries(iommufdCommands).map(([name, row]) => [
    row.number % 256,
    { row: row as Entry["row"], execute: handlers[name as CommandName] as Entry["execute"] },
  ]),
);

/** Of a number inside the table that is no command's: no request has it, but its size is looked for first. */
const unused: Entry = {
  row: { number: -1, name: "any command", minimum: 0, struct: defineStruct("unused", { size: u32 }) },
  execute: () => undefined,
};

/** The table, as long as an extension makes it. */
export function withExtension({ commands }: IommufdExtension): ReadonlyMap<number, Entry> {
  const longer = new Map(entries);
  for (const command of commands) longer.set(command.row.number % 256, command);
  const numbers = [...longer.keys()];
  for (let nr = Math.min(...numbers); nr < Math.max(...numbers); nr++) if (!longer.has(nr)) longer.set(nr, unused);
  return longer;
}
