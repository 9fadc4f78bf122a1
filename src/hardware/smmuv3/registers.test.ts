import { expect, test } from "vitest";
import { decodeFeatures, smmuFeatures } from "./features.ts";
import * as R from "./registers.ts";
import { Workbench } from "./workbench.test-support.ts";

test("the identification registers say what was chosen, and cannot be written", () => {
  const ids = smmuFeatures({ substreamIdBits: 8, outputBits: 44, stalls: "terminate", granules: [4096] });
  const features = decodeFeatures(ids);
  expect(features).toMatchObject({
    stage1: true,
    stage2: true,
    substreamIdBits: 8,
    outputBits: 44,
    stallModel: 1,
    granule4K: true,
    granule64K: false,
    tableEndianness: 2,
    ats: false,
    pri: false,
    httu: 0,
  });
  const { smmu } = new Workbench({ features: { substreamIdBits: 8 } });
  const before = smmu.read32(R.IDR1);
  smmu.write32(R.IDR1, 0xffffffff);
  expect(smmu.read32(R.IDR1)).toBe(before);
});

test("CR0ACK and IRQ_CTRLACK follow at once, without the bits of features that are not there", () => {
  const { smmu } = new Workbench();
  smmu.write32(R.CR0, 0xffffffff);
  expect(smmu.read32(R.CR0)).toBe(0xd);
  expect(smmu.read32(R.CR0ACK)).toBe(0xd);
  smmu.write32(R.IRQ_CTRL, 0xffffffff);
  expect(smmu.read32(R.IRQ_CTRLACK)).toBe(0x5);
});

test("64-bit registers take both words; RES0 bits stay 0", () => {
  const { smmu } = new Workbench();
  smmu.write64(R.STRTAB_BASE, 0xffffffff, 0xffffffff);
  expect(smmu.read64(R.STRTAB_BASE)).toBe(0x400fffffffffffc0n);
  smmu.write32(R.STRTAB_BASE + 4, 1);
  expect(smmu.read64(R.STRTAB_BASE)).toBe(0x1ffffffc0n);
});

test("what is in use cannot be changed: tables under SMMUEN, queues under their enable", () => {
  const bench = new Workbench().enable();
  const { smmu } = bench;
  for (const offset of [R.STRTAB_BASE, R.STRTAB_BASE_CFG, R.CMDQ_BASE, R.EVENTQ_BASE, R.CR2, R.CMDQ_CONS]) {
    const before = smmu.read32(offset);
    smmu.write32(offset, before ^ 0xffffffff);
    expect(smmu.read32(offset), `register ${offset.toString(16)}`).toBe(before);
  }
});

test("event queue pointers are on page 1 only, and nothing is between the registers", () => {
  const { smmu } = new Workbench();
  smmu.write32(R.PAGE1 + R.EVENTQ_CONS, 0x80000005);
  expect(smmu.read32(R.PAGE1 + R.EVENTQ_CONS)).toBe(0x80000005);
  expect(smmu.read32(R.EVENTQ_CONS)).toBe(0);
  expect(smmu.read32(R.PAGE1 + R.CR0)).toBe(0);
  expect(smmu.read32(0xfe0)).toBe(0);
});

test("GBPA takes a write only with UPDATE, which reads as 0 at once", () => {
  const { smmu } = new Workbench();
  smmu.write32(R.GBPA, R.GBPA_ABORT);
  expect(smmu.read32(R.GBPA)).toBe(0x1000);
  smmu.write32(R.GBPA, R.GBPA_UPDATE + R.GBPA_ABORT);
  expect(smmu.read32(R.GBPA)).toBe(R.GBPA_ABORT);
});
