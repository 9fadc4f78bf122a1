/** Names of PCI devices from the list that Debian and others install. */
import { readFileSync } from "node:fs";

const FILE = "/usr/share/misc/pci.ids";

type Names = (vendor: number, device: number) => string | undefined;

/** A function that knows the names in the list; undefined if there is none. */
export function readPciNames(file: string = FILE): Names | undefined {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch {
    return undefined;
  }
  return parsePciNames(text);
}

/** The list: `8086  Intel Corporation`, below it `<tab>10d3  82574L Gigabit Network Connection`, then other things. */
export function parsePciNames(text: string): Names {
  const names = new Map<string, string>();
  let vendor = "";
  for (const line of text.split("\n")) {
    // Classes follow the vendors.
    if (line.startsWith("C ")) break;
    const [, tab, id, name] = /^(\t?)([0-9a-f]{4}) {2}(.+)$/.exec(line) ?? [];
    if (id === undefined) continue;
    if (tab === "") vendor = id;
    names.set(tab === "" ? id : `${vendor}:${id}`, name);
  }
  const hex = (value: number): string => value.toString(16).padStart(4, "0");
  return (vendorId, device) => {
    const company = names.get(hex(vendorId));
    return company && `${company} ${names.get(`${hex(vendorId)}:${hex(device)}`) ?? "device"}`;
  };
}
