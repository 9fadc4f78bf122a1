// Runs in a browser.
import { EEXIST, EINVAL, ENODEV, refuse } from "../runtime/index.ts";
import type { PciFunction } from "./function.ts";
import { CLASS_CODE, SUBSYSTEM_ID, SUBSYSTEM_VENDOR_ID } from "./ids.ts";
import { idsOf } from "./sr-iov.ts";

/** Of a subsystem: every one. */
const ANY = 0xffffffff;
/** vendor, device, subvendor, subdevice, class, class mask, data of the driver. */
const FIELDS = 7;

interface Id {
  readonly vendor: number;
  readonly device: number;
  readonly subvendor: number;
  readonly subdevice: number;
  readonly classCode: number;
  readonly classMask: number;
}

/** Functions that a driver takes because somebody wrote their numbers to its `new_id`. */
export class DynamicIds {
  private readonly ids: Id[] = [];

  /**
   * `"8086 10f5"`, and behind it if wanted the subsystem's numbers, the class and its mask; all hexadecimal. EINVAL: less than two
   * numbers, or data of the driver, which takes none. EEXIST: it takes such functions already.
   */
  add(text: string): void {
    const { id, data } = parse(text);
    if (this.ids.some((known) => includes(known, id))) {
      refuse(EEXIST, () => `functions ${numbers(id)} are taken already`);
    }
    if (data !== 0) refuse(EINVAL, () => `no id of the driver has the data 0x${data.toString(16)}`);
    this.ids.push(id);
  }

  /** The first id that says the same is forgotten; who is bound stays so. EINVAL: less than two numbers. ENODEV: no such id. */
  remove(text: string): void {
    const { id } = parse(text);
    const index = this.ids.findIndex((known) => isNamedBy(known, id));
    if (index < 0) refuse(ENODEV, () => `there is no id ${numbers(id)}`);
    this.ids.splice(index, 1);
  }

  matches(member: PciFunction): boolean {
    const own: Id = {
      ...idsOf(member),
      subvendor: member.readConfig(SUBSYSTEM_VENDOR_ID, 2),
      subdevice: member.readConfig(SUBSYSTEM_ID, 2),
      classCode: member.readConfig(CLASS_CODE, 1) + member.readConfig(CLASS_CODE + 1, 2) * 0x100,
      classMask: 0,
    };
    return this.ids.some((known) => includes(known, own));
  }
}

/** `known` takes a function with exactly the numbers of `id`. */
function includes(known: Id, id: Id): boolean {
  return (
    known.vendor === id.vendor &&
    known.device === id.device &&
    (known.subvendor === ANY || known.subvendor === id.subvendor) &&
    (known.subdevice === ANY || known.subdevice === id.subdevice) &&
    ((known.classCode ^ id.classCode) & known.classMask) === 0
  );
}

/** Who removes an id may leave out what makes it special. */
function isNamedBy(known: Id, id: Id): boolean {
  return (
    known.vendor === id.vendor &&
    known.device === id.device &&
    (id.subvendor === ANY || known.subvendor === id.subvendor) &&
    (id.subdevice === ANY || known.subdevice === id.subdevice) &&
    ((known.classCode ^ id.classCode) & id.classMask) === 0
  );
}

/** Numbers up to the first thing that is none. */
function parse(text: string): { readonly id: Id; readonly data: number } {
  const found: number[] = [];
  for (let rest = text; found.length < FIELDS; ) {
    const [whole, digits] = /^\s*(?:0x)?([0-9a-f]+)/i.exec(rest) ?? [];
    if (whole === undefined) break;
    found.push(Number.parseInt(digits, 16) % 2 ** 32);
    rest = rest.slice(whole.length);
  }
  const [vendor, device, subvendor = ANY, subdevice = ANY, classCode = 0, classMask = 0, data = 0] = found;
  if (device === undefined) refuse(EINVAL, () => `"${text}" is no vendor and device in hexadecimal`);
  return { id: { vendor, device, subvendor, subdevice, classCode, classMask }, data };
}

function numbers({ vendor, device }: Id): string {
  return `${vendor.toString(16).padStart(4, "0")}:${device.toString(16).padStart(4, "0")}`;
}
