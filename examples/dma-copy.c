/*
 * dma-copy: a device copies memory by itself, and is kept from memory that is not its own.
 *
 * This is a driver in user space, in the order in which any VFIO driver works:
 *
 *   find the device in sysfs -> open it and /dev/iommu -> bind -> make an address space (IOAS) -> attach the device
 *   -> map memory into the address space -> let the device do DMA -> unmap, close
 *
 * The device is "edu" (vendor 1234, device 11e8; its registers are described in QEMU's docs/specs/edu): it has 4096 bytes
 * of memory of its own, and a DMA engine that copies between them and the machine's memory. It knows no pointers of
 * ours, only addresses in its address space, IOVAs. The IOMMU translates each IOVA on its way, or refuses it.
 *
 *   cc -o dma-copy dma-copy.c && npx uiommu run -- ./dma-copy
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* ---- What <linux/iommufd.h> and <linux/vfio.h> declare; written out, since older systems have no such headers ---- */

struct iommu_destroy { uint32_t size, id; };
struct iommu_ioas_alloc { uint32_t size, flags, out_ioas_id; };
struct iommu_ioas_map { uint32_t size, flags, ioas_id, reserved; uint64_t user_va, length, iova; };
struct iommu_ioas_unmap { uint32_t size, ioas_id; uint64_t iova, length; };
#define IOMMU_DESTROY    _IO(';', 0x80)
#define IOMMU_IOAS_ALLOC _IO(';', 0x81)
#define IOMMU_IOAS_MAP   _IO(';', 0x85)
#define IOMMU_IOAS_UNMAP _IO(';', 0x86)
enum { MAP_FIXED_IOVA = 1, MAP_WRITEABLE = 2, MAP_READABLE = 4 };

struct vfio_region_info { uint32_t argsz, flags, index, cap_offset; uint64_t size, offset; };
struct vfio_bind { uint32_t argsz, flags; int32_t iommufd; uint32_t out_devid; };
struct vfio_attach { uint32_t argsz, flags, pt_id; };
#define VFIO_DEVICE_GET_REGION_INFO   _IO(';', 100 + 8)
#define VFIO_DEVICE_BIND_IOMMUFD      _IO(';', 100 + 18)
#define VFIO_DEVICE_ATTACH_IOMMUFD_PT _IO(';', 100 + 19)
enum { REGION_BAR0 = 0, REGION_CONFIG = 7 };

/* ---- The edu device's registers, in BAR 0 ---- */

enum { EDU_DMA_SOURCE = 0x80, EDU_DMA_TARGET = 0x88, EDU_DMA_COUNT = 0x90, EDU_DMA_COMMAND = 0x98 };
enum { EDU_START = 1, EDU_TO_MEMORY = 2 };
#define EDU_BUFFER 0x40000u /* the device's own memory, as its DMA engine addresses it */

#define PAGE 4096u

static int device = -1, iommu = -1;
static uint64_t bar0, config; /* where the device file shows BAR 0 and configuration space */

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *what, ...)
{
	int error = errno;
	va_list arguments;

	va_start(arguments, what);
	fputs("dma-copy: ", stderr);
	vfprintf(stderr, what, arguments);
	fprintf(stderr, ": %s\n", strerror(error));
	exit(1);
}

/* ---- 1. Find the device ---- */

/* Reads a file such as /sys/bus/pci/devices/0000:00:01.0/vendor. */
static unsigned sysfs_number(const char *address, const char *file)
{
	char path[512];
	unsigned value = 0;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", address, file);
	FILE *stream = fopen(path, "r");
	if (!stream)
		return 0;
	if (fscanf(stream, "%x", &value) != 1)
		value = 0;
	fclose(stream);
	return value;
}

/* The last part of what a link such as /sys/bus/pci/devices/0000:00:01.0/driver points to. */
static const char *sysfs_link(const char *address, const char *link, char *target, size_t size)
{
	char path[512];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", address, link);
	ssize_t length = readlink(path, target, size - 1);
	target[length < 0 ? 0 : length] = 0;
	const char *slash = strrchr(target, '/');
	return slash ? slash + 1 : target;
}

