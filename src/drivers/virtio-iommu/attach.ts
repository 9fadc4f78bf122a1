// Runs in a browser.
/**
 * Moving the endpoints of a device from one domain to another.
 *
 * ATTACH moves an endpoint in one step: it translates through the old domain or the new one. A domain that has lost its
 * last endpoint is gone in the IOMMU, its mappings with it; the next first one brings them back, all recorded mappings in
 * one batch. Until that is answered the endpoint's accesses may fault; nobody is promised more before `attach` returns.
 *
 * Under the instance's `attachments` lock, for writing: a mapping is made or removed before or after, never in between.
 */
import { Refusal, refuse, type Task } from "../../runtime/index.ts";
import type { VirtioIommuInstance } from "./instance.ts";
import type { Master, Translation } from "./master.ts";
import type { Ticket } from "./request-queue.ts";
import { ATTACH_BYPASS, errnoOf, STATUS_OK, statusName, writeAttach, writeDetach, writeMap } from "./requests.ts";
import { forgetTable, leaveTable, refuseBesidePasids } from "./tables.ts";

/** From now on all endpoints of the master translate through `to`. A Refusal leaves them where they were. */
export function* attach(master: Master, to: Translation): Task<void> {
  const { instance, endpoints } = master;
  const from = master.translation;
  if (from === to) return;
  refuseBesidePasids(master, to.label);
  const { attachments, system } = instance;
  yield* attachments.takeWrite();
  try {
    for (const [index, endpoint] of endpoints.entries()) {
      try {
        yield* move(instance, endpoint, from, to);
      } catch (error) {
        for (const moved of endpoints.slice(0, index)) yield* moveBack(instance, moved, to, from);
        throw error;
      }
    }
    master.translation = to;
    yield* forgetTable(master);
  } finally {
    attachments.releaseWrite();
  }
  if (system.events.on) {
    const { device } = master;
    system.events.emit({
      kind: "virtio-iommu.master.attach",
      instance: instance.name,
      device: device.name,
      to: to.label,
    });
  }
}

/** The endpoints are attached to nothing. Cannot fail. */
export function* detach(master: Master): Task<void> {
  const { instance, endpoints, translation, tables } = master;
  if (translation === undefined && tables?.own === undefined) return;
  yield* instance.attachments.takeWrite();
  try {
    if (translation !== undefined) for (const endpoint of endpoints) yield* leave(instance, endpoint, translation);
    else yield* leaveTable(master);
    master.translation = undefined;
  } finally {
    instance.attachments.releaseWrite();
  }
}

function* move(
  instance: VirtioIommuInstance,
  endpoint: number,
  from: Translation | undefined,
  to: Translation,
): Task<void> {
  const { requests, system } = instance;
  system.failures.point("virtio-iommu.endpoint.attach");
  const bytes = writeAttach(requests.request, to.id, endpoint, to.bypass ? ATTACH_BYPASS : 0);
  const status = yield* requests.send(bytes);
  if (status !== STATUS_OK) {
    refuse(
      errnoOf(status),
      () => `${instance.label} answers ${statusName(status)} to attaching endpoint 0x${hex(endpoint)} to ${to.label}`,
    );
  }
  if (from !== undefined) from.endpoints--;
  to.endpoints++;
  if (to.endpoints > 1) return;
  try {
    yield* replay(instance, to);
  } catch (error) {
    yield* moveBack(instance, endpoint, to, from);
    throw error;
  }
}

/** Undoes {@link move}. What the IOMMU accepted before and now does not leaves the endpoint attached to nothing. */
function* moveBack(
  instance: VirtioIommuInstance,
  endpoint: number,
  from: Translation,
  to: Translation | undefined,
): Task<void> {
  if (to !== undefined) {
    try {
      const { requests } = instance;
      const bytes = writeAttach(requests.request, to.id, endpoint, to.bypass ? ATTACH_BYPASS : 0);
      const status = yield* requests.send(bytes);
      if (status !== STATUS_OK) refuse(errnoOf(status), () => statusName(status));
      from.endpoints--;
      if (++to.endpoints === 1) yield* replay(instance, to);
      return;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      instance.warn(`endpoint 0x${hex(endpoint)} cannot go back to ${to.label}: ${error.reason}`);
      return;
    }
  }
  yield* leave(instance, endpoint, from);
}

function* leave(instance: VirtioIommuInstance, endpoint: number, from: Translation): Task<void> {
  const { requests } = instance;
  const status = yield* requests.send(writeDetach(requests.request, from.id, endpoint));
  if (status !== STATUS_OK) {
    instance.warn(`detaching endpoint 0x${hex(endpoint)} from ${from.label}: the device answers ${statusName(status)}`);
  }
  from.endpoints--;
}

/** Sends every recorded mapping. Refusal: what the IOMMU answers to the first that it does not take. */
function* replay(instance: VirtioIommuInstance, { id, label, mappings }: Translation): Task<void> {
  const { requests } = instance;
  const tickets: Ticket[] = [];
  for (const { start, last, value } of mappings) {
    tickets.push(requests.push(writeMap(requests.request, id, start, last, value.physical, value.flags)));
  }
  if (!requests.trySync()) yield* requests.sync();
  const failed = tickets.find(({ status }) => status !== STATUS_OK);
  if (failed === undefined) return;
  const status = failed.status!;
  refuse(errnoOf(status), () => `${instance.label} answers ${statusName(status)} to a mapping of ${label}`);
}

function hex(endpoint: number): string {
  return endpoint.toString(16);
}
