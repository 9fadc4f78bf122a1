/** Hardware that sees what memory says at this moment. */
import { SmmuV3, type smmuFeatures } from "../../hardware/smmuv3/index.ts";
import { PAGE_SIZE, type PhysicalMemory } from "../../memory/index.ts";
import type { System } from "../../runtime/index.ts";
import { CFGI_STE_RANGE, TLBI_NSNH_ALL } from "./commands.ts";
import { CMDQ_BASE, CMDQ_PROD, CR0, CR1, STRTAB_BASE, STRTAB_BASE_CFG } from "./registers.ts";

/** A second SMMU with the tables of one that works, which forgets everything before each look. */
export class ForgetfulSmmu {
  private readonly smmu: SmmuV3;
  private producer = 0;

  /** Its command queue holds two commands, to forget the configuration and the translations: it is told of both anew. */
  constructor(system: System, memory: PhysicalMemory, features: ReturnType<typeof smmuFeatures>, working: SmmuV3) {
    this.smmu = new SmmuV3(system, memory, features);
    for (const register of [CR1, STRTAB_BASE_CFG]) this.smmu.write32(register, working.read32(register));
    this.smmu.write64(STRTAB_BASE, working.read32(STRTAB_BASE), working.read32(STRTAB_BASE + 4));
    const ring = memory.allocate() * PAGE_SIZE;
    for (const [word, value] of [CFGI_STE_RANGE, 0, 31, 0, TLBI_NSNH_ALL, 0, 0, 0].entries()) {
      memory.writeWord(ring + word * 4, value);
    }
    this.smmu.write64(CMDQ_BASE, ring + 1, 0);
    this.smmu.write32(CR0, 0x9);
  }

  /** It, with empty caches. */
  get fresh(): SmmuV3 {
    this.producer ^= 2;
    this.smmu.write32(CMDQ_PROD, this.producer);
    return this.smmu;
  }
}
