// Runs in a browser.
/** Requests (§5.13.6): their layouts, and what the device answers. */
import { type DeviceConfig, F_ATTACH_TABLE, F_MAP_UNMAP, F_PROBE } from "./config.ts";
import { type Domains, INVAL, NOENT, OK, UNSUPP } from "./domains.ts";
import { type ReservedMemory, type TableProperties, writePropertyList } from "./properties.ts";
import { attachTable, invalidate } from "./table-requests.ts";
import type { Chain } from "./virtqueue.ts";

const TAIL_BYTES = 4;

interface RequestKind {
  readonly name: string;
  /** What the driver writes: head and body. */
  readonly bytes: number;
  /** Feature bit without which there is no such request. */
  readonly feature: number;
  /** The status. */
  readonly execute: (domains: Domains, request: DataView) => number;
}

/** By type. The offsets are those of `struct virtio_iommu_req_…`. */
const kinds: Readonly<Record<number, RequestKind>> = {
  1: {
    name: "ATTACH",
    bytes: 20,
    feature: 0,
    execute: (domains, request) =>
      request.getUint32(16, true) !== 0
        ? INVAL
        : domains.attach(request.getUint32(4, true), request.getUint32(8, true), request.getUint32(12, true)),
  },
  2: {
    name: "DETACH",
    bytes: 20,
    feature: 0,
    execute: (domains, request) => domains.detach(request.getUint32(4, true), request.getUint32(8, true)),
  },
  3: {
    name: "MAP",
    bytes: 36,
    feature: F_MAP_UNMAP,
    execute: (domains, request) =>
      domains.map(
        request.getUint32(4, true),
        request.getBigUint64(8, true),
        request.getBigUint64(16, true),
        request.getBigUint64(24, true),
        request.getUint32(32, true),
      ),
  },
  4: {
    name: "UNMAP",
    bytes: 28,
    feature: F_MAP_UNMAP,
    execute: (domains, request) =>
      request.getUint32(24, true) !== 0
        ? INVAL
        : domains.unmap(request.getUint32(4, true), request.getBigUint64(8, true), request.getBigUint64(16, true)),
  },
  5: {
    name: "PROBE",
    bytes: 72,
    feature: F_PROBE,
    execute: (domains, request) => (domains.exists(request.getUint32(4, true)) ? OK : NOENT),
  },
  6: { name: "ATTACH_TABLE", bytes: 76, feature: F_ATTACH_TABLE, execute: attachTable },
  7: { name: "INVALIDATE", bytes: 56, feature: F_ATTACH_TABLE, execute: invalidate },
};
const PROBE = 5;
const NO_PROPERTIES = new Uint8Array(0);
const LONGEST = 76;

export interface Answer {
  /** `"MAP"`; undefined for a type that the device does not know. */
  readonly name: string | undefined;
  readonly status: number;
  /** Bytes written into the buffer. */
  readonly written: number;
}

export class RequestHandler {
  private readonly config: DeviceConfig;
  private readonly domains: Domains;
  private readonly properties: Uint8Array;
  private readonly bytes = new Uint8Array(LONGEST);
  private readonly view = new DataView(this.bytes.buffer);
  private readonly tail = new Uint8Array(TAIL_BYTES);

  constructor(
    config: DeviceConfig,
    domains: Domains,
    reserved: readonly ReservedMemory[],
    tables: TableProperties | undefined,
  ) {
    this.config = config;
    this.domains = domains;
    this.properties = new Uint8Array(config.probeSize);
    if (config.probeSize > 0) writePropertyList(this.properties, reserved, tables);
  }

  /**
   * Carries a request out and writes its status. A buffer without room for one, or of a type that the device does not have,
   * goes back with nothing written (§5.13.6.2). Throws BusError where its memory is not there.
   */
  handle(chain: Chain): Answer {
    const { domains, config } = this;
    chain.read(this.bytes);
    const type = chain.readableBytes === 0 ? 0 : this.bytes[0];
    const kind = kinds[type];
    const isKnown = kind !== undefined && (kind.feature & ~config.features) === 0;
    if (!isKnown || chain.writableBytes < TAIL_BYTES) return { name: kind?.name, status: UNSUPP, written: 0 };
    const { name } = kind;
    const room = chain.writableBytes - TAIL_BYTES;
    const properties = type === PROBE ? this.properties : NO_PROPERTIES;
    const isWhole = chain.readableBytes >= kind.bytes && room >= properties.length;
    let status = UNSUPP;
    if ((kind.feature & ~domains.features) === 0) status = isWhole ? kind.execute(domains, this.view) : INVAL;
    const given = status === OK ? properties : new Uint8Array(Math.min(properties.length, room));
    chain.write(given, 0);
    this.tail[0] = status;
    chain.write(this.tail, given.length);
    return { name, status, written: given.length + TAIL_BYTES };
  }
}
