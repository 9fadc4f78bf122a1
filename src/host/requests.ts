/**
 * Requests: what a control connection carries (protocol.ts).
 *
 * Each becomes a task. Most do not block: then the answer is sent before
 * `handle` returns. The bytes that came with an ioctl are the window of its
 * address space until the task blocks or ends (address-space.ts).
 */
import { type MmapRequest, PAGE_SIZE, type PhysicalMemory } from "../memory/index.ts";
import {
  EBADF,
  EFAULT,
  EINVAL,
  EIO,
  ENODEV,
  type Outcome,
  Refusal,
  refuse,
  type System,
  type Task,
} from "../runtime/index.ts";
import { type Call, endedCall } from "./call.ts";
import type { ClientProcess } from "./client.ts";
import type { Arrival, Connection } from "./connection.ts";
import { USER_END } from "./maps.ts";
import type { OpenFile } from "./open-file.ts";
import * as wire from "./protocol.ts";
import type { Replies } from "./replies.ts";
import type { Windows } from "./windows.ts";

const { offsets } = wire.Request;
/** The most that one read or write moves; more is a short count, as these calls allow. */
const TRANSFER_MAX = 1 << 20;

const MAP_SHARED = 1;
const PROT_WRITE = 2;
const PROT_EXEC = 4;

/** What requests need of the host. */
export interface RequestContext {
  readonly served: { readonly system: System; readonly memory: PhysicalMemory };
  readonly files: ReadonlyMap<number, OpenFile>;
  /** Those of them that are readable at times only. */
  readonly queues: ReadonlySet<OpenFile>;
  readonly replies: Replies;
  readonly windows: Windows;
  readonly onCall: ((call: Call) => void) | undefined;
  onBug(error: unknown): void;
  /** A descriptor of the file was closed; if it was the last one, the file is to be released now. */
  checkEnd(openFile: OpenFile): void;
  /** Pages that count as locked (`which` 0) or pinned (1) of a client; negative if no process with this id is one. */
  accountOf(pid: number, which: number): number;
  /** The client does not wait for an ioctl here any more. */
  endCall(connection: Connection): void;
  /** A call made a file that its client is to fetch: the token that names it. */
  install(connection: Connection, client: ClientProcess): number;
}

export class Requests {
  private readonly host: RequestContext;

  constructor(host: RequestContext) {
    this.host = host;
  }

  /** Handles the request at `at`: bytes taken; 0: more must arrive; -1: that is no request. */
  handle(connection: Connection, client: ClientProcess, { bytes, view, end }: Arrival, at: number): number {
    if (end - at < wire.Request.size) return 0;
    const length = view.getUint32(at + offsets.length, true);
    if (length > wire.PAYLOAD_MAX) return -1;
    const payload = at + wire.Request.size;
    if (end < payload + length) return 0;
    client.begin(wire.wide(view, at + offsets.generation));
    const number = wire.wide(view, at + offsets.number);
    const argument = wire.wide(view, at + offsets.argument);
    const { replies } = this.host;
    switch (view.getUint32(at + offsets.operation, true)) {
      case wire.OP_SYNC:
        replies.send(connection, 0);
        return wire.Request.size + length;
      case wire.OP_CHANGING:
        if (wire.wide(view, at + offsets.position) === wire.CHANGE_CONTENT) client.memory.keep(argument, number);
        replies.send(connection, this.beginChange(connection, client, argument, number) ? 1 : 0);
        return wire.Request.size + length;
      case wire.OP_CHANGED:
        this.endChange(connection, client, argument);
        replies.send(connection, 0);
        return wire.Request.size + length;
      case wire.OP_ACCOUNT:
        replies.send(connection, this.host.accountOf(argument, number));
        return wire.Request.size + length;
      case wire.OP_MOVED:
        client.memory.move(argument, number, wire.wide(view, at + offsets.position));
        replies.send(connection, 0);
        return wire.Request.size + length;
    }
    const openFile = this.host.files.get(wire.wide(view, at + offsets.inode));
    if (openFile === undefined) {
      replies.send(connection, -EBADF); // an OP_CLOSED may be late: nothing is lost
      return wire.Request.size + length;
    }
    switch (view.getUint32(at + offsets.operation, true)) {
      case wire.OP_IOCTL:
        this.ioctl(connection, client, openFile, number, argument, bytes, payload, length);
        break;
      case wire.OP_READ:
        this.read(connection, client, openFile, number, argument, positionAt(view, at));
        break;
      case wire.OP_WRITE: {
        const from = Uint8Array.from(bytes.subarray(payload, payload + length));
        this.write(connection, client, openFile, number, argument, positionAt(view, at), from);
        break;
      }
      case wire.OP_SEEK: {
        const offset = wire.signedWide(view, at + offsets.position);
        this.finish(
          connection,
          client,
          openFile,
          attempt(() => openFile.seek(offset, number)),
        );
        break;
      }
      case wire.OP_MMAP: {
        const protection = view.getUint32(at + offsets.number, true);
        const request = {
          offset: BigInt(wire.wide(view, at + offsets.position)),
          length: BigInt(Math.ceil(argument / PAGE_SIZE) * PAGE_SIZE),
          shared: (view.getUint32(at + offsets.number + 4, true) & MAP_SHARED) !== 0,
          executable: (protection & PROT_EXEC) !== 0,
        };
        const writes = request.shared && (protection & PROT_WRITE) !== 0;
        this.finish(
          connection,
          client,
          openFile,
          attempt(() => {
            openFile.checkMappable(writes);
            return this.mmap(connection, client, openFile, request);
          }),
        );
        break;
      }
      case wire.OP_CLOSED:
        this.host.checkEnd(openFile);
        replies.send(connection, 0);
        break;
      case wire.OP_DESCRIBE:
        replies.describe(connection, openFile.description);
        break;
      default:
        return -1;
    }
    return wire.Request.size + length;
  }

