import fc from "fast-check";
import { expect, test } from "vitest";
import { bigintOf, highWordOf, lowWordOf, numberOf } from "./u64.ts";

/** Bigints of 64 bits, many of them where numbers begin to round. */
const u64 = fc.oneof(
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  fc.tuple(fc.constantFrom(1n, 2n ** 32n, 2n ** 53n, 2n ** 54n, 2n ** 63n), fc.nat(5)).map(([n, by]) => n + BigInt(by)),
  fc.constant(2n ** 64n - 1n),
);

test("a bigint becomes the number that Number() makes of it, and its two words", () => {
  fc.assert(
    fc.property(u64, (bigint) => {
      expect(numberOf(bigint)).toBe(Number(bigint));
      expect([highWordOf(bigint), lowWordOf(bigint)]).toEqual([Number(bigint / 2n ** 32n), Number(bigint % 2n ** 32n)]);
    }),
  );
});

test("a whole number becomes the bigint that BigInt() makes of it", () => {
  fc.assert(
    fc.property(fc.oneof(fc.maxSafeNat(), fc.constant(2 ** 53), fc.constant(2 ** 32)), (number) => {
      expect(bigintOf(number)).toBe(BigInt(number));
    }),
  );
});
