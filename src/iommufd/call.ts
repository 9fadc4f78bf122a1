// Runs in a browser.
import type { Process } from "../memory/index.ts";
import type { Task } from "../runtime/index.ts";
import { type Command, type CommandName, copyOut } from "../uapi/index.ts";
import type { IommufdContext } from "./context.ts";

/** One ioctl under way. */
export class Call<C extends { readonly $bytes: Uint8Array }> {
  readonly context: IommufdContext;
  readonly process: Process;
  /** The client's struct; a handler puts its results here. */
  readonly command: C;
  /** Where the client has it, and how many bytes the client knows. */
  readonly argument: number;
  private readonly given: number;

  constructor(context: IommufdContext, process: Process, command: C, argument: number, given: number) {
    this.context = context;
    this.process = process;
    this.command = command;
    this.argument = argument;
    this.given = given;
  }

  /** Writes the whole struct back. Refusal EFAULT: whoever creates an object answers before publishing it. */
  respond(): void {
    copyOut(this.process.memory, this.argument, this.command.$bytes, this.given);
  }
}

/** The call of one command. */
export type CallOf<N extends CommandName> = Call<Command<N>>;

/** What executes a command: at once, or as a task where it may block. Errors are Refusals. */
export type Handler<N extends CommandName> = (call: CallOf<N>) => Task<void> | undefined;
