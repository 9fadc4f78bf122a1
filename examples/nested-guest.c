/*
 * nested-guest: a VMM gives its guest an SMMU, and the guest translates for its device by itself.
 *
 * VMM and guest are one program here. The VMM's part is what any VMM does, in this order:
 *
 *   map the guest's memory into an IOAS -> nesting parent -> vIOMMU -> vDEVICE, event queue, fault queue
 *   -> for each STE that the guest writes a nested HWPT -> pass its invalidations on, its events and page requests back
 *
 * The guest's part is what an SMMUv3 driver does: a context descriptor and page tables, in its own memory. See
 * docs/nesting.md.
 *
 *   cc -o nested-guest nested-guest.c && npx uiommu run --machine nested -- ./nested-guest
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* ---- What <linux/iommufd.h> and <linux/vfio.h> declare; written out, since older systems have no such headers ---- */

struct iommu_ioas_alloc { uint32_t size, flags, out_ioas_id; };
struct iommu_ioas_map { uint32_t size, flags, ioas_id, reserved; uint64_t user_va, length, iova; };
struct iommu_hwpt_alloc {
	uint32_t size, flags, dev_id, pt_id, out_hwpt_id, reserved, data_type, data_len;
	uint64_t data_uptr;
	uint32_t fault_id, reserved2;
};
struct iommu_hwpt_invalidate {
	uint32_t size, hwpt_id;
	uint64_t data_uptr;
	uint32_t data_type, entry_len, entry_num, reserved;
};
struct iommu_fault_alloc { uint32_t size, flags, out_fault_id, out_fault_fd; };
struct iommu_viommu_alloc {
	uint32_t size, flags, type, dev_id, hwpt_id, out_viommu_id, data_len, reserved;
	uint64_t data_uptr;
};
struct iommu_vdevice_alloc { uint32_t size, viommu_id, dev_id, out_vdevice_id; uint64_t virt_id; };
struct iommu_veventq_alloc {
	uint32_t size, flags, viommu_id, type, veventq_depth, out_veventq_id, out_veventq_fd, reserved;
};
struct page_request { uint32_t flags, dev_id, pasid, grpid, perm, reserved; uint64_t addr; uint32_t length, cookie; };
struct page_response { uint32_t cookie, code; };
struct event { uint32_t flags, sequence; uint64_t words[4]; };
#define IOMMU_IOAS_ALLOC        _IO(';', 0x81)
#define IOMMU_IOAS_MAP          _IO(';', 0x85)
#define IOMMU_HWPT_ALLOC        _IO(';', 0x89)
#define IOMMU_HWPT_INVALIDATE   _IO(';', 0x8d)
#define IOMMU_FAULT_QUEUE_ALLOC _IO(';', 0x8e)
#define IOMMU_VIOMMU_ALLOC      _IO(';', 0x90)
#define IOMMU_VDEVICE_ALLOC     _IO(';', 0x91)
#define IOMMU_VEVENTQ_ALLOC     _IO(';', 0x93)
enum { MAP_FIXED_IOVA = 1, MAP_WRITEABLE = 2, MAP_READABLE = 4 };
enum { HWPT_NEST_PARENT = 1, HWPT_FAULT_ID_VALID = 4 };
enum { VIOMMU_SMMUV3 = 1, EVENTS_SMMUV3 = 1, INVALIDATE_SMMUV3 = 1, HWPT_DATA_SMMUV3 = 2 };

struct vfio_region_info { uint32_t argsz, flags, index, cap_offset; uint64_t size, offset; };
struct vfio_bind { uint32_t argsz, flags; int32_t iommufd; uint32_t out_devid; };
struct vfio_attach { uint32_t argsz, flags, pt_id; };
#define VFIO_DEVICE_GET_REGION_INFO   _IO(';', 100 + 8)
#define VFIO_DEVICE_BIND_IOMMUFD      _IO(';', 100 + 18)
#define VFIO_DEVICE_ATTACH_IOMMUFD_PT _IO(';', 100 + 19)

/* ---- The edu device's registers, in BAR 0 ---- */

