/* Processes whose memory devices use: `sva WHAT` prints a word for each step that holds. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define START_Q _IO('W', 0)
#define PUT_Q _IO('W', 1)
struct submit { uint64_t source, destination; uint32_t length, job; };
struct wait { uint32_t job, timeout, status, copied; };
#define SUBMIT _IOWR('W', 0x10, struct submit)
#define WAIT _IOWR('W', 0x11, struct wait)
enum { PENDING, DONE, READ_FAULT, WRITE_FAULT };

static void say(const char *what, int ok) { printf("%s %s\n", ok ? "ok" : "FAIL", what); }

static int open_queue(int device)
{
	char path[32];
	snprintf(path, sizeof(path), "/dev/copy_engine-%d", device);
	int queue = open(path, O_RDWR);
	if (queue >= 0)
		ioctl(queue, START_Q);
	return queue;
}
static uint32_t submit(int queue, const volatile void *from, volatile void *to, size_t length)
{
	struct submit copy = {(uintptr_t)from, (uintptr_t)to, (uint32_t)length, 0};
	return ioctl(queue, SUBMIT, &copy) < 0 ? UINT32_MAX : copy.job;
}
static struct wait await(int queue, uint32_t job)
{
	struct wait wait = {.job = job, .timeout = 20000};
	if (ioctl(queue, WAIT, &wait) < 0)
		wait.status = 100 + (uint32_t)errno;
	return wait;
}
static uint32_t copy(int queue, const volatile void *from, volatile void *to, size_t length)
{
	return await(queue, submit(queue, from, to, length)).status;
}
static char *pages(size_t count)
{
	return mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

/* Each kind of change, with a device that knew the page before. */
static void changes(void)
{
	int queue = open_queue(0);
	char *p = pages(8), *out = pages(2);
	memset(p, 1, 8 * PAGE);
	say("a copy", copy(queue, p, out, PAGE) == DONE && out[PAGE - 1] == 1);

	munmap(p, PAGE);
	say("after munmap nothing is there", copy(queue, p, out, 8) == READ_FAULT);
	memset(p + PAGE, 2, PAGE);
	copy(queue, p + PAGE, out, 8);
	char *q = mmap(p + PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	say("a page mapped over it is the one that counts", q == p + PAGE && copy(queue, q, out, 8) == DONE && out[0] == 0);

	copy(queue, out, p + 2 * PAGE, 8);
	mprotect(p + 2 * PAGE, PAGE, PROT_READ);
	say("after mprotect to read-only it is not written", copy(queue, out, p + 2 * PAGE, 8) == WRITE_FAULT);
	say("and still read", copy(queue, p + 2 * PAGE, out, 8) == DONE);
	mprotect(p + 2 * PAGE, PAGE, PROT_NONE);
	say("after mprotect to nothing not even that", copy(queue, p + 2 * PAGE, out, 8) == READ_FAULT);
	mprotect(p + 2 * PAGE, PAGE, PROT_READ | PROT_WRITE);
	say("after mprotect back both", copy(queue, p + 2 * PAGE, out, 8) == DONE && copy(queue, out, p + 2 * PAGE, 8) == DONE);

	memset(p + 3 * PAGE, 3, PAGE);
	copy(queue, p + 3 * PAGE, out, 8);
	madvise(p + 3 * PAGE, PAGE, MADV_DONTNEED);
	say("MADV_DONTNEED: zeros", copy(queue, p + 3 * PAGE, out, 8) == DONE && out[0] == 0);

	memset(p + 4 * PAGE, 4, PAGE);
	copy(queue, p + 4 * PAGE, out, 8);
	char *m = mremap(p + 4 * PAGE, PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, pages(4));
	say("mremap: nothing where it was", copy(queue, p + 4 * PAGE, out, 8) == READ_FAULT);
	say("mremap: all of it where it is", copy(queue, m, out, 8) == DONE && out[0] == 4);
	m = mremap(m, 4 * PAGE, PAGE, 0);
	say("mremap: shrunk", copy(queue, m + PAGE, out, 8) == READ_FAULT && copy(queue, m, out, 8) == DONE);

	char *top = sbrk(4 * PAGE);
	memset(top, 5, 4 * PAGE);
	say("the heap", copy(queue, top + 3 * PAGE, out, 8) == DONE && out[0] == 5);
	sbrk(-4 * PAGE);
	say("after sbrk back nothing is there", copy(queue, top + 3 * PAGE, out, 8) == READ_FAULT);

	int segment = shmget(IPC_PRIVATE, PAGE, IPC_CREAT | 0600);
	char *s = shmat(segment, NULL, 0);
	shmctl(segment, IPC_RMID, NULL);
	s[0] = 6;
	say("System V shared memory", copy(queue, s, out, 8) == DONE && out[0] == 6);
	shmdt(s);
	say("after shmdt nothing is there", copy(queue, s, out, 8) == READ_FAULT);

	int file = memfd_create("shared", 0);
	if (ftruncate(file, PAGE) != 0)
		return;
	char *f = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	copy(queue, m, f, 8);
	char seen = 0;
	say("a shared file gets what the device writes", pread(file, &seen, 1, 0) == 1 && seen == 4);
	say("behind its end nothing is there", copy(queue, f + PAGE, out, 8) == READ_FAULT);

	char local[64] = "on the stack";
	say("the stack", copy(queue, local, out, 16) == DONE && strcmp(out, "on the stack") == 0);
	say("the constants of the program", copy(queue, "constant", out, 9) == DONE && strcmp(out, "constant") == 0);
	say("which are not written", copy(queue, out, (char *)(uintptr_t)"constant", 9) == WRITE_FAULT);

	char *c = pages(2);
	strcpy(c, "both");
	copy(queue, c, c + PAGE, 8);
	int tell[2];
	if (pipe(tell) != 0)
		return;
	pid_t child = fork();
	if (child == 0) {
		/* The file is the parent's queue still. */
		strcpy(c, "child");
		say("a child moves its parent's memory by its parent's queue", copy(queue, c, c + PAGE, 8) == DONE && strcmp(c + PAGE, "both") == 0);
		int own = open_queue(1);
		say("and its own by its own", copy(own, c, c + PAGE, 8) == DONE && strcmp(c + PAGE, "child") == 0);
		fflush(stdout);
		_exit(0);
	}
	waitpid(child, NULL, 0);
	say("what the parent has is what its queue moved", strcmp(c, "both") == 0 && strcmp(c + PAGE, "both") == 0);
	strcpy(c, "parent");
	say("after fork the device writes the parent's pages", copy(queue, c, c + PAGE, 8) == DONE && strcmp(c + PAGE, "parent") == 0);

	munmap(p + 5 * PAGE, PAGE);
	syscall(SYS_mprotect, p + 6 * PAGE, PAGE, PROT_READ);
	say("syscall(2) is seen", copy(queue, out, p + 6 * PAGE, 8) == WRITE_FAULT);
	top = (char *)syscall(SYS_brk, 0);
	say("the heap grows by it", (char *)syscall(SYS_brk, top + PAGE) == top + PAGE && copy(queue, out, top, 8) == DONE);
	say("and shrinks", (char *)syscall(SYS_brk, top) == top && copy(queue, out, top, 8) == WRITE_FAULT);
	close(queue);
	queue = open_queue(1);
	say("another device after the first is closed", copy(queue, c, c + PAGE, 8) == DONE);
}

static long raw3(long number, long a, long b, long c)
{
#ifdef __x86_64__
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
#else
	register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
	return x0;
#endif
}

/* Changes that no preloaded library sees: libc's own, and system calls of the program's own. */
static void unseen(void)
{
	int queue = open_queue(0);
	char *out = pages(2);
	char *chunk = malloc(1 << 20);
	memset(chunk, 7, 1 << 20);
	say("a chunk of malloc", copy(queue, chunk, out, 8) == DONE && out[0] == 7);
	copy(queue, out, chunk, 8);
	void *hole = mmap(chunk - 16, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	say("(it is mapped)", hole == MAP_FAILED);
	char *volatile gone = chunk;
	free(chunk);
	say("after free its pages are not read", copy(queue, gone, out, 8) == READ_FAULT);
	say("and not written", copy(queue, out, gone, 8) == WRITE_FAULT);

	char *p = pages(4);
	memset(p, 1, 4 * PAGE);
	copy(queue, p, p + PAGE, PAGE);
	raw3(SYS_munmap, (long)p, 2 * PAGE, 0);
	say("a system call of the program's own: not read", copy(queue, p, out, 8) == READ_FAULT);
	say("not written", copy(queue, out, p + PAGE, 8) == WRITE_FAULT);
	char *again = mmap(p, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	again[0] = 9;
	say("what is mapped there later is what the device reads", copy(queue, again, out, 8) == DONE && out[0] == 9);
	int written = 0;
	for (int round = 0; round < 50; round++) {
		if (copy(queue, out, p + 2 * PAGE, 8) != DONE)
			written = 1;
		raw3(SYS_mprotect, (long)(p + 2 * PAGE), PAGE, PROT_READ);
		if (copy(queue, out, p + 2 * PAGE, 8) != WRITE_FAULT)
			written = 1;
		raw3(SYS_mprotect, (long)(p + 2 * PAGE), PAGE, PROT_READ | PROT_WRITE);
	}
	say("written exactly while it is writable", !written);
}

static int failures;
static void *copier(void *value)
{
	long number = (long)value;
	unsigned seed = (unsigned)number * 7919 + 1;
	int queue = open_queue((int)(number % 2));
	for (int round = 0; round < 40; round++) {
		size_t count = 1 + (size_t)rand_r(&seed) % 12, length = count * PAGE - (size_t)(rand_r(&seed) % 100);
		char *from = pages(count), *to = pages(count + 1);
		size_t skip = (size_t)(rand_r(&seed) % PAGE);
		memset(from, 1 + rand_r(&seed) % 100, count * PAGE);
		if (copy(queue, from, to + skip, length) != DONE || memcmp(from, to + skip, length) != 0)
			__atomic_add_fetch(&failures, 1, __ATOMIC_RELAXED);
		/* A job is under way while its pages go: it ends, one way or the other. */
		uint32_t job = submit(queue, from, to + skip, length);
		munmap(from, count * PAGE);
		uint32_t status = await(queue, job).status;
		if (status != DONE && status != READ_FAULT)
			__atomic_add_fetch(&failures, 1, __ATOMIC_RELAXED);
		munmap(to, (count + 1) * PAGE);
	}
	close(queue);
	return NULL;
}
static void threads(void)
{
	pthread_t all[8];
	for (long i = 0; i < 8; i++)
		pthread_create(&all[i], NULL, copier, (void *)i);
	for (int i = 0; i < 8; i++)
		pthread_join(all[i], NULL);
	say("eight threads, each with its queue", failures == 0);
}

/* Ends in whatever way the test wants, with copies under way. */
static void victim(void)
{
	size_t large = (size_t)64 << 20;
	char *from = pages(large / PAGE), *to = pages(large / PAGE);
	for (int i = 0; i < 4; i++)
		submit(open_queue(i % 2), from, to, large);
	say("under way", 1);
	fflush(stdout);
	pause();
}

static void before_exec(char **arguments)
{
	int queue = open_queue(0);
	char *p = pages(2), number[16];
	size_t large = (size_t)64 << 20;
	submit(queue, pages(large / PAGE), pages(large / PAGE), large);
	say("a copy", p != MAP_FAILED);
	fflush(stdout);
	snprintf(number, sizeof(number), "%d", queue);
	execl("/proc/self/exe", arguments[0], "after-exec", number, NULL);
}
static void after_exec(int queue)
{
	char *p = pages(2);
	strcpy(p, "new");
	say("the queue that was kept reaches nothing of the new program", copy(queue, p, p + PAGE, 8) == READ_FAULT);
	int own = open_queue(0);
	say("its own does", copy(own, p, p + PAGE, 8) == DONE && strcmp(p + PAGE, "new") == 0);
}

static void garbage(void)
{
	unsigned seed = 1;
	int queue = open_queue(0), other = open_queue(0);
	char *p = pages(4);
	for (int i = 0; i < 3000; i++) {
		unsigned long numbers[] = {START_Q, PUT_Q, SUBMIT, WAIT, 0x5700u + (unsigned)rand_r(&seed) % 64, (unsigned)rand_r(&seed)};
		uint32_t words[6];
		for (int w = 0; w < 6; w++)
			words[w] = rand_r(&seed) % 3 == 0 ? (uint32_t)rand_r(&seed) : (uint32_t)rand_r(&seed) % 9;
		if (rand_r(&seed) % 2 == 0)
			words[1] = 0;
		void *argument = rand_r(&seed) % 8 == 0 ? (void *)(uintptr_t)words[0] : words;
		ioctl(queue, numbers[rand_r(&seed) % 6], argument);
	}
	close(queue);
	queue = open_queue(0);
	uint32_t *doorbell = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, queue, 0);
	uint32_t *ring = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, queue, PAGE);
	say("both regions are mapped", doorbell != MAP_FAILED && ring != MAP_FAILED);
	say("others are not", mmap(NULL, PAGE, PROT_READ, MAP_SHARED, queue, 2 * PAGE) == MAP_FAILED && errno == EINVAL);
	for (int i = 0; i < PAGE / 4; i++)
		ring[i] = (uint32_t)rand_r(&seed);
	doorbell[0] = 100;
	usleep(50000);
	doorbell[0] = 0xdeadbeef;
	usleep(50000);
	say("another queue does its work meanwhile", copy(other, p, p + PAGE, 8) == DONE);
	ioctl(queue, PUT_Q);
	say("and this one when it began anew", ioctl(queue, START_Q) == 0 && copy(queue, p, p + PAGE, 8) == DONE);
}

/* A program that needs no call for a job. */
static void doorbell(void)
{
	int queue = open_queue(1);
	volatile uint32_t *bell = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, queue, 0);
	volatile uint64_t *ring = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, queue, PAGE);
	char *p = pages(2);
	for (int job = 0; job < 300; job++) {
		volatile uint64_t *descriptor = ring + 4 * (job % 128);
		p[0] = (char)job;
		descriptor[0] = (uintptr_t)p;
		descriptor[1] = (uintptr_t)(p + PAGE);
		descriptor[2] = 1;
		descriptor[3] = 0;
		bell[0] = (uint32_t)job + 1;
		for (int i = 0; i < 20000 && (uint32_t)descriptor[3] == 0; i++)
			usleep(100);
		if ((uint32_t)descriptor[3] != DONE || p[PAGE] != (char)job) {
			say("a job without a call", 0);
			return;
		}
	}
	for (int i = 0; i < 20000 && bell[1] != 300; i++)
		usleep(100);
	say("300 jobs without a call", bell[1] == 300);
}

