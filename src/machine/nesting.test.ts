import { describe, expect, it } from "vitest";
import { GuestTables } from "../drivers/smmuv3/guest.test-support.ts";
import { EBUSY, EINVAL, EIO, ENOENT, EOPNOTSUPP } from "../runtime/index.ts";
import {
  AttachIommufdPt,
  FAULT_LAST_PAGE,
  HWPT_ALLOC_PASID,
  HWPT_FAULT_ID_VALID,
  HwptInvalidate,
  HwQueueAlloc,
  iommufdCommands,
  VEVENTQ_LOST_EVENTS,
  VeventArmSmmuv3,
  VeventHeader,
  VFIO_DEVICE_ATTACH,
  VIOMMU_INVALIDATE_DATA_ARM_SMMUV3,
} from "../uapi/index.ts";
import { buildMachine, defineMachine, presets } from "./index.ts";
import { RAM, Vmm } from "./vmm.test-support.ts";

/** Names of the guest's: a stream id, an address, an ASID. */
const VIRTUAL = 0x77;
const IOVA = 0x10_0000;
const ASID = 3;
/** Pages of the guest's RAM that the device may reach. */
const FIRST = RAM.ipa + 0x8000;
const SECOND = RAM.ipa + 0x9000;
/** The device of the preset that can be stalled. */
const STALLING = "/dev/vfio/devices/vfio1";

const TLBI_NH_VA = 0x12n;
const CFGI_CD = 0x05n;
const CFGI_STE = 0x03n;

const SUCCESS = 0;
const INVALID = 1;

/** A VMM whose guest has a table with one page mapped, and the device attached to it. */
function nestedSession(path?: string, options: { faults?: boolean; depth?: number } = {}) {
  const machine = buildMachine(presets.nested);
  const vmm = new Vmm(machine, path);
  const parent = vmm.nestingParent();
  const viommu = vmm.viommu(parent);
  const vdevice = vmm.vdevice(viommu, VIRTUAL);
  const events = vmm.eventQueue(viommu, options.depth ?? 16);
  const tables = new GuestTables(vmm.guest, RAM.ipa, { asid: ASID, stalls: options.faults });
  tables.map(IOVA, FIRST);
  const faults = vmm.faultQueue();
  const nested = vmm.nested(
    viommu,
    tables.streamEntry,
    options.faults ? { flags: HWPT_FAULT_ID_VALID, fault_id: faults.id } : {},
  );
  vmm.attach(nested);
  const refused: string[] = [];
  machine.onFault = (fault) => void refused.push(fault.text());
  return { machine, vmm, parent, viommu, vdevice, events, tables, faults, nested, refused };
}

/** Reads all events that wait: flags, sequence and, of an event, its words. */
function readEvents(vmm: Vmm, fd: number): { flags: number; sequence: number; words?: bigint[] }[] {
  const bytes = new Uint8Array(4096);
  const count = vmm.client.read(fd, 0, bytes);
  const events: { flags: number; sequence: number; words?: bigint[] }[] = [];
  for (let at = 0; at < count; ) {
    const { flags, sequence } = new VeventHeader(bytes.subarray(at));
    at += VeventHeader.size;
    if ((flags & VEVENTQ_LOST_EVENTS) !== 0) {
      events.push({ flags, sequence });
      continue;
    }
    const { evt0, evt1, evt2, evt3 } = new VeventArmSmmuv3(bytes.subarray(at));
    at += VeventArmSmmuv3.size;
    events.push({ flags, sequence, words: [evt0, evt1, evt2, evt3] });
  }
  return events;
}