enum { EDU_DMA_SOURCE = 0x80, EDU_DMA_TARGET = 0x88, EDU_DMA_COUNT = 0x90, EDU_DMA_COMMAND = 0x98 };
enum { EDU_START = 1, EDU_TO_MEMORY = 2 };
#define EDU_BUFFER 0x40000u

#define PAGE 4096u
#define STREAM 0x42u      /* what the guest calls the device */
#define RAM_IPA 0x800000u /* where the guest's memory begins, for the guest */
#define RAM_SIZE 0x100000u

static int device, iommu;
static uint64_t bar0, config;
static uint32_t device_id;
static char *ram; /* the guest's memory, for the VMM */

static int done(int result, const char *what)
{
	if (result < 0) {
		fprintf(stderr, "nested-guest: %s: %s\n", what, strerror(errno));
		exit(1);
	}
	return result;
}

static void expect(int condition, const char *what)
{
	if (!condition) {
		printf("     Broken: %s\n", what);
		exit(1);
	}
}

/* ---- The guest: tables in its own memory ---- */

static uint32_t free_page = RAM_IPA;

static uint64_t *at(uint64_t ipa)
{
	return (uint64_t *)(ram + (ipa - RAM_IPA));
}

static uint64_t new_page(void)
{
	free_page += PAGE;
	return free_page - PAGE;
}

/* A context descriptor: 39 bits of input, pages of 4 KiB, ASID; a fault stalls the access, or ends it with an event. */
static uint64_t new_context(uint64_t asid, int stalls)
{
	uint64_t context = new_page(), table = new_page();

	at(context)[0] = 25 | 1 << 8 | 1 << 10 | 3 << 12 /* T0SZ, cacheable, shareable */
		| 1ull << 30 | 1ull << 31 /* no second table; valid */
		| 5ull << 32 | 1ull << 41 /* 48 bits of output, AArch64 */
		| (uint64_t)stalls << 44 | 7ull << 45 /* S; record, abort, private ASID */ | asid << 48;
	at(context)[1] = table;
	at(context)[3] = 0xff; /* MAIR: write-back */
	return context;
}

/* Lets devices reach the page at `ipa` under `iova`; 0 takes it away. */
static void guest_map(uint64_t context, uint64_t iova, uint64_t ipa)
{
	uint64_t table = at(context)[1];

	for (int shift = 30; shift > 12; shift -= 9) {
		uint64_t *entry = &at(table)[iova >> shift & 511];
		if (!*entry)
			*entry = new_page() | 3;
		table = *entry & ~(uint64_t)(PAGE - 1);
	}
	at(table)[iova >> 12 & 511] = ipa ? ipa | 0xf43 : 0; /* page, AP[1], inner shareable, AF, nG */
}

/* ---- The VMM ---- */

static uint64_t region(uint32_t index)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = index };
	done(ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info), "VFIO_DEVICE_GET_REGION_INFO");
	return info.offset;
}

static void open_device(const char *node)
{
	iommu = done(open("/dev/iommu", O_RDWR | O_CLOEXEC), "/dev/iommu");
	device = done(open(node, O_RDWR | O_CLOEXEC), node);
	struct vfio_bind bind = { .argsz = sizeof(bind), .iommufd = iommu };
	done(ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, &bind), "VFIO_DEVICE_BIND_IOMMUFD");
	device_id = bind.out_devid;
	bar0 = region(0);
	config = region(7);
	uint16_t command = 2 | 4; /* answer to memory accesses, master the bus */
	done(pwrite(device, &command, 2, config + 4), "the command register");
}

static uint32_t nesting_parent(void)
{
	struct iommu_ioas_alloc ioas = { .size = sizeof(ioas) };
	done(ioctl(iommu, IOMMU_IOAS_ALLOC, &ioas), "IOMMU_IOAS_ALLOC");
	struct iommu_ioas_map map = {
		.size = sizeof(map), .flags = MAP_FIXED_IOVA | MAP_READABLE | MAP_WRITEABLE, .ioas_id = ioas.out_ioas_id,
		.user_va = (uintptr_t)ram, .length = RAM_SIZE, .iova = RAM_IPA,
	};
	done(ioctl(iommu, IOMMU_IOAS_MAP, &map), "IOMMU_IOAS_MAP");
	struct iommu_hwpt_alloc parent = {
		.size = sizeof(parent), .flags = HWPT_NEST_PARENT, .dev_id = device_id, .pt_id = ioas.out_ioas_id,
	};
	done(ioctl(iommu, IOMMU_HWPT_ALLOC, &parent), "IOMMU_HWPT_ALLOC of the nesting parent");
	return parent.out_hwpt_id;
}

