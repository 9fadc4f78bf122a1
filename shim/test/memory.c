/* What happens to pinned pages: prints a word for each step that holds. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096
static int fd;
struct pin { uint64_t address; uint32_t pages, writable; uint64_t pinned; };
struct byte { uint64_t page, offset; uint8_t byte, pad[7]; };

static int pin(void *address, unsigned pages, int writable, uint64_t *pinned)
{
	struct pin pin = {(uintptr_t)address, pages, (uint32_t)writable, 0};
	int result = ioctl(fd, 0x3b03, &pin) < 0 ? -errno : 0;
	if (pinned)
		*pinned = pin.pinned;
	return result;
}
static int peek(int page)
{
	struct byte byte = {.page = (uint64_t)page};
	return ioctl(fd, 0x3b05, &byte) < 0 ? -errno : byte.byte;
}
static int poke(int page, uint8_t value)
{
	struct byte byte = {.page = (uint64_t)page, .byte = value};
	return ioctl(fd, 0x3b06, &byte) < 0 ? -errno : 0;
}
static void unpin(void) { ioctl(fd, 0x3b04, 0); }
static void say(const char *what, int ok) { printf("%s %s\n", ok ? "ok" : "FAIL", what); }

static char *pages(int count) { return mmap(NULL, (size_t)count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }

int main(void)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	fd = open("/dev/toy/echo", O_RDWR);
	char *p = pages(4);
	uint64_t pinned;
	memset(p, 1, 4 * PAGE);
	say("pins four pages", pin(p, 4, 1, &pinned) == 0 && pinned == 4);
	say("the same page twice is one frame", pin(p, 2, 1, &pinned) == 0 && pinned == 4);
	p[PAGE] = 7;
	say("the device reads what the program wrote", peek(1) == 7);
	poke(2, 9);
	say("the program reads what the device wrote", p[2 * PAGE] == 9);
	munmap(p + PAGE, PAGE);
	say("munmap keeps the content", peek(1) == 7 && poke(1, 8) == 0 && peek(1) == 8);
	char *q = mmap(p + PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	say("a new page there is another one", q == p + PAGE && poke(1, 5) == 0 && q[0] == 0);
	madvise(p, PAGE, MADV_DONTNEED);
	say("MADV_DONTNEED gives the program a new page", p[0] == 0 && peek(0) == 1);
	char *m = mremap(p + 2 * PAGE, PAGE, 8 * PAGE, MREMAP_MAYMOVE);
	poke(2, 77);
	say("mremap takes the page along", m[0] == 77);
	unpin();

	char *f = pages(1);
	f[0] = 3;
	pin(f, 1, 1, NULL);
	pid_t child = fork();
	if (child == 0) {
		f[0] = 4;
		_exit(f[0] == 4 ? 0 : 1);
	}
	waitpid(child, NULL, 0);
	poke(0, 6);
	say("a forked child has its own copy", f[0] == 6 && peek(0) == 6);
	unpin();

	say("an absent page is EFAULT", pin((void *)0x10000, 1, 0, NULL) == -EFAULT);
	char *r = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	say("a read-only page is not writable", pin(r, 1, 1, NULL) == -EFAULT && pin(r, 1, 0, NULL) == 0);
	mprotect(r, PAGE, PROT_NONE);
	say("PROT_NONE is EFAULT", pin(r, 1, 0, NULL) == -EFAULT);
	unpin();
	int file = memfd_create("two", 0);
	if (ftruncate(file, PAGE) != 0)
		return 1;
	char *s = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	say("behind the end of a file is EFAULT", pin(s, 2, 1, NULL) == -EFAULT);
	s[0] = 1;
	say("a page of a file", pin(s, 1, 1, NULL) == 0 && peek(0) == 1);
	munmap(s, 2 * PAGE);
	poke(0, 42);
	char seen = 0;
	say("shared memory stays shared after munmap", pread(file, &seen, 1, 0) == 1 && seen == 42);
	unpin();

	/* The process that pinned is gone; the file is not. */
	static const char *const how[] = {"SIGKILL", "exit", "exec", "exit without a child"};
	for (int way = 0; way < 4; way++) {
		close(fd);
		fd = open("/dev/toy/echo", O_RDWR);
		int tell[2];
		if (pipe(tell) != 0)
			return 1;
		child = fork();
		if (child == 0) {
			char *k = pages(3);
			k[0] = 11, k[PAGE] = 12;
			pin(k, 3, 1, NULL);
			if (way < 3) {
				pid_t grandchild = fork();
				if (grandchild == 0)
					_exit(0);
				waitpid(grandchild, NULL, 0);
			}
			say("wait() has no other child", wait(NULL) == -1 && errno == ECHILD);
			close(tell[1]);
			if (way == 0)
				raise(SIGKILL);
			if (way == 2)
				execl("/bin/true", "true", NULL);
			_exit(0);
		}
		close(tell[1]);
		waitpid(child, NULL, 0);
		char line[64];
		snprintf(line, sizeof(line), "after %s pinned pages keep their content", how[way]);
		say(line, peek(0) == 11 && peek(1) == 12 && poke(2, 13) == 0 && peek(2) == 13);
		unpin();
		close(tell[0]);
	}
	return 0;
}
