// Runs in a browser.
import type { File, Process, UserAddress } from "../memory/index.ts";
import { EINVAL, ENOTTY, type Holder, refuse, type Task } from "../runtime/index.ts";
import type { IommufdContext } from "./context.ts";
import { IommufdObject } from "./objects.ts";

/** Puts bytes where a client reads them, `at` bytes behind the beginning. Refusal EFAULT. */
export type Put = (at: number, bytes: Uint8Array) => void;

/** Gives `count` bytes that a client writes, from `at` on. Refusal EFAULT. */
export type Get = (at: number, count: number) => Uint8Array;

/**
 * A queue of records that is an object with an id and a file as well. The file, while open, is a user of the object and
 * keeps the context; records move whole, and one that the client's memory refuses stays.
 */
export abstract class RecordQueue extends IommufdObject implements File {
  readonly hasPosition = false;
  abstract readonly writable: boolean;
  onReadable: (() => void) | undefined;
  protected readonly context: IommufdContext;
  private readonly file: Holder;

  constructor(context: IommufdContext, id: number, noun: string) {
    super(id, noun);
    this.context = context;
    this.file = { label: `file of ${this.label}` };
  }

  /** True while there is something to read. */
  abstract readable(): boolean;
  /** Moves records into room for `count` bytes; returns the bytes moved. */
  protected abstract take(count: number, put: Put): number;
  /** Accepts `count` bytes of records; returns the bytes accepted. */
  protected abstract give(count: number, get: Get): Task<number>;

  /** Its file is about to be given to a client. */
  open(): void {
    this.users.get(this.file);
    this.context.hold(this.file);
  }

  /** The file was never given. */
  *abandon(): Task<void> {
    this.users.put(this.file);
    yield* this.context.drop(this.file);
    yield* this.destroy();
  }

  *release(): Task<void> {
    this.onReadable = undefined;
    this.users.put(this.file);
    yield* this.context.drop(this.file);
  }

  *ioctl(_process: Process, request: number): Task<number> {
    return refuse(ENOTTY, () => `0x${request.toString(16)}: ${this.label} has no ioctls`);
  }

  *read(_process: Process, _position: number, into: Uint8Array): Task<number> {
    return this.take(into.length, (at, bytes) => into.set(bytes, at));
  }

  *readInto(process: Process, address: UserAddress, count: number): Task<number> {
    return this.take(count, (at, bytes) => process.memory.write(BigInt(address) + BigInt(at), bytes));
  }

  *write(_process: Process, _position: number, from: Uint8Array): Task<number> {
    return yield* this.give(from.length, (at, count) => from.subarray(at, at + count));
  }

  *writeFrom(process: Process, address: UserAddress, count: number): Task<number> {
    return yield* this.give(count, (at, length) => {
      const bytes = new Uint8Array(length);
      process.memory.read(BigInt(address) + BigInt(at), bytes);
      return bytes;
    });
  }

  /** After each change of {@link readable} that no read made. */
  protected tellReadable(): void {
    this.onReadable?.();
  }
}

/** What a queue that only speaks answers to a write. */
export function refuseWrite(queue: RecordQueue): never {
  refuse(EINVAL, () => `${queue.label} takes no answers`);
}
