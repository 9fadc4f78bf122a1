// Runs in a browser.
/**
 * IOMMU_TEST_CMD, the ioctl of Linux's CONFIG_IOMMUFD_TEST: one number, one struct of 72 bytes, and in it an operation that
 * says how the union from offset 16 on is to be read (reference 4.1). Each operation has a view of the whole struct.
 */
import type { CommandRow } from "./iommufd.ts";
import { bytes, defineStruct, s32, u32, u64 } from "./struct.ts";

/** What is the same in all operations. What `id` names depends on the operation. */
const header = { size: u32, op: u32, id: u32, reserved: u32 };

export const IommuTest = defineStruct("iommu_test_cmd", { ...header, union: bytes(48), last: u32, padding: u32 });

export const iommuTestCommand: CommandRow<typeof IommuTest.fields> = {
  number: 0x3ba0,
  name: "TEST_CMD",
  struct: IommuTest,
  minimum: IommuTest.endOf("last"),
};

export const TestAddReserved = defineStruct("add_reserved", { ...header, start: u64, length: u64 });
export const TestMockDomain = defineStruct("mock_domain_flags", {
  ...header,
  out_stdev_id: u32,
  out_hwpt_id: u32,
  out_idev_id: u32,
  dev_flags: u32,
});
export const TestCheckMap = defineStruct("check_map", { ...header, iova: u64, length: u64, uptr: u64 });
export const TestCheckRefs = defineStruct("check_refs", { ...header, length: u64, uptr: u64, refs: u32 });
export const TestCreateAccess = defineStruct("create_access", { ...header, out_access_fd: u32, flags: u32 });
export const TestDestroyAccessPages = defineStruct("destroy_access_pages", { ...header, access_pages_id: u32 });
export const TestAccessPages = defineStruct("access_pages", {
  ...header,
  flags: u32,
  out_access_pages_id: u32,
  iova: u64,
  length: u64,
  uptr: u64,
});
export const TestAccessRw = defineStruct("access_rw", { ...header, iova: u64, length: u64, uptr: u64, flags: u32 });
export const TestMemoryLimit = defineStruct("memory_limit", { ...header, limit: u32 });
export const TestMockDomainReplace = defineStruct("mock_domain_replace", { ...header, pt_id: u32 });
export const TestAccessReplaceIoas = defineStruct("access_replace_ioas", { ...header, ioas_id: u32 });
export const TestDirty = defineStruct("dirty", {
  ...header,
  flags: u32,
  iova: u64,
  length: u64,
  page_size: u64,
  uptr: u64,
  out_nr_dirty: u64,
});
export const TestCheckIotlb = defineStruct("check_iotlb", { ...header, word: u32, iotlb: u32 });
export const TestTriggerIopf = defineStruct("trigger_iopf", {
  ...header,
  dev_id: u32,
  pasid: u32,
  grpid: u32,
  perm: u32,
  addr: u64,
});
export const TestDevCheckCache = defineStruct("check_dev_cache", { ...header, word: u32, cache: u32 });
export const TestTriggerVevent = defineStruct("trigger_vevent", { ...header, dev_id: u32 });
export const TestPasid = defineStruct("pasid", { ...header, pasid: u32, pt_id: u32 });
export const TestDmabufGet = defineStruct("dmabuf_get", { ...header, length: u32, open_flags: u32 });
export const TestDmabufRevoke = defineStruct("dmabuf_revoke", { ...header, dmabuf_fd: s32, revoked: u32 });

/** Operations by number, as in C without `IOMMU_TEST_OP_`. */
export const TEST_ADD_RESERVED = 1;
export const TEST_MOCK_DOMAIN = 2;
export const TEST_MD_CHECK_MAP = 3;
export const TEST_MD_CHECK_REFS = 4;
export const TEST_CREATE_ACCESS = 5;
export const TEST_DESTROY_ACCESS_PAGES = 6;
export const TEST_ACCESS_PAGES = 7;
export const TEST_ACCESS_RW = 8;
export const TEST_SET_TEMP_MEMORY_LIMIT = 9;
export const TEST_MOCK_DOMAIN_REPLACE = 10;
export const TEST_ACCESS_REPLACE_IOAS = 11;
export const TEST_MOCK_DOMAIN_FLAGS = 12;
export const TEST_DIRTY = 13;
export const TEST_MD_CHECK_IOTLB = 14;
export const TEST_TRIGGER_IOPF = 15;
export const TEST_DEV_CHECK_CACHE = 16;
export const TEST_TRIGGER_VEVENT = 17;
export const TEST_PASID_ATTACH = 18;
export const TEST_PASID_REPLACE = 19;
export const TEST_PASID_DETACH = 20;
export const TEST_PASID_CHECK_HWPT = 21;
export const TEST_DMABUF_GET = 22;
export const TEST_DMABUF_REVOKE = 23;

