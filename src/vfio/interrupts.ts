// Runs in a browser.
/**
 * The interrupts of one open device (reference 5.6).
 *
 * Of INTx, MSI and MSI-X at most one is active: the one whose state is set. ERR and REQ are eventfds only. An eventfd
 * that is installed here is held until it is replaced, removed, or the device is closed.
 */
import type { EventFd, Process } from "../memory/index.ts";
import { enableVectors, type PciFunction, type Vectors, vectorCapacity } from "../pci/index.ts";
import { EINVAL, ENOTTY, ERANGE, Refusal, refuse, type System } from "../runtime/index.ts";
import {
  IRQ_COUNT,
  IRQ_ERR,
  IRQ_FLAG_AUTOMASKED,
  IRQ_FLAG_EVENTFD,
  IRQ_FLAG_MASKABLE,
  IRQ_FLAG_NORESIZE,
  IRQ_INTX,
  IRQ_MSI,
  IRQ_MSIX,
} from "../uapi/index.ts";
import { IntxInterrupt } from "./intx.ts";
import { chosenVectors, eventFd, type IrqRequest, readIrqRequest } from "./irq-data.ts";
import type { ConfigInterrupts, VirtualConfig } from "./virtual-config.ts";

/** MSI or MSI-X while active. */
interface ActiveVectors {
  readonly kind: "msi" | "msix";
  readonly vectors: Vectors;
  readonly triggers: (EventFd | undefined)[];
}

const kinds: ReadonlyMap<number, "msi" | "msix"> = new Map([
  [IRQ_MSI, "msi"],
  [IRQ_MSIX, "msix"],
]);

export class DeviceInterrupts implements ConfigInterrupts {
  private readonly system: System;
  private readonly member: PciFunction;
  private readonly config: () => VirtualConfig;
  private intx: IntxInterrupt | undefined;
  private messages: ActiveVectors | undefined;
  private readonly notices: Record<"error" | "request", EventFd | undefined> = { error: undefined, request: undefined };

  constructor(system: System, member: PciFunction, config: () => VirtualConfig) {
    this.system = system;
    this.member = member;
    this.config = config;
  }

  /** How many vectors an index has. */
  available(index: number): number {
    switch (index) {
      case IRQ_INTX:
        return this.config().interruptPin === 0 ? 0 : 1;
      case IRQ_MSI:
        return vectorCapacity(this.member, "msi");
      case IRQ_MSIX:
        return vectorCapacity(this.member, "msix");
      case IRQ_ERR:
        return this.member.isExpress ? 1 : 0;
      default:
        return 1;
    }
  }

  /** The flags of GET_IRQ_INFO. MSI-X vectors can be added while it is active; MSI ones cannot. */
  flags(index: number): number {
    if (index === IRQ_INTX) return IRQ_FLAG_EVENTFD | IRQ_FLAG_MASKABLE | IRQ_FLAG_AUTOMASKED;
    if (index === IRQ_MSIX && this.available(index) > 0) return IRQ_FLAG_EVENTFD;
    return IRQ_FLAG_EVENTFD | IRQ_FLAG_NORESIZE;
  }

  get msiVectors(): number | undefined {
    return this.messages?.kind === "msi" ? this.messages.vectors.count : undefined;
  }

  setIntxDisabled(disabled: boolean): void {
    if (disabled) this.intx?.mask();
    else this.intx?.unmask();
  }

  /** SET_IRQS. The value is 0, or the number of vectors that there are where more were asked for. */
  set(process: Process, argument: number): number {
    const request = readIrqRequest(process, argument, IRQ_COUNT, (index) => this.available(index));
    const { index, action } = request;
    const kind = kinds.get(index);
    if (index === IRQ_INTX) {
      if (action === "mask") this.maskIntx(request);
      else if (action === "unmask") this.unmaskIntx(process, request);
      else this.triggerIntx(process, request);
      return 0;
    }
    if (action !== "trigger") refuse(ENOTTY, () => `interrupt index ${index} has no action ${action}`);
    if (kind !== undefined) return this.triggerMessages(process, kind, request);
    this.triggerNotice(process, index === IRQ_ERR ? "error" : "request", request);
    return 0;
  }

  /** Asks the client to let go of the device (the REQ interrupt). */
  askToRelease(): void {
    this.notices.request?.signal();
  }

  /** Everything off, every eventfd let go. */
  free(): void {
    this.disable();
    this.setNotice("error", undefined);
    this.setNotice("request", undefined);
  }

  private get activeName(): string | undefined {
    return this.intx ? "INTx" : this.messages?.kind;
  }

  private disable(): void {
    const active = this.activeName;
    if (active === undefined) return;
    this.intx?.free();
    this.intx = undefined;
    if (this.messages) {
      this.messages.vectors.free();
      for (const trigger of this.messages.triggers) trigger?.release();
      this.messages = undefined;
    }
    this.tell(active, false);
  }

  private tell(type: string, enabled: boolean): void {
    const { events } = this.system;
    if (events.on) events.emit({ kind: "vfio.interrupt.enable", device: this.member.name, type, enabled });
  }

  private activeIntx({ start, count }: IrqRequest): IntxInterrupt {
    const { intx } = this;
    if (intx === undefined) refuse(EINVAL, () => `INTx is not active; active is ${this.activeName ?? "nothing"}`);
    if (start !== 0 || count !== 1) refuse(EINVAL, () => `INTx has one vector, not ${count} from ${start} on`);
    return intx;
  }

  private maskIntx(request: IrqRequest): void {
    const intx = this.activeIntx(request);
    if (request.data.type === "eventfd") refuse(ENOTTY, () => "an eventfd cannot mask INTx");
    if (chosenVectors(request).length > 0) intx.mask();
  }

