import { describe, expect, it } from "vitest";
import { errnoName, Refusal } from "../runtime/index.ts";
import { type Values, World } from "./world.test-support.ts";

const GET_API_VERSION = 0x3b64;
const CHECK_EXTENSION = 0x3b65;
const SET_IOMMU = 0x3b66;
const GET_INFO = 0x3b70;
const MAP_DMA = 0x3b71;
const UNMAP_DMA = 0x3b72;
const TYPE1 = 1;
const TYPE1V2 = 3;
const DMA_CC = 4;

/** A world with a container: an IOAS that VFIO_IOAS SET names, and what a client does with it. */
class Container extends World {
  readonly compat: number;
  /** 16 pages of the client. */
  readonly buffer: number = this.pages(16);

  constructor(options: { compat?: boolean } = {}) {
    super();
    this.compat = this.ioas();
    if (options.compat ?? true) this.setCompat(1);
  }

  setCompat(op: number, ioas: number = this.compat): string {
    return this.call("VFIO_IOAS", { op, ioas_id: ioas }).errno;
  }

  /** What the ioctl returns, or the name of its errno. */
  vfio(request: number, argument: number): number | string {
    try {
      return this.run(this.context.ioctl(this.process, request, argument));
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      return errnoName(error.errno);
    }
  }

  mapDma({ argsz = 32, flags = 3, vaddr = this.buffer, iova = 0x10000, size = 0x4000 }: Values = {}): number | string {
    this.put([
      [4, argsz],
      [4, flags],
      [8, vaddr],
      [8, iova],
      [8, size],
    ]);
    return this.vfio(MAP_DMA, this.scratch);
  }

  /** The answer, and the size that the client finds in its struct. */
  unmapDma({ argsz = 24, flags = 0, iova = 0x10000, size = 0x4000 }: Values = {}): [number | string, bigint] {
    this.put([
      [4, argsz],
      [4, flags],
      [8, iova],
      [8, size],
    ]);
    const answer = this.vfio(UNMAP_DMA, this.scratch);
    return [answer, new DataView(this.bytes(this.scratch, 24).buffer).getBigUint64(16, true)];
  }

  /** GET_INFO into a buffer of 0xaa: the answer, and the buffer afterwards. */
  info(argsz: number, length: number = argsz): [number | string, string] {
    const bytes = new Uint8Array(length).fill(0xaa);
    new DataView(bytes.buffer).setUint32(0, argsz, true);
    const at = this.pages(1) + 4096 - length;
    this.process.memory.write(at, bytes);
    const answer = this.vfio(GET_INFO, at);
    return [answer, this.bytes(at, length).reduce((text, byte) => text + byte.toString(16).padStart(2, "0"), "")];
  }

  /** The areas of the container, as `[start, last]`. */
  areas(): [bigint, bigint][] {
    const { objects } = this.context.snapshot() as {
      objects: { id: number; areas?: { start: bigint; last: bigint }[] }[];
    };
    const { areas = [] } = objects.find(({ id }) => id === this.compat) ?? {};
    return areas.map(({ start, last }) => [start, last]);
  }

  private put(fields: readonly (readonly [size: number, value: number | bigint])[]): void {
    const bytes = new Uint8Array(fields.reduce((sum, [size]) => sum + size, 0));
    const view = new DataView(bytes.buffer);
    let at = 0;
    for (const [size, value] of fields) {
      if (size === 4) view.setUint32(at, Number(value), true);
      else view.setBigUint64(at, BigInt.asUintN(64, BigInt(value)), true);
      at += size;
    }
    this.process.memory.write(this.scratch, bytes);
  }

  private bytes(address: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    this.process.memory.read(address, bytes);
    return bytes;
  }
}

