// Runs in a browser.
import type { Task } from "../runtime/index.ts";
import type { AddressSpace, FrameBacking, FrameRun, User, UserAddress } from "./types.ts";

/** Capabilities that matter here, by their Linux numbers. */
export const CAP_IPC_LOCK = 14;
export const CAP_SYS_RAWIO = 17;
export const CAP_SYS_ADMIN = 21;
export const CAP_SYS_RESOURCE = 24;

/** The process that makes a call, as the rooms below see it. The host has one for each real client, tests make their own. */
export interface Process {
  readonly label: string;
  readonly pid: number;
  readonly memory: AddressSpace;
  readonly user: User;
  capable(capability: number): boolean;
  /** RLIMIT_MEMLOCK in bytes; Infinity for none. */
  readonly memlockLimit: number;
  /** The open file behind a descriptor of this process. Throws Refusal EBADF if there is none. */
  file(fd: number): ClientFile;
  /** Gives the process a new descriptor of `file` (O_CLOEXEC) and writes its number, s32, to `address` before the call returns. */
  installFile(file: File, address: UserAddress): void;
  /**
   * Gives the process a new descriptor of `file` (O_CLOEXEC) as the result of its ioctl, which must return what this does.
   * Throws Refusal EMFILE.
   */
  installFileAsResult(file: File): number;
}

/** What a descriptor of a client may be. */
export type ClientFile =
  | { readonly kind: "ours"; readonly file: File }
  | { readonly kind: "eventfd"; readonly event: EventFd }
  | MemoryFileHandle
  | { readonly kind: "other"; readonly label: string };

/** The file of ours behind a descriptor; undefined if it is something else, of which nothing is held. Throws Refusal EBADF. */
export function ownFile(process: Process, fd: number): File | undefined {
  const file = process.file(fd);
  if (file.kind === "eventfd") file.event.release();
  return file.kind === "ours" ? file.file : undefined;
}

/** A file whose pages are memory: memfd, shmem, hugetlbfs. */
export interface MemoryFileHandle {
  readonly kind: "memory";
  readonly label: string;
  readonly backing: FrameBacking;
  /** Bytes. */
  readonly size: number;
  /** Frames of its pages, pinned: the same ones that others get who name them. Absent: each who asks gets frames of his own. */
  pin?(page: number, count: number): FrameRun[];
}

/** An eventfd of a client, held by us until {@link release}. */
export interface EventFd {
  /** Adds 1 to its counter. */
  signal(): void;
  /**
   * Calls `signalled` each time that the client adds to the counter, and takes the counter back to 0; what it returns ends
   * that. Absent where a client's writes cannot be seen.
   */
  watch?(signalled: () => void): () => void;
  release(): void;
}

/** One open file description of ours: what `/dev/iommu` or a VFIO device gives. Methods that it lacks answer EINVAL. */
export interface File {
  readonly label: string;
  /** What /proc/self/fd says of a file that no path leads to: `anon_inode:[NAME]`; the label if absent. */
  readonly inodeName?: string;
  /** `argument` is an address or a value, as the request says. The value is what ioctl() returns; errors are Refusals. */
  ioctl(process: Process, request: number, argument: number): Task<number>;
  /** pread: `position` is a byte position < 2^53. Returns the number of bytes put into `into`. */
  read?(process: Process, position: number, into: Uint8Array): Task<number>;
  write?(process: Process, position: number, from: Uint8Array): Task<number>;
  /**
   * As read and write, but straight from and to the client's memory: what the memory refuses is not lost. A file that has
   * these wants them used; EFAULT comes from them.
   */
  readInto?(process: Process, address: UserAddress, count: number): Task<number>;
  writeFrom?(process: Process, address: UserAddress, count: number): Task<number>;
  /** False: read and write know no position, and pread and pwrite answer ESPIPE. */
  readonly hasPosition: boolean;
  /** True: lseek moves the position. It answers ESPIPE where this is absent, as for all devices. */
  readonly seekable?: boolean;
  /** Where its end is, for lseek; without it there is none to seek from. */
  readonly size?: number;
  /** True when a read would return something; `onReadable` is told when that changed by anything but a read. */
  readable?(): boolean;
  onReadable?: (() => void) | undefined;
  /** False: poll never says that the file can be written. It always can where this is absent. */
  readonly writable?: boolean;
  /** mmap. A file without it answers ENODEV. */
  mmap?(process: Process, request: MmapRequest): FileWindow;
  /** What a descriptor of the file can be mapped as in MAP_FILE, if the file is a dma-buf. */
  readonly dmaBuf?: DmaBuf;
  /** The last descriptor is closed: gives everything back. Cannot fail. */
  release(): Task<void>;
}

/** What a client asks of mmap, in bytes; `length` is a multiple of the page size. */
export interface MmapRequest {
  readonly offset: bigint;
  readonly length: bigint;
  /** MAP_SHARED. */
  readonly shared: boolean;
  /** PROT_EXEC. */
  readonly executable: boolean;
}

/** Frames that a client has mapped, until {@link release}: when the last of its mappings that came of that mmap is gone. */
export interface FileWindow {
  readonly pfn: number;
  readonly count: number;
  release(): void;
  /** The client may have written to it. Called again and again while it is mapped, since its stores cannot be seen. */
  look?(): void;
}

/** Memory of a device that its driver lets others reach: one range of physical addresses. */
export interface DmaBuf {
  readonly label: string;
  /** Physical address, and bytes. */
  readonly physical: number;
  readonly size: number;
  /** The exporter is one that an IOAS may map. */
  readonly mappable: boolean;
  /** The exporter wants it back: nobody may use it. */
  readonly revoked: boolean;
  /** Calls `revoke` when that happens, and waits for it; what it returns ends that. */
  listen(revoke: () => Task<void>): () => void;
}

/** A place in the tree of files that clients see, by absolute path. Directories are implied by what they contain. */
export type FileNode =
  | {
      readonly kind: "text";
      readonly read: () => string | Uint8Array;
      readonly mode: number;
      /** What is no text but a block of registers, of this many bytes: written at positions, and not beyond its end. */
      readonly size?: number;
      readonly write?: (process: Process, bytes: Uint8Array, position?: number) => Task<void>;
    }
  | { readonly kind: "link"; readonly target: string }
  | { readonly kind: "directory" }
  | {
      readonly kind: "device";
      readonly major: number;
      readonly minor: number;
      readonly mode: number;
      /** `thread`: of the process, whom the path that the file was opened by is about; 0 if about none. */
      readonly open: (process: Process, thread?: number) => Task<File>;
    };

/** The files that clients see. Whoever shows them listens to what changes. */
export interface FileTree {
  readonly nodes: ReadonlyMap<string, FileNode>;
  /** Called with the path of each node that appears, disappears or changes its content. */
  listen(listener: (path: string) => void): () => void;
}