static void waiting(void)
{
	int queue = open_queue(0);
	char *p = pages(2);
	struct pollfd file = {.fd = queue, .events = POLLIN | POLLOUT};
	say("nothing to read, never to write", poll(&file, 1, 0) == 0);
	uint32_t job = submit(queue, p, p + PAGE, 8);
	say("an outcome", poll(&file, 1, 5000) == 1 && file.revents == POLLIN);
	int set = epoll_create1(0);
	struct epoll_event event = {.events = EPOLLIN};
	say("epoll too", epoll_ctl(set, EPOLL_CTL_ADD, queue, &event) == 0 && epoll_wait(set, &event, 1, 5000) == 1);
	await(queue, job);
	say("which is told once", poll(&file, 1, 0) == 0 && epoll_wait(set, &event, 1, 0) == 0);
	size_t large = (size_t)8 << 20;
	struct wait days = {.job = submit(queue, pages(large / PAGE), pages(large / PAGE), large), .timeout = UINT32_MAX - 1};
	say("a wait of 49 days ends with its job", ioctl(queue, WAIT, &days) == 0 && days.status == DONE);
	struct stat status;
	say("it is a character device", fstat(queue, &status) == 0 && S_ISCHR(status.st_mode));
	int reader = open("/dev/copy_engine-1", O_RDONLY);
	say("opened for reading it is mapped for reading", mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, reader, PAGE) == MAP_FAILED && errno == EACCES &&
		mmap(NULL, PAGE, PROT_READ, MAP_SHARED, reader, PAGE) != MAP_FAILED);
}

