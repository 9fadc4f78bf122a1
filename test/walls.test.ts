/** The walls of the house: who may import whom, what runs in a browser, and a few habits that a machine can check. */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { describe, expect, it } from "vitest";

const source = join(import.meta.dirname, "..", "src");

/** What each room may import. A room may always import itself. */
const allowed: Record<string, readonly string[]> = {
  runtime: [],
  memory: ["runtime"],
  pagetable: ["runtime", "memory"],
  pci: ["runtime", "memory"],
  iommu: ["runtime", "memory", "pagetable", "pci"],
  pasidtable: ["runtime", "memory", "pagetable"],
  "drivers/smmuv3": ["runtime", "memory", "pagetable", "pci", "iommu", "pasidtable"],
  "drivers/mock": ["runtime", "memory", "pagetable", "iommu"],
  "drivers/virtio-iommu": ["runtime", "memory", "pagetable", "pci", "iommu", "pasidtable"],
  "hardware/smmuv3": ["runtime", "memory", "pagetable", "pci"],
  "hardware/virtio-iommu": ["runtime", "memory", "pci", "hardware/smmuv3"],
  "hardware/devices": ["runtime", "memory", "pci"],
  uapi: ["runtime", "memory"],
  iommufd: ["runtime", "memory", "pagetable", "iommu", "uapi"],
  vfio: ["runtime", "memory", "pci", "iommu", "iommufd", "uapi"],
  uacce: ["runtime", "memory", "pci", "iommu", "uapi"],
  selftest: ["runtime", "memory", "iommu", "drivers/mock", "uapi", "iommufd"],
  machine: [
    "runtime",
    "memory",
    "pagetable",
    "pci",
    "iommu",
    "drivers/smmuv3",
    "drivers/mock",
    "drivers/virtio-iommu",
    "hardware/smmuv3",
    "hardware/virtio-iommu",
    "hardware/devices",
    "uapi",
    "iommufd",
    "selftest",
    "vfio",
    "uacce",
  ],
  inspect: ["runtime", "memory", "pagetable", "pci", "iommu", "uapi", "iommufd", "vfio", "machine"],
  host: ["runtime", "memory", "uapi", "machine"],
  cli: ["runtime", "memory", "uapi", "machine", "iommu", "drivers/smmuv3", "inspect", "host", "hardware/smmuv3"],
};
const nodeRooms = new Set(["host", "cli"]);

const files = readdirSync(source, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"));
const isTest = (name: string): boolean => /\.(test|model|bench|e2e|long|test-support)\.ts$/.test(name);

function roomOf(name: string): string {
  return Object.keys(allowed).find((room) => name.startsWith(`${room}/`)) ?? "";
}

function importsOf(name: string): string[] {
  const text = readFileSync(join(source, name), "utf8");
  return [...text.matchAll(/^(?:import|export)\s[^;]*?from\s+"([^"]+)"|import\("([^"]+)"\)/gm)].map(
    (m) => m[1] ?? m[2],
  );
}

describe("the walls of the house", () => {
  const shipped = files.filter((name) => !isTest(name) && name !== "index.ts");

  it("every file lies in a room", () => {
    expect(shipped.filter((name) => roomOf(name) === "")).toEqual([]);
  });

  it("imports go one way", () => {
    const wrong = shipped.flatMap((name) => {
      const room = roomOf(name);
      return importsOf(name)
        .filter((target) => target.startsWith("."))
        .map((target) => relative(source, join(source, dirname(name), target)))
        .filter((target) => roomOf(target) !== room && !allowed[room]?.includes(roomOf(target)))
        .map((target) => `${name} imports ${target}`);
    });
    expect(wrong).toEqual([]);
  });

  it("other rooms are entered through their index", () => {
    const wrong = shipped.flatMap((name) =>
      importsOf(name)
        .filter((target) => target.startsWith("."))
        .map((target) => relative(source, join(source, dirname(name), target)))
        .filter((target) => roomOf(target) !== roomOf(name) && !target.endsWith("index.ts"))
        .map((target) => `${name} imports ${target}`),
    );
    expect(wrong).toEqual([]);
  });

  // That no file of these rooms uses a global of Node is checked by `npm run check` (tsconfig.browser.json has no types).
  it("only host and cli import Node; all else runs in a browser, says so in its first line, and has no time of its own", () => {
    for (const name of shipped.filter((name) => !nodeRooms.has(roomOf(name)))) {
      const text = readFileSync(join(source, name), "utf8");
      expect.soft(text.split("\n")[0], name).toBe("// Runs in a browser.");
      expect
        .soft(
          importsOf(name).filter((target) => target.startsWith("node:")),
          name,
        )
        .toEqual([]);
      expect.soft(/\b(Date\.now|new Date|Math\.random|performance\.now)\b/.exec(text)?.[0], name).toBeUndefined();
    }
  });

  it("nothing is left for others", () => {
    const left = files.filter((name) => /\b(TODO|FIXME|XXX)\b/.test(readFileSync(join(source, name), "utf8")));
    expect(left).toEqual([]);
  });
});
