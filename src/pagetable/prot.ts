// Runs in a browser.
/** Rights and kind of a mapping, as the core asks for them (Linux's IOMMU_READ …, reference 2.1). Or-ed together. */
export const PROT_READ = 1;
export const PROT_WRITE = 2;
/** Coherent with the caches; without it the mapping is non-cacheable. */
export const PROT_CACHE = 4;
export const PROT_NOEXEC = 8;
/** Registers, a doorbell: device memory. */
export const PROT_MMIO = 16;
/** Only privileged accesses (stage 1). */
export const PROT_PRIV = 32;
