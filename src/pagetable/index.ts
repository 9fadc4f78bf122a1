// Runs in a browser.
export { explainWalk, type WalkExplanation, type WalkStep } from "./explain.ts";
export { Amdv1Format, type Amdv1Options, amdv1 } from "./formats/amdv1.ts";
export type { Format } from "./formats/format.ts";
export { type Granule, LpaeFormat, type LpaeOptions, lpae, stage2StartIsLegal } from "./formats/lpae.ts";
export { MAIR_LOW } from "./formats/lpae-attributes.ts";
export * from "./prot.ts";
export * from "./rights.ts";
export { type Leaf, PageTable, type Translation, type UnmapResult } from "./table.ts";
export {
  type StageOptions,
  type TableTranslator,
  TranslationStage,
  Walker,
  type WalkFault,
  type WalkObserver,
} from "./walk.ts";
