/** The rule that forbids shifting a bigint really finds each spelling of it. */
import { join } from "node:path";
import { ESLint } from "eslint";
import { describe, expect, it } from "vitest";

const eslint = new ESLint({ cwd: join(import.meta.dirname, "..") });

/** The rules that `code` breaks, linted as if it stood in a file of ours. */
async function broken(code: string): Promise<(string | null)[]> {
  const [result] = await eslint.lintText(code, { filePath: join(import.meta.dirname, "../src/runtime/errno.ts") });
  return result.messages.map((message) => message.ruleId ?? message.message);
}

describe("no shift of a bigint", { timeout: 60_000 }, () => {
  it.each([
    "export const f = (a: bigint): bigint => a >> 12n;",
    "export const f = (a: bigint, by: bigint): bigint => a << by;",
    "export const f = (a: bigint): bigint => { a >>= 3n; return a; };",
  ])("forbids %s", async (code) => {
    expect(await broken(code)).toEqual(["uiommu/no-bigint-shift"]);
  });

  it("allows shifting numbers", async () => {
    expect(await broken("export const f = (a: number): number => (a << 3) | (a >>> 5);")).toEqual([]);
  });
});
