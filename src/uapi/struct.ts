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

/** What a view is inside: its bytes, and a DataView of them. */
interface Viewed {
  readonly $view: DataView;
}

export interface FieldType<T> {
  readonly size: number;
  readonly align: number;
  /**
   * The property of a view for a field at `offset`. Each type has accessors of its own code, not ones that call a
   * function of the type: so that a read compiles to a load.
   */
  readonly property: (offset: number) => { get(this: Viewed): T; set(this: Viewed, value: T): void };
}

export const u8: FieldType<number> = {
  size: 1,
  align: 1,
  property: (offset) => ({
    get() {
      return this.$view.getUint8(offset);
    },
    set(value) {
      this.$view.setUint8(offset, value);
    },
  }),
};
export const u16: FieldType<number> = {
  size: 2,
  align: 2,
  property: (offset) => ({
    get() {
      return this.$view.getUint16(offset, true);
    },
    set(value) {
      this.$view.setUint16(offset, value, true);
    },
  }),
};
export const u32: FieldType<number> = {
  size: 4,
  align: 4,
  property: (offset) => ({
    get() {
      return this.$view.getUint32(offset, true);
    },
    set(value) {
      this.$view.setUint32(offset, value, true);
    },
  }),
};
export const s32: FieldType<number> = {
  size: 4,
  align: 4,
  property: (offset) => ({
    get() {
      return this.$view.getInt32(offset, true);
    },
    set(value) {
      this.$view.setInt32(offset, value, true);
    },
  }),
};
export const u64: FieldType<bigint> = {
  size: 8,
  align: 8,
  property: (offset) => ({
    get() {
      return this.$view.getBigUint64(offset, true);
    },
    set(value) {
      this.$view.setBigUint64(offset, value, true);
    },
  }),
};

/** `count` raw bytes, or an array of smaller fields that nobody reads one by one. */
export function bytes(count: number): FieldType<Uint8Array> {
  return {
    size: count,
    align: 1,
    property: (offset) => ({
      get() {
        return new Uint8Array(this.$view.buffer, this.$view.byteOffset + offset, count);
      },
      set(value) {
        new Uint8Array(this.$view.buffer, this.$view.byteOffset + offset, count).set(value);
      },
    }),
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

  class View implements Viewed {
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
    Object.defineProperty(View.prototype, name, { ...field.property(offsets[name]), enumerable: true });
  }
  return View as unknown as Struct<F>;
}
