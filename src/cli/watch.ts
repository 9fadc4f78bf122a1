import { closeSync, openSync, writeSync } from "node:fs";
import type { Blindness } from "../host/index.ts";
import { type ClientCall, callName, explainCall, explainFault, traceLine } from "../inspect/index.ts";
import { type Machine, summarizeMachine } from "../machine/index.ts";
import { CommandError, reasonOf, type Terminal } from "./terminal.ts";

/** Trace lines are written in pieces of about this many characters. */
const TRACE_PIECE = 65536;

/** How much of what clients do is told. */
export interface WatchOptions {
  readonly explain?: boolean;
  readonly trace?: string;
  readonly verbose?: boolean;
}

/**
 * Tells on stderr, and in a trace file, what clients do: as much as was asked for. Nobody asked: one line at the end if
 * DMA faults happened, since a program seldom sees them.
 */
export class Watch {
  private readonly terminal: Terminal;
  private readonly explains: boolean;
  private readonly verbose: boolean;
  private readonly trace: TraceFile | undefined;
  private readonly origin = performance.now();
  private calls = 0;
  private refused = 0;
  private faults = 0;
  private blindness: string | undefined;

  /** CommandError if the trace file cannot be made. */
  constructor(terminal: Terminal, options: WatchOptions) {
    this.terminal = terminal;
    this.explains = options.explain ?? false;
    this.verbose = options.verbose ?? false;
    this.trace = options.trace === undefined ? undefined : new TraceFile(options.trace, (text) => this.say(text));
  }

  /** True if calls have to be told at all: telling costs their decoding. */
  get wantsCalls(): boolean {
    return this.explains || this.verbose || this.trace !== undefined;
  }

  call(call: ClientCall): void {
    this.calls++;
    if (call.refusal) this.refused++;
    this.trace?.add(traceLine(call, this.origin));
    const why = this.explains ? explainCall(call) : undefined;
    if (why !== undefined) this.terminal.err(`${why}\n`);
    else if (this.verbose && (call.kind === "open" || call.kind === "close")) {
      this.say(`process ${call.process.pid}: ${callName(call)}`);
    }
  }

  /** A DMA was refused; `text` says why, and is made only if somebody reads it. */
  fault(text: () => string): void {
    this.faults++;
    if (this.explains) this.terminal.err(`${explainFault(text())}\n`);
  }

  /** A program starts that sees nothing of the machine: no wonder for who knows, and a riddle for who does not. */
  blind(program: string, why: Blindness): void {
    const reason = why === "static" ? "is statically linked" : "is setuid or setgid";
    this.blindness ??= `${program} ${reason}: it sees nothing of the machine`;
    if (this.explains || this.verbose) this.sayBlind();
  }

  /** Says so now, once. */
  sayBlind(): void {
    if (this.blindness) this.say(this.blindness);
    this.blindness = "";
  }

  /** What there is, if `-v` asks for it. */
  machine({ description, core }: Machine): void {
    this.tell(`machine ${description.name}: ${summarizeMachine(description)}`);
    for (const { id, devices } of core.groups.values()) {
      this.tell(`group ${id}: ${devices.map((device) => device.name).join(", ")}`);
    }
  }

  /** One line of ours, if `-v` asks for it. */
  tell(text: string): void {
    if (this.verbose) this.say(text);
  }

  /** The end of the run: closes the trace, and says what is left to say. */
  finish(): void {
    this.trace?.close();
    const faults = count(this.faults, "DMA fault");
    if (this.verbose) this.say(`${count(this.calls, "call")}, ${this.refused} refused, ${faults}`);
    else if (this.faults > 0 && !this.explains) this.say(`${faults} (run with --explain to see why)`);
  }

  /** One line of ours, whatever was asked for: something is wrong. */
  say(text: string): void {
    this.terminal.err(`uiommu: ${text}\n`);
  }
}

export function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

class TraceFile {
  private readonly file: string;
  private readonly say: (text: string) => void;
  private readonly descriptor: number;
  private piece = "";
  private isCut = false;

  /** `say` is told once if the trace cannot be written to its end. */
  constructor(file: string, say: (text: string) => void) {
    this.file = file;
    this.say = say;
    try {
      this.descriptor = openSync(file, "w");
    } catch (error) {
      throw new CommandError(`cannot write the trace ${file}: ${reasonOf(error as NodeJS.ErrnoException)}`);
    }
  }

  add(line: string): void {
    if (this.isCut) return;
    this.piece += `${line}\n`;
    if (this.piece.length >= TRACE_PIECE) this.write();
  }

  close(): void {
    this.write();
    closeSync(this.descriptor);
  }

  private write(): void {
    const bytes = Buffer.from(this.piece);
    this.piece = "";
    try {
      for (let at = 0; at < bytes.length; ) at += writeSync(this.descriptor, bytes, at);
    } catch (error) {
      this.isCut = true;
      this.say(`the trace ${this.file} is cut off: ${reasonOf(error as NodeJS.ErrnoException)}`);
    }
  }
}