/** dev_flags of MOCK_DOMAIN_FLAGS. */
export const MOCK_NO_DIRTY = 1;
export const MOCK_PASID = 4;

/** Flags of CREATE_ACCESS, ACCESS_PAGES and ACCESS_RW. */
export const ACCESS_NEEDS_PIN = 1;
export const ACCESS_WRITE = 1;
export const ACCESS_SLOW_PATH = 4;
/** The IOVA is {u32 n, u32 offset}: from the start of the n-th area on. */
export const ACCESS_SYZ = 0x1_0000;

/** How each operation's union is read, for people who look at calls. */
export const testOperations: ReadonlyMap<number, { readonly name: string; readonly struct: unknown }> = new Map([
  [TEST_ADD_RESERVED, { name: "ADD_RESERVED", struct: TestAddReserved }],
  [TEST_MOCK_DOMAIN, { name: "MOCK_DOMAIN", struct: TestMockDomain }],
  [TEST_MD_CHECK_MAP, { name: "MD_CHECK_MAP", struct: TestCheckMap }],
  [TEST_MD_CHECK_REFS, { name: "MD_CHECK_REFS", struct: TestCheckRefs }],
  [TEST_CREATE_ACCESS, { name: "CREATE_ACCESS", struct: TestCreateAccess }],
  [TEST_DESTROY_ACCESS_PAGES, { name: "DESTROY_ACCESS_PAGES", struct: TestDestroyAccessPages }],
  [TEST_ACCESS_PAGES, { name: "ACCESS_PAGES", struct: TestAccessPages }],
  [TEST_ACCESS_RW, { name: "ACCESS_RW", struct: TestAccessRw }],
  [TEST_SET_TEMP_MEMORY_LIMIT, { name: "SET_TEMP_MEMORY_LIMIT", struct: TestMemoryLimit }],
  [TEST_MOCK_DOMAIN_REPLACE, { name: "MOCK_DOMAIN_REPLACE", struct: TestMockDomainReplace }],
  [TEST_ACCESS_REPLACE_IOAS, { name: "ACCESS_REPLACE_IOAS", struct: TestAccessReplaceIoas }],
  [TEST_MOCK_DOMAIN_FLAGS, { name: "MOCK_DOMAIN_FLAGS", struct: TestMockDomain }],
  [TEST_DIRTY, { name: "DIRTY", struct: TestDirty }],
  [TEST_MD_CHECK_IOTLB, { name: "MD_CHECK_IOTLB", struct: TestCheckIotlb }],
  [TEST_TRIGGER_IOPF, { name: "TRIGGER_IOPF", struct: TestTriggerIopf }],
  [TEST_DEV_CHECK_CACHE, { name: "DEV_CHECK_CACHE", struct: TestDevCheckCache }],
  [TEST_TRIGGER_VEVENT, { name: "TRIGGER_VEVENT", struct: TestTriggerVevent }],
  [TEST_PASID_ATTACH, { name: "PASID_ATTACH", struct: TestPasid }],
  [TEST_PASID_REPLACE, { name: "PASID_REPLACE", struct: TestPasid }],
  [TEST_PASID_DETACH, { name: "PASID_DETACH", struct: TestPasid }],
  [TEST_PASID_CHECK_HWPT, { name: "PASID_CHECK_HWPT", struct: TestPasid }],
  [TEST_DMABUF_GET, { name: "DMABUF_GET", struct: TestDmabufGet }],
  [TEST_DMABUF_REVOKE, { name: "DMABUF_REVOKE", struct: TestDmabufRevoke }],
]);
