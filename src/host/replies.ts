import type { Connection } from "./connection.ts";
import type { Description } from "./open-file.ts";
import { Description as DescriptionStruct, PAYLOAD_MAX, putWide, REPLY_AWAKE, Reply } from "./protocol.ts";

const { offsets } = Reply;

/** Makes replies and sends them. A reply's payload is put into `payload` first. */
export class Replies {
  private readonly bytes = new Uint8Array(Reply.size + PAYLOAD_MAX);
  private readonly view = new DataView(this.bytes.buffer);
  readonly payload: Uint8Array = this.bytes.subarray(Reply.size);
  /** REPLY_AWAKE or 0. */
  private awake = 0;
  /** Called before each reply: what a call did must be there before its answer. */
  private readonly before: () => void;

  constructor(before: () => void) {
    this.before = before;
  }

  /** Tells clients from now on whether to wait awake. */
  set clientsWaitAwake(yes: boolean) {
    this.awake = yes ? REPLY_AWAKE : 0;
  }

  /** `result` negative: an error number. `length` bytes of the payload go along. */
  send(connection: Connection, result: number, length = 0, flags = 0, address = 0, token = 0): void {
    this.before();
    const { view, bytes } = this;
    const watching = connection.client?.watching;
    putWide(view, offsets.result, result);
    view.setUint32(offsets.length, length, true);
    view.setUint32(offsets.flags, flags | this.awake | (watching?.flags ?? 0), true);
    putWide(view, offsets.address, address);
    view.setUint32(offsets.token, token, true);
    view.setUint32(offsets.version, watching?.version ?? 0, true);
    connection.send(bytes, Reply.size + length);
  }

  describe(connection: Connection, description: Description): void {
    const struct = new DescriptionStruct(this.payload);
    struct.kind = description.kind;
    struct.mode = description.mode;
    struct.major = description.major;
    struct.minor = description.minor;
    struct.flags = description.flags;
    struct.path.fill(0);
    new TextEncoder().encodeInto(description.path, struct.path.subarray(0, struct.path.length - 1));
    this.send(connection, 0, DescriptionStruct.size);
  }
}
