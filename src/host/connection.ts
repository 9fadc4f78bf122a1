import { readSync, writeSync } from "node:fs";
import { Socket } from "node:net";
import type { ClientProcess } from "./client.ts";
import type { OpenFile } from "./open-file.ts";

/** The longest that a message can be: a request or hello, and its payload or path. */
const LONGEST = 16384;

/** Bytes that arrived, with a view of them: those from `at` up to `end` are not taken yet. */
export interface Arrival {
  readonly bytes: Buffer;
  readonly view: DataView;
  readonly end: number;
}

/** One buffer for all connections: it is filled and emptied within a callback. */
const shared = { bytes: Buffer.alloc(65536), view: new DataView(new ArrayBuffer(0)), end: 0 };
shared.view = new DataView(shared.bytes.buffer, shared.bytes.byteOffset, shared.bytes.length);

/** One connection of a client. What it is for, its hello says. */
export class Connection {
  readonly socket: Socket;
  private readonly fd: number;
  /** The address space that speaks here; undefined before the hello. */
  client: ClientProcess | undefined;
  /** Whose calls come here; of a file connection, the thread that its path is about; 0: none. */
  thread = 0;
  /** True: the end of this connection is the end of the client. */
  isPrimary = false;
  /** The open file that this connection is; undefined for a control connection. */
  openFile: OpenFile | undefined;
  /** True from the hello of a file connection on, also while its open is under way. */
  isFile = false;
  isClosed = false;
  private called: OpenFile | undefined;
  /** Files made for this thread's last call and not fetched yet, by token. */
  readonly installing: Set<number> = new Set();
  /** Ranges of addresses that this thread is changing: the end of each, by its start. */
  readonly changes: Map<number, number> = new Map();
  private partial: Buffer | undefined;

  /** `accepted` must be paused. `receive` gets what arrives, valid until it returns. */
  constructor(accepted: Socket, receive: (arrival: Arrival) => void) {
    const { handle, fd } = takeHandle(accepted);
    this.fd = fd;
    const callback = (size: number): boolean => {
      shared.end = size;
      receive(this.partial === undefined ? shared : this.join(shared.bytes.subarray(0, size)));
      return true;
    };
    const options = { handle, onread: { buffer: shared.bytes, callback } };
    this.socket = new Socket(options as ConstructorParameters<typeof Socket>[0]);
  }

  /** The file whose ioctl the client waits for here. */
  get calling(): OpenFile | undefined {
    return this.called;
  }

  set calling(file: OpenFile | undefined) {
    if (this.called !== undefined) this.called.callers--;
    if (file !== undefined) file.callers++;
    this.called = file;
  }

  private join(chunk: Buffer): Arrival {
    const bytes = Buffer.concat([this.partial as Buffer, chunk]);
    this.partial = undefined;
    return { bytes, view: new DataView(bytes.buffer, bytes.byteOffset, bytes.length), end: bytes.length };
  }

  /** Keeps the beginning of a message until more arrives. False if that cannot be a message. */
  keep(rest: Buffer): boolean {
    this.partial = Buffer.from(rest);
    return rest.length <= LONGEST;
  }

  /** Reads what has arrived and was not told yet. True if that is the end. */
  drain(received: (bytes: Buffer) => void): boolean {
    for (;;) {
      const bytes = Buffer.alloc(4096);
      let size: number;
      try {
        size = readSync(this.fd, bytes, 0, bytes.length, null);
      } catch (error) {
        return (error as NodeJS.ErrnoException).code !== "EAGAIN";
      }
      if (size === 0) return true;
      received(bytes.subarray(0, size));
    }
  }

  /** Sends at once if the socket takes it, which it does unless somebody does not read. */
  send(bytes: Uint8Array, length: number): void {
    if (this.isClosed) return;
    let sent = 0;
    if (this.socket.writableLength === 0) {
      try {
        sent = writeSync(this.fd, bytes, 0, length);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EAGAIN") return; // the other end is gone: its close event follows
      }
    }
    if (sent < length) this.socket.write(Buffer.from(bytes.subarray(sent, length)));
  }
}

/**
 * Takes the handle out of a socket that a server accepted, for a Socket that reads into a buffer of ours: a server's
 * own sockets cannot be told to, and a new buffer for each request costs more than all else that we do for it.
 */
function takeHandle(accepted: Socket): { handle: unknown; fd: number } {
  const owner = accepted as unknown as { _handle: { fd: number } | null };
  const handle = owner._handle as { fd: number };
  owner._handle = null;
  accepted.destroy(); // the shell that is left: the server counts it out
  return { handle, fd: handle.fd };
}
