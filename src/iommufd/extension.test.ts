import { describe, expect, it } from "vitest";
import { EBUSY, refuse } from "../runtime/index.ts";
import { defineStruct, u32 } from "../uapi/index.ts";
import { extensionCommand } from "./extension.ts";
import { IommufdObject } from "./objects.ts";
import { World } from "./world.test-support.ts";

const Ask = defineStruct("ask", { size: u32, what: u32, answer: u32 });
const row = { number: 0x3ba0, name: "ASK", struct: Ask, minimum: 8 };

class Thing extends IommufdObject {
  static readonly noun = "thing";
  readonly kind = "SELFTEST";
  *destroy() {}
  describe(): Record<string, unknown> {
    return {};
  }
}

function extended(): World {
  const command = extensionCommand(row, (call) => {
    const { command, context } = call;
    if (command.what === 1) return 77;
    if (command.what === 2) refuse(EBUSY, () => "busy");
    return (function* () {
      yield* context.system.tasks.point();
      command.answer = context.objects.create((id) => new Thing(id, Thing.noun)).id;
      call.respond();
      return command.what === 3 ? 5 : undefined;
    })();
  });
  return new World({ extension: { commands: [command] } });
}

function ask(world: World, what: number, size = 12): [number | string, number] {
  const { memory } = world.process;
  const struct = new Ask();
  struct.size = size;
  struct.what = what;
  memory.write(world.scratch, struct.$bytes);
  let result: number | string = 0;
  const errno = world.errnoOf(
    (function* () {
      result = yield* world.context.ioctl(world.process, row.number, world.scratch);
    })(),
  );
  memory.read(world.scratch, struct.$bytes);
  return [errno === "" ? result : errno, struct.answer];
}

describe("an extension", () => {
  it.each<[string, number, number, [number | string, number]]>([
    ["its result at once", 1, 12, [77, 0]],
    ["its refusal", 2, 12, ["EBUSY", 0]],
    ["the result of its task", 3, 12, [5, 1]],
    ["nothing, which is 0", 4, 12, [0, 1]],
    ["a struct below the minimum", 1, 7, ["EINVAL", 0]],
    ["an older struct, whose new fields it does not see written", 4, 8, [0, 0]],
  ])("answers %s", (_what, what, size, expected) => {
    expect(ask(extended(), what, size)).toEqual(expected);
  });

  it("has objects like any other", () => {
    const world = extended();
    ask(world, 4);
    expect(world.context.objects.any(1).kind).toBe("SELFTEST");
    expect(world.call("DESTROY", { id: 1 }).errno).toBe("");
  });

  it("makes the numbers below its own part of the table: they look for their size, and are none", () => {
    const [plain, world] = [new World(), extended()];
    for (const request of [0x3b95, 0x3b9f]) {
      expect([plain.raw(request, 8).errno, plain.raw(request, plain.scratch).errno]).toEqual(["ENOTTY", "ENOTTY"]);
      expect([world.raw(request, 8).errno, world.raw(request, world.scratch).errno]).toEqual(["EFAULT", "ENOTTY"]);
    }
    expect(world.raw(0x3ba1, 8).errno).toBe("ENOTTY");
  });
});
