/*
 * Holds eventfds of clients for the host, which cannot receive descriptors.
 *
 *     uiommu-fd-helper DIR
 *
 * Makes three FIFOs and a socket in DIR (protocol.h), and does what it is told.
 * Ends when the host closes helper-commands, or dies. It never waits for the
 * host to read: a signal stays in its eventfd until there is room to tell it.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "protocol.h"

/* How long a client may take to send a descriptor, in milliseconds. */
#define PATIENCE 5000

static int *held; /* by token; -1: none */
static size_t capacity;

/* Watched eventfds, their tokens, and which of them are the same; before them what is polled beside. */
enum { COMMANDS, ROOM, FIRST };
static struct pollfd *polled;
struct watched {
	uint32_t token;
	int id; /* of the eventfd, however many descriptors it has */
};
static struct watched *watched;
static size_t polled_count = FIRST, polled_capacity;

static int signals, mailbox;

static int keep(uint32_t token, int fd)
{
	if (token >= capacity) {
		size_t wanted = (size_t)token * 2 + 64;
		int *more = realloc(held, wanted * sizeof(*held));
		if (more == NULL)
			return ENOMEM;
		for (size_t i = capacity; i < wanted; i++)
			more[i] = -1;
		held = more;
		capacity = wanted;
	}
	held[token] = fd;
	return 0;
}

static int take(const struct uiommu_helper_command *command)
{
	int process = (int)syscall(SYS_pidfd_open, command->pid, 0);
	if (process < 0)
		return errno;
	int fd = (int)syscall(SYS_pidfd_getfd, process, command->fd, 0);
	int error = fd < 0 ? errno : keep(command->token, fd);
	close(process);
	return error;
}

/* One message: the token it names, and the descriptor it brings, or -1. */
static bool next_message(uint32_t *token, int *fd)
{
	struct iovec part = {token, sizeof(*token)};
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	*fd = -1;
	if (recvmsg(mailbox, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) != sizeof(*token))
		return false;
	struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
	if (rights != NULL && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS)
		memcpy(fd, CMSG_DATA(rights), sizeof(*fd));
	return true;
}

static int receive(const struct uiommu_helper_command *command)
{
	struct pollfd from[2] = {
		{.fd = mailbox, .events = POLLIN},
		{.fd = (int)syscall(SYS_pidfd_open, command->pid, 0), .events = POLLIN},
	};
	int error = ETIMEDOUT;
	while (poll(from, 2, PATIENCE) > 0 || errno == EINTR) {
		uint32_t token;
		int fd;
		if (next_message(&token, &fd)) {
			if (token == command->token) {
				error = fd < 0 ? EBADF : keep(token, fd);
				break;
			}
			if (fd >= 0)
				close(fd); /* came too late for its call */
		} else if (from[1].revents != 0) {
			error = ESRCH;
			break;
		}
	}
	if (from[1].fd >= 0)
		close(from[1].fd);
	return error;
}

static void unwatch(uint32_t token)
{
	for (size_t i = FIRST; i < polled_count; i++) {
		if (watched[i].token != token)
			continue;
		polled_count--;
		polled[i] = polled[polled_count];
		watched[i] = watched[polled_count];
		return;
	}
}

static bool reserve(size_t count)
{
	if (count <= polled_capacity)
		return true;
	size_t wanted = count * 2 + 16;
	struct pollfd *more = realloc(polled, wanted * sizeof(*polled));
	if (more != NULL)
		polled = more;
	struct watched *more_watched = realloc(watched, wanted * sizeof(*watched));
	if (more_watched != NULL)
		watched = more_watched;
	if (more == NULL || more_watched == NULL)
		return false;
	polled_capacity = wanted;
	return true;
}

/* As /proc tells it; -1 if it does not. */
static int id_of(int fd)
{
	char path[40], line[64];
	int id = -1;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	FILE *info = fopen(path, "re");
	if (info == NULL)
		return -1;
	while (id < 0 && fgets(line, sizeof(line), info) != NULL)
		sscanf(line, "eventfd-id: %d", &id);
	fclose(info);
	return id;
}

static int watch(uint32_t token, int fd)
{
	if (!reserve(polled_count + 1))
		return ENOMEM;
	polled[polled_count] = (struct pollfd){.fd = fd, .events = POLLIN};
	watched[polled_count] = (struct watched){token, id_of(fd)};
	polled_count++;
	return 0;
}

static bool has_room(void)
{
	struct pollfd room = {.fd = signals, .events = POLLOUT};
	return poll(&room, 1, 0) == 1;
}

