import { describe, expect, test } from "vitest";
import { EBADF, EFAULT, EINVAL, EMFILE, ENOMEM, Refusal, System } from "../runtime/index.ts";
import { type ClientFile, type File, LibraryProcess, MemoryFile, PAGE_SIZE, PhysicalMemory } from "./index.ts";

const MiB = 2 ** 20;

function start(size = 64 * MiB): { system: System; memory: PhysicalMemory; process: LibraryProcess } {
  const system = new System();
  const memory = new PhysicalMemory(system, { ram: [{ base: 2 ** 30, size }] });
  return { system, memory, process: new LibraryProcess(system, memory, { pid: 100 }) };
}

function errnoOf(action: () => void): number {
  try {
    action();
  } catch (error) {
    if (error instanceof Refusal) return error.errno;
    throw error;
  }
  return 0;
}

function text(process: LibraryProcess, address: number, length: number): string {
  const bytes = new Uint8Array(length);
  process.memory.read(address, bytes);
  return new TextDecoder().decode(bytes);
}

const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);

describe("a process's memory", () => {
  test("is read and written across pages; an address may be a number or a bigint", () => {
    const { process } = start();
    const address = process.memory.map(3);
    process.memory.write(BigInt(address + 4090), bytesOf("hello world"));
    expect(text(process, address + 4090, 11)).toBe("hello world");
    process.memory.read(0, new Uint8Array(0));
  });

  test("gives EFAULT and names the page where nothing is mapped or writing is not allowed", () => {
    const { process } = start();
    const address = process.memory.map(1, { address: 0x10000 });
    expect(errnoOf(() => process.memory.read(address + 4090, new Uint8Array(7)))).toBe(EFAULT);
    expect(errnoOf(() => process.memory.read(2n ** 64n - 1n, new Uint8Array(1)))).toBe(EFAULT);
    expect(errnoOf(() => process.memory.pin(2 ** 52 - 1, 1, false))).toBe(EFAULT);
    const readOnly = process.memory.map(1, { address: 0x11000, writable: false });
    expect(errnoOf(() => process.memory.write(readOnly, bytesOf("x")))).toBe(EFAULT);
    expect(errnoOf(() => process.memory.pin(0x10, 2, true))).toBe(EFAULT);
    expect(process.memory.pin(0x10, 2, false)).toHaveLength(1);
    expect(() => process.memory.write(readOnly - 2, bytesOf("abcd"))).toThrow(
      expect.objectContaining({ reason: "page 0x11000 of process 100 is not writable" }),
    );
    expect(text(process, readOnly - 2, 2)).toBe("\0\0");
  });

  test("cannot be mapped twice, or at an address that is none", () => {
    const { process } = start();
    const address = process.memory.map(4);
    expect(errnoOf(() => process.memory.map(1, { address: address + 3 * PAGE_SIZE }))).toBe(EINVAL);
    expect(errnoOf(() => process.memory.map(1, { address: 0x1001 }))).toBe(EINVAL);
    expect(errnoOf(() => process.memory.map(1, { address: 2 ** 47 - PAGE_SIZE }))).toBe(EINVAL);
    expect(errnoOf(() => process.memory.map(0))).toBe(EINVAL);
    process.memory.map(1, { address: address + 5 * PAGE_SIZE });
    const next = process.memory.map(2);
    expect(errnoOf(() => process.memory.read(next - 1, new Uint8Array(1)))).toBe(EFAULT);
  });

  test("large mappings are aligned runs of frames, pinned as one", () => {
    const { process, memory } = start();
    process.memory.map(5);
    const address = process.memory.map(2048);
    expect(address % (2 * MiB)).toBe(0);
    const runs = process.memory.pin(address / PAGE_SIZE, 2048, true);
    expect(runs).toHaveLength(1);
    expect(runs[0].pfn % 512).toBe(0);
    expect(memory.pinnedFrames).toBe(2048);
    memory.unpin(runs);
  });

  test("takes scattered frames when RAM has no long run, and ENOMEM takes nothing", () => {
    const { process, memory } = start(2 * MiB);
    const hole = process.memory.map(10);
    process.memory.map(2);
    const hole2 = process.memory.map(20);
    process.memory.map(480);
    expect(errnoOf(() => process.memory.map(1))).toBe(ENOMEM);
    process.memory.unmap(hole, 10);
    process.memory.unmap(hole2, 20);
    expect(errnoOf(() => process.memory.map(31))).toBe(ENOMEM);
    expect(memory.freeFrames).toBe(30);
    const address = process.memory.map(30);
    const runs = process.memory.pin(address / PAGE_SIZE, 30, true);
    expect(runs.reduce((sum, run) => sum + run.count, 0)).toBe(30);
  });
});

