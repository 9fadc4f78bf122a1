/*
 * Waiting for descriptors. The socket that stands for a file says by itself
 * when the file can be read; it could always be written. A file that takes
 * nothing is never writable: who asks for that is not heard.
 */
#include "shim.h"

#include <alloca.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>

#define WRITABLE (POLLOUT | POLLWRNORM | POLLWRBAND)

bool silent_files;

static bool is_silent(int fd)
{
	struct fd_entry *entry = fd >= 0 && fd_kind(fd) == FD_FILE ? fd_entry(fd) : NULL;
	return entry != NULL && (entry->description == FILE_SILENT || entry->description == FILE_POLLED);
}

/* libc's headers say that these calls only write to `files`; the compiler believes them. */
#define READ(files)                                                                                    \
	__extension__({                                                                                \
		struct pollfd *read_ = (files);                                                        \
		__asm__("" : "+r"(read_) : : "memory");                                                \
		read_;                                                                                 \
	})

static bool asks_in_vain(const struct pollfd *files, nfds_t count)
{
	if (likely(!silent_files))
		return false;
	for (nfds_t i = 0; i < count; i++)
		if ((files[i].events & WRITABLE) != 0 && is_silent(files[i].fd))
			return true;
	return false;
}

/* What is asked for, without what never comes. */
static void ask_possible(struct pollfd *to, const struct pollfd *from, nfds_t count)
{
	for (nfds_t i = 0; i < count; i++) {
		to[i] = from[i];
		if (is_silent(from[i].fd))
			to[i].events &= (short)~WRITABLE;
	}
}
static int answer(int result, struct pollfd *to, const struct pollfd *from, nfds_t count)
{
	for (nfds_t i = 0; result >= 0 && i < count; i++)
		to[i].revents = from[i].revents;
	return result;
}

EXPORT int poll(struct pollfd *files, nfds_t count, int timeout)
{
	struct pollfd *given = READ(files);
	if (likely(!asks_in_vain(given, count)))
		return REAL(poll)(files, count, timeout);
	struct pollfd *asked = alloca(count * sizeof(*asked));
	ask_possible(asked, given, count);
	return answer(REAL(poll)(asked, count, timeout), given, asked, count);
}

EXPORT int ppoll(struct pollfd *files, nfds_t count, const struct timespec *timeout, const sigset_t *mask)
{
	struct pollfd *given = READ(files);
	if (likely(!asks_in_vain(given, count)))
		return REAL(ppoll)(files, count, timeout, mask);
	struct pollfd *asked = alloca(count * sizeof(*asked));
	ask_possible(asked, given, count);
	return answer(REAL(ppoll)(asked, count, timeout, mask), given, asked, count);
}

void __chk_fail(void) __attribute__((noreturn));
int __poll_chk(struct pollfd *files, nfds_t count, int timeout, size_t size);
int __ppoll_chk(struct pollfd *files, nfds_t count, const struct timespec *timeout, const sigset_t *mask, size_t size);
EXPORT int __poll_chk(struct pollfd *files, nfds_t count, int timeout, size_t size)
{
	if (size / sizeof(*files) < count)
		__chk_fail();
	return poll(files, count, timeout);
}
EXPORT int __ppoll_chk(struct pollfd *files, nfds_t count, const struct timespec *timeout, const sigset_t *mask, size_t size)
{
	if (size / sizeof(*files) < count)
		__chk_fail();
	return ppoll(files, count, timeout, mask);
}

/* Most devices have no poll of their own: poll(2) calls them ready, and epoll refuses them. */
EXPORT int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
	if (operation == EPOLL_CTL_ADD && is_ours(fd) && fd_entry(fd)->description == FILE_DEVICE)
		return (int)with_errno(-EPERM);
	if (likely(!silent_files || operation == EPOLL_CTL_DEL || event == NULL || !is_silent(fd)))
		return REAL(epoll_ctl)(epoll, operation, fd, event);
	struct epoll_event asked = *event;
	asked.events &= ~(uint32_t)WRITABLE;
	return REAL(epoll_ctl)(epoll, operation, fd, &asked);
}

static void ask_less(int count, fd_set *files)
{
	if (likely(!silent_files) || files == NULL)
		return;
	for (int fd = 0; fd < count && fd < FD_SETSIZE; fd++)
		if (FD_ISSET(fd, files) && is_silent(fd))
			FD_CLR(fd, files);
}

EXPORT int select(int count, fd_set *read, fd_set *write, fd_set *except, struct timeval *timeout)
{
	ask_less(count, write);
	return REAL(select)(count, read, write, except, timeout);
}

EXPORT int pselect(int count, fd_set *read, fd_set *write, fd_set *except, const struct timespec *timeout, const sigset_t *mask)
{
	ask_less(count, write);
	return REAL(pselect)(count, read, write, except, timeout, mask);
}