/* The alphabetically first entry of a directory that begins with `prefix`, and how many such there are. */
static int entries(const char *path, const char *prefix, char *first, size_t size)
{
	int count = 0;
	DIR *directory = opendir(path);
	struct dirent *entry;

	while (directory && (entry = readdir(directory))) {
		if (entry->d_name[0] == '.' || strncmp(entry->d_name, prefix, strlen(prefix)))
			continue;
		if (!count++ || strcmp(entry->d_name, first) < 0)
			snprintf(first, size, "%s", entry->d_name);
	}
	if (directory)
		closedir(directory);
	return count;
}

/* True for an edu device that is bound to vfio-pci: such a device names its device file. */
static int is_ours(const char *address, char *node, size_t size)
{
	char path[512], name[256];

	if (sysfs_number(address, "vendor") != 0x1234 || sysfs_number(address, "device") != 0x11e8)
		return 0;
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev", address);
	if (!entries(path, "vfio", name, sizeof(name)))
		return 0;
	snprintf(node, size, "/dev/vfio/devices/%s", name);
	return 1;
}

/* Finds the edu device with the lowest address, and the file that drives it. */
static void find_device(char *address, size_t address_size, char *node, size_t node_size)
{
	DIR *directory = opendir("/sys/bus/pci/devices");
	struct dirent *entry;
	char path[512], name[256], target[512], other[300];

	address[0] = 0;
	while (directory && (entry = readdir(directory))) {
		if (!is_ours(entry->d_name, other, sizeof(other)) || (address[0] && strcmp(address, entry->d_name) < 0))
			continue;
		snprintf(address, address_size, "%s", entry->d_name);
		snprintf(node, node_size, "%s", other);
	}
	if (directory)
		closedir(directory);
	if (!address[0]) {
		fprintf(stderr, "dma-copy: no edu device (1234:11e8) is bound to vfio-pci; try: npx uiommu run -- ./dma-copy\n");
		exit(2);
	}
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group/devices", address);
	printf("1. The device, as sysfs shows it\n");
	printf("     address      %s\n", address);
	printf("     driver       %s\n", sysfs_link(address, "driver", target, sizeof(target)));
	printf("     IOMMU group  %s", sysfs_link(address, "iommu_group", target, sizeof(target)));
	printf(", devices in it: %d\n", entries(path, "", name, sizeof(name)));
	printf("     device file  %s\n\n", node);
}

/* ---- 2. Open it ---- */

static uint64_t region(uint32_t index)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = index };

	if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info))
		fail("VFIO_DEVICE_GET_REGION_INFO %u", index);
	return info.offset;
}

static void open_device(const char *node)
{
	if ((iommu = open("/dev/iommu", O_RDWR | O_CLOEXEC)) < 0)
		fail("/dev/iommu");
	if ((device = open(node, O_RDWR | O_CLOEXEC)) < 0)
		fail("%s", node);

	/* From here on the device belongs to this iommufd: nobody else may take it or a member of its group. */
	struct vfio_bind bind = { .argsz = sizeof(bind), .iommufd = iommu };
	if (ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, &bind))
		fail("VFIO_DEVICE_BIND_IOMMUFD");

	/* The device file shows BAR 0 and configuration space at these offsets: pread and pwrite reach the registers. */
	bar0 = region(REGION_BAR0);
	config = region(REGION_CONFIG);
	uint16_t command;
	if (pread(device, &command, 2, config + 4) != 2)
		fail("reading the command register");
	command |= 2 | 4; /* answer to memory accesses; master the bus, that is: be allowed to do DMA */
	if (pwrite(device, &command, 2, config + 4) != 2)
		fail("writing the command register");
	printf("2. Opened and bound: the device is object %u of our iommufd\n\n", bind.out_devid);
}

/* ---- 3. Give it an address space ---- */

static uint32_t make_address_space(void)
{
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
	if (ioctl(iommu, IOMMU_IOAS_ALLOC, &alloc))
		fail("IOMMU_IOAS_ALLOC");

	/* Attaching makes a page table (HWPT) that holds the address space, and lets the IOMMU use it for this device. */
	struct vfio_attach attach = { .argsz = sizeof(attach), .pt_id = alloc.out_ioas_id };
	if (ioctl(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach))
		fail("VFIO_DEVICE_ATTACH_IOMMUFD_PT");
	printf("3. An address space for the device: IOAS %u, with page table %u\n", alloc.out_ioas_id, attach.pt_id);
	return alloc.out_ioas_id;
}

