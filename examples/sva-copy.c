/*
 * Shared virtual addressing, in plain C: three queues of two accelerators copy memory of this process. The memory comes
 * from malloc; nothing maps, pins or registers it for the devices. docs/accelerator.md is the manual.
 *
 *     cc -o sva-copy sva-copy.c && uiommu run --machine sva -- ./sva-copy
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define UACCE_CMD_START_Q _IO('W', 0)
#define UACCE_CMD_PUT_Q _IO('W', 1)
struct copy_submit { uint64_t source, destination; uint32_t length, job; };
struct copy_wait { uint32_t job, timeout, status, copied; };
#define COPY_SUBMIT _IOWR('W', 0x10, struct copy_submit)
#define COPY_WAIT _IOWR('W', 0x11, struct copy_wait)
#define FOR_EVER UINT32_MAX

static const char *const outcomes[] = {"not done", "done", "its source was refused", "its destination was refused"};

static void fail(const char *what)
{
	fflush(stdout);
	perror(what);
	exit(1);
}

/* One open file is one hardware queue, with the addresses of whoever opened it. */
static int open_queue(const char *path)
{
	int queue = open(path, O_RDWR | O_CLOEXEC);
	if (queue < 0)
		fail(path);
	if (ioctl(queue, UACCE_CMD_START_Q) < 0)
		fail("START_Q");
	return queue;
}

static uint32_t submit(int queue, const void *from, void *to, size_t length)
{
	struct copy_submit copy = {(uintptr_t)from, (uintptr_t)to, (uint32_t)length, 0};
	if (ioctl(queue, COPY_SUBMIT, &copy) < 0)
		fail("COPY_SUBMIT");
	return copy.job;
}

static struct copy_wait outcome(int queue, uint32_t job)
{
	struct copy_wait wait = {.job = job, .timeout = FOR_EVER};
	if (ioctl(queue, COPY_WAIT, &wait) < 0)
		fail("COPY_WAIT");
	return wait;
}

static const char *copy(int queue, const void *from, void *to, size_t length)
{
	return outcomes[outcome(queue, submit(queue, from, to, length)).status];
}

static void story(int step, const char *text) { printf("%s%d. %s\n", step > 1 ? "\n" : "", step, text); }
static const char *yes(int condition) { return condition ? "yes" : "NO"; }

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);

	story(1, "Two queues of one accelerator, one of another");
	int queues[] = {open_queue("/dev/copy_engine-0"), open_queue("/dev/copy_engine-0"), open_queue("/dev/copy_engine-1")};
	printf("   opened and started; no mapping call was made, and none will be\n");

	story(2, "Each copies a message between pieces of malloc memory");
	for (int i = 0; i < 3; i++) {
		char message[64], *from = malloc(64), *to = malloc(64);
		snprintf(message, sizeof(message), "Hello from queue %d.", i);
		strcpy(from, message);
		printf("   queue %d: %s; it reads \"%s\"\n", i, copy(queues[i], from, to, 64), to);
		free(from);
		free(to);
	}

	story(3, "A megabyte, from one odd address to another, into pages that nobody has touched");
	size_t length = 1 << 20;
	unsigned char *source = malloc(length + 64), *target = malloc(length + 64);
	for (size_t i = 0; i < length; i++)
		source[i + 13] = (unsigned char)(i * 7 + i / 4096);
	printf("   %s, over 256 page boundaries", copy(queues[0], source + 13, target + 29, length));
	printf("; the same bytes: %s\n", yes(memcmp(source + 13, target + 29, length) == 0));

	story(4, "All three at once, each a third of it");
	uint32_t jobs[3];
	memset(target, 0, length + 64);
	for (int i = 0; i < 3; i++)
		jobs[i] = submit(queues[i], source + 13 + i * 349525, target + 29 + i * 349525, 349525);
	for (int i = 0; i < 3; i++)
		printf("   queue %d: %s\n", i, outcomes[outcome(queues[i], jobs[i]).status]);
	printf("   the same bytes: %s\n", yes(memcmp(source + 13, target + 29, 3 * 349525) == 0));

	story(5, "Where the process may not go, the device may not go");
	char *constant = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	printf("   from address 0x1000: %s\n", copy(queues[0], (void *)0x1000, target, 8));
	printf("   to a read-only page: %s\n", copy(queues[0], source, constant, 8));
	printf("   from it:             %s\n", copy(queues[0], constant, target, 8));

	story(6, "fork: parent and child have their own pages");
	strcpy((char *)source, "what both had");
	copy(queues[2], source, target, 16);
	pid_t child = fork();
	if (child < 0)
		fail("fork");
	if (child == 0) {
		/* The parent's queues move the parent's memory; a child opens its own. */
		int own = open_queue("/dev/copy_engine-1");
		strcpy((char *)source, "the child's");
		const char *result = copy(own, source, target, 16);
		printf("   child:  %s; it reads \"%s\"\n", result, target);
		exit(0);
	}
	waitpid(child, NULL, 0);
	printf("   parent: it still reads \"%s\"", target);
	strcpy((char *)source, "the parent's");
	printf("; %s", copy(queues[2], source, target, 16));
	printf("; it reads \"%s\"\n", target);

	story(7, "munmap in the middle of a copy of 64 MiB");
	size_t large = 64 << 20;
	char *from = mmap(NULL, large, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *to = mmap(NULL, large, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	from[0] = 1;
	jobs[0] = submit(queues[0], from, to, large);
	jobs[1] = submit(queues[0], source, target, 16);
	while (*(volatile char *)to == 0)
		usleep(100);
	printf("   the first byte has arrived\n");
	munmap(from + large / 4 * 3, large / 4);
	struct copy_wait cut = outcome(queues[0], jobs[0]);
	printf("   the last quarter of the source is gone; the job: %s\n", outcomes[cut.status]);
	printf("   it copied what was left, and not a byte more: %s\n", yes(cut.copied == large / 4 * 3));
	printf("   the next job of that queue: %s\n", outcomes[outcome(queues[0], jobs[1]).status]);

	story(8, "exit, with queues open and a copy under way");
	submit(queues[1], to, from, large / 2);
	printf("   goodbye\n");
	return 0;
}
