import { expect, test } from "vitest";
import { Wakefulness } from "./wakefulness.ts";

function computer(processors: number) {
  const state = { time: 1000, running: 1 };
  const wakefulness = new Wakefulness({ processors, now: () => state.time, runnable: () => state.running });
  /** A call `pause` after the last answer: whether its client is to wait awake, and how long the host does. */
  const call = (pause: number): { client: boolean; host: number } => {
    state.time += pause;
    const client = wakefulness.heard();
    const until = wakefulness.answered();
    return { client, host: Math.max(0, until - state.time) };
  };
  return { state, call };
}
const asleep = { client: false, host: 0 };

test("calls that follow each other closely are waited for awake, for a moment", () => {
  const { call } = computer(2);
  expect(call(0)).toEqual(asleep);
  const { client, host } = call(0.04);
  expect(client).toBe(true);
  expect(host).toBeCloseTo(0.05);
  expect(call(0.2)).toEqual(asleep);
  expect(call(0.02).client).toBe(true);
});

test("not where there is but one processor", () => {
  const { call } = computer(1);
  call(0);
  expect(call(0.01)).toEqual(asleep);
});

test("not while others want the processors", () => {
  const { call, state } = computer(2);
  state.running = 3;
  call(0);
  expect(call(0.01)).toEqual(asleep);
  state.running = 2;
  for (let i = 0; i < 1000; i++) call(0.01);
  expect(call(0.01).client).toBe(true);
  state.running = 9;
  for (let i = 0; i < 1000; i++) call(0.01);
  expect(call(0.01)).toEqual(asleep);
});
