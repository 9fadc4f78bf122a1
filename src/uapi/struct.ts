// Runs in a browser.
/**
 * C structs, declared once as data.
 *
 *     export const IoasAlloc = defineStruct("iommu_ioas_alloc", { size: u32, flags: u32, out_ioas_id: u32 });
 *     const command = new IoasAlloc(bytes);   // a view: reads and writes go to the bytes
 *     command.out_ioas_id = 2;
 *
 * Fields lie as C lays them out (natural alignment, little endian). u64 fields are bigint, all others numbers, `bytes(n)`
 * a view of n bytes.
 */
import { assert } from "../runtime/index.ts";

export interface FieldType<T> {
  readonly size: number;
  readonly align: number;
  readonly get: (view: DataView, offset: number) => T;
  readonly set: (view: DataView, offset: number, value: T) => void;
}

function scalar<T>(size: number, get: FieldType<T>["get"], set: FieldType<T>["set"]): FieldType<T> {
  return { size, align: size, get, set };
}

export const u8: FieldType<number> = scalar(
  1,
  (v, o) => v.getUint8(o),
  (v, o, x) => v.setUint8(o, x),
);
export const u16: FieldType<number> = scalar(
  2,
  (v, o) => v.getUint16(o, true),
  (v, o, x) => v.setUint16(o, x, true),
);
export const u32: FieldType<number> = scalar(
  4,
  (v, o) => v.getUint32(o, true),
  (v, o, x) => v.setUint32(o, x, true),
);
export const s32: FieldType<number> = scalar(
  4,
  (v, o) => v.getInt32(o, true),
  (v, o, x) => v.setInt32(o, x, true),
);
export const u64: FieldType<bigint> = scalar(
  8,
  (v, o) => v.getBigUint64(o, true),
  (v, o, x) => v.setBigUint64(o, x, true),
);

/** `count` raw bytes, or an array of smaller fields that nobody reads one by one. */
export function bytes(count: number): FieldType<Uint8Array> {
  return {
    size: count,
    align: 1,
    get: (view, offset) => new Uint8Array(view.buffer, view.byteOffset + offset, count),
    set: (view, offset, value) => new Uint8Array(view.buffer, view.byteOffset + offset, count).set(value),
  };
}

export type Fields = Readonly<Record<string, FieldType<number> | FieldType<bigint> | FieldType<Uint8Array>>>;
type ValueOf<F> = F extends FieldType<infer T> ? T : never;
export type StructView<F extends Fields> = { -readonly [K in keyof F]: ValueOf<F[K]> } & {
  readonly $bytes: Uint8Array;
};

export interface Struct<F extends Fields> {
  /** A view of `bytes`, which must be at least `size` long; a new zeroed struct without. */
  new (bytes?: Uint8Array): StructView<F>;
  readonly structName: string;
  readonly size: number;
  readonly fields: F;
  readonly offsets: { readonly [K in keyof F]: number };
  /** The bytes up to and including `field`: the smallest size that an old client may give. */
  endOf(field: keyof F): number;
}

export function defineStruct<const F extends Fields>(structName: string, fields: F): Struct<F> {
  const offsets: Record<string, number> = {};
  let size = 0;
  let align = 1;
  for (const [name, field] of Object.entries(fields)) {
    size = Math.ceil(size / field.align) * field.align;
    offsets[name] = size;
    size += field.size;
    align = Math.max(align, field.align);
  }
  size = Math.ceil(size / align) * align;

  class View {
    static readonly structName = structName;
    static readonly size = size;
    static readonly fields = fields;
    static readonly offsets = offsets;
    readonly $bytes: Uint8Array;
    readonly $view: DataView;

    constructor(bytes: Uint8Array = new Uint8Array(size)) {
      assert(bytes.length >= size, () => `${structName} needs ${size} bytes, not ${bytes.length}`);
      this.$bytes = bytes;
      this.$view = new DataView(bytes.buffer, bytes.byteOffset, size);
    }

    static endOf(field: string): number {
      return offsets[field] + fields[field].size;
    }
  }
  for (const [name, field] of Object.entries(fields)) {
    const offset = offsets[name];
    const { get, set } = field as FieldType<unknown>;
    Object.defineProperty(View.prototype, name, {
      get(this: View) {
        return get(this.$view, offset);
      },
      set(this: View, value: unknown) {
        set(this.$view, offset, value);
      },
      enumerable: true,
    });
  }
  return View as unknown as Struct<F>;
}
