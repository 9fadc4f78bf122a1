import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ToyHost, testProgram, testShim } from "./clients.test-support.ts";

let served: ToyHost;
const folder = mkdtempSync(join(tmpdir(), "uiommu-corners-"));

beforeAll(async () => {
  served = new ToyHost();
  await served.host.listen();
});
afterAll(async () => {
  await served.host.close();
  rmSync(folder, { recursive: true });
});

/** Runs a group of shim/test/corners.c; every promise that it prints must hold. */
async function promises(least: number, ...group: string[]): Promise<void> {
  const { code, stdout, stderr } = await served.client(testProgram("corners"), group);
  const lines = stdout.trimEnd().split("\n");
  expect(lines.filter((line) => !line.startsWith("ok "))).toEqual([]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  expect(lines.length).toBeGreaterThanOrEqual(least);
  await served.host.whenIdle();
  expect(served.toy.open.size).toBe(0);
}

describe("in uncommon ways", () => {
  test("files are opened", () => promises(12, "opening"));
  test("files are opened through links of the program's own", () => promises(9, "links", folder));
  test("files are asked about, and are what they seem", () => promises(12, "asking"));
  test("files are used, with many threads, few descriptors, signals, crashes, nonsense", () => promises(7, "limits"));
});

function installed(program: string): boolean {
  return spawnSync(program, ["--version"]).status === 0;
}

describe("tools and languages find what they would on Linux", () => {
  const shell = async (script: string) => (await served.client("bash", ["-c", script])).stdout;

  test("ls, find, stat, grep, readlink", async () => {
    expect(await shell("ls -l /dev | grep toyflat")).toMatch(/^crw-rw---- 1 \S+ +\S+ +240, +8 .* toyflat\n$/);
    expect(await shell("find /dev -maxdepth 2 -name echo -type c; find /sys/bus/toy | sort")).toBe(
      "/dev/toy/echo\n/sys/bus/toy\n/sys/bus/toy/devices\n/sys/bus/toy/devices/one\n/sys/bus/toy/drivers\n",
    );
    expect(await shell("stat -c '%F %t:%T %a' /dev/toy/echo")).toBe("character special file f0:7 660\n");
    expect(await shell("grep -rH . /sys/bus/toy/devices/*/vendor")).toBe("/sys/bus/toy/devices/one/vendor:0x1234\n");
    expect(await shell("readlink -f /sys/class/toyclass/toy0/one; cd -P /sys/bus/toy/devices/one/..; pwd")).toBe(
      "/sys/devices/toy0/one\n/sys/devices/toy0\n",
    );
  });

  test("what is above what a link leads to, by its whole path", async () => {
    const one = "/sys/bus/toy/devices/one";
    expect(await shell(`readlink ${one}; realpath ${one}/../../../bus/toy; cd ${one}; realpath ../../../class/.`)).toBe(
      "../../../devices/toy0/one\n/sys/bus/toy\n/sys/class\n",
    );
    expect(await shell(`cat ${one}/subsystem/../../devices/toy0/one/vendor ${one}/../one/../one/vendor`)).toBe(
      "0x1234\n0x1234\n",
    );
    expect(await shell(`ls -d ${one}/../../../../../tmp/. /dev/toy/../null ${one}/../../../kernel/./..`)).toBe(
      `/dev/toy/../null\n${one}/../../../../../tmp/.\n${one}/../../../kernel/./..\n`,
    );
    expect(await shell(`ls ${one}/nothing/../vendor || ls ${one}/../none`)).toBe("");
  });

  test("cp, tar, cat, mkdir -p, redirections", async () => {
    // Only root makes device nodes.
    if (process.getuid?.() === 0) {
      expect(await shell(`cp -a /dev/toy ${folder}/copy && ls -l ${folder}/copy`)).toMatch(
        /^total 0\ncrw-rw---- .* 240, 7 .* echo\n$/,
      );
    }
    expect(await shell("tar cf - /sys/bus/toy 2>/dev/null | tar tf -")).toContain("sys/bus/toy/devices/one\n");
    expect(
      await shell(
        "mkdir -p /sys/bus/toy/devices && cat < /sys/bus/toy/devices/one/vendor; env -i cat /dev/fd/3 3< /sys/bus/toy/devices/one/name",
      ),
    ).toBe("0x1234\none\n");
  });

  test.skipIf(!installed("python3"))("python", async () => {
    const script = [
      "import os, fcntl, struct, glob, stat, socket, subprocess",
      "fd = os.open('/dev/toy/echo', os.O_RDWR)",
      "get = bytearray(struct.pack('<IIQQ', 24, 2, 40, 0))",
      "fcntl.ioctl(fd, 0x3b01, get)",
      "a, b = socket.socketpair()",
      "socket.send_fds(a, [b'x'], [fd])",
      "got = socket.recv_fds(b, 1, 1)[1][0]",
      "print(get[16], os.path.realpath(f'/proc/self/fd/{got}'), stat.S_ISCHR(os.fstat(got).st_mode))",
      "print(glob.glob('/sys/bus/*/devices/one'), [e.name for e in os.scandir('/dev/toy') if not e.is_file()])",
      "print(subprocess.run(['cat', '/sys/bus/toy/devices/one/name'], env={}, capture_output=True).stdout)",
    ].join("\n");
    const { stdout, stderr } = await served.client("python3", ["-c", script]);
    expect(stderr).toBe("");
    expect(stdout).toBe("42 /dev/toy/echo True\n['/sys/bus/toy/devices/one'] ['echo']\nb'one\\n'\n");
  });

  test.skipIf(!installed("perl"))("perl", async () => {
    const script = `sysopen(F, "/dev/toy/echo", 2) or die; my $get = pack("LLQQ", 24, 2, 40, 0); ioctl(F, 0x3b01, $get);
      print unpack("x16 Q", $get), " ", join(",", glob("/dev/toy*")), " ", -c "/dev/toyflat" ? 1 : 0;`;
    expect((await served.client("perl", ["-e", script])).stdout).toBe("42 /dev/toy,/dev/toyflat 1");
  });

  const become = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"];
  /** Where root's checkout is closed to others, they cannot be loaded with the shim. */
  const loads = (): boolean => spawnSync("setpriv", [...become, "test", "-r", testShim().library]).status === 0;
  test.skipIf(process.getuid?.() !== 0 || !loads())("a program that root makes another user's", async () => {
    const program = testProgram("client");
    const ran = (...command: string[]) => served.client("setpriv", [...become, ...command]);
    expect((await ran("cat", "/sys/bus/toy/devices/one/vendor")).stdout).toBe("0x1234\n");
    expect((await ran("ls", "-l", "/dev/toyflat")).stdout).toMatch(/^crw-rw---- 1 root/);
    expect((await ran("sh", "-c", "exec 5<>/dev/toy/echo")).stderr).toMatch(/Permission denied/);
    const inherits = `exec 5<>/dev/toy/echo; exec setpriv ${become.join(" ")} ${program} works 5`;
    expect(await served.client("bash", ["-c", inherits])).toMatchObject({ code: 0, stderr: "" });
  });
});