/* Lets the device reach one page of ours under the address `iova`. The page is pinned until it is unmapped. */
static void map(uint32_t ioas, void *memory, uint64_t iova, uint32_t rights, const char *words)
{
	struct iommu_ioas_map map = {
		.size = sizeof(map), .flags = MAP_FIXED_IOVA | rights, .ioas_id = ioas,
		.user_va = (uintptr_t)memory, .length = PAGE, .iova = iova,
	};
	if (ioctl(iommu, IOMMU_IOAS_MAP, &map))
		fail("IOMMU_IOAS_MAP of 0x%" PRIx64, iova);
	printf("     IOVA 0x%" PRIx64 "  ->  %p  %s\n", iova, memory, words);
}

static void unmap(uint32_t ioas, uint64_t iova)
{
	struct iommu_ioas_unmap unmap = { .size = sizeof(unmap), .ioas_id = ioas, .iova = iova, .length = PAGE };
	if (ioctl(iommu, IOMMU_IOAS_UNMAP, &unmap))
		fail("IOMMU_IOAS_UNMAP of 0x%" PRIx64, iova);
}

/* ---- 4. Let it work ---- */

static void set_register(uint32_t offset, uint64_t value)
{
	if (pwrite(device, &value, 8, bar0 + offset) != 8)
		fail("writing register 0x%x", offset);
}

/* Starts the DMA engine and waits until it is done. A refused access ends it too: the device cannot tell us more. */
static void dma(uint64_t source, uint64_t target, uint32_t count, uint64_t command)
{
	set_register(EDU_DMA_SOURCE, source);
	set_register(EDU_DMA_TARGET, target);
	set_register(EDU_DMA_COUNT, count);
	set_register(EDU_DMA_COMMAND, EDU_START | command);
	for (int tries = 0; tries < 1000; tries++) {
		uint64_t state = 0;
		if (pread(device, &state, 8, bar0 + EDU_DMA_COMMAND) != 8)
			fail("reading the DMA command register");
		if (!(state & EDU_START))
			return;
		nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
	}
	errno = ETIMEDOUT;
	fail("DMA");
}

int main(void)
{
	const uint64_t source_iova = 0x100000, target_iova = 0x200000, nothing_iova = 0x300000;
	const char message[] = "Copied by the device, not by the processor.";
	char address[256], node[300], before[PAGE];

	setvbuf(stdout, NULL, _IOLBF, 0);
	find_device(address, sizeof(address), node, sizeof(node));
	open_device(node);

	char *source = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *target = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (source == MAP_FAILED || target == MAP_FAILED)
		fail("mmap");
	strcpy(source, message);
	uint32_t ioas = make_address_space();
	map(ioas, source, source_iova, MAP_READABLE, "the source: the device may read it");
	map(ioas, target, target_iova, MAP_READABLE | MAP_WRITEABLE, "the target: it may read and write it");

	printf("\n4. The device copies %zu bytes: memory -> its own buffer -> memory\n", sizeof(message));
	dma(source_iova, EDU_BUFFER, sizeof(message), 0);
	dma(EDU_BUFFER, target_iova, sizeof(message), EDU_TO_MEMORY);
	if (memcmp(source, target, sizeof(message))) {
		printf("     The target does not hold what the source holds. Something is broken.\n");
		return 1;
	}
	printf("     The target now says: \"%s\"\n\n", target);

	printf("5. The device is told to write to the source, which it may only read\n");
	memcpy(before, source, PAGE);
	memset(target, '#', PAGE);
	dma(target_iova, EDU_BUFFER, 64, 0);
	dma(EDU_BUFFER, source_iova, 64, EDU_TO_MEMORY);
	if (memcmp(before, source, PAGE)) {
		printf("     The source has changed. Something is broken.\n");
		return 1;
	}
	printf("     Not one byte of the source has changed.\n\n");

	printf("6. The device is told to write to IOVA 0x%" PRIx64 ", where nothing is mapped\n", nothing_iova);
	dma(EDU_BUFFER, nothing_iova, 64, EDU_TO_MEMORY);
	printf("     The write went nowhere; the program goes on.\n\n");

	unmap(ioas, source_iova);
	unmap(ioas, target_iova);
	close(device); /* gives the device back, and with it the page table */
	if (ioctl(iommu, IOMMU_DESTROY, &(struct iommu_destroy){ sizeof(struct iommu_destroy), ioas }))
		fail("IOMMU_DESTROY of IOAS %u", ioas);
	close(iommu);
	printf("7. Unmapped, closed; nothing is left behind.\n");
	return 0;
}
