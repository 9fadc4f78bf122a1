/* How descriptors come and go: close, dup, fcntl, ranges, SCM_RIGHTS. Our own connections are not the program's to
 * close; it may have their numbers. */
#include "shim.h"

#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

uint64_t before_close(int fd)
{
	uint64_t word = fd_word(fd);
	if (word == 0 || is_borrowed())
		return 0;
	if ((word & 0xff) == FD_TEXT)
		sync_with_host(fd);
	note_fd(fd, FD_UNKNOWN, 0);
	return word;
}

void after_close(uint64_t word)
{
	if (unlikely(is_file_kind((enum fd_kind)(word & 0xff))))
		tell_closed(word >> 8);
}

EXPORT int close(int fd)
{
	if (likely(fd_word(fd) == 0))
		return REAL(close)(fd);
	if (fd_kind(fd) == FD_CONNECTION && !is_borrowed())
		return (int)with_errno(-EBADF);
	uint64_t word = before_close(fd);
	int result = REAL(close)(fd);
	after_close(word);
	return result;
}

EXPORT int dup(int fd)
{
	int copy = REAL(dup)(fd);
	if (copy >= 0)
		copy_note(fd, copy);
	return copy;
}

/* Before `to` becomes a copy of `from`. */
static uint64_t replacing(int from, int to)
{
	if (likely(fd_word(to) == 0) || from == to)
		return 0;
	if (fd_kind(to) == FD_CONNECTION && !is_borrowed()) {
		move_connection(to);
		return 0;
	}
	return before_close(to);
}

EXPORT int dup2(int from, int to)
{
	uint64_t word = replacing(from, to);
	int result = REAL(dup2)(from, to);
	if (result >= 0 && from != to)
		copy_note(from, to);
	after_close(word);
	return result;
}

EXPORT int dup3(int from, int to, int flags)
{
	uint64_t word = replacing(from, to);
	int result = REAL(dup3)(from, to, flags);
	if (result >= 0)
		copy_note(from, to);
	after_close(word);
	return result;
}

#define FCNTL(name)                                                                                    \
	EXPORT int name(int fd, int command, ...)                                                      \
	{                                                                                              \
		va_list arguments;                                                                     \
		va_start(arguments, command);                                                          \
		void *argument = va_arg(arguments, void *);                                            \
		va_end(arguments);                                                                     \
		int result = REAL(name)(fd, command, argument);                                        \
		if ((command == F_DUPFD || command == F_DUPFD_CLOEXEC) && result >= 0)                 \
			copy_note(fd, result);                                                         \
		if (command == F_GETFL && result >= 0 && unlikely(is_file_kind(fd_kind(fd))))          \
			result = (result & ~O_ACCMODE) | fd_entry(fd)->access;                         \
		return result;                                                                         \
	}
FCNTL(fcntl)
FCNTL(fcntl64)

/* Does `range` to what lies between our connections. */
static int around_connections(unsigned first, unsigned last, int flags)
{
	if (!is_borrowed()) {
		for (int fd; first <= INT_MAX && (fd = next_connection((int)first)) >= 0 && (unsigned)fd <= last; first = (unsigned)fd + 1)
			if ((unsigned)fd > first && REAL(close_range)(first, (unsigned)fd - 1, flags) != 0)
				return -1;
	}
	return first > last ? 0 : REAL(close_range)(first, last, flags);
}

EXPORT int close_range(unsigned first, unsigned last, int flags)
{
	if (likely(space == NULL && !any_file_of_ours()) || first > last)
		return REAL(close_range)(first, last, flags);
	if ((flags & 4 /* CLOSE_RANGE_CLOEXEC */) == 0)
		for (unsigned fd = first; fd <= last && fd < FD_CHUNK * FD_CHUNKS; fd++) {
			if (fd_chunks[fd / FD_CHUNK] == NULL)
				fd |= FD_CHUNK - 1;
			else if (fd_word((int)fd) != 0)
				close((int)fd);
		}
	return around_connections(first, last, flags);
}

EXPORT void closefrom(int first)
{
	if (space == NULL && !any_file_of_ours())
		REAL(closefrom)(first);
	else
		close_range(first < 0 ? 0 : (unsigned)first, ~0u, 0);
}

/* A file of ours is a socket, but that is not for the program to know. */
#define NOT_A_SOCKET(type, name, parameters, ...)                                                      \
	EXPORT type name parameters                                                                    \
	{                                                                                              \
		if (is_ours(fd))                                                                       \
			return (type)with_errno(-ENOTSOCK);                                            \
		return REAL(name)(__VA_ARGS__);                                                        \
	}
