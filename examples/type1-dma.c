/*
 * type1-dma: the older way to a device, by a VFIO container and an IOMMU group, as programs have done it since 2012.
 *
 *   find the device and its group in sysfs -> open a container -> give the group the container -> choose the IOMMU type
 *   -> map memory into the container -> take the device out of the group -> let it do DMA -> unmap, close
 *
 * On Linux with iommufd the container is an iommufd, and its address space an IOAS. Type 1 allows what its successor
 * (type 1 v2) does not: to unmap a part of what was mapped in one piece.
 *
 * The device is "edu" (vendor 1234, device 11e8; its registers are described in QEMU's docs/specs/edu); dma-copy.c tells
 * more of it.
 *
 *   cc -o type1-dma type1-dma.c && npx uiommu run -- ./type1-dma
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/vfio.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* The edu device's registers, in BAR 0, and its own memory, as its DMA engine addresses it. */
enum { EDU_DMA_SOURCE = 0x80, EDU_DMA_TARGET = 0x88, EDU_DMA_COUNT = 0x90, EDU_DMA_COMMAND = 0x98 };
enum { EDU_START = 1, EDU_TO_MEMORY = 2, EDU_BUFFER = 0x40000 };

#define PAGE 4096u
#define IOVA 0x100000u

static int container = -1, group = -1, device = -1;
static uint64_t bar0, config; /* where the device file shows BAR 0 and configuration space */

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *what, ...)
{
	int error = errno;
	va_list arguments;

	va_start(arguments, what);
	fputs("type1-dma: ", stderr);
	vfprintf(stderr, what, arguments);
	fprintf(stderr, ": %s\n", strerror(error));
	exit(1);
}

/* An ioctl that must not fail; what it returns. */
static int must(const char *name, int result)
{
	if (result < 0)
		fail("%s", name);
	return result;
}
#define MUST(fd, request, ...) must(#request, ioctl(fd, request, __VA_ARGS__))

/* Finds the edu device with the lowest address that is bound to vfio-pci, and the node of its group. */
static void find_device(char *address, size_t address_size, char *node, size_t node_size)
{
	char path[PATH_MAX], target[PATH_MAX], word[16];
	DIR *directory = opendir("/sys/bus/pci/drivers/vfio-pci");
	struct dirent *entry;

	address[0] = 0;
	while (directory && (entry = readdir(directory))) {
		if (!strchr(entry->d_name, ':') || (address[0] && strcmp(address, entry->d_name) < 0))
			continue;
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vendor", entry->d_name);
		FILE *vendor = fopen(path, "r");
		if (vendor && fgets(word, sizeof(word), vendor) && strtoul(word, NULL, 16) == 0x1234)
			snprintf(address, address_size, "%s", entry->d_name);
		if (vendor)
			fclose(vendor);
	}
	if (directory)
		closedir(directory);
	if (!address[0]) {
		fprintf(stderr, "type1-dma: no edu device (1234:11e8) is bound to vfio-pci; try: npx uiommu run -- ./type1-dma\n");
		exit(2);
	}
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", address);
	ssize_t length = readlink(path, target, sizeof(target) - 1);
	if (length < 0)
		fail("%s", path);
	target[length] = 0;
	snprintf(node, node_size, "/dev/vfio/%s", strrchr(target, '/') + 1);
}

static void open_container(void)
{
	struct vfio_iommu_type1_info info = {.argsz = sizeof(info)};

	if ((container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC)) < 0)
		fail("/dev/vfio/vfio");
	printf("1. A container: API version %d", MUST(container, VFIO_GET_API_VERSION, 0));
	printf(", type 1: %d", MUST(container, VFIO_CHECK_EXTENSION, VFIO_TYPE1_IOMMU));
	printf(", type 1 v2: %d\n", MUST(container, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU));
	if (ioctl(container, VFIO_IOMMU_GET_INFO, &info) == 0 || errno != ENODEV)
		fail("a container without groups has something to tell");
}

static void open_group(const char *node)
{
	struct vfio_group_status status = {.argsz = sizeof(status)};

	if ((group = open(node, O_RDWR | O_CLOEXEC)) < 0)
		fail("%s", node);
	if (open(node, O_RDWR) >= 0 || errno != EBUSY)
		fail("%s can be opened twice", node);
	MUST(group, VFIO_GROUP_GET_STATUS, &status);
	printf("2. The group: viable %d", !!(status.flags & VFIO_GROUP_FLAGS_VIABLE));
	MUST(group, VFIO_GROUP_SET_CONTAINER, &container);
	MUST(group, VFIO_GROUP_GET_STATUS, &status);
	printf(", container set %d\n", !!(status.flags & VFIO_GROUP_FLAGS_CONTAINER_SET));
	MUST(container, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU);
}

