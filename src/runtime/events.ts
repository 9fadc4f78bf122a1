// Runs in a browser.
/** One change of state, as data. `kind` is `room.noun.verb` in lower case: `"iommufd.area.map"`. */
export interface Event {
  readonly kind: string;
  readonly [field: string]: unknown;
}

/** Where state changes are told. Costs one comparison where nobody listens: guard the making of the event with `on`. */
export class EventStream {
  private readonly listeners = new Set<(event: Event) => void>();
  /** True while somebody listens: `if (events.on) events.emit({ … })`. */
  on = false;

  /** Hears every event from now on; returns what ends it. */
  listen(listener: (event: Event) => void): () => void {
    this.listeners.add(listener);
    this.on = true;
    return () => {
      this.listeners.delete(listener);
      this.on = this.listeners.size > 0;
    };
  }

  emit(event: Event): void {
    for (const listener of this.listeners) listener(event);
  }
}
