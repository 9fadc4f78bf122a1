// Runs in a browser.
/** A small seeded generator (xorshift128 with a splitmix32 seed): the only source of randomness in a System. */
export class Random {
  private readonly state = new Uint32Array(4);

  constructor(seed: number) {
    let z = seed >>> 0;
    for (let i = 0; i < 4; i++) {
      z = (z + 0x9e3779b9) >>> 0;
      let x = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
      x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
      this.state[i] = (x ^ (x >>> 16)) | 1;
    }
  }

  /** The next 32 bits, unsigned. */
  u32(): number {
    const s = this.state;
    let t = s[3];
    const first = s[0];
    s[3] = s[2];
    s[2] = s[1];
    s[1] = first;
    t ^= t << 11;
    t ^= t >>> 8;
    s[0] = t ^ first ^ (first >>> 19);
    return s[0];
  }

  /** A whole number in 0 … bound-1. */
  below(bound: number): number {
    return Math.floor((this.u32() / 2 ** 32) * bound);
  }
}