  private unmaskIntx(process: Process, request: IrqRequest): void {
    const intx = this.activeIntx(request);
    if (request.data.type !== "eventfd") {
      if (chosenVectors(request).length > 0) this.clientUnmasks(intx);
    } else if (request.data.fds[0] < 0) {
      intx.stopUnmasking();
    } else {
      intx.unmaskOn(eventFd(process, request.data.fds[0]), () => this.clientUnmasks(intx));
    }
  }

  /** While the client's own INTx-disable bit is set that does nothing: clearing the bit unmasks. */
  private clientUnmasks(intx: IntxInterrupt): void {
    if (!this.config().intxDisabled) intx.unmask();
  }

  private triggerIntx(process: Process, request: IrqRequest): void {
    const { start, count, data } = request;
    if (this.intx && data.type === "none" && count === 0) {
      this.disable();
      return;
    }
    if (this.messages) refuse(EINVAL, () => `${this.activeName} is active, not INTx`);
    if (start !== 0 || count !== 1) refuse(EINVAL, () => `INTx has one vector, not ${count} from ${start} on`);
    if (data.type !== "eventfd") {
      const intx = this.activeIntx(request);
      // The client's own INTx-disable bit holds back this one too; a mask does not.
      if (chosenVectors(request).length > 0 && !this.config().intxDisabled) intx.signal();
      return;
    }
    const trigger = data.fds[0] < 0 ? undefined : eventFd(process, data.fds[0]);
    if (this.intx) {
      this.intx.setTrigger(trigger);
      return;
    }
    try {
      this.system.failures.point("vfio.intx.enable");
      this.intx = new IntxInterrupt(this.member, trigger, this.config().intxDisabled);
    } catch (error) {
      trigger?.release();
      throw error;
    }
    this.tell("INTx", true);
  }

  private triggerMessages(process: Process, kind: "msi" | "msix", request: IrqRequest): number {
    const { start, count, data } = request;
    const isActive = this.messages?.kind === kind;
    if (isActive && data.type === "none" && count === 0) {
      this.disable();
      return 0;
    }
    if (!isActive && this.activeName !== undefined) refuse(EINVAL, () => `${this.activeName} is active, not ${kind}`);
    if (data.type !== "eventfd") {
      if (!isActive) refuse(EINVAL, () => `${kind} is not active: give eventfds first`);
      for (const vector of chosenVectors(request)) this.messages?.triggers[vector]?.signal();
      return 0;
    }
    if (this.messages) {
      this.setTriggers(process, this.messages, start, data.fds);
      return 0;
    }
    const available = this.enableMessages(kind, start + count);
    if (available < start + count) return available;
    try {
      this.setTriggers(process, this.messages!, start, data.fds);
    } catch (error) {
      this.disable();
      throw error;
    }
    return 0;
  }

  /** Makes `kind` the active type with `count` vectors; returns how many there are, and stays off if that is fewer. */
  private enableMessages(kind: "msi" | "msix", count: number): number {
    if (count === 0) refuse(ERANGE, () => `${kind} cannot be enabled with no vectors`);
    this.system.failures.point("vfio.vectors.enable");
    const triggers: (EventFd | undefined)[] = [];
    const vectors = enableVectors(this.member, kind, count, (vector) => triggers[vector]?.signal());
    const available = vectors.count;
    if (available < count) {
      vectors.free();
      return available;
    }
    this.messages = { kind, vectors, triggers };
    this.tell(kind, true);
    return available;
  }

  /** One failing descriptor takes away the triggers of this call, up to and including its own. */
  private setTriggers(process: Process, messages: ActiveVectors, start: number, fds: readonly number[]): void {
    const { triggers, vectors } = messages;
    const replace = (vector: number, trigger: EventFd | undefined): void => {
      triggers[vector]?.release();
      triggers[vector] = trigger;
    };
    for (const [at, fd] of fds.entries()) {
      const vector = start + at;
      try {
        if (fd >= 0 && !vectors.add(vector)) {
          refuse(EINVAL, () => `vector ${vector} was not allocated when ${messages.kind} was enabled`);
        }
        replace(vector, fd < 0 ? undefined : eventFd(process, fd));
      } catch (error) {
        if (error instanceof Refusal) for (let undo = start; undo <= vector; undo++) replace(undo, undefined);
        throw error;
      }
    }
  }

  private triggerNotice(process: Process, notice: "error" | "request", { count, data }: IrqRequest): void {
    if (count > 1) refuse(EINVAL, () => `there is one ${notice} interrupt, not ${count}`);
    switch (data.type) {
      case "none":
        if (!this.notices[notice]) refuse(EINVAL, () => `the ${notice} interrupt has no eventfd`);
        if (count === 0) this.setNotice(notice, undefined);
        else this.notices[notice].signal();
        break;
      case "bool":
        if (count === 0) refuse(EINVAL, () => "count 0 with data of type BOOL");
        if (data.values[0]) this.notices[notice]?.signal();
        break;
      case "eventfd": {
        if (count === 0) refuse(EINVAL, () => "count 0 with data of type EVENTFD");
        const [fd] = data.fds;
        if (fd < -1) refuse(EINVAL, () => `${fd} is neither a file descriptor nor -1`);
        this.setNotice(notice, fd === -1 ? undefined : eventFd(process, fd));
        break;
      }
    }
  }

  private setNotice(notice: "error" | "request", event: EventFd | undefined): void {
    this.notices[notice]?.release();
    this.notices[notice] = event;
  }
}
