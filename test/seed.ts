/**
 * Random tests draw from this seed: the same change passes or fails everywhere, each time. `UIOMMU_SEED=N npx vitest run
 * model` tries another; the nightly run takes a new one each day.
 */
import fc from "fast-check";

fc.configureGlobal({ seed: Number(process.env.UIOMMU_SEED ?? 1) });