describe("a guest with stage 1 of its own", () => {
  it("has its device's DMA go through its tables, to its memory", () => {
    const { vmm, refused } = nestedSession();
    vmm.guest.write64(FIRST, 0x1122_3344_5566_7788n);
    vmm.dma(IOVA, false);
    vmm.dma(IOVA + 0x800, true);
    expect(vmm.guest.read64(FIRST + 0x800)).toBe(0x1122_3344_5566_7788n);
    expect(refused).toEqual([]);
  });

  it("must say when its tables changed: until then the SMMU remembers, from then on it does not", () => {
    const { vmm, tables, viommu } = nestedSession();
    vmm.guest.write64(FIRST, 1n);
    vmm.guest.write64(SECOND, 2n);
    vmm.dma(IOVA, false);
    tables.map(IOVA, SECOND);
    vmm.dma(IOVA, false);
    vmm.dma(IOVA + 8, true);
    expect([vmm.guest.read64(FIRST + 8), vmm.guest.read64(SECOND + 8)]).toEqual([1n, 0n]);

    const command = [TLBI_NH_VA + BigInt(ASID) * 2n ** 48n, BigInt(IOVA)] as const;
    expect(vmm.invalidate(viommu, [command])).toBe(1);
    vmm.dma(IOVA, false);
    vmm.dma(IOVA + 16, true);
    expect([vmm.guest.read64(FIRST + 16), vmm.guest.read64(SECOND + 16)]).toEqual([0n, 2n]);
  });

  it("loses what it translated to when its memory goes, whatever the TLB held", () => {
    const { vmm, refused } = nestedSession();
    vmm.dma(IOVA, false);
    vmm.unmap(RAM.ipa, RAM.size);
    vmm.dma(IOVA, true);
    expect(refused).toHaveLength(1);
    expect(vmm.guest.read64(FIRST)).toBe(0n);
  });

  it("hears of its own faults under its own stream id", () => {
    const { vmm, events, refused } = nestedSession();
    vmm.dma(IOVA + 0x10_0000, true);
    vmm.dma(IOVA + 0x20_0000, false);
    const [first, second] = readEvents(vmm, events);
    expect(first).toEqual({
      flags: 0,
      sequence: 0,
      // F_TRANSLATION, on reaching the input address (CLASS IN).
      words: [0x10n + BigInt(VIRTUAL) * 2n ** 32n, 0x200n * 2n ** 32n, BigInt(IOVA) + 0x10_0000n, 0n],
    });
    expect([second.sequence, second.words![1]]).toEqual([1, 0x208n * 2n ** 32n]);
    expect(readEvents(vmm, events)).toEqual([]);
    expect(refused).toHaveLength(2);
  });

  it("is told how many events were lost", () => {
    const { vmm, events } = nestedSession(undefined, { depth: 1 });
    for (let page = 1; page <= 4; page++) vmm.dma(IOVA + page * 4096, true);
    const told = readEvents(vmm, events);
    expect(told.map(({ flags, sequence }) => [flags, sequence])).toEqual([
      [0, 0],
      [VEVENTQ_LOST_EVENTS, 3],
    ]);
  });

  it("changes its stream's configuration by another nested HWPT", () => {
    const { vmm, viommu, nested, parent, refused } = nestedSession();
    const other = new GuestTables(vmm.guest, RAM.ipa + 0x4_0000, { asid: ASID + 1 });
    other.map(IOVA, SECOND);
    vmm.guest.write64(SECOND, 2n);
    vmm.attach(vmm.nested(viommu, other.streamEntry));
    vmm.dma(IOVA, false);
    vmm.dma(IOVA + 8, true);
    expect(vmm.guest.read64(SECOND + 8)).toBe(2n);
    vmm.destroy(nested);

    const bypass = [9n, 0n] as const;
    vmm.attach(vmm.nested(viommu, bypass));
    vmm.dma(FIRST, true);
    expect(vmm.guest.read64(FIRST)).toBe(2n);
    expect(refused).toEqual([]);
    const abort = [1n, 0n] as const;
    vmm.attach(vmm.nested(viommu, abort));
    vmm.dma(FIRST + 8, true);
    expect(vmm.guest.read64(FIRST + 8)).toBe(0n);
    expect(refused).toHaveLength(1);
    vmm.attach(parent);
    vmm.dma(FIRST + 8, true);
    expect(vmm.guest.read64(FIRST + 8)).toBe(2n);
  });

  it("keeps everything that it stands on from being destroyed", () => {
    const { vmm, parent, viommu, vdevice, nested } = nestedSession();
    const busy = [parent, viommu, vmm.ioas, nested].map((id) => vmm.errno(() => vmm.destroy(id)));
    expect(busy).toEqual([EBUSY, EBUSY, EBUSY, EBUSY]);
    vmm.destroy(vdevice);
    vmm.detach();
    vmm.destroy(nested);
  });
});