describe("a container that no IOAS was given to", () => {
  it.each<[string, number, number, number | string]>([
    ["the API version", GET_API_VERSION, 0, 0],
    ["TYPE1", CHECK_EXTENSION, 1, 1],
    ["SPAPR", CHECK_EXTENSION, 2, 0],
    ["TYPE1v2", CHECK_EXTENSION, 3, 1],
    ["DMA_CC", CHECK_EXTENSION, 4, "ENODEV"],
    ["NOIOMMU", CHECK_EXTENSION, 8, 0],
    ["UNMAP_ALL", CHECK_EXTENSION, 9, 1],
    ["an extension of 64 bits", CHECK_EXTENSION, 2 ** 32 + 1, 0],
    ["SET_IOMMU of a known type", SET_IOMMU, 1, "ENODEV"],
    ["SET_IOMMU of an unknown type, first", SET_IOMMU, 2, "EINVAL"],
    ["SET_IOMMU of 64 bits", SET_IOMMU, 2 ** 32 + 1, "EINVAL"],
    ["GET_INFO that cannot be read", GET_INFO, 1, "EFAULT"],
    ["MAP_DMA that cannot be read", MAP_DMA, 1, "EFAULT"],
    ["UNMAP_DMA that cannot be read", UNMAP_DMA, 1, "EFAULT"],
    ["DIRTY_PAGES", 0x3b75, 0, "ENOTTY"],
    ["an ioctl of groups", 0x3b67, 0, "ENOTTY"],
    ["a number with more bits", 0xffff3b64, 0, "ENOTTY"],
  ])("answers %s", (_what, request, argument, answer) => {
    expect(new Container({ compat: false }).vfio(request, argument)).toBe(answer);
  });

  it("checks sizes and flags before it misses the IOAS", () => {
    const container = new Container({ compat: false });
    expect(container.info(15, 16)[0]).toBe("EINVAL");
    expect(container.info(16)[0]).toBe("ENODEV");
    expect(container.mapDma({ argsz: 31 })).toBe("EINVAL");
    expect(container.mapDma({ flags: 4 })).toBe("EINVAL");
    expect(container.mapDma()).toBe("ENODEV");
    expect(container.unmapDma({ argsz: 23 })).toEqual(["EINVAL", 0x4000n]);
    expect(container.unmapDma({ flags: 1 })).toEqual(["EINVAL", 0x4000n]);
    expect(container.unmapDma()).toEqual(["ENODEV", 0x4000n]);
  });

  it("is what a container is again when its IOAS is cleared or destroyed", () => {
    const container = new Container();
    expect(container.vfio(SET_IOMMU, TYPE1V2)).toBe(0);
    container.setCompat(2);
    expect(container.vfio(SET_IOMMU, TYPE1V2)).toBe("ENODEV");
    container.setCompat(1);
    expect(container.call("DESTROY", { id: container.compat }).errno).toBe("");
    expect(container.vfio(SET_IOMMU, TYPE1V2)).toBe("ENODEV");
  });
});

describe("SET_IOMMU and DMA_CC", () => {
  it("type 1 turns huge pages off, type 1 v2 does not turn them on again", () => {
    const container = new Container();
    const hugePages = () => container.call("OPTION", { option_id: 1, op: 1, object_id: container.compat }).out.val64;
    expect(container.vfio(SET_IOMMU, TYPE1V2)).toBe(0);
    expect(hugePages()).toBe(1n);
    expect(container.vfio(SET_IOMMU, TYPE1)).toBe(0);
    expect(container.vfio(SET_IOMMU, TYPE1V2)).toBe(0);
    expect(container.vfio(SET_IOMMU, TYPE1)).toBe(0);
    expect(hugePages()).toBe(0n);
  });

  it("type 1 is too late for areas that do not fit pages, and for areas in a domain", () => {
    const container = new Container();
    expect(container.mapDma({ vaddr: container.buffer + 1, iova: 0x20001, size: 0x401 })).toBe(0);
    expect(container.vfio(SET_IOMMU, TYPE1)).toBe("EADDRINUSE");
    container.unmapDma({ flags: 2, iova: 0, size: 0 });
    expect(container.mapDma()).toBe(0);
    container.run(container.bind().attach(container.compat));
    expect(container.vfio(SET_IOMMU, TYPE1)).toBe("EINVAL");
    expect(container.vfio(SET_IOMMU, TYPE1V2)).toBe(0);
  });

  it("DMA is cache coherent while every device's HWPT enforces it", () => {
    const container = new Container();
    expect(container.vfio(CHECK_EXTENSION, DMA_CC)).toBe(1);
    const coherent = { capabilities: ["cache-coherency", "enforce-cache-coherency"] };
    container.run(container.bind(container.device("a", coherent)).attach(container.compat));
    expect(container.vfio(CHECK_EXTENSION, DMA_CC)).toBe(1);
    const other = container.bind(container.device("b", { capabilities: ["cache-coherency"] }));
    container.driver.refuses = () => container.driver.made < 2; // one HWPT does not do for both
    container.run(other.attach(container.compat));
    expect(container.vfio(CHECK_EXTENSION, DMA_CC)).toBe(0);
  });
});

