// Runs in a browser.
/** The driver on the hardware model, with PCI devices that may translate ahead and ask for pages. */
import { SmmuV3, smmuFeatures } from "../../hardware/smmuv3/index.ts";
import { Device, type FirmwareSpec, IommuCore, type PagingDomain } from "../../iommu/index.ts";
import { PhysicalMemory } from "../../memory/index.ts";
import {
  addressTranslation,
  type Capability,
  express,
  MsiController,
  PciDevice,
  PciHost,
  pageRequests,
  pasid,
} from "../../pci/index.ts";
import { Refusal, System, type Task } from "../../runtime/index.ts";
import { SmmuV3Driver } from "./driver.ts";

class DmaMaster extends PciDevice {
  constructor(system: System, capabilities: readonly Capability[]) {
    super(system, { vendor: 1, device: 2, classCode: 0, capabilities });
  }

  protected override reset(): void {}
}

export type AheadWorld = ReturnType<typeof aheadWorld>;

/** One SMMU with ATS and PRI behind a PCI host, without devices. `defaultDomain` "identity": that is where they begin. */
export function aheadWorld(
  features: Parameters<typeof smmuFeatures>[0] = {},
  defaultDomain: "identity" | "dma" = "identity",
) {
  const system = new System();
  const memory = new PhysicalMemory(system, { ram: [{ base: 0, size: 2 ** 28 }] });
  const driver = new SmmuV3Driver(system, memory);
  const core = new IommuCore(system, { defaultDomain });
  const run = <T>(code: Task<T>): T => system.run("test", code);
  const commands: number[][] = [];
  const hardware: SmmuV3 = new SmmuV3(system, memory, {
    ...smmuFeatures({ ats: true, pri: true, stalls: "terminate", substreamIdBits: 8, ...features }),
    interrupt: (line) => driver.handleInterrupt(instance, line),
    requesters: {
      invalidate: (requester, message, done) => host.invalidate(requester, message, done),
      respond: (requester, response) => host.respond(requester, response),
    },
  });
  const host = new PciHost(system, {
    target: hardware,
    interrupts: new MsiController({ start: 0x800_0000n, last: 0x80f_ffffn }),
  });
  const instance = run(driver.probe(hardware, { name: "smmu" }));
  run(core.register(instance));
  const errors: string[] = [];
  system.events.listen(({ kind, ...rest }) => {
    if (kind === "smmuv3.command.consume") commands.push(rest.words as number[]);
    if (kind.startsWith("smmuv3.command-queue.")) errors.push(`${kind}: ${JSON.stringify(rest)}`);
  });
  const events: string[] = [];
  driver.onEvent = ({ name }) => events.push(name);

  let slots = 0;
  /** In a group of its own, bus mastering. */
  const plug = (firmware: Partial<FirmwareSpec> = {}, options: { ats?: boolean; pri?: number } = {}) => {
    const capabilities = [express({ type: "integratedEndpoint" }), pasid({ width: 8 })];
    if (options.ats ?? true) capabilities.push(addressTranslation());
    if (options.pri !== undefined) capabilities.push(pageRequests({ capacity: options.pri }));
    const member = new DmaMaster(system, capabilities);
    host.root.add(member, ++slots);
    host.enumerate();
    member.writeConfig(4, 2, 6);
    const device = new Device({
      name: member.name,
      pci: member,
      firmware: { instance: "smmu", streamIds: [member.requesterId], ats: "supported", ...firmware },
    });
    return { device, member };
  };
  const probed = (...of: Parameters<typeof plug>) => {
    const made = plug(...of);
    run(core.probe(made.device));
    return made;
  };
  const domain = (device: Device, flags = 0): PagingDomain => run(driver.allocatePaging(device, flags, undefined));
  /** One DMA; `done` says how it ended: undefined while it waits. */
  const dma = (
    member: DmaMaster,
    address: number,
    options: { write?: boolean; pasid?: number; length?: number } = {},
  ) => {
    const access: { done: boolean | undefined; bytes: Uint8Array } = {
      done: undefined,
      bytes: new Uint8Array(options.length ?? 4).fill(options.write ? 0xd5 : 0),
    };
    const port = member.dma;
    const task = options.write
      ? port.write(BigInt(address), access.bytes, options.pasid)
      : port.read(BigInt(address), access.bytes, options.pasid);
    system.tasks.start("dma", task, (outcome) => {
      access.done = outcome.ok && outcome.value;
    });
    return access;
  };
  const errno = (code: Task<unknown>): number | undefined => {
    try {
      run(code);
      return undefined;
    } catch (error) {
      if (error instanceof Refusal) return error.errno;
      throw error;
    }
  };
  return {
    system,
    memory,
    driver,
    core,
    hardware,
    host,
    instance,
    run,
    errno,
    plug,
    probed,
    domain,
    dma,
    commands,
    errors,
    events,
  };
}
