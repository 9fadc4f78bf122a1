/* What tests of the mock IOMMU expect of their surroundings: one line for each thing that is as it should be. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES 512ul
#define LENGTH (PAGES * 4096)

union test {
	struct {
		uint32_t size, op, id, reserved;
	};
	uint32_t word[18];
	uint64_t wide[9];
};

static int iommu;

static void check(const char *what, int good)
{
	printf("%s: %s\n", good ? "ok" : "wrong", what);
}

static int test(union test *command)
{
	command->size = sizeof(*command);
	return ioctl(iommu, 0x3ba0, command);
}

static uint32_t allocate(void)
{
	uint32_t command[3] = {sizeof(command)};
	return ioctl(iommu, 0x3b81, command) == 0 ? command[2] : 0;
}

static long status_of(const char *name)
{
	char line[256];
	long value = -1;
	FILE *file = fopen("/proc/self/status", "r");
	while (file != NULL && fgets(line, sizeof(line), file) != NULL)
		if (strncmp(line, name, strlen(name)) == 0)
			value = atol(line + strlen(name) + 1);
	if (file != NULL)
		fclose(file);
	return value;
}

int main(void)
{
	iommu = open("/dev/iommu", O_RDWR);
	uint32_t ioas = allocate();
	union test domain = {.op = 2, .id = ioas};
	check("a mock device is attached", test(&domain) == 0);

	int file = memfd_create("shared", 0);
	check("a memory file", file >= 0 && ftruncate(file, LENGTH) == 0);
	char *memory = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	struct {
		uint32_t size, flags, ioas;
		int32_t fd;
		uint64_t start, length, iova;
	} map_file = {sizeof(map_file), 6, ioas, file, 0, LENGTH, 0};
	check("the file is mapped by its descriptor", ioctl(iommu, 0x3b8f, &map_file) == 0);
	union test map = {.op = 3, .id = domain.word[5]};
	map.wide[2] = map_file.iova;
	map.wide[3] = LENGTH;
	map.wide[4] = (uintptr_t)memory;
	check("its pages are those that are mapped here", test(&map) == 0);

	long before = status_of("VmPin:");
	char *huge = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	check("there are huge pages", huge != MAP_FAILED && (uintptr_t)huge % LENGTH == 0);
	struct {
		uint32_t size, flags, ioas, reserved;
		uint64_t address, length, iova;
	} map_memory = {sizeof(map_memory), 6, ioas, 0, (uintptr_t)huge, LENGTH, 0};
	check("they are mapped", ioctl(iommu, 0x3b85, &map_memory) == 0);
	check("VmPin counts what is pinned", before >= 0 && status_of("VmPin:") - before == (long)LENGTH / 1024);

	char text[16] = "";
	int failures = open("/proc/self/fail-nth", O_RDWR);
	check("failures can be armed", failures >= 0 && pwrite(failures, "1", 1, 0) == 1);
	check("the next thing that can fail does", allocate() == 0);
	check("and it is told", pread(failures, text, sizeof(text), 0) == 2 && strcmp(text, "0\n") == 0);
	check("only that one", allocate() != 0);
	return 0;
}
