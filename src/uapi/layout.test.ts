import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import * as iommufd from "./iommufd.ts";
import { iommufdCommands } from "./iommufd.ts";
import { decodeRequest, requestName } from "./names.ts";
import type { Fields, Struct } from "./struct.ts";
import { bytes, defineStruct, s32, u8, u16, u64 } from "./struct.ts";
import * as vfio from "./vfio.ts";

const compiler = process.env.CC ?? "cc";
const hasCompiler = (() => {
  try {
    execFileSync(compiler, ["--version"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
})();

const structs = [...Object.values(iommufd), ...Object.values(vfio)].filter(
  (value: unknown) => typeof value === "function" && "structName" in value,
) as unknown as Struct<Fields>[];

/** What the C compiler says of a struct with fields of these sizes: each offset, then the size. */
function askCompiler(all: readonly Struct<Fields>[]): number[][] {
  const folder = mkdtempSync(join(tmpdir(), "uiommu-layout-"));
  try {
    const scalar: Record<number, string> = { 1: "uint8_t", 2: "uint16_t", 4: "uint32_t", 8: "uint64_t" };
    const code = all.map((struct, index) => {
      const fields = Object.entries(struct.fields);
      const members = fields.map(([name, { size, align }]) =>
        size === align ? `${scalar[size]} ${name};` : `uint8_t ${name}[${size}];`,
      );
      const offsets = fields.map(([name]) => `(int)offsetof(struct s${index}, ${name})`);
      return {
        declaration: `struct s${index} { ${members.join(" ")} };`,
        print: [...offsets, `(int)sizeof(struct s${index})`]
          .map((e) => `printf("%d ", ${e});`)
          .join("")
          .concat('puts("");'),
      };
    });
    const source = `#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n${code.map((c) => c.declaration).join("\n")}
int main(void) { ${code.map((c) => c.print).join("\n")} return 0; }`;
    writeFileSync(join(folder, "layout.c"), source);
    execFileSync(compiler, ["-o", join(folder, "layout"), join(folder, "layout.c")]);
    const lines = execFileSync(join(folder, "layout"), { encoding: "utf8" }).trim().split("\n");
    return lines.map((line) => line.trim().split(" ").map(Number));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

describe("layouts", () => {
  it.runIf(hasCompiler)("are those of the C compiler", () => {
    expect(structs.length).toBeGreaterThan(30);
    const answers = askCompiler(structs);
    for (const [index, struct] of structs.entries()) {
      expect([struct.structName, ...Object.values(struct.offsets), struct.size]).toEqual([
        struct.structName,
        ...answers[index],
      ]);
    }
  });

  it.each<[string, number, number, number, Record<string, number>]>([
    ["DESTROY", 0x80, 8, 8, { id: 4 }],
    ["IOAS_ALLOC", 0x81, 12, 12, { flags: 4, out_ioas_id: 8 }],
    ["IOAS_ALLOW_IOVAS", 0x82, 24, 24, { ioas_id: 4, num_iovas: 8, reserved: 12, allowed_iovas: 16 }],
    ["IOAS_COPY", 0x83, 40, 40, { flags: 4, dst_ioas_id: 8, src_ioas_id: 12, length: 16, dst_iova: 24, src_iova: 32 }],
    ["IOAS_IOVA_RANGES", 0x84, 32, 32, { ioas_id: 4, num_iovas: 8, allowed_iovas: 16, out_iova_alignment: 24 }],
    ["IOAS_MAP", 0x85, 40, 40, { flags: 4, ioas_id: 8, reserved: 12, user_va: 16, length: 24, iova: 32 }],
    ["IOAS_UNMAP", 0x86, 24, 24, { ioas_id: 4, iova: 8, length: 16 }],
    ["OPTION", 0x87, 24, 24, { option_id: 4, op: 8, reserved: 10, object_id: 12, val64: 16 }],
    ["VFIO_IOAS", 0x88, 12, 12, { ioas_id: 4, op: 8, reserved: 10 }],
    ["HWPT_ALLOC", 0x89, 48, 24, { dev_id: 8, pt_id: 12, out_hwpt_id: 16, data_len: 28, data_uptr: 32, fault_id: 40 }],
    ["GET_HW_INFO", 0x8a, 40, 32, { dev_id: 8, data_uptr: 16, data_type: 24, out_max_pasid_log2: 28, reserved: 29 }],
    ["HWPT_SET_DIRTY_TRACKING", 0x8b, 16, 16, { flags: 4, hwpt_id: 8 }],
    ["HWPT_GET_DIRTY_BITMAP", 0x8c, 48, 48, { hwpt_id: 4, flags: 8, iova: 16, length: 24, page_size: 32, data: 40 }],
    ["HWPT_INVALIDATE", 0x8d, 32, 32, { hwpt_id: 4, data_uptr: 8, data_type: 16, entry_len: 20, entry_num: 24 }],
    ["FAULT_QUEUE_ALLOC", 0x8e, 16, 16, { flags: 4, out_fault_id: 8, out_fault_fd: 12 }],
    ["IOAS_MAP_FILE", 0x8f, 40, 40, { flags: 4, ioas_id: 8, fd: 12, start: 16, length: 24, iova: 32 }],
    [
      "VIOMMU_ALLOC",
      0x90,
      40,
      24,
      { type: 8, dev_id: 12, hwpt_id: 16, out_viommu_id: 20, data_len: 24, data_uptr: 32 },
    ],
    ["VDEVICE_ALLOC", 0x91, 24, 24, { viommu_id: 4, dev_id: 8, out_vdevice_id: 12, virt_id: 16 }],
    ["IOAS_CHANGE_PROCESS", 0x92, 8, 8, { reserved: 4 }],
    ["VEVENTQ_ALLOC", 0x93, 32, 28, { viommu_id: 8, type: 12, veventq_depth: 16, out_veventq_fd: 24, reserved: 28 }],
    ["HW_QUEUE_ALLOC", 0x94, 40, 40, { type: 12, index: 16, nesting_parent_iova: 24, length: 32 }],
  ])("%s is as reference 3.3 says", (name, nr, size, minimum, offsets) => {
    const row = iommufdCommands[name as iommufd.CommandName] as unknown as iommufd.CommandRow;
    expect({ number: row.number, size: row.struct.size, minimum: row.minimum }).toEqual({
      number: 0x3b00 + nr,
      size,
      minimum,
    });
    expect(row.struct.offsets).toMatchObject(offsets);
  });

  it("has a row for every number from 0x80 to 0x94", () => {
    const numbers = Object.values(iommufdCommands).map((row) => row.number);
    expect(numbers.sort()).toEqual(Array.from({ length: 21 }, (_, i) => 0x3b80 + i));
  });
});

describe("a struct view", () => {
  const Mixed = defineStruct("mixed", { a: u8, b: u16, c: s32, d: u64, e: bytes(3) });

  it("reads and writes its bytes, little endian", () => {
    const memory = new Uint8Array(40);
    const view = new Mixed(memory.subarray(8));
    view.a = 0x1ff;
    view.b = 0x1234;
    view.c = -2;
    view.d = 2n ** 64n - 2n;
    view.e = new Uint8Array([1, 2, 3]);
    expect([...memory.subarray(8, 27)]).toEqual([
      255,
      0,
      0x34,
      0x12,
      254,
      255,
      255,
      255,
      254,
      ...Array(7).fill(255),
      1,
      2,
      3,
    ]);
    expect([view.a, view.b, view.c, view.d, [...view.e]]).toEqual([255, 0x1234, -2, 2n ** 64n - 2n, [1, 2, 3]]);
    expect([Mixed.size, Mixed.endOf("e"), Mixed.endOf("b")]).toEqual([24, 19, 4]);
  });

  it("does not lie over bytes that are too short", () => {
    expect(() => new Mixed(new Uint8Array(23))).toThrow("mixed needs 24 bytes");
  });
});

describe("requests by name", () => {
  it("knows iommufd's and VFIO's", () => {
    expect([0x3b85, 0x3b76, 0x3b99].map((number) => requestName(number))).toEqual([
      "IOAS_MAP",
      "VFIO_DEVICE_BIND",
      undefined,
    ]);
  });

  it("decodes a struct into plain fields, missing bytes as zero", () => {
    const map = new iommufd.IoasMap();
    Object.assign(map, { size: 40, flags: 7, ioas_id: 3, length: 4096n });
    expect(decodeRequest(0x3b85, map.$bytes.subarray(0, 32))).toEqual({
      size: 40,
      flags: 7,
      ioas_id: 3,
      reserved: 0,
      user_va: 0n,
      length: 4096n,
      iova: 0n,
    });
    expect(decodeRequest(0x3b8a, new Uint8Array([40]))).toMatchObject({ reserved: "000000" });
    expect(decodeRequest(0x3b99, new Uint8Array(8))).toBeUndefined();
  });
});
