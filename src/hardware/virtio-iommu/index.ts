// Runs in a browser.
/**
 * The IOMMU device of the virtio specification (1.2, §5.13), behind virtio-mmio registers (§4.2) and split virtqueues
 * (§2.7): the hardware that a driver programs by requests instead of tables.
 *
 * **What lives where.** Software's side: the rings and buffers in physical memory; the device reads and writes them when
 * it is notified, and keeps nothing of them but its place in each ring. The device's own side: registers (mmio.ts), the
 * configuration (config.ts), and the domains with their mappings as intervals (domains.ts). Of these nothing is cached and
 * nothing is stale.
 *
 * **The way of a request**: mmio.ts → virtio-iommu.ts → virtqueue.ts takes a chain of descriptors → requests.ts reads it,
 * changes domains.ts, and writes the status. **The way of an access**: virtio-iommu.ts `access` → domains.ts; a failure
 * is a `Fault` (faults.ts), written into a buffer of the event queue if the driver left one there.
 *
 * **Always true.** An endpoint is attached to at most one domain; a domain has at least one endpoint; mappings of a domain
 * are disjoint. A request is carried out as a whole before its buffer is used, and in the order of the ring. Translation
 * and transfer of a piece of an access are one step, so that an access that begins after an UNMAP was answered does not
 * use what it removed.
 *
 * **What a driver can do wrong.** A request that makes no sense gets the status that §5.13.6 names. A ring that makes no
 * sense (a descriptor that is not there, a loop, memory that is not there) leaves the device unable to answer: it sets
 * DEVICE_NEEDS_RESET (§2.1.2) and looks at no queue until it is reset. Neither is ever an exception.
 *
 * **Tables of the driver's own** are a proposal (table-requests.ts), offered if asked for: an endpoint attached to a context
 * table of Arm's form translates as a stream of an SMMU does (`ContextTables` of hardware/smmuv3), caches included, so that
 * what is gone from the tables must be said.
 *
 * **Not there**, and so not offered: event index, packed rings, queue reset, the deprecated BYPASS.
 */
export { type DeviceConfig, type FeatureChoices, virtioIommuConfig } from "./config.ts";
export type { Fault, FaultExplanation } from "./faults.ts";
export { REGISTERS_SIZE } from "./mmio.ts";
export type { ReservedMemory } from "./properties.ts";
export { VirtioIommu, type VirtioIommuOptions } from "./virtio-iommu.ts";
