/**
 * Forbids shifting a bigint, in any spelling: Node 20's optimising compiler can abort the whole process on a constant
 * right shift of a 64-bit bigint. Uses types, so `x >> y` of two bigint variables is found too.
 */
import { ESLintUtils } from "@typescript-eslint/utils";
import ts from "typescript";

const shifts = new Set(["<<", ">>", ">>>", "<<=", ">>=", ">>>="]);

export default ESLintUtils.RuleCreator.withoutDocs({
  meta: {
    type: "problem",
    messages: { shift: "Never shift a bigint: Node 20 can abort the process. Divide, multiply, or use 32-bit words." },
    schema: [],
  },
  defaultOptions: [],
  create(context) {
    const services = ESLintUtils.getParserServices(context);
    const isBigint = (node) => (services.getTypeAtLocation(node).flags & ts.TypeFlags.BigIntLike) !== 0;
    const check = (node) => {
      if (shifts.has(node.operator) && (isBigint(node.left) || isBigint(node.right))) {
        context.report({ node, messageId: "shift" });
      }
    };
    return { BinaryExpression: check, AssignmentExpression: check };
  },
});