describe("a VMM is refused", () => {
  it("a nested HWPT on a HWPT, one for PASIDs, and one to be invalidated by itself", () => {
    const { vmm, parent, viommu, tables, nested } = nestedSession();
    const refusals = [
      () => vmm.nested(parent, tables.streamEntry),
      () => vmm.nested(viommu, tables.streamEntry, { flags: HWPT_ALLOC_PASID }),
      () => vmm.call("HWPT_INVALIDATE", HwptInvalidate, { hwpt_id: nested }),
      () => vmm.call("HW_QUEUE_ALLOC", HwQueueAlloc, { viommu_id: viommu, type: 1, length: 4096n }),
    ];
    expect(refusals.map((work) => vmm.errno(work))).toEqual(refusals.map(() => EOPNOTSUPP));
  });

  it("translation of a device that the guest cannot name", () => {
    const vmm = new Vmm(buildMachine(presets.nested));
    const viommu = vmm.viommu(vmm.nestingParent());
    const tables = new GuestTables(vmm.guest, RAM.ipa, { asid: ASID });
    const nested = vmm.nested(viommu, tables.streamEntry);
    expect(vmm.errno(() => vmm.attach(nested))).toBe(ENOENT);
    vmm.vdevice(viommu, VIRTUAL);
    vmm.attach(nested);
  });

  it("whatever would tie two SMMUs together", () => {
    const machine = defineMachine({
      iommus: [{ kind: "smmuv3" }, { kind: "smmuv3" }],
      devices: [
        { model: "edu", iommu: "smmu0" },
        { model: "edu", iommu: "smmu1" },
      ],
    });
    const vmm = new Vmm(buildMachine(machine));
    const [file, device] = vmm.bind(STALLING);
    const parent = vmm.nestingParent();
    const viommu = vmm.viommu(parent);
    const bypass = [9n, 0n] as const;
    const nested = vmm.nested(viommu, bypass);
    const attach = { argsz: 12, pt_id: nested };
    const refusals = [
      () => vmm.viommu(parent, device),
      () => vmm.vdevice(viommu, VIRTUAL, device),
      () => vmm.nested(viommu, bypass, { dev_id: device }),
      () => vmm.client.ioctl(file, VFIO_DEVICE_ATTACH, new AttachIommufdPt(), attach),
    ];
    expect(refusals.map((work) => vmm.errno(work))).toEqual(refusals.map(() => EINVAL));
  });

  it("commands that are not the guest's; those before one are counted", () => {
    const { vmm, viommu } = nestedSession();
    const stream = BigInt(VIRTUAL) * 2n ** 32n;
    const list = [
      [CFGI_CD + stream, 0n],
      [CFGI_STE + stream, 0n],
    ] as const;
    const { memory } = vmm.client.process;
    const page = memory.map(1);
    const entries = page + HwptInvalidate.size;
    memory.write(entries, new Uint8Array(new BigUint64Array(list.flat()).buffer));
    const command = new HwptInvalidate();
    const fields = { hwpt_id: viommu, data_type: VIOMMU_INVALIDATE_DATA_ARM_SMMUV3, data_uptr: BigInt(entries) };
    Object.assign(command, { size: HwptInvalidate.size, ...fields, entry_len: 16, entry_num: list.length });
    memory.write(page, command.$bytes);
    expect(vmm.errno(() => vmm.client.call(vmm.iommu, iommufdCommands.HWPT_INVALIDATE.number, page))).toBe(EIO);
    memory.read(page, command.$bytes);
    expect(command.entry_num).toBe(1);
  });
});