static int write_name(const char *path)
{
	int file = open(path, O_WRONLY);
	int result = file >= 0 && write(file, "0000:00:01.0", 12) == 12;
	close(file);
	return result;
}

/* The driver is unbound from the device while its files are in use. */
static void removal(void)
{
	int queue = open_queue(0), other = open_queue(1);
	size_t large = (size_t)64 << 20;
	uint32_t *ring = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, queue, PAGE);
	char *p = pages(2);
	uint32_t job = submit(queue, pages(large / PAGE), pages(large / PAGE), large);
	say("unbound with a copy under way", write_name("/sys/bus/pci/drivers/uacce/unbind"));
	say("the file stays open and answers ENXIO", await(queue, job).status == 100 + ENXIO && ioctl(queue, START_Q) == -1 && errno == ENXIO);
	say("it cannot be mapped any more", mmap(NULL, PAGE, PROT_READ, MAP_SHARED, queue, 0) == MAP_FAILED && errno == ENXIO);
	ring[0] = 1;
	say("what is mapped stays", ring[0] == 1);
	say("the device's file is gone", open("/dev/copy_engine-0", O_RDWR) == -1 && errno == ENOENT);
	say("the other device works on", copy(other, p, p + PAGE, 8) == DONE);
	say("bound again", write_name("/sys/bus/pci/drivers/uacce/bind"));
	int again = open_queue(0);
	say("and in use", copy(again, p, p + PAGE, 8) == DONE);
	say("the old file is of no use for ever", ioctl(queue, START_Q) == -1 && errno == ENXIO);
}

