/** Runs the benchmarks of all rooms, or those named, and prints one table. Start it with `npm run bench`. */
import { readdirSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import type { Benchmark, Row } from "./benchmark.ts";

const root = join(import.meta.dirname, "..");

function benchFiles(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((name) => /\.bench\.[jt]s$/.test(name))
    .map((name) => join(root, folder, name))
    .sort();
}

function figure(value: number): string {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

const wanted = process.argv.slice(2).filter((argument) => !argument.startsWith("--"));
const rows: (Row & { room: string })[] = [];
for (const file of [...benchFiles("src"), ...benchFiles("bench")]) {
  const benchmark = ((await import(pathToFileURL(file).href)) as { default: Benchmark }).default;
  if (wanted.length > 0 && !wanted.includes(benchmark.name)) continue;
  for (const row of await benchmark.rows()) rows.push({ ...row, room: benchmark.name });
}
console.log(`Node ${process.version}, ${cpus().length} × ${cpus()[0].model}; medians\n`);
console.log("| room | what | figure | goal | met | beside |");
console.log("|---|---|---|---|---|---|");
for (const row of rows) {
  const met = row.met === undefined ? "" : row.met ? "yes" : "**no**";
  console.log(
    `| ${row.room} | ${row.what} | ${figure(row.value)} ${row.unit} | ${row.goal ?? ""} | ${met} | ${row.peer ?? ""} |`,
  );
}
