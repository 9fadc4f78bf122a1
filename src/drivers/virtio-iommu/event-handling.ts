// Runs in a browser.
/** What happens on the device's interrupt: events are read by a task of their own, and told to whoever listens. */
import type { Task } from "../../runtime/index.ts";
import { decodeFault, explainFault } from "./fault-record.ts";
import type { VirtioIommuInstance } from "./instance.ts";
import { INTERRUPT_ACK, INTERRUPT_CONFIG, INTERRUPT_STATUS, INTERRUPT_USED, needsReset } from "./registers.ts";

export function handleInterrupt(instance: VirtioIommuInstance): void {
  const { registers, system, name } = instance;
  const pending = registers.read32(INTERRUPT_STATUS);
  if (pending !== 0) registers.write32(INTERRUPT_ACK, pending);
  if ((pending & INTERRUPT_CONFIG) !== 0 && needsReset(registers)) {
    instance.requests.giveUp("the device needs a reset");
  }
  if ((pending & INTERRUPT_USED) !== 0) system.tasks.spawn(`events of ${name}`, handleEvents(instance));
}

function* handleEvents(instance: VirtioIommuInstance): Task<void> {
  const { events, system } = instance;
  for (let bytes = events.take(); bytes !== undefined; bytes = events.take()) {
    handleEvent(instance, bytes);
    if (system.tasks.exploring) yield* system.tasks.point();
  }
}

/** There is nobody to bring pages in: a fault is told, and that is all. */
function handleEvent(instance: VirtioIommuInstance, bytes: Uint8Array): void {
  const { driver, masters, system, name } = instance;
  const fault = decodeFault(bytes);
  if (fault === undefined) {
    instance.warn("an event of an unknown kind");
    return;
  }
  const master = masters.get(fault.endpoint);
  const explain = (): string => explainFault(fault, master?.device.name, master?.translation?.label);
  driver.onFault?.(fault, explain);
  if (system.events.on) {
    const { reason } = fault;
    system.events.emit({ kind: "virtio-iommu.event.receive", instance: name, reason, text: explain() });
  }
}
