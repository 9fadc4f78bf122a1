import { describe, expect, test } from "vitest";
import { EEXIST, EINVAL } from "../runtime/index.ts";
import { IoasMap, iommufdCommands } from "../uapi/iommufd.ts";
import { openCall } from "./call.test-support.ts";
import { type ClientCall, explainCall, explainFault, traceLine } from "./index.ts";

const call: ClientCall = { ...openCall, kind: "ioctl", start: 2500, duration: 0.0123 };
const origin = 1000;

function map(): Uint8Array {
  const command = new IoasMap();
  Object.assign(command, { size: 40, flags: 7, ioas_id: 2, user_va: 0x7f0000001000n, length: 4096n, iova: 2n ** 63n });
  return command.$bytes;
}

const request = iommufdCommands.IOAS_MAP.number;

describe("explainCall", () => {
  test("names the call, the error and the reason", () => {
    const reason = "0x101000-0x101fff overlaps the area 0x100000-0x103fff of IOAS 2";
    expect(explainCall({ ...call, request, refusal: { errno: EEXIST, reason } })).toBe(
      "IOAS_MAP: EEXIST: 0x101000-0x101fff overlaps the area 0x100000-0x103fff of IOAS 2",
    );
  });

  test("says nothing of a call that succeeded", () => {
    expect(explainCall({ ...call, request })).toBeUndefined();
  });

  test("gives the number of an ioctl that nobody knows, and the file", () => {
    const refusal = { errno: EINVAL, reason: "no such request" };
    expect(explainCall({ ...call, request: 0x5401, refusal })).toBe(
      "ioctl 0x5401 of /dev/iommu: EINVAL: no such request",
    );
    expect(explainCall({ ...call, kind: "read", refusal })).toBe("read of /dev/iommu: EINVAL: no such request");
  });

  test("stays one line, whatever a client put into a name", () => {
    const refusal = { errno: EINVAL, reason: "no device \u001b[31mred\nDMA fault: forged" };
    expect(explainCall({ ...call, request, refusal })).toBe("IOAS_MAP: EINVAL: no device  [31mred DMA fault: forged");
  });
});

test("explainFault says that it is a fault of a DMA", () => {
  expect(explainFault("write to 0x1000 by stream 0x8: F_TRANSLATION: …")).toMatch(/^DMA fault: write to 0x1000/);
});

describe("traceLine", () => {
  test("has the call's time, place, arguments and result", () => {
    expect(JSON.parse(traceLine({ ...call, request, before: map() }, origin))).toEqual({
      time: 1.5,
      pid: 71,
      file: "/dev/iommu",
      call: "IOAS_MAP",
      arguments: {
        size: 40,
        flags: 7,
        ioas_id: 2,
        reserved: 0,
        user_va: "0x7f0000001000",
        length: "0x1000",
        iova: "0x8000000000000000",
      },
      result: 0,
      duration: 12.3,
    });
  });

  test("shows what the call answered: the fields that it changed", () => {
    const { number } = iommufdCommands.IOAS_ALLOC;
    const before = Uint8Array.of(12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    const line = JSON.parse(traceLine({ ...call, request: number, before, after: before.with(8, 3) }, origin));
    expect(line).toMatchObject({ call: "IOAS_ALLOC", arguments: { size: 12, flags: 0 }, answer: { out_ioas_id: 3 } });
  });

  test("leaves out what lies in memory behind the client's struct", () => {
    const { number } = iommufdCommands.IOAS_UNMAP;
    const before = new Uint8Array(64).fill(0xff);
    before.set([8, 0, 0, 0, 2, 0, 0, 0]);
    const line = JSON.parse(traceLine({ ...call, request: number, before }, origin));
    expect(line.arguments).toEqual({ size: 8, ioas_id: 2, iova: "0x0", length: "0x0" });
  });

  test("has the error and its reason instead, if it was refused", () => {
    const line = JSON.parse(
      traceLine({ ...call, request, result: -1, refusal: { errno: EEXIST, reason: "it is there" } }, origin),
    );
    expect(line).toMatchObject({ result: -1, errno: "EEXIST", reason: "it is there" });
  });

  test("shows where a read was, and the number of an ioctl that nobody knows", () => {
    const read: ClientCall = { ...call, kind: "read", position: 7 * 2 ** 40, length: 4, result: 4 };
    expect(JSON.parse(traceLine(read, origin))).toMatchObject({
      call: "read",
      arguments: { position: "0x70000000000", length: 4 },
      result: 4,
    });
    expect(JSON.parse(traceLine({ ...call, request: 0x5401 }, origin))).toMatchObject({
      call: "ioctl",
      arguments: { request: "0x5401" },
    });
  });

  test("is what the published schema says", async () => {
    const { readFileSync } = await import("node:fs");
    const { default: Schema } = await import("typebox/schema");
    const { traceSchema } = await import("./index.ts");
    const published = new URL("../../docs/trace.schema.json", import.meta.url);
    expect(readFileSync(published, "utf8"), "if not: npx tsx tools/schema.ts").toBe(
      `${JSON.stringify(traceSchema, undefined, 2)}\n`,
    );
    const validator = Schema.Compile(traceSchema);
    expect(validator.Check(JSON.parse(traceLine({ ...call, request, before: map() }, origin)))).toBe(true);
    expect(validator.Check({})).toBe(false);
  });
});