/* The guest wrote an STE for its stream and said so (CMD_CFGI_STE): stage 1 with its context descriptor. */
static void set_stream(uint32_t viommu, uint64_t context, uint32_t fault_id)
{
	uint64_t ste[2] = { context | 5 << 1 | 1, 0xd4 /* walks are cacheable and shareable */ };
	struct iommu_hwpt_alloc nested = {
		.size = sizeof(nested), .flags = fault_id ? HWPT_FAULT_ID_VALID : 0, .dev_id = device_id, .pt_id = viommu,
		.data_type = HWPT_DATA_SMMUV3, .data_len = sizeof(ste), .data_uptr = (uintptr_t)ste, .fault_id = fault_id,
	};
	done(ioctl(iommu, IOMMU_HWPT_ALLOC, &nested), "IOMMU_HWPT_ALLOC of a nested HWPT");
	struct vfio_attach attach = { .argsz = sizeof(attach), .pt_id = nested.out_hwpt_id };
	done(ioctl(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach), "VFIO_DEVICE_ATTACH_IOMMUFD_PT");
}

/* A command that the guest put into the queue of its SMMU. */
static void pass_on(uint32_t viommu, uint64_t word0, uint64_t word1)
{
	uint64_t command[2] = { word0, word1 };
	struct iommu_hwpt_invalidate invalidate = {
		.size = sizeof(invalidate), .hwpt_id = viommu, .data_type = INVALIDATE_SMMUV3,
		.data_uptr = (uintptr_t)command, .entry_len = sizeof(command), .entry_num = 1,
	};
	done(ioctl(iommu, IOMMU_HWPT_INVALIDATE, &invalidate), "IOMMU_HWPT_INVALIDATE");
}

/* ---- The device ---- */

static void set_register(uint32_t offset, uint64_t value)
{
	done(pwrite(device, &value, 8, bar0 + offset), "a register");
}

static void start_dma(uint64_t source, uint64_t target, uint64_t command)
{
	set_register(EDU_DMA_SOURCE, source);
	set_register(EDU_DMA_TARGET, target);
	set_register(EDU_DMA_COUNT, 8);
	set_register(EDU_DMA_COMMAND, EDU_START | command);
}

static void wait_for_dma(void)
{
	for (int tries = 0; tries < 1000; tries++) {
		uint64_t state = 0;
		done(pread(device, &state, 8, bar0 + EDU_DMA_COMMAND), "the DMA command register");
		if (!(state & EDU_START))
			return;
		nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
	}
	expect(0, "the DMA never ends");
}

static void device_reads(uint64_t iova)
{
	start_dma(iova, EDU_BUFFER, 0);
	wait_for_dma();
}

static void device_writes(uint64_t iova)
{
	start_dma(EDU_BUFFER, iova, EDU_TO_MEMORY);
	wait_for_dma();
}

static void wait_for_input(int fd, const char *what)
{
	struct pollfd poller = { .fd = fd, .events = POLLIN };
	expect(poll(&poller, 1, 5000) == 1, what);
}