  private ioctl(
    connection: Connection,
    client: ClientProcess,
    openFile: OpenFile,
    number: number,
    argument: number,
    bytes: Buffer,
    payload: number,
    length: number,
  ): void {
    const { file } = openFile;
    const space = client.memory;
    const { onCall } = this.host;
    const start = onCall === undefined ? 0 : performance.now();
    const before = onCall === undefined ? undefined : Uint8Array.from(bytes.subarray(payload, payload + length));
    let blocked = false;
    let done = false;
    connection.calling = openFile;
    this.host.windows.collect();
    if (length > 0) space.openWindow(argument, bytes, payload, length);
    this.start(
      file.label,
      () => file.ioctl(client, number, argument),
      (outcome) => {
        done = true;
        const dirty = blocked ? 0 : space.closeWindow();
        const into = this.host.replies.payload;
        for (let i = 0; i < dirty; i++) into[i] = bytes[payload + i];
        if (before !== undefined) {
          const after = blocked ? before : Uint8Array.from(bytes.subarray(payload, payload + length));
          const known = {
            process: client,
            kind: "ioctl",
            file: file.label,
            request: number,
            argument,
            before,
            after,
          } as const;
          onCall?.(endedCall(known, outcome, start));
        }
        this.finish(connection, client, openFile, outcome, dirty);
      },
      connection,
    );
    if (!done) {
      blocked = true;
      space.flushWindow();
    }
  }

  /** Devices forget a range of the client's memory; false if there is nobody who could know it. */
  private beginChange(connection: Connection, client: ClientProcess, start: number, length: number): boolean {
    const { memory } = client;
    const end = Math.min(start + length, USER_END);
    if (!memory.notifiers.any || start >= end) return false;
    if (connection.changes.has(start)) this.endChange(connection, client, start);
    connection.changes.set(start, end);
    this.start("change of mappings", function* (): Task<void> {
      memory.changing(start, end);
    });
    return true;
  }

  /** The range is as it will be: who waited for it may look. */
  private endChange({ changes }: Connection, { memory }: ClientProcess, start: number): void {
    const end = changes.get(start);
    if (end === undefined) return;
    changes.delete(start);
    this.start("change of mappings", function* (): Task<void> {
      memory.changed(start, end);
    });
  }

  /** A thread is gone: what it was about to change has changed, or never will. */
  endChanges(connection: Connection): void {
    const { client, changes } = connection;
    if (client !== undefined) for (const start of [...changes.keys()]) this.endChange(connection, client, start);
  }

  /** The number of the window that the shim may map now. */
  private mmap(
    connection: Connection,
    client: ClientProcess,
    { file, description }: OpenFile,
    request: MmapRequest,
  ): number {
    if (file.mmap === undefined) {
      // The regions of a device refuse it, what is no device has no mmap at all.
      return refuse(
        file.hasPosition && file.read !== undefined && description.kind !== wire.FILE_TEXT ? EINVAL : ENODEV,
        () => `${file.label} cannot be mapped`,
      );
    }
    this.host.windows.collect();
    return this.host.windows.show(file, file.mmap(client, request), connection);
  }

  private read(
    connection: Connection,
    client: ClientProcess,
    openFile: OpenFile,
    count: number,
    address: number,
    position: number | undefined,
  ): void {
    const isDirect = openFile.file.readInto !== undefined;
    const isInline = !isDirect && count <= wire.PAYLOAD_MAX;
    const into = new Uint8Array(isDirect ? 0 : Math.min(count, TRANSFER_MAX));
    const start = this.host.onCall === undefined ? 0 : performance.now();
    this.start(
      `read ${openFile.file.label}`,
      () => {
        if (isDirect) return openFile.readInto(client, position, address, count);
        return isInline ? openFile.read(client, position, into) : readAcross(client, openFile, address, position, into);
      },
      (outcome) => {
        const length = outcome.ok && isInline ? outcome.value : 0;
        this.host.replies.payload.set(into.subarray(0, length));
        const known = { process: client, kind: "read", file: openFile.file.label, position, length: count } as const;
        this.host.onCall?.(endedCall(known, outcome, start));
        this.finish(connection, client, openFile, outcome, length);
      },
    );
  }

