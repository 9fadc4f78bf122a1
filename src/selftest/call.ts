// Runs in a browser.
import type { Call, ExtensionCommand } from "../iommufd/index.ts";
import { type Fields, type IommuTest, iommuTestCommand, type Struct, type StructView } from "../uapi/index.ts";

/** A call of IOMMU_TEST_CMD, whatever its operation. */
export type AnyTestCall = Call<StructView<typeof IommuTest.fields>>;

/** A call whose union is read as one operation's. */
export interface TestCall<F extends Fields> {
  readonly call: AnyTestCall;
  /** The client's struct; results go here. */
  readonly test: StructView<F>;
}

/** Executes an operation; what it returns, if a number, is what ioctl() returns. */
export type Operation = (call: AnyTestCall) => ReturnType<ExtensionCommand["execute"]>;

/** An operation with the view of its struct. */
export function operation<F extends Fields>(
  struct: Struct<F>,
  execute: (call: TestCall<F>) => ReturnType<ExtensionCommand["execute"]>,
): Operation {
  return (call) => execute({ call, test: new struct(whole(call.command.$bytes)) });
}

/** A view needs its own struct's length: less than the whole command has. */
function whole(bytes: Uint8Array): Uint8Array {
  return bytes.subarray(0, iommuTestCommand.struct.size);
}
