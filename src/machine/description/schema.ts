// Runs in a browser.
/**
 * What may stand in a machine file, as a JSON Schema: the one source of the check, of the TypeScript type of the input,
 * and of the completion in editors (docs/machine.schema.json is this value, written out).
 *
 * It is plain data, so that starting a machine loads no schema library. `errorMessage` says what would be right; editors
 * show it too. Rules that tie two places together (a unique address, a known IOMMU) are in resolve.ts.
 */
import type { XStatic } from "typebox/schema";
import { BRIDGE_MODELS } from "./types.ts";

/** Patterns are anchored, and free of what the dialects of regular expressions disagree about. */
export const SIZE_PATTERN = "^(0x[0-9a-fA-F]+|[0-9]+ ?(B|KiB|MiB|GiB|TiB))$";
export const NAME_PATTERN = "^[a-z][a-z0-9-]*$";
export const PLATFORM_NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._:-]*$";
export const PCI_ADDRESS_PATTERN = "^([0-9a-fA-F]{4}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}([.][0-7])?$";

/** How an address, and a size, may be written. */
const ADDRESS = [
  { type: "integer", minimum: 0 },
  { type: "string", pattern: SIZE_PATTERN },
] as const;
const SIZE = [
  { type: "integer", minimum: 1 },
  { type: "string", pattern: SIZE_PATTERN },
] as const;

/** Every kind of IOMMU, device model and driver that a machine file may name. */
export const IOMMU_KINDS = ["smmuv3", "virtio-iommu"] as const;
export const MODELS = ["edu", "copy-engine", ...BRIDGE_MODELS] as const;
export const DRIVERS = ["vfio-pci", "uacce", "edu", "none"] as const;
/** Kinds of reserved regions that a firmware may tell of. */
export const REGION_TYPES = ["direct", "direct-relaxable", "reserved", "msi"] as const;

/** Addresses that the firmware reserves for a device. */
const reserved = {
  description: "Addresses that the firmware reserves for it, or keeps from it.",
  type: "array",
  items: {
    type: "object",
    additionalProperties: false,
    required: ["type", "start", "size"],
    properties: {
      type: {
        description:
          "direct: must always be mapped 1:1; direct-relaxable: only as long as the kernel has the device; reserved: never usable; msi: where interrupts go.",
        enum: REGION_TYPES,
        errorMessage: `one of the known types: ${REGION_TYPES.join(", ")}`,
      },
      start: {
        description: "The first address.",
        anyOf: ADDRESS,
        errorMessage: "an address such as 0x80000000",
      },
      size: {
        description: "How long it is.",
        anyOf: SIZE,
        errorMessage: "a size such as 64KiB, 1MiB or 0x1000",
      },
    },
  },
  errorMessage: "a list, each item beginning with a hyphen",
} as const;