  private write(
    connection: Connection,
    client: ClientProcess,
    openFile: OpenFile,
    count: number,
    address: number,
    position: number | undefined,
    payload: Uint8Array,
  ): void {
    const isDirect = openFile.file.writeFrom !== undefined;
    const isInline = !isDirect && count <= wire.PAYLOAD_MAX;
    const from = isInline || isDirect ? payload : new Uint8Array(Math.min(count, TRANSFER_MAX));
    const start = this.host.onCall === undefined ? 0 : performance.now();
    this.start(
      `write ${openFile.file.label}`,
      () => {
        if (isDirect) return openFile.writeFrom(client, position, address, count);
        return isInline && from.length >= count
          ? openFile.write(client, position, from)
          : writeAcross(client, openFile, address, position, from, count);
      },
      (outcome) => {
        const known = { process: client, kind: "write", file: openFile.file.label, position, length: count } as const;
        this.host.onCall?.(endedCall(known, outcome, start));
        this.finish(connection, client, openFile, outcome);
      },
    );
  }

  /** Runs a task until it ends or blocks. */
  start<T>(
    name: string,
    code: () => Task<T>,
    done: (outcome: Outcome<T>) => void = () => undefined,
    caller?: Connection,
  ): void {
    const { tasks } = this.host.served.system;
    try {
      const task = tasks.spawn(name, code(), done);
      task.client = caller?.client;
      task.thread = caller?.thread ?? 0;
      tasks.drain();
    } catch (error) {
      this.host.onBug(error);
    }
  }

  /** What a call returns. A bug of ours is EIO to the client. */
  resultOf(outcome: Outcome<number>): number {
    if (outcome.ok) return outcome.value;
    if (outcome.error instanceof Refusal) return -outcome.error.errno;
    this.host.onBug(outcome.error);
    return -EIO;
  }

  /** Answers a call; its payload, `length` bytes, is in place already. */
  private finish(
    connection: Connection,
    client: ClientProcess,
    openFile: OpenFile,
    outcome: Outcome<number>,
    length = 0,
  ): void {
    const result = this.resultOf(outcome);
    const drain = openFile.lowerIfDrained() ? wire.REPLY_DRAIN : 0;
    if (connection.calling !== undefined) this.host.endCall(connection);
    const { installation } = client;
    if (installation === undefined) {
      const lowered = this.otherDrained(client);
      if (lowered === undefined) this.host.replies.send(connection, result, length, drain);
      else this.host.replies.send(connection, result, length, drain | wire.REPLY_LOWER, lowered.inode);
      return;
    }
    const token = result < 0 ? 0 : this.host.install(connection, client);
    client.installation = undefined;
    const install = result < 0 ? 0 : wire.REPLY_INSTALL;
    this.host.replies.send(connection, result, length, drain | install, installation.address, token);
  }

  /** A file of this client that what it did to another made unreadable: it must be shown so by the reply. */
  private otherDrained(client: ClientProcess): OpenFile | undefined {
    for (const queue of this.host.queues) {
      if (queue.raised && queue.connection.client === client && queue.lowerIfDrained()) return queue;
    }
    return undefined;
  }
}

/** A read that is too long for the reply: the bytes go to the client's memory. */
function* readAcross(
  client: ClientProcess,
  openFile: OpenFile,
  address: number,
  position: number | undefined,
  into: Uint8Array,
): Task<number> {
  client.memory.checkWritable(address, into.length);
  const size = yield* openFile.read(client, position, into);
  client.memory.write(address, into.subarray(0, size));
  return size;
}

/** A write whose bytes did not come along, since there are too many, or they cannot be read. */
function* writeAcross(
  client: ClientProcess,
  openFile: OpenFile,
  address: number,
  position: number | undefined,
  from: Uint8Array,
  count: number,
): Task<number> {
  if (count <= wire.PAYLOAD_MAX) refuse(EFAULT, () => `the ${count} bytes to write cannot be read`);
  client.memory.read(address, from);
  return yield* openFile.write(client, position, from);
}

/** The position of a read or write; undefined for the file's own. */
function positionAt(view: DataView, at: number): number | undefined {
  const position = at + offsets.position;
  if (view.getUint32(position, true) === 0xffffffff && view.getUint32(position + 4, true) === 0xffffffff)
    return undefined;
  return wire.wide(view, position);
}

function attempt(body: () => number): Outcome<number> {
  try {
    return { ok: true, value: body() };
  } catch (error) {
    return { ok: false, error };
  }
}