describe("a fault queue", () => {
  /** The device attached to a HWPT with a fault queue on the IOAS. */
  function session(path = STALLING) {
    const machine = buildMachine(presets.nested);
    const vmm = new Vmm(machine, path);
    const { id, fd } = vmm.faultQueue();
    const hwpt = vmm.hwpt({ flags: HWPT_FAULT_ID_VALID, fault_id: id });
    vmm.attach(hwpt);
    return { machine, vmm, id, fd, hwpt };
  }

  it("that is answered SUCCESS refuses nothing; INVALID does", () => {
    const { vmm, fd, machine } = session();
    const refused: string[] = [];
    machine.onFault = (fault) => void refused.push(fault.text());
    for (const code of [SUCCESS, INVALID]) {
      vmm.dma(IOVA + code * 4096, true);
      if (code === SUCCESS) vmm.map(IOVA, vmm.ram, 4096);
      vmm.answer(fd, vmm.fault(fd)!.cookie, code);
    }
    expect(refused).toEqual([expect.stringContaining("write to 0x101000")]);
  });

  it("gets what the device missed; once the page is mapped and the answer is SUCCESS, the DMA goes on", () => {
    const { vmm, fd } = session();
    vmm.guest.write64(RAM.ipa, 42n);
    vmm.dma(RAM.ipa, false);
    vmm.dma(IOVA, true);
    expect(vmm.isRunning).toBe(true);
    const fault = vmm.fault(fd)!;
    expect(fault.dev_id).toBe(vmm.device);
    expect([fault.flags, fault.perm, fault.addr]).toEqual([FAULT_LAST_PAGE, 2, BigInt(IOVA)]);

    const page = vmm.client.process.memory.map(1);
    vmm.map(IOVA, page, 4096);
    vmm.answer(fd, fault.cookie, SUCCESS);
    expect(vmm.isRunning).toBe(false);
    const bytes = new Uint8Array(8);
    vmm.client.process.memory.read(page, bytes);
    expect(bytes[0]).toBe(42);
    expect(vmm.errno(() => vmm.answer(fd, fault.cookie, SUCCESS))).toBeDefined();
  });

  it("that answers INVALID has the DMA aborted", () => {
    const { vmm, fd } = session();
    vmm.dma(IOVA, true);
    vmm.answer(fd, vmm.fault(fd)!.cookie, INVALID);
    expect(vmm.isRunning).toBe(false);
    expect(vmm.fault(fd)).toBeUndefined();
  });

  it.each<[string, (one: ReturnType<typeof session>) => void]>([
    ["detached", ({ vmm }) => vmm.detach()],
    ["moved to a HWPT without a fault queue", ({ vmm }) => vmm.attach(vmm.hwpt({}))],
    ["closed", ({ vmm }) => vmm.client.close(vmm.file)],
  ])("is left behind by a device that is %s: what waited is aborted, read or not", (_, leave) => {
    for (const read of [false, true]) {
      const one = session();
      const { vmm, machine, fd } = one;
      vmm.dma(IOVA, true);
      if (read) expect(vmm.fault(fd)).toBeDefined();
      leave(one);
      const [{ hardware }] = machine.iommus;
      expect((hardware.occupancy as { stalled: number }).stalled).toBe(0);
      expect(vmm.fault(fd)).toBeUndefined();
    }
  });

  it("whose file is closed keeps what comes until the device leaves", () => {
    const { vmm, fd, machine, hwpt, id } = session();
    vmm.client.close(fd);
    vmm.dma(IOVA, true);
    expect(vmm.isRunning).toBe(true);
    vmm.detach();
    expect(vmm.isRunning).toBe(false);
    vmm.destroy(hwpt);
    vmm.destroy(id);
    vmm.close();
    machine.system.run("power down", machine.powerDown());
  });

  it("of a HWPT for a device that cannot be stalled stays empty", () => {
    const { vmm, fd } = session("/dev/vfio/devices/vfio0");
    vmm.dma(IOVA, true);
    expect(vmm.isRunning).toBe(false);
    expect(vmm.fault(fd)).toBeUndefined();
  });

  it("of a nested HWPT gets what the guest's table lacks, and the guest need not be told", () => {
    const { vmm, tables, faults, events } = nestedSession(STALLING, { faults: true });
    vmm.guest.write64(FIRST, 7n);
    vmm.dma(IOVA, false);
    vmm.dma(IOVA + 4096, true);
    const fault = vmm.fault(faults.fd)!;
    expect([fault.perm, fault.addr]).toEqual([2, BigInt(IOVA + 4096)]);
    tables.map(IOVA + 4096, SECOND);
    vmm.answer(faults.fd, fault.cookie, SUCCESS);
    expect(vmm.isRunning).toBe(false);
    expect(vmm.guest.read64(SECOND)).toBe(7n);
    expect(readEvents(vmm, events)).toEqual([]);
  });
});

describe("at the end", () => {
  it.each([false, true])("of a session nothing is left, also with faults outstanding: %s", (outstanding) => {
    const { machine, vmm, events, faults } = nestedSession(STALLING, { faults: true });
    if (outstanding) vmm.dma(IOVA + 4096, true);
    vmm.close();
    for (const fd of [events, faults.fd]) vmm.client.close(fd);
    machine.system.run("power down", machine.powerDown());
    expect(machine.memory.pinnedFrames).toBe(0);
  });
});
