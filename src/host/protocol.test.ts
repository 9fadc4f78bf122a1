import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { shimSources } from "./build.ts";
import * as wire from "./protocol.ts";

const structs = {
  uiommu_hello: wire.Hello,
  uiommu_request: wire.Request,
  uiommu_reply: wire.Reply,
  uiommu_description: wire.Description,
  uiommu_helper_command: wire.HelperCommand,
};
const here: [string, number][] = [];
for (const [name, value] of Object.entries(wire)) if (typeof value === "number") here.push([name, value]);
const renamed: Record<string, string> = {
  MAGIC: "UIOMMU_MAGIC",
  VERSION: "UIOMMU_VERSION",
  ARGUMENT_MAX: "UIOMMU_ARGUMENT_MAX",
  PAYLOAD_MAX: "UIOMMU_PAYLOAD_MAX",
};

test("protocol.ts says the same as shim/protocol.h", () => {
  const expected: Record<string, number> = {};
  const prints: string[] = [];
  const print = (name: string, expression: string, value: number) => {
    expected[name] = value;
    prints.push(`printf("%s %ld\\n", "${name}", (long)(${expression}));`);
  };
  for (const [name, value] of here) print(name, renamed[name] ?? name, value);
  for (const [name, struct] of Object.entries(structs)) {
    print(`sizeof ${name}`, `sizeof(struct ${name})`, struct.size);
    for (const [field, offset] of Object.entries(struct.offsets)) {
      print(`${name}.${field}`, `offsetof(struct ${name}, ${field})`, offset);
    }
  }
  const folder = mkdtempSync(join(tmpdir(), "uiommu-protocol-"));
  try {
    const source = join(folder, "print.c");
    writeFileSync(
      source,
      `#include <stddef.h>\n#include <stdio.h>\n#include "protocol.h"\nint main(void) { ${prints.join("\n")} }\n`,
    );
    execFileSync("cc", ["-I", shimSources, "-o", join(folder, "print"), source]);
    const lines = execFileSync(join(folder, "print"), { encoding: "utf8" }).trimEnd().split("\n");
    const found = Object.fromEntries(
      lines.map((line) => [line.replace(/ -?\d+$/, ""), Number(/-?\d+$/.exec(line)?.[0])]),
    );
    expect(found).toEqual(expected);
    expect(lines.length).toBeGreaterThan(50);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