export const machineSchema = {
  $schema: "http://json-schema.org/draft-07/schema#",
  title: "uiommu machine",
  description: "A machine for uiommu: its memory, its IOMMUs and its devices.",
  type: "object",
  additionalProperties: false,
  properties: {
    name: {
      description: "What to call the machine. The file's name, if absent.",
      type: "string",
      pattern: NAME_PATTERN,
      errorMessage: "a name of lower-case letters, digits and hyphens",
    },
    about: { description: "One sentence for people.", type: "string", errorMessage: "a sentence" },
    memory: {
      description: "RAM, and how much of their own memory clients may pin.",
      type: "object",
      additionalProperties: false,
      properties: {
        base: {
          description: "Physical address where RAM begins. A multiple of 2 MiB; 0x40000000 if absent.",
          anyOf: ADDRESS,
          errorMessage: "an address such as 0x40000000",
        },
        size: {
          description: "How much RAM there is. A multiple of 2 MiB; 1GiB if absent. It costs nothing until it is used.",
          anyOf: SIZE,
          errorMessage: "a size such as 64KiB, 1GiB or 0x40000000",
        },
        memlock: {
          description:
            "RLIMIT_MEMLOCK of every client: a size, unlimited, or inherit (the default: the client's own limit).",
          anyOf: [
            { type: "integer", minimum: 0 },
            { enum: ["inherit", "unlimited"] },
            { type: "string", pattern: SIZE_PATTERN },
          ],
          errorMessage: "a size such as 8MiB, or unlimited, or inherit",
        },
      },
    },
    defaultDomain: {
      description:
        "How devices translate that nobody has taken: dma (the default: an empty page table), dma-fq (the same, invalidated lazily) or identity.",
      enum: ["dma", "dma-fq", "identity"],
    },
    doorbell: {
      description:
        "Physical address of the 1 MiB where message interrupts go: 0x8000000 (the default), or as on x86 0xfee00000.",
      anyOf: ADDRESS,
      errorMessage: "an address such as 0xfee00000",
    },
    iommus: {
      description: "The IOMMUs. One SMMUv3 called smmu0, if absent; [] for none.",
      type: "array",
      items: {
        type: "object",
        additionalProperties: false,
        required: ["kind"],
        properties: {
          name: {
            description: "How devices name it: smmu0, smmu1, … or viommu0, viommu1, … if absent.",
            type: "string",
            pattern: NAME_PATTERN,
            errorMessage: "a name of lower-case letters, digits and hyphens",
          },
          kind: {
            description: "What it is.",
            enum: IOMMU_KINDS,
            errorMessage: `one of the known kinds: ${IOMMU_KINDS.join(", ")}`,
          },
          base: {
            description: "Physical address of its registers. A multiple of 64 KiB; 0x9050000 and upwards if absent.",
            anyOf: ADDRESS,
            errorMessage: "an address such as 0x9050000",
          },
          features: {
            description: "What it offers. Of smmuv3: what its ID registers say; nesting is there when both stages are.",
            type: "object",
            additionalProperties: false,
            properties: {
              stage1: { description: "Stage 1: context descriptors, ASIDs (IDR0.S1P).", type: "boolean" },
              stage2: { description: "Stage 2: VMIDs (IDR0.S2P).", type: "boolean" },
              rangeInvalidation: { description: "One command invalidates a range (IDR3.RIL).", type: "boolean" },
              dirtyTracking: { description: "Hardware marks what devices wrote to (IDR0.HTTU).", type: "boolean" },
              broadcastTlb: {
                description: "TLB maintenance that the CPU broadcasts reaches it (IDR0.BTM).",
                type: "boolean",
              },
              twoLevelStreamTable: {
                description: "The stream table may have two levels (IDR0.ST_LVL).",
                type: "boolean",
              },
              coherent: { description: "Table walks and queues are cache coherent (IDR0.COHACC).", type: "boolean" },
              ats: {
                description: "Devices may translate ahead (IDR0.ATS). If absent: whether a device behind it can.",
                type: "boolean",
              },
              pri: {
                description:
                  "Devices may ask for pages (IDR0.PRI); needs ats. If absent: whether a device behind it can.",
                type: "boolean",
              },
              granules: {
                description: "Translation granules (IDR5.GRAN4K, GRAN16K, GRAN64K).",
                type: "array",
                minItems: 1,
                uniqueItems: true,
                items: { enum: ["4KiB", "16KiB", "64KiB"] },
                errorMessage: "a list such as [4KiB, 64KiB]",
              },
              outputBits: {
                description: "Width of a physical address (IDR5.OAS); 52 is for the granule of 64 KiB alone.",
                enum: [32, 36, 40, 42, 44, 48, 52],
              },
              asidBits: { description: "Width of an ASID (IDR0.ASID16).", enum: [8, 16] },
              vmidBits: { description: "Width of a VMID (IDR0.VMID16).", enum: [8, 16] },
              pasidBits: {
                description: "Width of a PASID, in Arm's words a SubstreamID (IDR1.SSIDSIZE); 0 for none.",
                type: "integer",
                minimum: 0,
                maximum: 20,
              },
              streamIdBits: {
                description: "Width of a StreamID (IDR1.SIDSIZE). More than 16 needs twoLevelStreamTable.",
                type: "integer",
                minimum: 8,
                maximum: 32,
              },
              inputBits: {
                description: "virtio-iommu: width of an IOVA (INPUT_RANGE).",
                type: "integer",
                minimum: 32,
                maximum: 64,
              },
              domainBits: {
                description: "virtio-iommu: width of a domain's id (DOMAIN_RANGE).",
                type: "integer",
                minimum: 1,
                maximum: 32,
              },
              probe: { description: "virtio-iommu: it tells each device's reserved regions (PROBE).", type: "boolean" },
              mmio: { description: "virtio-iommu: mappings of device memory are told apart (MMIO).", type: "boolean" },
              attachTable: {
                description:
                  "virtio-iommu: devices may be attached to tables that the driver writes, and so have PASIDs; needs probe. A proposal, not in the specification.",
                type: "boolean",
              },
              bypass: {
                description:
                  "virtio-iommu: whether devices without a domain reach memory untranslated at first (BYPASS_CONFIG); absent: they never do.",
                enum: ["on", "off", "absent"],
              },
            },
          },
        },
      },
      errorMessage: "a list, each item beginning with a hyphen",
    },
    devices: {
      description: "The PCI devices and bridges: on the root bus, 0000:00, or behind a bridge.",
      type: "array",
      items: {
        type: "object",
        additionalProperties: false,
        required: ["model"],
        properties: {
          model: {
            description: "What it is.",
            enum: MODELS,
            errorMessage: `one of the known models: ${MODELS.join(", ")}`,
          },
          name: {
            description: "Of a bridge: how what is behind it names it.",
            type: "string",
            pattern: NAME_PATTERN,
            errorMessage: "a name of lower-case letters, digits and hyphens",
          },
          behind: {
            description: "The name of the bridge that it is behind. On the root bus, if absent.",
            type: "string",
            errorMessage: "the name of a bridge",
          },
          address: {
            description: "Where it sits: 00:01.0. The lowest free place on its bus, if absent.",
            type: "string",
            pattern: PCI_ADDRESS_PATTERN,
            errorMessage: "an address such as 00:01.0",
          },
          functions: {
            description: "How many functions it has, all of this model. 1 if absent.",
            type: "integer",
            minimum: 1,
            maximum: 8,
          },
          iommu: {
            description: "The IOMMU that translates its DMA, by name, or none. The only one, if absent.",
            type: "string",
            errorMessage: "the name of an IOMMU, or none",
          },
          driver: {
            description:
              "The driver bound to it: uacce (the default of a copy-engine whose IOMMU has PASIDs), vfio-pci (of others behind an IOMMU), edu (the kernel's) or none.",
            enum: DRIVERS,
          },
          untrusted: {
            description: "It is plugged into an external port: its default domain is DMA, and it never uses ATS.",
            type: "boolean",
          },
          defaultDomain: {
            description: "The only default domain with which it works, whatever the machine says: dma or identity.",
            enum: ["dma", "identity"],
          },
          reserved,
          virtualFunctions: {
            description: "edu: the virtual functions that each of its functions can have (SR-IOV).",
            type: "object",
            additionalProperties: false,
            required: ["total"],
            properties: {
              total: { description: "How many there can be.", type: "integer", minimum: 1, maximum: 255 },
              enabled: {
                description: "How many are on at power-up. 0 if absent.",
                type: "integer",
                minimum: 0,
                maximum: 255,
              },
              offset: {
                description:
                  "From the number of the function to that of its first virtual one. As many as there are functions, if absent.",
                type: "integer",
                minimum: 1,
                maximum: 255,
              },
              stride: {
                description:
                  "From the number of a virtual function to that of the next. As many as there are functions, if absent.",
                type: "integer",
                minimum: 1,
                maximum: 255,
              },
              device: {
                description: "Their device id. That of the model, if absent.",
                type: "integer",
                minimum: 0,
                maximum: 0xfffe,
              },
              driver: {
                description:
                  "The driver bound to those that are on at power-up: vfio-pci (the default, behind an IOMMU), edu or none.",
                enum: ["vfio-pci", "edu", "none"],
              },
            },
          },
          canStall: {
            description:
              "An access without translation waits until software answers: the firmware's dma-can-stall. Needs an smmuv3. True for a copy-engine behind one, else false, if absent.",
            type: "boolean",
          },
          capabilities: {
            description: "What its configuration space offers beyond the model's own.",
            type: "object",
            additionalProperties: false,
            properties: {
              express: {
                description: "It is a PCI Express endpoint. True if one of the others is given.",
                type: "boolean",
              },
              flr: { description: "Function-level reset: a client can reset it by itself.", type: "boolean" },
              acs: {
                description:
                  "Access Control Services: its functions, or what is behind ports, are kept apart. Of root ports and downstream ports true, if absent.",
                type: "boolean",
              },
              ats: { description: "Address Translation Services.", type: "boolean" },
              pri: { description: "Page Request Interface. Needs ats.", type: "boolean" },
              pasid: {
                description: "Width of the PASIDs that it can send. 16 for a copy-engine, if absent.",
                type: "integer",
                minimum: 1,
                maximum: 20,
              },
            },
          },
          options: {
            description: "Options of the model.",
            type: "object",
            additionalProperties: false,
            properties: {
              dmaMask: {
                description: "edu: how many address bits its DMA engine has. 28 if absent.",
                type: "integer",
                minimum: 12,
                maximum: 64,
              },
              queues: {
                description: "copy-engine: how many queues it has. 4 if absent.",
                type: "integer",
                minimum: 1,
                maximum: 8,
              },
            },
          },
        },
      },
      errorMessage: "a list, each item beginning with a hyphen",
    },
    platform: {
      description: "Platform devices: no bus finds them, the firmware tells of them.",
      type: "array",
      items: {
        type: "object",
        additionalProperties: false,
        required: ["name"],
        properties: {
          name: {
            description: "What it is called in /sys/devices/platform.",
            type: "string",
            pattern: PLATFORM_NAME_PATTERN,
            errorMessage: "a name such as dma0 or 9050000.dma",
          },
          iommu: {
            description: "The IOMMU that translates its DMA, by name, or none. The only one, if absent.",
            type: "string",
            errorMessage: "the name of an IOMMU, or none",
          },
          streams: {
            description:
              "Under which ids the IOMMU sees it. Those of PCI functions are bus * 256 + device * 8 + function.",
            type: "array",
            minItems: 1,
            uniqueItems: true,
            items: { type: "integer", minimum: 0, maximum: 0xffffffff },
            errorMessage: "a list of different ids such as [0x1000, 0x1001]",
          },
          defaultDomain: {
            description: "The only default domain with which it works, whatever the machine says: dma or identity.",
            enum: ["dma", "identity"],
          },
          reserved,
          canStall: {
            description:
              "An access without translation waits until software answers: the firmware's dma-can-stall. Needs an smmuv3. False if absent.",
            type: "boolean",
          },
          pasid: {
            description: "Width of the PASIDs that it can send: the firmware's pasid-num-bits. None if absent.",
            type: "integer",
            minimum: 1,
            maximum: 20,
          },
        },
      },
      errorMessage: "a list, each item beginning with a hyphen",
    },
  },
} as const;

/** A machine as it is written: everything may be absent but what a thing is. */
export type MachineInput = XStatic<typeof machineSchema>;