/* All that watch the eventfd of `first` hear of one signal, whoever reads it. */
static void tell(size_t first)
{
	for (size_t i = FIRST; i < polled_count; i++)
		if (i == first || (watched[first].id >= 0 && watched[i].id == watched[first].id))
			while (write(signals, &watched[i].token, sizeof(watched[i].token)) < 0 && errno == EINTR)
				;
}

/* Takes back to 0 every counter that poll has found, and tells. */
static void tell_signals(void)
{
	for (size_t i = FIRST; i < polled_count; i++) {
		uint64_t counter;
		struct iovec part = {&counter, sizeof(counter)};
		if ((polled[i].revents & POLLIN) == 0 || !has_room())
			continue;
		/* The client may have read it since, and need not have made it non-blocking. */
		ssize_t size = preadv2(polled[i].fd, &part, 1, -1, RWF_NOWAIT);
		if (size < 0 && errno == EOPNOTSUPP)
			size = read(polled[i].fd, &counter, sizeof(counter));
		if (size == sizeof(counter))
			tell(i);
	}
}

static int handle(const struct uiommu_helper_command *command)
{
	int fd = command->token < capacity ? held[command->token] : -1;
	uint64_t one = 1;
	switch (command->operation) {
	case HELPER_TAKE:
		return take(command);
	case HELPER_RECEIVE:
		return receive(command);
	case HELPER_SIGNAL: {
		/* A full counter would make us wait: then the event is there already. */
		struct pollfd room = {.fd = fd, .events = POLLOUT};
		if (fd >= 0 && poll(&room, 1, 0) == 1 && write(fd, &one, sizeof(one)) != sizeof(one))
			return errno;
		return 0;
	}
	case HELPER_WATCH:
		if (command->fd != 0 && fd >= 0)
			return watch(command->token, fd);
		unwatch(command->token);
		return 0;
	case HELPER_LOOK:
		if (poll(polled + FIRST, polled_count - FIRST, 0) > 0)
			tell_signals();
		return 0;
	case HELPER_RELEASE:
		unwatch(command->token);
		if (fd >= 0) {
			close(fd);
			held[command->token] = -1;
		}
		return 0;
	default:
		return EINVAL;
	}
}

static const char *directory;
static const char *in_directory(const char *name, char path[108])
{
	snprintf(path, 108, "%s/%s", directory, name);
	return path;
}

static int open_fifo(const char *name, int flags)
{
	char path[108];
	if (mkfifo(in_directory(name, path), 0600) != 0)
		return -1;
	return open(path, flags | O_CLOEXEC);
}

static int open_mailbox(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	in_directory("helper", address.sun_path);
	return fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 ? fd : -1;
}

int main(int count, char **arguments)
{
	char being_made[108], ready[108];
	struct rlimit files;
	if (count != 2 || strlen(directory = arguments[1]) > 80)
		return 2;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	int in = open_fifo("helper-commands", O_RDONLY | O_NONBLOCK);
	mailbox = open_mailbox();
	signals = open_fifo("helper-signals", O_RDWR);
	int out = open_fifo("helper-answers.new", O_RDWR);
	if (in < 0 || out < 0 || signals < 0 || mailbox < 0 || !reserve(FIRST))
		return 1;
	if (rename(in_directory("helper-answers.new", being_made), in_directory("helper-answers", ready)) != 0)
		return 1;
	struct uiommu_helper_command batch[256];
	size_t have = 0;
	for (;;) {
		bool room = has_room();
		polled[COMMANDS] = (struct pollfd){.fd = in, .events = POLLIN};
		polled[ROOM] = (struct pollfd){.fd = room ? -1 : signals, .events = POLLOUT};
		if (poll(polled, room ? polled_count : FIRST, -1) < 0) {
			if (errno == EINTR)
				continue;
			return 1;
		}
		bool told = (polled[COMMANDS].revents & (POLLIN | POLLHUP)) != 0;
		if (room)
			tell_signals();
		if (!told)
			continue;
		ssize_t size = read(in, (char *)batch + have, sizeof(batch) - have);
		if (size == 0)
			return 0;
		if (size < 0) {
			if (errno == EAGAIN || errno == EINTR)
				continue;
			return 1;
		}
		have += (size_t)size;
		size_t done = 0;
		for (; have - done * sizeof(*batch) >= sizeof(*batch); done++) {
			int32_t error = handle(&batch[done]);
			if (write(out, &error, sizeof(error)) != sizeof(error))
				return 1;
		}
		have -= done * sizeof(*batch);
		memmove(batch, batch + done, have);
	}
}
