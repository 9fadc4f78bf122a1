// Runs in a browser.
import type { Task } from "../runtime/index.ts";
import type { Fields, Struct, StructView } from "../uapi/index.ts";
import type { Call, CallOf } from "./call.ts";

/** A command that is none of iommufd's own, such as a test interface: a row of the table, and who executes it. */
export interface ExtensionCommand {
  readonly row: {
    /** The whole ioctl number; its low 8 bits are above those of iommufd's commands. */
    readonly number: number;
    readonly name: string;
    readonly struct: { new (): { readonly $bytes: Uint8Array }; readonly size: number };
    /** The smallest accepted size. */
    readonly minimum: number;
  };
  /** What it returns, at once or as a task, is what ioctl() returns if it is a number. Errors are Refusals. */
  // biome-ignore lint/suspicious/noExplicitAny: structs of all commands
  readonly execute: (call: Call<any>) => Task<unknown> | number | undefined;
}

/** What others add to a context. */
export interface IommufdExtension {
  readonly commands: readonly ExtensionCommand[];
  /** Rewrites what a client asks of IOAS_COPY, before it is looked at. */
  readonly prepareCopy?: (call: CallOf<"IOAS_COPY">) => void;
}

/** A row and its execution, checked against each other. */
export function extensionCommand<F extends Fields>(
  row: { readonly number: number; readonly name: string; readonly struct: Struct<F>; readonly minimum: number },
  execute: (call: Call<StructView<F>>) => Task<unknown> | number | undefined,
): ExtensionCommand {
  return { row, execute };
}
