// Runs in a browser.
const ROW_SHIFT = 9;
const ROW = 512;

/** An array over a large, mostly empty range of indices below 2^32, in rows of 512 that exist once something was put there. */
export class SparseArray<T> {
  private readonly rows: ((T | undefined)[] | undefined)[] = [];

  get(index: number): T | undefined {
    const row = this.rows[index >>> ROW_SHIFT];
    return row === undefined ? undefined : row[index & (ROW - 1)];
  }

  set(index: number, value: T | undefined): void {
    const at = index >>> ROW_SHIFT;
    // Filled up without gaps: an array with gaps would become a slow dictionary.
    while (this.rows.length <= at) this.rows.push(undefined);
    let row = this.rows[at];
    if (row === undefined) {
      if (value === undefined) return;
      row = new Array<T | undefined>(ROW).fill(undefined);
      this.rows[at] = row;
    }
    row[index & (ROW - 1)] = value;
  }
}
