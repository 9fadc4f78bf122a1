import { accessSync, constants, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { ToyTree } from "./toy.test-support.ts";
import { MaterialTree } from "./tree.ts";

/** Does something as a user who is not root. */
function asSomebody<T>(body: () => T): T {
  const isRoot = process.getuid?.() === 0;
  if (isRoot) process.seteuid?.(65534);
  try {
    return body();
  } finally {
    if (isRoot) process.seteuid?.(0);
  }
}

/** Where root's temporary files are closed to others, there is nothing to see. */
const hasRoom = asSomebody(() => {
  try {
    accessSync(tmpdir(), constants.W_OK | constants.X_OK);
    return true;
  } catch {
    return false;
  }
});

test.skipIf(!hasRoom).each([0o444, 0o200, 0o644])(
  "a text with the mode %o changes, also for who is not root",
  (mode) => {
    asSomebody(() => {
      const directory = mkdtempSync(join(tmpdir(), "uiommu-tree-"));
      const files = new ToyTree();
      let content = "four\n";
      files.set("/sys/toy/free", { kind: "text", mode, read: () => content });
      const tree = new MaterialTree(files, directory);
      const file = join(directory, "root/sys/toy/free");
      for (content of ["3\n", "fourteen\n"]) {
        tree.renew("/sys/toy/free");
        expect(statSync(file).mode & 0o777).toBe(mode);
        expect(statSync(file).size).toBe(content.length);
      }
      if (mode !== 0o200) expect(readFileSync(file, "utf8")).toBe("fourteen\n");
      tree.close();
      rmSync(directory, { recursive: true });
    });
  },
);
