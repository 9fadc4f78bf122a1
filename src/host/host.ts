/**
 * The host: serves one machine to real processes.
 *
 * Each connection is a program's (protocol.ts): a *control* connection carries
 * the requests of one thread; a *file* connection is an open file, and lives as
 * long as any process has a descriptor of it. The end of an address space's
 * *primary* connection is the end of that address space.
 *
 * Always true: `files` has the open files whose connection is open; a client is
 * in `clients` while its primary connection is. What a connection sends that is
 * no message of ours ends that connection and nothing else.
 */
import { randomBytes } from "node:crypto";
import { chmodSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import type { File, FileNode, FileTree, PhysicalMemory, User } from "../memory/index.ts";
import { EACCES, ENOENT, ESRCH, type Outcome, refuse, type System, type Task } from "../runtime/index.ts";
import { findShim, type ShimFiles } from "./build.ts";
import { type Call, endedCall } from "./call.ts";
import { ClientProcess } from "./client.ts";
import { type Arrival, Connection } from "./connection.ts";
import { makePrivateDirectory, removeDirectory } from "./directory.ts";
import { EventFds } from "./event-fds.ts";
import { type Address, clientEnvironment } from "./joining.ts";
import { type Description, O_ACCMODE, O_RDONLY, O_RDWR, OpenFile, TextFile } from "./open-file.ts";
import { processOf } from "./process-of.ts";
import * as wire from "./protocol.ts";
import { Replies } from "./replies.ts";
import { Requests } from "./requests.ts";
import { SharedFiles } from "./shared-files.ts";
import { MaterialTree } from "./tree.ts";
import { Wakefulness } from "./wakefulness.ts";
import { Windows } from "./windows.ts";

const EISDIR = 21;

/** What a host serves: a machine, or as much of one as it needs. */
export interface Served {
  readonly system: System;
  readonly files: FileTree;
  readonly memory: PhysicalMemory;
}

export interface HostOptions {
  /** The compiled shim; looked for (and compiled) if absent. */
  readonly shim?: ShimFiles;
  /** Told when a call ends in a bug of ours; the client gets EIO. By default it is thrown. */
  readonly onBug?: (error: unknown) => void;
  /** Told of a program that is about to start without the shim. */
  readonly onBlind?: (program: string, why: Blindness) => void;
  /** RLIMIT_MEMLOCK of every client in bytes; what each really has, if absent. */
  readonly memlockLimit?: number;
}

/** Why the shim is not in a program: it is linked statically, or runs with more rights than whoever starts it. */
export type Blindness = "static" | "privileged";

export class Host {
  /** Hears every call when it has ended. Costs nothing while undefined. */
  onCall: ((call: Call) => void) | undefined;
  /** The private directory; it holds the socket and the files. */
  readonly directory: string;
  /** Address spaces, by cookie. */
  readonly clients: Map<string, ClientProcess> = new Map();
  /** Open files, by the inode of the client's socket. */
  readonly files: Map<number, OpenFile> = new Map();
  /** Those of them that are readable at times only. */
  readonly queues: Set<OpenFile> = new Set();
  readonly shim: ShimFiles;
  /** @internal */ readonly served: Served;
  /** @internal */ readonly replies: Replies;
  /** @internal */ readonly windows: Windows;
  /** @internal */ readonly onBug: (error: unknown) => void;
  /** Who does not have it in its environment is no program of ours. */
  private readonly key = randomBytes(16);
  /** True once a program has opened a file of ours. */
  wasUsed = false;
  private readonly onBlind: HostOptions["onBlind"];
  private readonly memlockLimit: number | undefined;
  private readonly requests: Requests;
  private readonly tree: MaterialTree;
  private readonly events: EventFds;
  private readonly sharedFiles: SharedFiles;
  private readonly server: Server;
  private readonly wakefulness = new Wakefulness();
  private readonly connections = new Set<Connection>();
  private readonly users = new Map<number, User>();
  /** Files that calls have made and their clients have not fetched yet, by token. */
  private readonly adoptions = new Map<number, { file: File; client: ClientProcess }>();
  private lastToken = 0;
  private readonly idle: (() => void)[] = [];

  constructor(served: Served, options: HostOptions = {}) {
    this.served = served;
    this.memlockLimit = options.memlockLimit;
    this.onBlind = options.onBlind;
    this.shim = options.shim ?? findShim();
    this.onBug = options.onBug ?? throwLater;
    this.directory = makePrivateDirectory();
    this.sharedFiles = new SharedFiles(served.memory);
    this.events = new EventFds(this.shim.helper, this.directory, (effects) => {
      this.requests.start("eventfds of clients", function* (): Task<void> {
        effects();
      });
      this.settle();
    });
    this.tree = new MaterialTree(served.files, this.directory);
    this.windows = new Windows(served.memory, this.directory, (work) => {
      this.requests.start("registers that clients have mapped", function* (): Task<void> {
        work();
      });
      this.settle();
    });
    this.replies = new Replies(() => this.settle());
    this.requests = new Requests(this);
    this.server = createServer({ pauseOnConnect: true }, (socket) => this.accept(socket));
  }

  /** Starts to answer. */
  listen(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.server.once("error", reject);
      const path = join(this.directory, "host");
      this.server.listen({ path, backlog: 4096 }, () => {
        // A program that root starts may become another user; the key keeps others out.
        if (process.getuid?.() === 0) chmodSync(path, 0o666);
        resolve();
      });
    });
  }

  /** What a program's environment must have to be a client. `before` is its environment so far. */
  environment(before: NodeJS.ProcessEnv = process.env): Record<string, string> {
    return clientEnvironment(this.address, this.shim.library, before);
  }

  /** Where clients find it. */
  get address(): Address {
    return { directory: this.directory, host: `${process.pid}:${this.key.toString("hex")}` };
  }

  /** Resolves when no client has a file of ours open. */
  whenIdle(): Promise<void> {
    return new Promise((resolve) => {
      this.idle.push(resolve);
      this.checkIdle();
    });
  }

  /** Ends all connections, releases all files, removes the directory. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.server.close(() => resolve()));
    for (const connection of [...this.connections]) {
      connection.socket.destroy();
      this.closed(connection);
    }
    this.windows.close();
    this.tree.close();
    this.events.close();
    await closed;
    removeDirectory(this.directory);
  }

  // Connections

  private accept(accepted: Socket): void {
    const connection: Connection = new Connection(accepted, (arrival) => this.receive(connection, arrival));
    this.connections.add(connection);
    // The first two come in the order in which clients did things ("error" if they left something unread): what one
    // closes is released before its next call is heard. "close" comes later, but always.
    for (const end of ["end", "error", "close"]) connection.socket.on(end, () => this.closed(connection));
  }

  private receive(connection: Connection, arrival: Arrival): void {
    if (connection.isFile) {
      this.writeUnasked(connection, arrival);
      return;
    }
    this.replies.clientsWaitAwake = this.wakefulness.heard();
    this.events.hear();
    let at = 0;
    while (at < arrival.end) {
      const { client } = connection;
      if (connection.installing.size > 0) this.dropInstallations(connection);
      this.windows.heard(connection);
      const taken =
        client === undefined
          ? this.hello(connection, arrival, at)
          : this.requests.handle(connection, client, arrival, at);
      if (taken < 0) {
        connection.socket.destroy();
        return;
      }
      if (taken === 0) break;
      at += taken;
    }
    this.wakefulness.answered();
    if (at < arrival.end && !connection.keep(arrival.bytes.subarray(at, arrival.end))) connection.socket.destroy();
  }

  /** Bytes that a program put into its descriptor past our hooks (stdio does): a write whose result nobody hears. */
  private writeUnasked(connection: Connection, { bytes, end }: Arrival): void {
    const { openFile, client } = connection;
    if (openFile === undefined || client === undefined) {
      connection.socket.destroy(); // it may not speak before its open is answered
      return;
    }
    const from = Uint8Array.from(bytes.subarray(0, end)); // a task may keep it
    this.requests.start(`write ${openFile.file.label}`, () => openFile.write(client, undefined, from));
    this.settle();
  }

  private closed(connection: Connection): void {
    if (connection.isClosed) return;
    connection.isClosed = true;
    this.connections.delete(connection);
    this.dropInstallations(connection);
    this.windows.heard(connection);
    this.requests.endChanges(connection);
    const { client, openFile, calling } = connection;
    if (calling !== undefined) this.endCall(connection);
    if (openFile !== undefined && client !== undefined) {
      this.files.delete(openFile.inode);
      this.queues.delete(openFile);
      this.releaseUnlessCalled(openFile);
    } else if (client !== undefined && connection.isPrimary) {
      for (const [cookie, other] of this.clients) if (other === client) this.clients.delete(cookie);
      client.memory.die();
    }
    this.checkIdle();
    this.settle();
  }

  /** @internal The client does not wait for an ioctl here any more. */
  endCall(connection: Connection): void {
    const { calling } = connection;
    connection.calling = undefined;
    if (calling?.connection.isClosed) this.releaseUnlessCalled(calling);
  }

  /** No descriptor of the file is left. A call that is under way keeps it, as it does on Linux. */
  private releaseUnlessCalled(openFile: OpenFile): void {
    if (openFile.callers > 0) return;
    const start = this.onCall === undefined ? 0 : performance.now();
    this.release(openFile.file);
    const process = openFile.connection.client as ClientProcess;
    const known = { process, kind: "close", file: openFile.file.label } as const;
    this.onCall?.(endedCall(known, { ok: true, value: 0 }, start));
  }

  /** A mapping of the file keeps it open when its last descriptor is closed. */
  private release(file: File): void {
    file.onReadable = undefined;
    const release = (): void => {
      this.requests.start(`release ${file.label}`, () => file.release());
      this.settle();
    };
    const keeps = this.windows.keep(file, () => {
      release();
      this.checkIdle();
    });
    if (!keeps) release();
  }

  private checkIdle(): void {
    if (this.files.size === 0 && this.adoptions.size === 0 && !this.windows.isWaiting)
      for (const resolve of this.idle.splice(0)) resolve();
  }

  /** What calls did to files and events is there when this returns. */
  private settle(): void {
    this.tree.flush();
    this.events.settle();
  }

  // Hello

  /** Bytes taken; 0: more must arrive; -1: no hello of ours. */
  private hello(connection: Connection, { bytes, end }: Arrival, at: number): number {
    if (end - at < wire.Hello.size) return 0;
    const hello = new wire.Hello(bytes.subarray(at, at + wire.Hello.size));
    if (hello.magic !== wire.MAGIC || hello.version !== wire.VERSION || hello.path_length > wire.PAYLOAD_MAX) return -1;
    if (this.key.compare(hello.key) !== 0) return -1;
    const size = wire.Hello.size + hello.path_length;
    if (end - at < size) return 0;
    if (hello.kind === wire.HELLO_BLIND) {
      const path = bytes.toString("utf8", at + wire.Hello.size, at + size);
      this.onBlind?.(path, hello.flags === wire.BLIND_STATIC ? "static" : "privileged");
      this.replies.send(connection, 0);
      return size;
    }
    const cookie = Buffer.from(hello.cookie).toString("hex");
    const client = this.clients.get(cookie);
    if (hello.kind === wire.HELLO_PRIMARY) {
      const pid = processOf(hello.pid, hello.token, hello.inode);
      if (client !== undefined || pid === undefined) return -1;
      connection.isPrimary = true;
      connection.client = this.newClient(cookie, pid);
      this.replies.send(connection, 0);
      return size;
    }
    if (client === undefined) return -1;
    connection.client = client;
    const inode = Number(hello.inode);
    switch (hello.kind) {
      case wire.HELLO_KEEPER:
        client.memory.onUnused = () => connection.socket.destroy();
        this.replies.send(connection, 0);
        return size;
      case wire.HELLO_CONTROL:
        connection.thread = hello.token;
        this.replies.send(connection, 0);
        return size;
      case wire.HELLO_OPEN:
        if (this.files.has(inode)) return -1;
        connection.isFile = true;
        connection.thread = hello.token;
        this.open(connection, client, inode, bytes.toString("utf8", at + wire.Hello.size, at + size), hello.flags);
        return size;
      case wire.HELLO_ADOPT: {
        const adoption = this.adoptions.get(hello.token);
        if (this.files.has(inode) || adoption?.client !== client) return -1;
        this.adoptions.delete(hello.token);
        connection.isFile = true;
        const path = `anon_inode:[${adoption.file.inodeName ?? adoption.file.label}]`;
        const kind = adoption.file.writable === false ? wire.FILE_SILENT : wire.FILE_ANONYMOUS;
        const description = { kind, mode: 0o600, major: 0, minor: 0, flags: O_RDWR, path };
        this.publish(connection, inode, adoption.file, description);
        return size;
      }
      default:
        return -1;
    }
  }

  private newClient(cookie: string, pid: number): ClientProcess {
    const client = new ClientProcess(pid, {
      memory: this.served.memory,
      sharedFiles: this.sharedFiles,
      events: this.events,
      memlockLimit: this.memlockLimit,
      fileOf: (inode) => this.files.get(inode)?.file,
      sendDescriptor: (owner, fd, token) => this.sendDescriptor(owner, fd, token),
      user: (uid) => {
        const user = this.users.get(uid) ?? { uid, lockedPages: 0 };
        this.users.set(uid, user);
        return user;
      },
    });
    this.clients.set(cookie, client);
    this.wasUsed = true;
    return client;
  }

  private sendDescriptor(client: ClientProcess, fd: number, token: number): boolean {
    for (const connection of this.connections) {
      if (connection.client !== client || connection.calling === undefined || connection.isClosed) continue;
      this.replies.send(connection, 0, 0, wire.REPLY_SEND_FD, fd, token);
      return true;
    }
    return false;
  }

  private open(connection: Connection, client: ClientProcess, inode: number, path: string, flags: number): void {
    const node = this.served.files.nodes.get(path);
    if (node?.kind === "text" && (flags & O_ACCMODE) === O_RDONLY) {
      this.tree.renew(path);
      this.replies.send(connection, 0, 0, wire.REPLY_TEXT);
      return;
    }
    const start = this.onCall === undefined ? 0 : performance.now();
    const done = (outcome: Outcome<File>): void => {
      this.onCall?.(endedCall({ process: client, kind: "open", file: path }, outcome, start));
      if (!outcome.ok) this.replies.send(connection, this.requests.resultOf(outcome));
      else if (connection.isClosed) this.release(outcome.value);
      else this.publish(connection, inode, outcome.value, describeNode(node as FileNode, path, flags, outcome.value));
    };
    this.requests.start(`open ${path}`, () => openNode(node, path, client, connection.thread), done, connection);
  }

  /** @internal */
  accountOf(pid: number, which: number): number {
    for (const client of this.clients.values()) {
      if (client.pid === pid && client.memory.alive)
        return which === 0 ? client.memory.lockedPages : client.memory.pinnedPages;
    }
    return -ESRCH;
  }

  private publish(connection: Connection, inode: number, file: File, description: Description): void {
    const openFile = new OpenFile(inode, file, description, connection);
    connection.openFile = openFile;
    this.files.set(inode, openFile);
    if (file.readable !== undefined) this.queues.add(openFile);
    this.replies.describe(connection, description);
    openFile.begin();
  }

  /** @internal */
  checkEnd(openFile: OpenFile): void {
    const { connection } = openFile;
    const client = connection.client as ClientProcess;
    const isEnd = connection.drain((bytes) => {
      this.requests.start(`write ${openFile.file.label}`, () => openFile.write(client, undefined, bytes));
    });
    if (!isEnd) return;
    connection.socket.destroy();
    this.closed(connection);
  }

  /** @internal */
  install(connection: Connection, client: ClientProcess): number {
    const token = ++this.lastToken;
    const { file } = client.installation as { file: File };
    this.adoptions.set(token, { file, client });
    connection.installing.add(token);
    return token;
  }

  /** A thread that makes its next call has fetched what the last one gave it, or never will. */
  private dropInstallations(connection: Connection): void {
    for (const token of connection.installing) {
      const adoption = this.adoptions.get(token);
      this.adoptions.delete(token);
      if (adoption !== undefined) this.release(adoption.file);
    }
    connection.installing.clear();
  }
}

function throwLater(error: unknown): void {
  queueMicrotask(() => {
    throw error;
  });
}

function* openNode(node: FileNode | undefined, path: string, client: ClientProcess, thread: number): Task<File> {
  switch (node?.kind) {
    case "device":
      return yield* node.open(client, thread);
    case "text":
      if (node.write === undefined) return refuse(EACCES, () => `${path} cannot be written`);
      return new TextFile(path, node);
    case "directory":
      return refuse(EISDIR, () => `${path} is a directory`);
    case "link":
    case undefined:
      return refuse(ENOENT, () => `there is no ${path}`);
  }
}

function describeNode(node: FileNode, path: string, flags: number, file: File): Description {
  if (node.kind === "device") {
    const kind = file.readable === undefined ? wire.FILE_DEVICE : wire.FILE_POLLED;
    return { kind, mode: node.mode & 0o777, major: node.major, minor: node.minor, flags, path };
  }
  return { kind: wire.FILE_TEXT, mode: node.kind === "text" ? node.mode & 0o777 : 0, major: 0, minor: 0, flags, path };
}
