// Runs in a browser.
/** A machine file as text: what it says, and where it says it. */
import type { Document, Node } from "yaml";
import type { Path } from "./check.ts";
import { MachineError, type MachineSource, type Place } from "./error.ts";

/** One fault of syntax often makes many. */
const FAULTS_MAX = 5;

/**
 * Reads YAML 1.2 (so JSON too). Throws MachineError if it is none. The YAML library is loaded here and not before: that takes
 * as long as building a machine, and who uses a preset does without.
 */
export async function readSource(text: string, fileName: string): Promise<MachineSource> {
  const yaml = await import("yaml");
  const { LineCounter, parseDocument } = yaml;
  const lines = new LineCounter();
  const place = (offset: number): Place => {
    const { line, col } = lines.linePos(offset);
    return { line: Math.max(line, 1), column: Math.max(col, 1) };
  };
  try {
    const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, merge: true });
    const faults = [...document.errors, ...document.warnings];
    if (faults.length > 0) {
      const problems = faults.slice(0, FAULTS_MAX).map((fault) => ({
        place: place(fault.pos[0]),
        message: sentence(fault.code, fault.message, text.slice(fault.pos[0])),
      }));
      if (faults.length > FAULTS_MAX) {
        const message = `not valid YAML in ${faults.length - FAULTS_MAX} more places from here on`;
        problems.push({ place: place(faults[FAULTS_MAX].pos[0]), message });
      }
      throw new MachineError(fileName, problems);
    }
    return { value: document.toJS(), locate: (path, at) => place(offsetOf(yaml, document, path, at)) };
  } catch (error) {
    if (error instanceof MachineError) throw error;
    // An alias without its anchor, or nesting beyond all measure: the parser throws these without a place.
    const message = error instanceof Error ? error.message : String(error);
    throw new MachineError(fileName, [{ place: { line: 1, column: 1 }, message: `not valid YAML: ${message}` }]);
  }
}

/** What is wrong with YAML; `rest` is the text from there on. */
function sentence(code: string, message: string, rest: string): string {
  if (code === "DUPLICATE_KEY") return `the key "${/^[^:\s]+/.exec(rest)?.[0] ?? ""}" appears twice; keep one of them`;
  if (code === "MULTIPLE_DOCS") return `a second machine begins; a file has one, so no line is "---"`;
  return `not valid YAML: ${message}`;
}

/** Where the key or value at `path` begins; what a merge or a missing key hides is told by its parent's place. */
function offsetOf(
  { isAlias, isMap, isScalar, isSeq }: typeof import("yaml"),
  document: Document.Parsed,
  path: Path,
  at: "key" | "value",
): number {
  let node: unknown = document.contents;
  let offset = begin(node) ?? 0;
  for (const [depth, step] of path.entries()) {
    if (isAlias(node)) node = node.resolve(document);
    let key: unknown;
    if (isMap(node)) {
      const pair = node.items.find((item) => isScalar(item.key) && String(item.key.value) === String(step));
      if (!pair) return offset;
      key = pair.key;
      node = pair.value;
    } else if (isSeq(node)) {
      node = node.items[Number(step)];
    } else return offset;
    const last = depth === path.length - 1;
    offset = (last && at === "key" ? begin(key) : (begin(node) ?? begin(key))) ?? offset;
  }
  return offset;
}

function begin(node: unknown): number | undefined {
  return (node as Node | null | undefined)?.range?.[0];
}