NOT_A_SOCKET(int, shutdown, (int fd, int how), fd, how)
NOT_A_SOCKET(int, listen, (int fd, int backlog), fd, backlog)
NOT_A_SOCKET(int, bind, (int fd, __CONST_SOCKADDR_ARG address, socklen_t length), fd, address, length)
NOT_A_SOCKET(int, connect, (int fd, __CONST_SOCKADDR_ARG address, socklen_t length), fd, address, length)
NOT_A_SOCKET(int, getsockname, (int fd, __SOCKADDR_ARG address, socklen_t *length), fd, address, length)
NOT_A_SOCKET(int, getpeername, (int fd, __SOCKADDR_ARG address, socklen_t *length), fd, address, length)
NOT_A_SOCKET(int, getsockopt, (int fd, int level, int name, void *value, socklen_t *length), fd, level, name, value, length)
NOT_A_SOCKET(int, setsockopt, (int fd, int level, int name, const void *value, socklen_t length), fd, level, name, value, length)
NOT_A_SOCKET(ssize_t, send, (int fd, const void *bytes, size_t length, int flags), fd, bytes, length, flags)
NOT_A_SOCKET(ssize_t, sendto,
	     (int fd, const void *bytes, size_t length, int flags, __CONST_SOCKADDR_ARG address, socklen_t address_length), fd,
	     bytes, length, flags, address, address_length)
NOT_A_SOCKET(ssize_t, recv, (int fd, void *bytes, size_t length, int flags), fd, bytes, length, flags)
NOT_A_SOCKET(ssize_t, recvfrom, (int fd, void *bytes, size_t length, int flags, __SOCKADDR_ARG address, socklen_t *address_length),
	     fd, bytes, length, flags, address, address_length)

/* Nor do its bytes go past its own read and write: the kernel has no such way for a device. */
#define NO_SPLICE(name, parameters, ...)                                                               \
	EXPORT ssize_t name parameters                                                                 \
	{                                                                                              \
		if (is_ours(out) || is_ours(in))                                                       \
			return with_errno(-EINVAL);                                                    \
		return REAL(name)(__VA_ARGS__);                                                        \
	}
NO_SPLICE(sendfile, (int out, int in, off_t *offset, size_t count), out, in, offset, count)
NO_SPLICE(sendfile64, (int out, int in, off64_t *offset, size_t count), out, in, offset, count)
NO_SPLICE(splice, (int in, off64_t *from, int out, off64_t *to, size_t count, unsigned flags), in, from, out, to, count, flags)
NO_SPLICE(copy_file_range, (int in, off64_t *from, int out, off64_t *to, size_t count, unsigned flags), in, from, out, to, count, flags)

/* Descriptors that came with a message. */
static void received(struct msghdr *message)
{
	for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part != NULL; part = CMSG_NXTHDR(message, part)) {
		if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t at = 0; CMSG_LEN(at + sizeof(int)) <= part->cmsg_len; at += sizeof(int)) {
			int fd;
			memcpy(&fd, CMSG_DATA(part) + at, sizeof(fd));
			forget_fd(fd);
			discover_file(fd);
			files_are_shared = true;
		}
	}
}

int pidfd_getfd(int process, int fd, unsigned flags);
EXPORT int pidfd_getfd(int process, int fd, unsigned flags)
{
	int copy = (int)with_errno(raw(SYS_pidfd_getfd, process, fd, flags));
	if (copy >= 0) {
		forget_fd(copy);
		discover_file(copy);
		files_are_shared |= file_inode(copy) != 0;
	}
	return copy;
}

EXPORT ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
	if (is_ours(fd))
		return with_errno(-ENOTSOCK);
	ssize_t size = REAL(recvmsg)(fd, message, flags);
	if (unlikely(place.active) && size >= 0 && message->msg_controllen >= sizeof(struct cmsghdr))
		received(message);
	return size;
}

EXPORT int recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout)
{
	int got = REAL(recvmmsg)(fd, messages, count, flags, timeout);
	for (int i = 0; place.active && i < got; i++)
		if (messages[i].msg_hdr.msg_controllen >= sizeof(struct cmsghdr))
			received(&messages[i].msg_hdr);
	return got;
}

/* A file of ours may go to another process. */
EXPORT ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	if (is_ours(fd))
		return with_errno(-ENOTSOCK);
	if (message->msg_controllen > 0)
		keep_memory();
	return REAL(sendmsg)(fd, message, flags);
}