/* What a process shares is there as long as any of its threads, also when the first one has ended. */
static int first_queue;
static void *survivor(void *unused)
{
	char path[PAGE];
	while (readlink("/proc/self/exe", path, sizeof(path)) > 0)
		usleep(1000);
	char *p = pages(2);
	strcpy(p, "alive");
	say("a queue of the thread that ended", copy(first_queue, p, p + PAGE, 8) == DONE && strcmp(p + PAGE, "alive") == 0);
	munmap(p, PAGE);
	say("and a change of mappings", copy(first_queue, p, p + PAGE, 8) == READ_FAULT);
	int queue = open_queue(1);
	say("a queue that is opened now", queue >= 0 && copy(queue, p + PAGE, p + PAGE + 8, 8) == DONE);
	fflush(stdout);
	exit(0);
	return unused;
}
static void leader(void)
{
	pthread_t thread;
	first_queue = open_queue(0);
	pthread_create(&thread, NULL, survivor, NULL);
	pthread_exit(NULL);
}

static double seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}
/* Prints microseconds: a copy of 4 KiB, a page that the device brings in, a munmap. */
static void speed(void)
{
	enum { JOBS = 2000, FAULTS = 4096 };
	int queue = open_queue(0);
	char *p = pages(2);
	memset(p, 1, 2 * PAGE);
	copy(queue, p, p + PAGE, PAGE);
	double start = seconds();
	for (int i = 0; i < JOBS; i++)
		copy(queue, p, p + PAGE, PAGE);
	double job = (seconds() - start) / JOBS;
	char *source = pages(64), *target = pages(FAULTS);
	start = seconds();
	for (int i = 0; i < FAULTS; i += 64)
		copy(queue, source, target + i * PAGE, 64 * PAGE);
	double fault = (seconds() - start) / FAULTS;
	start = seconds();
	for (int i = 0; i < FAULTS; i++)
		munmap(target + i * PAGE, PAGE);
	printf("%.2f %.2f %.2f\n", job * 1e6, fault * 1e6, (seconds() - start) / FAULTS * 1e6);
}

int main(int count, char **arguments)
{
	const char *what = count > 1 ? arguments[1] : "";
	if (strcmp(what, "changes") == 0) changes();
	else if (strcmp(what, "unseen") == 0) unseen();
	else if (strcmp(what, "threads") == 0) threads();
	else if (strcmp(what, "victim") == 0) victim();
	else if (strcmp(what, "exec") == 0) before_exec(arguments);
	else if (strcmp(what, "after-exec") == 0) after_exec(atoi(arguments[2]));
	else if (strcmp(what, "garbage") == 0) garbage();
	else if (strcmp(what, "doorbell") == 0) doorbell();
	else if (strcmp(what, "waiting") == 0) waiting();
	else if (strcmp(what, "removal") == 0) removal();
	else if (strcmp(what, "leader") == 0) leader();
	else if (strcmp(what, "speed") == 0) speed();
	else return 2;
	return 0;
}
