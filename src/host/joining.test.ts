import { expect, test } from "vitest";
import { runClient, ToyHost, testProgram } from "./clients.test-support.ts";
import { clientEnvironment, findHost, invite, JoinError } from "./joining.ts";

test("a program that others start joins a host that invites, and no other", async () => {
  const { host } = new ToyHost();
  await host.listen();
  expect(() => findHost(host.directory)).toThrow(JoinError);
  invite(host.address);
  const address = findHost(host.directory);
  const environment = clientEnvironment(address, host.shim.library, {});
  expect(await runClient({ environment: () => environment }, testProgram("ways"), ["fetched"])).toMatchObject({
    code: 0,
  });
  expect(host.wasUsed).toBe(true);
  // Others may serve on this computer: then all are named.
  try {
    expect(findHost()).toEqual(address);
  } catch (error) {
    expect((error as JoinError).message).toContain(host.directory);
  }
  await host.close();
  expect(() => findHost(host.directory)).toThrow(`no machine is served in ${host.directory}`);
});
