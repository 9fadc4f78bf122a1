/* windows: memory of the machine that a client maps, and queues that others empty. Prints "ok" or "FAIL" and the promise. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/wait.h>
#include <unistd.h>
#include "promises.h"

enum { PEEK = 0x3b01, POKE, USERS, QUEUE, PUSH, POP, RESULT };
enum { PAGE = 4096, OFFSET = PAGE, LENGTH = 2 * PAGE };

static int fd;
static void *volatile nowhere = (void *)1;

static uint64_t *map(int protection, int flags, size_t length, off_t offset)
{
	errno = 0;
	void *at = mmap(NULL, length, protection, flags, fd, offset);
	return at == MAP_FAILED ? NULL : at;
}
static uint64_t *window(void) { return map(PROT_READ | PROT_WRITE, MAP_SHARED, LENGTH, OFFSET); }
static int refused(const void *at, int error) { return at == NULL && errno == error; }
static uint64_t peek(uint64_t offset)
{
	uint64_t words[2] = {offset, 0};
	return ioctl(fd, PEEK, words) == 0 ? words[1] : ~0ull;
}
static int poke(uint64_t offset, uint64_t value)
{
	uint64_t words[2] = {offset, value};
	return ioctl(fd, POKE, words);
}
static int users(void) { return ioctl(fd, USERS, 0); }

static void refusals(void)
{
	say("a private mapping is refused", refused(map(PROT_READ, MAP_PRIVATE, LENGTH, OFFSET), EINVAL));
	say("one for execution too", refused(map(PROT_READ | PROT_EXEC, MAP_SHARED, LENGTH, OFFSET), EPERM));
	say("and a part of a window", refused(map(PROT_READ, MAP_SHARED, PAGE, OFFSET), ENXIO));
	say("and an offset that is no page's", refused(map(PROT_READ, MAP_SHARED, LENGTH, 1), EINVAL));
	say("and no bytes", refused(map(PROT_READ, MAP_SHARED, 0, OFFSET), EINVAL));
	say("nothing of that counts", users() == 0);
}

static void sharing(void)
{
	say("the machine writes first", poke(0, 11) == 0);
	uint64_t *at = window();
	say("a window is mapped", at != NULL && users() == 1);
	say("it has what was there", at[0] == 11);
	say("what the machine writes is seen", poke(LENGTH - 8, 22) == 0 && at[LENGTH / 8 - 1] == 22);
	at[1] = 33;
	say("what the program writes is seen", peek(8) == 33);
	uint64_t *again = window();
	say("it can be mapped twice", again != NULL && again != at && users() == 2 && again[1] == 33);
	uint64_t *fixed = mmap(again, LENGTH, PROT_READ, MAP_SHARED | MAP_FIXED, fd, OFFSET);
	say("and over another mapping", fixed == again && fixed[1] == 33);
	munmap(again, LENGTH);
	munmap(at, PAGE);
	say("a part that is left counts", users() > 0);
	munmap((char *)at + PAGE, PAGE);
	say("the last part does not", users() == 0);
	say("the content stays", peek(8) == 33 && (at = window()) != NULL && at[1] == 33);
	munmap(at, LENGTH);
}

static void children(void)
{
	int go[2];
	uint64_t *at = window();
	say("a window is mapped before fork", at != NULL && pipe(go) == 0);
	pid_t child = fork();
	if (child == 0) {
		char byte;
		if (read(go[0], &byte, 1) == 1)
			at[2] = 44;
		_exit(0);
	}
	munmap(at, LENGTH);
	say("a child that never spoke to the host has it too", users() == 1);
	say("and writes to it", write(go[1], "x", 1) == 1 && waitpid(child, NULL, 0) == child && peek(16) == 44);
	say("until it exits", users() == 0);
}

static int selected(int queue)
{
	fd_set set;
	struct timeval now = {0, 0};
	FD_ZERO(&set);
	FD_SET(queue, &set);
	return select(queue + 1, &set, NULL, NULL, &now);
}

static void queues(void)
{
	int queue = -1;
	say("a queue is made", ioctl(fd, QUEUE, &queue) == 0 && queue >= 0);
	struct pollfd poller = {queue, POLLIN, 0};
	int epoll = epoll_create1(0);
	struct epoll_event event = {.events = EPOLLIN};
	epoll_ctl(epoll, EPOLL_CTL_ADD, queue, &event);
#define POLLED() (poll(&poller, 1, 0))
#define EPOLLED() (epoll_wait(epoll, &event, 1, 0))
	say("an empty queue is not readable", POLLED() == 0 && EPOLLED() == 0 && selected(queue) == 0);
	ioctl(fd, PUSH, 7);
	say("a filled one is", POLLED() == 1 && EPOLLED() == 1 && selected(queue) == 1);
	ioctl(fd, POP, 0);
	say("one that another call emptied is not", POLLED() == 0 && EPOLLED() == 0 && selected(queue) == 0);
	fcntl(queue, F_SETFL, O_NONBLOCK);
	unsigned char value = 0;
	say("reading an empty queue gives nothing", read(queue, &value, 1) == 0);
	ioctl(fd, PUSH, 8);
	errno = 0;
	say("what memory refuses is not lost", read(queue, nowhere, 1) == -1 && errno == EFAULT && POLLED() == 1);
	int copy = dup(queue);
	pid_t child = fork();
	if (child == 0)
		_exit(read(copy, &value, 1) == 1 ? value : 0);
	int status = 0;
	say("a child reads a copy", waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 8);
	say("and the parent sees it empty", read(queue, &value, 1) == 0);
	errno = 0;
	say("a queue has no position", pread(queue, &value, 1, 0) == -1 && errno == ESPIPE && lseek(queue, 0, SEEK_SET) == -1);
	errno = 0;
	say("a write of what cannot be read is refused", write(queue, nowhere, 1) == -1 && errno == EFAULT);
	say("a write is taken from memory", write(queue, "q", 1) == 1 && read(queue, &value, 1) == 1 && value == 'q');
	say("a call returns a descriptor", (copy = ioctl(fd, RESULT, 0)) > queue && (fcntl(copy, F_GETFD) & FD_CLOEXEC));
	poller = (struct pollfd){queue, POLLIN | POLLOUT, 0};
	say("a queue that takes answers is writable", POLLED() == 1 && poller.revents == POLLOUT);
	poller.fd = copy;
	say("one that only speaks is not", POLLED() == 0 && poller.events == (POLLIN | POLLOUT));
	event.events = EPOLLIN | EPOLLOUT;
	epoll_ctl(epoll, EPOLL_CTL_ADD, copy, &event);
	say("nor for epoll", EPOLLED() == 0);
	fd_set set;
	FD_ZERO(&set);
	FD_SET(copy, &set);
	struct timeval now = {0, 0};
	say("nor for select", select(copy + 1, NULL, &set, NULL, &now) == 0);
	ioctl(fd, PUSH, 109);
	say("until it speaks", POLLED() == 1 && poller.revents == POLLIN && EPOLLED() == 1 && event.events == EPOLLIN);
	say("and is heard", read(copy, &value, 1) == 1 && value == 109 && POLLED() == 0);
}

int main(void)
{
	fd = open("/dev/window", O_RDWR);
	say("the file opens", fd >= 0);
	refusals();
	sharing();
	children();
	queues();
	uint64_t *at = window();
	close(fd);
	at[3] = 55;
	say("a mapping outlives its file's descriptor", at[3] == 55);
	return 0;
}
