import { expect, test } from "vitest";
import { smmuFeatures } from "./features.ts";
import { Queue } from "./queues.ts";
import { EVENTQ_BASE, EVENTQ_CONS, EVENTQ_PROD, Registers } from "./registers.ts";

function eventQueue(base: number, maximumLog2 = 19): { registers: Registers; queue: Queue } {
  const registers = new Registers(smmuFeatures());
  registers.set(EVENTQ_BASE, base);
  const queue = new Queue(registers, {
    name: "event queue",
    base: EVENTQ_BASE,
    producer: EVENTQ_PROD,
    consumer: EVENTQ_CONS,
    entryBytes: 32,
    maximumLog2,
  });
  return { registers, queue };
}

test("a queue of four goes round: full when the wrap bits differ, empty when all is equal", () => {
  const { queue } = eventQueue(0x8000_0000 + 2);
  expect(queue.isEmpty).toBe(true);
  const slots: number[] = [];
  for (let round = 0; round < 3; round++) {
    for (let i = 0; i < 4; i++) {
      expect(queue.isFull).toBe(false);
      slots.push(queue.entry(queue.producer) - queue.base);
      queue.produce();
    }
    expect(queue.isFull).toBe(true);
    for (let i = 0; i < 4; i++) queue.consume();
    expect(queue.isEmpty).toBe(true);
  }
  expect(slots).toEqual([0, 32, 64, 96, 0, 32, 64, 96, 0, 32, 64, 96]);
});

test("the overflow flag toggles once, until software copies it", () => {
  const { registers, queue } = eventQueue(2);
  queue.produce();
  queue.overflow();
  queue.overflow();
  expect(registers.get(EVENTQ_PROD)).toBe(0x80000001);
  registers.set(EVENTQ_CONS, 0x80000000);
  queue.overflow();
  expect(registers.get(EVENTQ_PROD)).toBe(0x00000001);
  queue.produce();
  expect(registers.get(EVENTQ_PROD)).toBe(0x00000002);
});

test("the base is aligned to the queue's own size, and its size is limited by what is implemented", () => {
  expect(eventQueue(0x8000_0fe0 + 4).queue.base).toBe(0x8000_0e00);
  expect(eventQueue(0x8000_0000 + 31, 5).queue.log2).toBe(5);
});
