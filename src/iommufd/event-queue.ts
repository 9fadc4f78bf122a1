// Runs in a browser.
/** Queues of events that a driver tells a guest about its viommu (reference 3.12). */
import { EINVAL, Refusal, refuse, type Task } from "../runtime/index.ts";
import { VEVENTQ_LOST_EVENTS, VeventHeader } from "../uapi/index.ts";
import { type Put, RecordQueue, refuseWrite } from "./record-file.ts";
import type { IommufdViommu } from "./viommu.ts";

/** An event, or the marker that events were lost: then there is no data. */
interface QueuedEvent {
  sequence: number;
  readonly data: Uint8Array | undefined;
}

const LAST_SEQUENCE = 2 ** 31 - 1;

/**
 * Holds up to `depth` events. Each event offered has the next sequence number, also one that does not fit: then the marker
 * is put last, with that number. It is not counted, it is there once, and it goes when an event follows it at once: the gap
 * in the numbers tells as much.
 */
export class EventQueue extends RecordQueue {
  static readonly noun = "event queue";
  readonly kind = "VEVENTQ";
  readonly inodeName = "iommufd-viommu-event";
  readonly writable = false;
  readonly viommu: IommufdViommu;
  readonly type: number;
  readonly depth: number;
  private readonly events: QueuedEvent[] = [];
  private readonly lost: QueuedEvent = { sequence: 0, data: undefined };
  private normal = 0;
  private next = 0;

  constructor(viommu: IommufdViommu, id: number, type: number, depth: number) {
    super(viommu.context, id, EventQueue.noun);
    this.viommu = viommu;
    this.type = type;
    this.depth = depth;
    viommu.users.get(this);
    viommu.eventQueues.set(type, this);
  }

  /** Queues an event, or notes that it was lost. */
  report(data: Uint8Array): void {
    const sequence = this.next;
    this.next = sequence === LAST_SEQUENCE ? 0 : sequence + 1;
    const { events, lost } = this;
    if (this.normal === this.depth) {
      const at = events.indexOf(lost);
      if (at >= 0) events.splice(at, 1);
      lost.sequence = sequence;
      events.push(lost);
    } else {
      if (events.at(-1) === lost) events.pop();
      events.push({ sequence, data: data.slice() });
      this.normal++;
    }
    const { events: stream } = this.context.system;
    if (stream.on)
      stream.emit({ kind: "iommufd.event.report", queue: this.id, sequence, lost: events.at(-1) === lost });
    this.tellReadable();
  }

  readable(): boolean {
    return this.events.length > 0;
  }

  *destroy(): Task<void> {
    this.viommu.eventQueues.delete(this.type);
    this.viommu.users.put(this);
  }

  describe(): Record<string, unknown> {
    const { viommu, type, depth, next, events } = this;
    return { viommu: viommu.id, type, depth, next, events: events.map(({ sequence, data }) => ({ sequence, data })) };
  }

  /** EINVAL: no room for a header, or for the first event. */
  protected take(count: number, put: Put): number {
    if (count < VeventHeader.size) refuse(EINVAL, () => `${count} bytes: a header has ${VeventHeader.size}`);
    let done = 0;
    while (this.events.length > 0) {
      const [event] = this.events;
      const record = recordOf(event);
      if (done + record.length > count) {
        if (done === 0) refuse(EINVAL, () => `${count} bytes: the next event of ${this.label} has ${record.length}`);
        break;
      }
      try {
        put(done, record);
      } catch (error) {
        if (done === 0 || !(error instanceof Refusal)) throw error;
        break;
      }
      this.events.shift();
      if (event !== this.lost) this.normal--;
      done += record.length;
    }
    return done;
  }

  protected *give(): Task<number> {
    return refuseWrite(this);
  }
}

function recordOf({ sequence, data }: QueuedEvent): Uint8Array {
  const record = new Uint8Array(VeventHeader.size + (data?.length ?? 0));
  const header = new VeventHeader(record);
  header.flags = data === undefined ? VEVENTQ_LOST_EVENTS : 0;
  header.sequence = sequence;
  if (data !== undefined) record.set(data, VeventHeader.size);
  return record;
}