int main(int count, char **arguments)
{
	const uint64_t iova = 0x100000, asid = 7;

	setvbuf(stdout, NULL, _IOLBF, 0);
	open_device(count > 1 ? arguments[1] : "/dev/vfio/devices/vfio1");
	ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (ram == MAP_FAILED)
		done(-1, "mmap");

	uint32_t parent = nesting_parent();
	struct iommu_viommu_alloc viommu = {
		.size = sizeof(viommu), .type = VIOMMU_SMMUV3, .dev_id = device_id, .hwpt_id = parent,
	};
	done(ioctl(iommu, IOMMU_VIOMMU_ALLOC, &viommu), "IOMMU_VIOMMU_ALLOC");
	uint32_t smmu = viommu.out_viommu_id;
	struct iommu_vdevice_alloc vdevice = {
		.size = sizeof(vdevice), .viommu_id = smmu, .dev_id = device_id, .virt_id = STREAM,
	};
	done(ioctl(iommu, IOMMU_VDEVICE_ALLOC, &vdevice), "IOMMU_VDEVICE_ALLOC");
	struct iommu_veventq_alloc events = {
		.size = sizeof(events), .viommu_id = smmu, .type = EVENTS_SMMUV3, .veventq_depth = 16,
	};
	done(ioctl(iommu, IOMMU_VEVENTQ_ALLOC, &events), "IOMMU_VEVENTQ_ALLOC");
	struct iommu_fault_alloc faults = { .size = sizeof(faults) };
	done(ioctl(iommu, IOMMU_FAULT_QUEUE_ALLOC, &faults), "IOMMU_FAULT_QUEUE_ALLOC");
	printf("1. The guest has an SMMU (vIOMMU %u on HWPT %u), and a device with stream id 0x%x\n\n", smmu, parent, STREAM);

	uint64_t context = new_context(asid, 1), first = new_page(), second = new_page(), third = new_page();
	guest_map(context, iova, first);
	set_stream(smmu, context, faults.out_fault_id);
	*at(first) = 0x1111;
	*at(second) = 0x2222;
	device_reads(iova);
	device_writes(iova + 8);
	expect(at(first)[1] == 0x1111, "the device did not copy");
	printf("2. The device copies within the guest's memory: IOVA 0x%" PRIx64 " -> IPA 0x%" PRIx64 " -> %p\n\n", iova, first,
	       (void *)at(first));

	guest_map(context, iova, second);
	device_reads(iova);
	device_writes(iova + 16);
	expect(at(first)[2] == 0x1111 && !at(second)[2], "the TLB forgot by itself");
	printf("3. The guest maps IPA 0x%" PRIx64 " there, and says nothing: the device still reaches the page before\n", second);
	pass_on(smmu, 0x12 /* TLBI_NH_VA */ | asid << 48, iova);
	device_reads(iova);
	device_writes(iova + 24);
	expect(at(second)[3] == 0x2222, "the invalidation had no effect");
	printf("     Its invalidation is passed on: now it reaches the new one\n\n");

	start_dma(EDU_BUFFER, iova + PAGE, EDU_TO_MEMORY);
	wait_for_input(faults.out_fault_fd, "no page request");
	struct page_request request;
	done(read(faults.out_fault_fd, &request, sizeof(request)), "reading the fault queue");
	printf("4. A write to 0x%" PRIx64 " finds no page and waits: a page request\n", request.addr);
	guest_map(context, iova + PAGE, third);
	struct page_response response = { .cookie = request.cookie };
	done(write(faults.out_fault_fd, &response, sizeof(response)), "answering");
	wait_for_dma();
	expect(*at(third) == 0x2222, "the write was lost");
	printf("     The guest maps one, the answer is SUCCESS, and the write is done\n\n");

	uint64_t other = new_context(asid + 1, 0);
	guest_map(other, iova, second);
	set_stream(smmu, other, 0);
	device_writes(iova + 2 * PAGE);
	wait_for_input(events.out_veventq_fd, "no event");
	struct event event;
	done(read(events.out_veventq_fd, &event, sizeof(event)), "reading the event queue");
	expect(event.words[0] >> 32 == STREAM, "the event names another stream");
	printf("5. Another context, in which faults do not wait: event 0x%02x of stream 0x%x at 0x%" PRIx64 "\n",
	       (unsigned)(event.words[0] & 0xff), (unsigned)(event.words[0] >> 32), event.words[2]);

	close(device);
	close(events.out_veventq_fd);
	close(faults.out_fault_fd);
	close(iommu);
	printf("6. Closed; nothing is left behind.\n");
	return 0;
}