describe("MAP_DMA", () => {
  it.each<[string, Values, string]>([
    ["a size of 0", { size: 0 }, "EINVAL"],
    ["an IOVA that wraps", { iova: -0x1000 }, "EOVERFLOW"],
    ["an address that wraps", { vaddr: -0x1000 }, "EOVERFLOW"],
    ["where something is mapped", { iova: 0x33000 }, "EEXIST"],
  ])("refuses %s, and changes nothing", (_what, values, errno) => {
    const container = new Container();
    expect(container.mapDma({ iova: 0x30000 })).toBe(0);
    const before = container.state();
    expect(container.mapDma(values)).toBe(errno);
    expect(container.state()).toEqual(before);
  });

  it("maps what nobody may read or write, unless a page table should hold it", () => {
    const container = new Container();
    expect(container.mapDma({ flags: 0 })).toBe(0);
    expect(container.unmapDma()).toEqual([0, 0x4000n]);
    container.run(container.bind().attach(container.compat));
    expect(container.mapDma({ flags: 0 })).toBe("EINVAL");
  });

  it("with READ only asks for no writable memory", () => {
    const container = new Container();
    container.run(container.bind().attach(container.compat));
    const vaddr = container.pages(1, { writable: false });
    expect(container.mapDma({ vaddr, size: 4096 })).toBe("EFAULT");
    expect(container.mapDma({ vaddr, size: 4096, flags: 1 })).toBe(0);
  });
});

describe("UNMAP_DMA", () => {
  it.each<[string, Values, [number | string, bigint]]>([
    ["nothing mapped is no error", { iova: 0x80000 }, [0, 0n]],
    ["a size of 0", { size: 0 }, ["EINVAL", 0n]],
    ["a range that wraps", { size: -0x1000 }, ["EOVERFLOW", 0n]],
    ["all but the last byte there is", { iova: 0, size: -1 }, [0, 0x6000n]],
    ["ALL with an IOVA", { flags: 2, size: 0 }, ["EINVAL", 0n]],
    ["ALL with a size", { flags: 2, iova: 0 }, ["EINVAL", 0x4000n]],
    ["ALL", { flags: 2, iova: 0, size: 0 }, [0, 0x6000n]],
    ["the beginning of an area", { size: 0x1000 }, ["ENOENT", 0n]],
    ["one area and the beginning of another", { size: 0x11000 }, ["ENOENT", 0x4000n]],
    ["a gap between areas, too", { size: 0x12000 }, [0, 0x6000n]],
  ])("%s: tells what went", (_what, values, answer) => {
    const container = new Container();
    expect(container.mapDma()).toBe(0);
    expect(container.mapDma({ iova: 0x20000, size: 0x2000 })).toBe(0);
    expect(container.unmapDma(values)).toEqual(answer);
  });

  it("unmaps even where the answer cannot be written", () => {
    const container = new Container();
    container.mapDma();
    container.unmapDma({ iova: 0x80000 }); // leaves a struct behind
    container.process.memory.write(container.scratch + 8, new Uint8Array([0, 0, 1, 0, 0, 0, 0, 0, 0, 0x40, 0, 0]));
    expect(container.raw(UNMAP_DMA, container.scratch, container.unwritable()).errno).toBe("EFAULT");
    expect(container.areas()).toEqual([]);
  });

  it.each([false, true])("type 1 cuts areas in the middle, attached: %s", (attached) => {
    const container = new Container();
    expect(container.vfio(SET_IOMMU, TYPE1)).toBe(0);
    if (attached) container.run(container.bind().attach(container.compat));
    expect(container.mapDma({ iova: 0x20000 })).toBe(0);
    expect(container.unmapDma({ iova: 0x21000, size: 0x1000 })).toEqual([0, 0x1000n]);
    expect(container.areas()).toEqual([
      [0x20000n, 0x20fffn],
      [0x22000n, 0x23fffn],
    ]);
    expect(container.memory.pinnedFrames).toBe(attached ? 3 : 0);
    expect(container.unmapDma({ iova: 0x22000, size: 0x1000 })).toEqual([0, 0x1000n]);
    expect(container.mapDma({ iova: 0x21000, size: 0x2000 })).toBe(0);
    expect(container.unmapDma({ flags: 2, iova: 0, size: 0 })).toEqual([0, 0x4000n]);
    expect(container.memory.pinnedFrames).toBe(0);
  });

  it.each<[string, Values, [number | string, bigint]]>([
    ["not at a page's end", { iova: 0x22000, size: 0x801 }, ["EINVAL", 0x801n]],
    ["not before a page's beginning", { iova: 0x22800, size: 0x800 }, ["EINVAL", 0x800n]],
    ["nowhere if it were behind an area's first byte", { iova: 0x20001, size: 0xfff }, ["ENOENT", 0n]],
    ["also where the unmap itself is refused", { iova: 0x23000, size: 0 }, ["EINVAL", 0n]],
  ])("type 1 cuts %s", (_what, values, answer) => {
    const container = new Container();
    expect(container.vfio(SET_IOMMU, TYPE1)).toBe(0);
    expect(container.mapDma({ iova: 0x20000 })).toBe(0);
    expect(container.unmapDma(values)).toEqual(answer);
  });

  it("type 1 v2 cuts nothing", () => {
    const container = new Container();
    expect(container.mapDma()).toBe(0);
    expect(container.unmapDma({ size: 0x1000 })).toEqual(["ENOENT", 0n]);
    expect(container.areas()).toEqual([[0x10000n, 0x13fffn]]);
  });

  it("a copy of a page set stays whole when one of its areas is cut", () => {
    const container = new Container();
    expect(container.vfio(SET_IOMMU, TYPE1)).toBe(0);
    container.run(container.bind().attach(container.compat));
    expect(container.mapDma()).toBe(0);
    const copy = { flags: 7, src_ioas_id: 1, dst_ioas_id: 1, length: 0x4000, src_iova: 0x10000, dst_iova: 0x50000 };
    expect(container.call("IOAS_COPY", copy).errno).toBe("");
    expect(container.unmapDma({ iova: 0x11000, size: 0x2000 })).toEqual([0, 0x2000n]);
    expect(container.memory.pinnedFrames).toBe(4);
    expect(container.unmapDma({ iova: 0x50000 })).toEqual([0, 0x4000n]);
    expect(container.memory.pinnedFrames).toBe(2);
  });
});

