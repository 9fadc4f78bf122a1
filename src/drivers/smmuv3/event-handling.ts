// Runs in a browser.
/**
 * What happens on the SMMU's interrupts.
 *
 * Events are read by a task of their own, since answering may wait. Each is told to whoever listens. A stalled transaction
 * becomes a page request: see `page-requests.ts`. Those that PCI devices make have a queue of their own: see `pri.ts`.
 */
import type { Task } from "../../runtime/index.ts";
import { decodeEvent, type EventRecord, explainEvent } from "./event-record.ts";
import type { SmmuV3Instance } from "./instance.ts";
import { reportStalled } from "./page-requests.ts";
import { forgetPartial, reportRequested } from "./pri.ts";
import {
  GERROR,
  GERROR_CMDQ_ERR,
  GERROR_EVENTQ_ABT,
  GERROR_PRIQ_ABT,
  GERROR_SFM,
  GERRORN,
  type InterruptLine,
} from "./registers.ts";

/** A `sync` interrupt needs nothing: whoever waits for a CMD_SYNC looks at CMDQ_CONS. */
export function handleInterrupt(instance: SmmuV3Instance, line: InterruptLine): void {
  const { system, name } = instance;
  if (line === "gerror") handleGlobalError(instance);
  else if (line === "event") system.tasks.spawn(`events of ${name}`, handleEvents(instance));
  else if (line === "pri") system.tasks.spawn(`page requests of ${name}`, handlePageRequests(instance));
}

function* handleEvents(instance: SmmuV3Instance): Task<void> {
  const { events, system } = instance;
  for (let words = events.take(); words !== undefined; words = events.take()) {
    yield* handleEvent(instance, decodeEvent(instance.name, words));
    if (system.tasks.exploring) yield* system.tasks.point();
  }
  if (events.acknowledgeOverflow()) warn(instance, "the event queue was full: events are lost");
}

function* handleEvent(instance: SmmuV3Instance, event: EventRecord): Task<void> {
  const { system, driver, masters } = instance;
  const explain = (): string => explainEvent(event, masters.get(event.streamId)?.device.name);
  driver.onEvent?.(event, explain);
  if (system.events.on) {
    system.events.emit({ kind: "smmuv3.event.receive", instance: instance.name, name: event.name, text: explain() });
  }
  if (event.stallTag !== undefined) yield* reportStalled(instance, event, event.stallTag);
  else tellGuest(instance, event);
}

/** What a guest did wrong in its own stage 1 is its own business: it hears of it, if it asked to. */
function tellGuest({ masters }: SmmuV3Instance, event: EventRecord): void {
  if (event.stage2 || !event.isStreamFault) return;
  const translation = masters.get(event.streamId)?.translation;
  if (translation?.kind !== "stage 2") return;
  translation.guest?.viommu.report(event, translation.guest.virtualId);
}

function* handlePageRequests(instance: SmmuV3Instance): Task<void> {
  const { pageRequests, system } = instance;
  if (pageRequests === undefined) return;
  for (let words = pageRequests.take(); words !== undefined; words = pageRequests.take()) {
    yield* reportRequested(instance, words);
    if (system.tasks.exploring) yield* system.tasks.point();
  }
  if (!pageRequests.acknowledgeOverflow()) return;
  forgetPartial(instance);
  warn(instance, "the page request queue was full: requests are lost");
}

const globalErrors: readonly (readonly [number, string])[] = [
  [GERROR_EVENTQ_ABT, "the event queue could not be written: events are lost"],
  [GERROR_PRIQ_ABT, "the page request queue could not be written: requests are lost"],
  [GERROR_SFM, "the SMMU is in service failure mode: it does not work any more"],
];

function handleGlobalError(instance: SmmuV3Instance): void {
  const { registers, commands } = instance;
  const active = (registers.read32(GERROR) ^ registers.read32(GERRORN)) >>> 0;
  if (active & GERROR_CMDQ_ERR) commands.repair();
  for (const [bit, text] of globalErrors) if (active & bit) warn(instance, text);
  const others = active & ~GERROR_CMDQ_ERR;
  if (others !== 0) registers.write32(GERRORN, (registers.read32(GERRORN) ^ others) >>> 0);
}

function warn({ system, name }: SmmuV3Instance, text: string): void {
  if (system.events.on) system.events.emit({ kind: "smmuv3.warning", instance: name, text });
}