/* What the container says of itself: the head, and behind it a chain of capabilities. */
static void show_container(void)
{
	union {
		struct vfio_iommu_type1_info info;
		char bytes[1024];
	} buffer = {.info.argsz = sizeof(buffer)};

	MUST(container, VFIO_IOMMU_GET_INFO, &buffer);
	printf("3. The container: pages of 4 KiB %d, capabilities", !!(buffer.info.iova_pgsizes & PAGE));
	for (uint32_t at = buffer.info.cap_offset; at != 0;) {
		struct vfio_info_cap_header *header = (void *)(buffer.bytes + at);
		printf(" %u", header->id);
		at = header->next;
	}
	printf("\n");
}

static uint64_t region(uint32_t index)
{
	struct vfio_region_info info = {.argsz = sizeof(info), .index = index};

	MUST(device, VFIO_DEVICE_GET_REGION_INFO, &info);
	return info.offset;
}

static void open_device(const char *address)
{
	struct vfio_device_info info = {.argsz = sizeof(info)};
	uint16_t command;

	device = must("VFIO_GROUP_GET_DEVICE_FD", ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address));
	if (!(fcntl(device, F_GETFD) & FD_CLOEXEC))
		fail("the device's descriptor has no close-on-exec");
	MUST(device, VFIO_DEVICE_GET_INFO, &info);
	printf("4. The device: PCI %d, %u regions, %u interrupts\n", !!(info.flags & VFIO_DEVICE_FLAGS_PCI), info.num_regions,
	       info.num_irqs);
	bar0 = region(VFIO_PCI_BAR0_REGION_INDEX);
	config = region(VFIO_PCI_CONFIG_REGION_INDEX);
	if (pread(device, &command, 2, config + 4) != 2)
		fail("reading the command register");
	command |= 2 | 4; /* memory accesses, bus mastering */
	if (pwrite(device, &command, 2, config + 4) != 2)
		fail("writing the command register");
}

static void set_register(uint32_t offset, uint64_t value)
{
	if (pwrite(device, &value, 8, bar0 + offset) != 8)
		fail("writing register 0x%x", offset);
}

/* Starts the DMA engine and waits until it is done. A refused access ends it too. */
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
		nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
	}
	errno = ETIMEDOUT;
	fail("DMA");
}

/* Lets the device copy `count` bytes of its address space to another place in it. */
static void copy(uint64_t source, uint64_t target, uint32_t count)
{
	dma(source, EDU_BUFFER, count, 0);
	dma(EDU_BUFFER, target, count, EDU_TO_MEMORY);
}

static uint64_t unmap(uint32_t flags, uint64_t iova, uint64_t size)
{
	struct vfio_iommu_type1_dma_unmap unmap = {.argsz = sizeof(unmap), .flags = flags, .iova = iova, .size = size};

	MUST(container, VFIO_IOMMU_UNMAP_DMA, &unmap);
	return unmap.size;
}

int main(void)
{
	const char message[] = "Copied through a container.";
	char address[300], node[64];

	setvbuf(stdout, NULL, _IOLBF, 0);
	find_device(address, sizeof(address), node, sizeof(node));
	open_container();
	open_group(node);
	show_container();

	char *memory = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		fail("mmap");
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)memory,
		.iova = IOVA,
		.size = 4 * PAGE,
	};
	MUST(container, VFIO_IOMMU_MAP_DMA, &map);
	open_device(address);

	strcpy(memory, message);
	copy(IOVA, IOVA + 2 * PAGE + 16, sizeof(message));
	printf("5. The device copied: \"%s\"\n", memory + 2 * PAGE + 16);

	printf("6. Unmapped from the middle: %" PRIu64 " pages\n", unmap(0, IOVA + PAGE, 2 * PAGE) / PAGE);
	copy(IOVA, IOVA + 2 * PAGE + 64, sizeof(message));
	copy(IOVA, IOVA + 3 * PAGE, sizeof(message));
	printf("   What is unmapped is out of reach: %s; what is not is not: %s\n", memory[2 * PAGE + 64] ? "no" : "yes",
	       strcmp(memory + 3 * PAGE, message) ? "no" : "yes");
	printf("   Unmapped, all that was left: %" PRIu64 " pages\n", unmap(VFIO_DMA_UNMAP_FLAG_ALL, 0, 0) / PAGE);

	close(device);
	MUST(group, VFIO_GROUP_UNSET_CONTAINER, 0);
	close(group);
	close(container);
	if ((group = open(node, O_RDWR)) < 0)
		fail("%s cannot be opened again", node);
	printf("7. Closed; the group is free.\n");
	return 0;
}
