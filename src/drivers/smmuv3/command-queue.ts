// Runs in a browser.
/**
 * The command queue: a ring in memory that the driver fills and the SMMU empties.
 *
 * Positions are an index with one wrap bit above it, as in CMDQ_PROD and CMDQ_CONS. Always true: between CONS and PROD
 * lie commands that the driver wrote completely. Commands take effect in any order until a CMD_SYNC behind them is
 * consumed; whoever needs an effect pushes his commands and then waits in {@link CommandQueue.sync}. Tasks may push
 * between each other's commands: each waits for a SYNC of its own.
 *
 * A command that the SMMU does not accept stops the queue; it is replaced by a SYNC, which always passes, told as an
 * event, and the queue goes on.
 */
import { type PhysicalMemory, type RegisterBlock, wordIndex } from "../../memory/index.ts";
import type { System, Task } from "../../runtime/index.ts";
import { type CommandSink, commandName, SYNC } from "./commands.ts";
import { baseWords, CMDQ_BASE, CMDQ_CONS, CMDQ_PROD, GERROR, GERROR_CMDQ_ERR, GERRORN } from "./registers.ts";

const ENTRY_BYTES = 16;
/** One page of commands: what one batch needs, and never crossing a chunk of memory. */
const LOG2_ENTRIES_MAX = 8;
/** Polls after which an SMMU that does not move counts as dead. */
const POLLS_MAX = 10_000;

const errorReasons: readonly string[] = [
  "no error",
  "illegal command",
  "abort on reading it",
  "an ATC invalidation timed out",
];
const CERROR_ILL = 1;
const CERROR_ATC_INV_SYNC = 3;

export class CommandQueue implements CommandSink {
  private readonly system: System;
  private readonly memory: PhysicalMemory;
  private readonly registers: RegisterBlock;
  private readonly name: string;
  private readonly log2Entries: number;
  private readonly entries: number;
  /** Positions count modulo this plus one. */
  private readonly positionMask: number;
  private readonly pfn: number;
  private prod = 0;
  private cons = 0;

  /** `log2EntriesMax` is what the SMMU offers. Refusal ENOMEM. */
  constructor(
    system: System,
    memory: PhysicalMemory,
    registers: RegisterBlock,
    options: { name: string; log2EntriesMax: number },
  ) {
    this.system = system;
    this.memory = memory;
    this.registers = registers;
    this.name = options.name;
    this.log2Entries = Math.min(options.log2EntriesMax, LOG2_ENTRIES_MAX);
    this.entries = 2 ** this.log2Entries;
    this.positionMask = 2 * this.entries - 1;
    this.pfn = memory.allocate();
  }

  /** Tells the SMMU where the queue is. It is empty then. Only while the queue is off. */
  program(): void {
    this.prod = this.cons = 0;
    this.registers.write64(CMDQ_BASE, ...baseWords(this.pfn * 4096, this.log2Entries));
    this.registers.write32(CMDQ_PROD, 0);
    this.registers.write32(CMDQ_CONS, 0);
  }

  free(): void {
    this.memory.free(this.pfn);
  }

  /** Puts one command into the ring. The SMMU sees it with the next {@link sync} or {@link publish}. */
  push(word0: number, word1: number, word2: number, word3: number): void {
    if (this.used() === this.entries) this.makeRoom();
    this.put(this.prod & (this.entries - 1), word0, word1, word2, word3);
    this.prod = (this.prod + 1) & this.positionMask;
  }

  /** Lets the SMMU see what was pushed, without waiting. For commands that need no SYNC. */
  publish(): void {
    this.registers.write32(CMDQ_PROD, this.prod);
  }

  /**
   * {@link sync} without a generator, for hot paths: false, and there is no promise, if the SMMU has not consumed
   * everything at once, or somebody explores what may happen meanwhile.
   */
  trySync(): boolean {
    if (this.system.tasks.exploring) return false;
    this.push(SYNC, 0, 0, 0);
    this.publish();
    return this.hasPassed(this.prod);
  }

  /** When it returns, all commands pushed before have taken effect. */
  *sync(): Task<void> {
    this.push(SYNC, 0, 0, 0);
    const target = this.prod;
    const { tasks } = this.system;
    if (tasks.exploring) yield* tasks.point();
    this.publish();
    for (let polls = 0; !this.hasPassed(target); polls++) {
      if (polls === POLLS_MAX) {
        this.tell("smmuv3.command-queue.timeout", { text: "CMD_SYNC is not consumed" });
        return;
      }
      this.repair();
      if (tasks.exploring) yield* tasks.point();
    }
  }

  /** If the SMMU stopped at a bad command: takes that one away and lets the queue go on. */
  repair(): void {
    const active = (this.registers.read32(GERROR) ^ this.registers.read32(GERRORN)) & GERROR_CMDQ_ERR;
    if (active === 0) return;
    const consumer = this.registers.read32(CMDQ_CONS);
    const error = Math.floor(consumer / 2 ** 24) & 0x7f;
    const index = consumer & (this.entries - 1);
    // After a failed fetch the same command is tried again; a timed-out ATC invalidation is not the SYNC's fault.
    if (error === CERROR_ILL) {
      const bad = this.memory.readWord(this.pfn * 4096 + index * ENTRY_BYTES);
      this.tell("smmuv3.command-queue.error", { command: commandName(bad & 0xff), text: errorReasons[error] });
      this.put(index, SYNC, 0, 0, 0);
    } else {
      const text = errorReasons[error] ?? `error ${error}`;
      this.tell("smmuv3.command-queue.error", { text, fatal: error !== CERROR_ATC_INV_SYNC });
    }
    this.registers.write32(GERRORN, (this.registers.read32(GERRORN) ^ GERROR_CMDQ_ERR) >>> 0);
  }

  private put(index: number, word0: number, word1: number, word2: number, word3: number): void {
    const base = this.pfn * 4096;
    const words = this.memory.words(base);
    if (words === undefined) {
      for (const [at, word] of [word0, word1, word2, word3].entries()) {
        this.memory.writeWord(base + index * ENTRY_BYTES + at * 4, word);
      }
      return;
    }
    const at = wordIndex(base) + index * 4;
    words[at] = word0;
    words[at + 1] = word1;
    words[at + 2] = word2;
    words[at + 3] = word3;
  }

  /** Entries between the last known CONS and PROD. */
  private used(): number {
    return (this.prod - this.cons) & this.positionMask;
  }

  /** True once the SMMU consumed everything before position `target`. */
  private hasPassed(target: number): boolean {
    this.cons = this.registers.read32(CMDQ_CONS) & this.positionMask;
    return this.used() <= ((this.prod - target) & this.positionMask);
  }

  /** The ring is full of commands, of which the SMMU was perhaps not told yet. */
  private makeRoom(): void {
    this.publish();
    for (let polls = 0; polls < POLLS_MAX; polls++) {
      this.cons = this.registers.read32(CMDQ_CONS) & this.positionMask;
      if (this.used() < this.entries) return;
      this.repair();
    }
    this.tell("smmuv3.command-queue.timeout", { text: "the full queue does not move; its commands are lost" });
    this.cons = this.prod;
  }

  private tell(kind: string, fields: Record<string, unknown>): void {
    if (this.system.events.on) this.system.events.emit({ kind, instance: this.name, ...fields });
  }
}
