// Runs in a browser.
/** Registers of the SMMU and their fields, by the names of Arm IHI 0070 (section 6.3; reference 6.1). */

export const IDR0 = 0x00;
export const IDR1 = 0x04;
export const IDR2 = 0x08;
export const IDR3 = 0x0c;
export const IDR4 = 0x10;
export const IDR5 = 0x14;
export const IIDR = 0x18;
export const AIDR = 0x1c;
export const CR0 = 0x20;
export const CR0ACK = 0x24;
export const CR1 = 0x28;
export const CR2 = 0x2c;
export const GBPA = 0x44;
export const IRQ_CTRL = 0x50;
export const IRQ_CTRLACK = 0x54;
export const GERROR = 0x60;
export const GERRORN = 0x64;
export const STRTAB_BASE = 0x80;
export const STRTAB_BASE_CFG = 0x88;
export const CMDQ_BASE = 0x90;
export const CMDQ_PROD = 0x98;
export const CMDQ_CONS = 0x9c;
export const EVENTQ_BASE = 0xa0;
export const EVENTQ_PROD = 0x100a8;
export const EVENTQ_CONS = 0x100ac;
export const PRIQ_BASE = 0xc0;
export const PRIQ_PROD = 0x100c8;
export const PRIQ_CONS = 0x100cc;

export const CR0_SMMUEN = 1;
export const CR0_PRIQEN = 2;
export const CR0_EVTQEN = 4;
export const CR0_CMDQEN = 8;
export const CR0_ATSCHK = 0x10;

const WRITE_BACK = 1;
const INNER_SHAREABLE = 3;
/** Tables and queues: write-back, inner shareable. */
export const CR1_COHERENT: number =
  WRITE_BACK |
  (WRITE_BACK << 2) |
  (INNER_SHAREABLE << 4) |
  (WRITE_BACK << 6) |
  (WRITE_BACK << 8) |
  (INNER_SHAREABLE << 10);

export const CR2_RECINVSID = 2;
export const CR2_PTM = 4;

export const GBPA_ABORT = 2 ** 20;
export const GBPA_UPDATE = 2 ** 31;

export const IRQ_GERROR = 1;
export const IRQ_PRIQ = 2;
export const IRQ_EVTQ = 4;

export const GERROR_CMDQ_ERR = 1;
export const GERROR_EVENTQ_ABT = 4;
export const GERROR_PRIQ_ABT = 8;
export const GERROR_SFM = 0x100;

/** The interrupt lines of an SMMU. */
export type InterruptLine = "event" | "gerror" | "sync" | "pri";

/** An address register's two words: bit 62, the read- or write-allocate hint, set. */
export function baseWords(address: number, lowBits: number): [low: number, high: number] {
  return [((address % 2 ** 32) | lowBits) >>> 0, (Math.floor(address / 2 ** 32) | 0x4000_0000) >>> 0];
}
