/*
 * load PROCESSES DEVICES AREAS ROUNDS: so many processes at once, each with its own iommufd, so many mock devices and so
 * many mapped areas in one IOAS. When all have everything, each takes its own apart and counts what it gets back.
 * Prints the resident memory of the host, the parent, in MB: at first, then full and after each round.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define DESTROY    _IO(';', 0x80)
#define IOAS_ALLOC _IO(';', 0x81)
#define IOAS_MAP   _IO(';', 0x85)
#define IOAS_UNMAP _IO(';', 0x86)
#define TEST_CMD   _IO(';', 0xa0)
enum { MOCK_DOMAIN = 2, MD_CHECK_MAP = 3, CHECK_REFS = 4, PAGE = 4096, PAGES = 1024, START = 0x1000000 };

struct destroy { uint32_t size, id; };
struct alloc { uint32_t size, flags, id; };
struct map { uint32_t size, flags, ioas, reserved; uint64_t address, length, iova; };
struct unmap { uint32_t size, ioas; uint64_t iova, length; };
struct test {
	uint32_t size, op, id, reserved;
	union {
		struct { uint32_t device, hwpt, bound; } made;
		struct { uint64_t iova, length, address; } check;
		struct { uint64_t length, address; uint32_t refs; } refs;
		char room[56];
	};
};

static pthread_barrier_t *everybody;

static void must(int good, const char *what)
{
	if (good)
		return;
	perror(what);
	exit(1);
}

static long host_megabytes(pid_t host)
{
	char path[64], line[256];
	long kilobytes = 0;
	snprintf(path, sizeof(path), "/proc/%d/status", host);
	FILE *status = fopen(path, "r");
	while (status && fgets(line, sizeof(line), status))
		if (sscanf(line, "VmRSS: %ld", &kilobytes) == 1)
			break;
	if (status)
		fclose(status);
	return kilobytes / 1000;
}

static void one_process(int devices, int areas)
{
	char *memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t *ids = calloc((size_t)devices, sizeof(*ids));
	int iommu = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	must(memory != MAP_FAILED && ids != NULL && iommu >= 0, "open");
	memset(memory, 1, PAGES * PAGE);
	struct alloc ioas = { sizeof(ioas), 0, 0 };
	must(ioctl(iommu, IOAS_ALLOC, &ioas) == 0, "IOAS_ALLOC");
	uint32_t hwpt = 0;
	for (int i = 0; i < devices; i++) {
		struct test made = { sizeof(made), MOCK_DOMAIN, ioas.id, 0, { { 0, 0, 0 } } };
		must(ioctl(iommu, TEST_CMD, &made) == 0, "MOCK_DOMAIN");
		ids[i] = made.made.device;
		hwpt = made.made.hwpt;
	}
	for (int i = 0; i < areas; i++) {
		struct map map = { sizeof(map), 7, ioas.id, 0, (uintptr_t)memory + (uint64_t)(i % PAGES) * PAGE, PAGE,
				   START + (uint64_t)i * PAGE };
		must(ioctl(iommu, IOAS_MAP, &map) == 0, "IOAS_MAP");
	}
	pthread_barrier_wait(everybody);
	pthread_barrier_wait(everybody);
	for (int i = 0; i + PAGES <= areas; i += PAGES * 8) {
		struct test check = { sizeof(check), MD_CHECK_MAP, hwpt, 0, { { 0, 0, 0 } } };
		check.check.iova = START + (uint64_t)i * PAGE;
		check.check.length = PAGES * PAGE;
		check.check.address = (uintptr_t)memory;
		must(ioctl(iommu, TEST_CMD, &check) == 0, "MD_CHECK_MAP");
	}
	/* The first half one by one, the rest at once. */
	for (int i = 0; i < areas / 2; i++) {
		struct unmap unmap = { sizeof(unmap), ioas.id, START + (uint64_t)i * PAGE, PAGE };
		must(ioctl(iommu, IOAS_UNMAP, &unmap) == 0 && unmap.length == PAGE, "IOAS_UNMAP");
	}
	struct unmap rest = { sizeof(rest), ioas.id, 0, UINT64_MAX };
	must(ioctl(iommu, IOAS_UNMAP, &rest) == 0 && rest.length == (uint64_t)(areas - areas / 2) * PAGE, "IOAS_UNMAP of all");
	struct test refs = { sizeof(refs), CHECK_REFS, 0, 0, { { 0, 0, 0 } } };
	refs.refs.length = PAGES * PAGE;
	refs.refs.address = (uintptr_t)memory;
	must(ioctl(iommu, TEST_CMD, &refs) == 0, "MD_CHECK_REFS");
	/* The first half is destroyed, the rest goes with the file. */
	for (int i = 0; i < devices / 2; i++) {
		struct destroy destroy = { sizeof(destroy), ids[i] };
		must(ioctl(iommu, DESTROY, &destroy) == 0, "DESTROY");
	}
	close(iommu);
	exit(0);
}

int main(int count, char **arguments)
{
	must(count == 5, "load PROCESSES DEVICES AREAS ROUNDS");
	int processes = atoi(arguments[1]), devices = atoi(arguments[2]), areas = atoi(arguments[3]);
	pid_t host = getppid();
	pthread_barrierattr_t shared;
	everybody = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	must(everybody != MAP_FAILED, "mmap");
	pthread_barrierattr_init(&shared);
	pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
	pthread_barrier_init(everybody, &shared, (unsigned)processes + 1);
	printf("%ld\n", host_megabytes(host));
	fflush(stdout);
	for (int round = 0; round < atoi(arguments[4]); round++) {
		for (int i = 0; i < processes; i++) {
			pid_t child = fork();
			must(child >= 0, "fork");
			if (child == 0)
				one_process(devices, areas);
		}
		pthread_barrier_wait(everybody);
		long full = host_megabytes(host);
		pthread_barrier_wait(everybody);
		for (int i = 0, status; i < processes; i++)
			must(wait(&status) > 0 && status == 0, "a process failed");
		sleep(1);
		printf("%ld %ld\n", full, host_megabytes(host));
		fflush(stdout);
	}
	return 0;
}