describe("pinned pages", () => {
  test("stay, with what a device writes, after unmap and exit of their process", () => {
    const { process, memory } = start();
    const address = process.memory.map(2);
    process.memory.write(address, bytesOf("before"));
    const runs = process.memory.pin(address / PAGE_SIZE, 2, true);
    process.memory.unmap(address, 2);
    const bytes = new Uint8Array(6);
    memory.read(runs[0].pfn * PAGE_SIZE, bytes);
    expect(new TextDecoder().decode(bytes)).toBe("before");
    process.exit();
    expect(process.memory.alive).toBe(false);
    memory.write(runs[0].pfn * PAGE_SIZE, bytesOf("after"));
    expect(memory.usedFrames).toBe(2);
    memory.unpin(runs);
    expect(memory.usedFrames).toBe(0);
  });

  test("belong to the parent after fork: the device goes on with the parent's page, the child has a copy", () => {
    const { process, memory } = start();
    const address = process.memory.map(2);
    process.memory.write(address, bytesOf("old"));
    const [run] = process.memory.pin(address / PAGE_SIZE, 1, true);
    const child = process.fork();
    process.memory.write(address, bytesOf("new"));
    const bytes = new Uint8Array(3);
    memory.read(run.pfn * PAGE_SIZE, bytes);
    expect(new TextDecoder().decode(bytes)).toBe("new");
    memory.write(run.pfn * PAGE_SIZE, bytesOf("dma"));
    expect(text(process, address, 3)).toBe("dma");
    expect(text(child, address, 3)).toBe("old");
    expect(memory.usedFrames).toBe(3);
    child.memory.write(address + PAGE_SIZE, bytesOf("x"));
    expect(memory.usedFrames).toBe(4);
  });

  test("unpinned pages are shared by fork until one side writes", () => {
    const { process, memory } = start();
    const address = process.memory.map(1000);
    process.memory.write(address, bytesOf("same"));
    const child = process.fork();
    const grandchild = child.fork();
    expect(memory.usedFrames).toBe(1000);
    child.memory.write(address + 1, bytesOf("O"));
    expect(memory.usedFrames).toBe(1001);
    expect([process, child, grandchild].map((one) => text(one, address, 4))).toEqual(["same", "sOme", "same"]);
    process.exit();
    grandchild.exit();
    expect(memory.usedFrames).toBe(1000);
    child.memory.write(address + PAGE_SIZE, bytesOf("mine"));
    expect(memory.usedFrames).toBe(1000);
  });
});

describe("files of a process", () => {
  function logging(): { file: ClientFile & { kind: "ours" }; released: () => number } {
    let released = 0;
    const file: File = {
      label: "test file",
      hasPosition: false,
      *ioctl() {
        return 0;
      },
      *release() {
        released++;
      },
    };
    return { file: { kind: "ours", file }, released: () => released };
  }

  test("get the lowest free descriptor; an unknown one is EBADF", () => {
    const { system, process } = start();
    const memfd = new MemoryFile(5000);
    expect(process.addFile(memfd)).toBe(3);
    expect(process.addFile({ kind: "other", label: "pipe" })).toBe(4);
    expect(process.file(3)).toBe(memfd);
    system.run("close", process.close(3));
    expect(errnoOf(() => process.file(3))).toBe(EBADF);
    expect(process.addFile(memfd)).toBe(3);
    for (let fd = 5; fd < 1024; fd++) expect(process.addFile(memfd)).toBe(fd);
    expect(errnoOf(() => process.addFile(memfd))).toBe(EMFILE);
  });

  test("installFile writes the descriptor's number; if that faults, there is no descriptor", () => {
    const { process } = start();
    const { file } = logging();
    const address = process.memory.map(1);
    process.memory.write(address, Uint8Array.of(9, 9, 9, 9));
    process.installFile(file.file, address);
    const bytes = new Uint8Array(4);
    process.memory.read(address, bytes);
    expect([...bytes]).toEqual([3, 0, 0, 0]);
    expect(process.file(3)).toEqual(file);
    expect(errnoOf(() => process.installFile(file.file, 0))).toBe(EFAULT);
    expect(errnoOf(() => process.file(4))).toBe(EBADF);
  });

  test("are released when the last descriptor of parent and child is closed", () => {
    const { system, process } = start();
    const { file, released } = logging();
    const fd = process.addFile(file);
    const child = process.fork();
    expect(child.pid).toBe(101);
    system.run("close", process.close(fd));
    expect(released()).toBe(0);
    child.exit();
    expect(released()).toBe(1);
  });
});