describe("IOMMU_GET_INFO", () => {
  const pages = "00f0ffffffffffff";
  const avail = (next: string) => `03000100${next}000000ffffffff`;
  const range = "0000000000000000ffffffffffffffff";

  it.each<[argsz: number, bytes: string]>([
    [16, `4800000003000000${pages}`],
    [20, `4800000003000000${pages}00000000`],
    [24, `4800000003000000${pages}0000000000000000`],
    [35, `4800000003000000${pages}0000000000000000${"aa".repeat(11)}`],
    [36, `4800000003000000${pages}0000000000000000${avail("00")}`],
    [40, `4800000003000000${pages}0000000000000000${avail("28")}aaaaaaaa`],
    [71, `4800000003000000${pages}0000000000000000${avail("28")}aaaaaaaa${"aa".repeat(31)}`],
    [72, `4800000003000000${pages}1800000000000000${avail("28")}aaaaaaaa01000100000000000100000000000000${range}`],
    [74, `4800000003000000${pages}1800000000000000${avail("28")}aaaaaaaa01000100000000000100000000000000${range}aaaa`],
  ])("fills %d bytes exactly", (argsz, bytes) => {
    expect(new Container().info(argsz)).toEqual([0, bytes]);
  });

  it("shows ranges that fit without the header of those that do not", () => {
    const container = new Container();
    container.run(container.bind().attach(container.compat)); // aperture 0 to 2^48 - 1
    const { space } = container.context.objects.list()[0] as unknown as {
      space: { reserve(start: bigint, last: bigint, owner: undefined): void };
    };
    space.reserve(0x1000n, 0x1fffn, undefined);
    const shown = (argsz: number) => container.info(argsz)[1].slice(80);
    expect(container.info(88)[1].slice(0, 8)).toBe("58000000");
    expect(shown(72)).toBe(`${"aa".repeat(16)}0000000000000000ff0f000000000000`);
    expect(shown(88)).toBe(
      "01000100000000000200000000000000" + "0000000000000000ff0f000000000000" + "0020000000000000ffffffffffff0000",
    );
  });

  it("fails at the first byte that it cannot write, the head last", () => {
    const container = new Container();
    const head = `${"aa".repeat(20)}${avail("00")}`;
    expect(container.info(72, 56)).toEqual(["EFAULT", `48000000${head}${"aa".repeat(20)}`]);
    expect(container.info(16, 12)[0]).toBe("EFAULT");
  });

  it("page sizes are those of all HWPTs; smaller ones than a page count as a page", () => {
    const container = new Container();
    const sizes = () => container.info(16)[1].slice(16);
    container.run(container.bind(container.device("a", { page: 2048 })).attach(container.compat));
    expect(sizes()).toBe("0010200000000000");
  });
});
