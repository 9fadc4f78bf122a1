// Runs in a browser.
/** What can be written to files of PCI under /sys, and what comes of it, as Linux 7.2 has it. */
import type { FileNode } from "../memory/index.ts";
import { assert, EBUSY, EINVAL, EIO, refuse, type Task } from "../runtime/index.ts";
import type { ConfigWidth } from "./config-space.ts";
import type { PciFunction } from "./function.ts";

/** A file that acts on the line written to it. */
export function command(mode: number, act: (argument: string) => Task<void>): FileNode {
  return { kind: "text", mode, read: () => "", write: (_process, bytes) => act(line(bytes)) };
}

/** What was written, up to the end of its first line. */
export function line(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes).replace(/\n.*$/s, "");
}

/** A number in decimal, or in hexadecimal behind 0x. EINVAL for what is none. */
export function number(text: string): number {
  if (!/^(?:0x[0-9a-f]+|[0-9]+)$/i.test(text)) refuse(EINVAL, () => `"${text}" is no number`);
  return Number(text);
}

/** `config`: the configuration space itself, whatever driver there is. */
export function configNode(member: PciFunction): FileNode {
  const { system } = member.place!.bus.host;
  return {
    kind: "text",
    mode: 0o644,
    size: member.config.size,
    read: () => member.config.bytes,
    write: function* (_process, bytes, start = 0): Task<void> {
      assert(start + bytes.length <= member.config.size, "a block of registers is written within its size");
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
      for (let done = 0; done < bytes.length; ) {
        yield* system.tasks.point();
        const left = bytes.length - done;
        const width: ConfigWidth = ([4, 2] as const).find((one) => (start + done) % one === 0 && one <= left) ?? 1;
        const value =
          width === 4 ? view.getUint32(done, true) : width === 2 ? view.getUint16(done, true) : view.getUint8(done);
        member.writeConfig(start + done, width, value);
        done += width;
      }
    },
  };
}

/** `enable`: how often it was enabled. EBUSY while it has a driver; EIO to disable what is not enabled. */
export function enableNode(member: PciFunction): FileNode {
  return {
    kind: "text",
    mode: 0o644,
    read: () => `${member.enableCount}\n`,
    write: function* (_process, bytes): Task<void> {
      const wanted = number(line(bytes)) !== 0;
      yield* member.place!.bus.host.system.tasks.point();
      if (member.driver !== undefined) refuse(EBUSY, () => `${member.name} is in the hands of ${member.driver?.name}`);
      if (!wanted && member.enableCount === 0) refuse(EIO, () => `${member.name} is not enabled`);
      member.enableCount += wanted ? 1 : -1;
    },
  };
}

const ueventActions = ["add", "remove", "change", "move", "online", "offline", "bind", "unbind"];

/** `uevent`: who listens is told again that the device is there. Nobody listens here. EINVAL: no such event. */
export function ueventNode(mode: number, read: () => string): FileNode {
  return {
    kind: "text",
    mode,
    read,
    write: function* (_process, bytes): Task<void> {
      const [action] = line(bytes).split(" ", 1);
      if (!ueventActions.includes(action)) refuse(EINVAL, () => `"${action}" is none of ${ueventActions.join(", ")}`);
    },
  };
}
