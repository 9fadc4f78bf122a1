import { existsSync } from "node:fs";
import { expect, test } from "vitest";
import { openCall } from "../inspect/call.test-support.ts";
import { Watch } from "./watch.ts";

function listen(options: ConstructorParameters<typeof Watch>[1]): { watch: Watch; said: () => string } {
  let said = "";
  const watch = new Watch({ out: () => undefined, err: (text) => void (said += text), colours: false }, options);
  return { watch, said: () => said };
}

test("a program that sees nothing of the machine is told of when somebody asks why, or nobody saw anything", () => {
  const quiet = listen({});
  quiet.watch.blind("./a", "static");
  expect(quiet.said()).toBe("");
  quiet.watch.sayBlind();
  expect(quiet.said()).toBe("uiommu: ./a is statically linked: it sees nothing of the machine\n");
  const explaining = listen({ explain: true });
  explaining.watch.blind("/bin/su", "privileged");
  explaining.watch.blind("/bin/su", "privileged");
  expect(explaining.said()).toBe("uiommu: /bin/su is setuid or setgid: it sees nothing of the machine\n");
});

test.skipIf(!existsSync("/dev/full"))("a trace that finds no room is told once, and stops nobody", () => {
  const { watch, said } = listen({ trace: "/dev/full" });
  for (let i = 0; i < 2000; i++) watch.call(openCall);
  watch.finish();
  expect(said()).toBe("uiommu: the trace /dev/full is cut off: no space left on device\n");
});
