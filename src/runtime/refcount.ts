// Runs in a browser.
import { assert } from "./assert.ts";

/** Who holds a reference: an object that can name itself, or a word for a holder without an object. */
export type Holder = string | { readonly label: string };

function labelOf(holder: Holder): string {
  return typeof holder === "string" ? holder : holder.label;
}

/** A count of references that knows its holders, so that "why EBUSY?" has an answer. */
export class RefCount {
  private readonly owner: string;
  /** Made with the first reference: many things come and go without one. */
  private counts: Map<Holder, number> | undefined;
  private total = 0;

  /** `owner` names the counted thing in messages: `"IOAS 2"`. */
  constructor(owner: string) {
    this.owner = owner;
  }

  get count(): number {
    return this.total;
  }

  get(holder: Holder): void {
    this.counts ??= new Map();
    this.counts.set(holder, (this.counts.get(holder) ?? 0) + 1);
    this.total++;
  }

  /** Gives back one reference of `holder`; returns what is left in all. */
  put(holder: Holder): number {
    const { counts } = this;
    const count = counts?.get(holder);
    assert(count !== undefined, () => `${labelOf(holder)} puts a reference on ${this.owner} that it does not hold`);
    if (count === 1) counts!.delete(holder);
    else counts!.set(holder, count - 1);
    return --this.total;
  }

  /** The holders by name, those with several references as `name ×n`. */
  holders(): string[] {
    return [...(this.counts ?? [])].map(([holder, count]) =>
      count === 1 ? labelOf(holder) : `${labelOf(holder)} ×${count}`,
    );
  }
}
