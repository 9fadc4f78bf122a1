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
  expect(smmu.read64(R.STRTAB_BASE)).toBe(0x4000ffffffffffc0n);
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

test.each<[string, number, number, number]>([
  ["CR1: attributes of queues under a queue's enable", R.CR1, 0x4, 0xfc0],
  ["CR1: attributes of tables under SMMUEN", R.CR1, 0x1, 0x03f],
  ["CR2 under SMMUEN", R.CR2, 0x1, 0],
  ["STRTAB_BASE_CFG under CMDQEN alone", R.STRTAB_BASE_CFG, 0x8, 0x307ff],
  ["EVENTQ_IRQ_CFG1", R.EVENTQ_IRQ_CFG1, 0xd, 0xffffffff],
  ["PRIQ_IRQ_CFG2: LO beside the attributes", R.PRIQ_IRQ_CFG2, 0, 0x8000003f],
])("what guards a field is its own: %s", (_, register, enabled, written) => {
  const { smmu } = new Workbench({ features: { ats: true, pri: true } });
  for (const value of [0, 0xffffffff]) {
    smmu.write32(R.CR0, 0);
    smmu.write32(register, value ^ 0xffffffff);
    const before = smmu.read32(register);
    smmu.write32(R.CR0, enabled);
    smmu.write32(register, value);
    expect((smmu.read32(register) ^ before) >>> 0).toBe(written);
  }
});

test("messages cannot be changed while their interrupt is enabled", () => {
  const { smmu } = new Workbench();
  smmu.write32(R.IRQ_CTRL, R.IRQ_EVENTQ);
  smmu.write32(R.EVENTQ_IRQ_CFG1, 1);
  smmu.write32(R.GERROR_IRQ_CFG1, 1);
  expect([smmu.read32(R.EVENTQ_IRQ_CFG1), smmu.read32(R.GERROR_IRQ_CFG1)]).toEqual([0, 1]);
});

test.each([
  [{ hypervisor: false }, 2],
  [{ hypervisor: true }, 3],
  [{ hypervisor: false, broadcastTlb: true }, 6],
])("CR2 has E2H with EL2, and PTM with broadcast maintenance: %o", (features, bits) => {
  const { smmu } = new Workbench({ features });
  smmu.write32(R.CR2, 0xffffffff);
  expect(smmu.read32(R.CR2)).toBe(bits);
});

test("addresses are as wide as the output", () => {
  const { smmu } = new Workbench({ features: { outputBits: 44, ats: true, pri: true } });
  for (const [offset, mask] of [
    [R.STRTAB_BASE, 0x40000fffffffffc0n],
    [R.CMDQ_BASE, 0x40000fffffffffffn],
    [R.EVENTQ_BASE, 0x40000fffffffffffn],
    [R.PRIQ_BASE, 0x40000fffffffffffn],
    [R.GERROR_IRQ_CFG0, 0xffffffffffcn],
    [R.EVENTQ_IRQ_CFG0, 0xffffffffffcn],
    [R.PRIQ_IRQ_CFG0, 0xffffffffffcn],
  ] as const) {
    smmu.write64(offset, 0xffffffff, 0xffffffff);
    expect(smmu.read64(offset), offset.toString(16)).toBe(mask);
  }
});

test("what is not announced is not there: MPAM, ATOS, S2PII, DPT, ECMDQ, VMW, the Secure side", () => {
  const { smmu } = new Workbench();
  const idr = [R.IDR0, R.IDR1, R.IDR2, R.IDR3, R.IDR4, R.IDR5].map((offset) => smmu.read32(offset));
  const announced = (index: number, ...bits: number[]): boolean => bits.some((bit) => (idr[index] >>> bit) & 1);
  // DORMHINT, SEV, ATOS, VMW, VATOS, ATSRECERR; attribute overrides, presets, ECMDQ; MPAM and what is above BBML; DS.
  expect(announced(0, 8, 14, 15, 17, 20, 23)).toBe(false);
  expect(announced(1, 27, 26, 28, 29, 30, 31)).toBe(false);
  expect(announced(3, 7) || idr[3] >= 2 ** 13).toBe(false);
  expect(announced(5, 7)).toBe(false);
  expect([idr[2], idr[4]]).toEqual([0, 0]);
  const absent = [0x30, 0x48, 0x100, 0x108, 0x110, 0x118, 0x130, 0x138, 0x13c, 0x180, 0x190, 0x200, 0x208, 0x210];
  const elsewhere = [0x4000, 0x8000, 0x8020, 0x8090, 0xc000, 0x100c8, 0x1ffc0];
  for (const offset of [...absent, ...elsewhere, R.PRIQ_BASE, R.STATUSR]) {
    smmu.write32(offset, 0xffffffff);
    expect(smmu.read32(offset), offset.toString(16)).toBe(0);
  }
});

test("GBPA takes a write only with UPDATE, which reads as 0 at once", () => {
  const { smmu } = new Workbench();
  smmu.write32(R.GBPA, R.GBPA_ABORT);
  expect(smmu.read32(R.GBPA)).toBe(0x1000);
  smmu.write32(R.GBPA, R.GBPA_UPDATE + R.GBPA_ABORT);
  expect(smmu.read32(R.GBPA)).toBe(R.GBPA_ABORT);
});
