/* The time of one IOMMU_OPTION get: prints its p50 and p99 in nanoseconds, of as many calls as the argument says. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>

#define IOMMU_IOAS_ALLOC _IO(';', 0x81)
#define IOMMU_OPTION     _IO(';', 0x87)
enum { HUGE_PAGES = 1, GET = 1 };

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

int main(int argc, char **argv)
{
	size_t count = argc > 1 ? strtoul(argv[1], NULL, 10) : 20000;
	uint64_t *times = calloc(count, sizeof(*times));
	int iommu = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	struct { uint32_t size, flags, id; } ioas = { sizeof(ioas), 0, 0 };

	if (times == NULL || iommu < 0 || ioctl(iommu, IOMMU_IOAS_ALLOC, &ioas) != 0) {
		perror("option");
		return 1;
	}
	struct { uint32_t size, option; uint16_t op, reserved; uint32_t object; uint64_t value; } get = {
		sizeof(get), HUGE_PAGES, GET, 0, ioas.id, 0
	};
	for (size_t i = 0; i < count; i++) {
		uint64_t start = now();
		if (ioctl(iommu, IOMMU_OPTION, &get) != 0)
			return 1;
		times[i] = now() - start;
	}
	qsort(times, count, sizeof(*times), compare);
	printf("%lu %lu\n", (unsigned long)times[count / 2], (unsigned long)times[count - count / 100 - 1]);
	return 0;
}
