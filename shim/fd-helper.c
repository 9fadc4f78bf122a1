/*
 * Holds eventfds of clients for the host, which cannot receive descriptors.
 *
 *     uiommu-fd-helper DIR
 *
 * Makes two FIFOs in DIR, helper-commands and helper-answers, and answers each
 * command (struct command) with one int32, 0 or an error number. Ends when the
 * host closes helper-commands, or dies.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "protocol.h"

static int *held; /* by token; -1: none */
static size_t capacity;

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

static int handle(const struct uiommu_helper_command *command)
{
	int fd = command->token < capacity ? held[command->token] : -1;
	uint64_t one = 1;
	switch (command->operation) {
	case HELPER_TAKE:
		return take(command);
	case HELPER_SIGNAL: {
		/* A full counter would make us wait: then the event is there already. */
		struct pollfd room = {.fd = fd, .events = POLLOUT};
		if (fd >= 0 && poll(&room, 1, 0) == 1 && write(fd, &one, sizeof(one)) != sizeof(one))
			return errno;
		return 0;
	}
	case HELPER_RELEASE:
		if (fd >= 0) {
			close(fd);
			held[command->token] = -1;
		}
		return 0;
	default:
		return EINVAL;
	}
}

int main(int count, char **arguments)
{
	char commands[256], answers[256], ready[256];
	struct rlimit files;
	if (count != 2 || strlen(arguments[1]) > 200)
		return 2;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	snprintf(commands, sizeof(commands), "%s/helper-commands", arguments[1]);
	snprintf(answers, sizeof(answers), "%s/helper-answers.new", arguments[1]);
	snprintf(ready, sizeof(ready), "%s/helper-answers", arguments[1]);
	if (mkfifo(commands, 0600) != 0 || mkfifo(answers, 0600) != 0)
		return 1;
	int in = open(commands, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	int out = open(answers, O_RDWR | O_CLOEXEC);
	if (in < 0 || out < 0 || rename(answers, ready) != 0)
		return 1;
	struct uiommu_helper_command batch[256];
	size_t have = 0;
	for (;;) {
		struct pollfd input = {.fd = in, .events = POLLIN};
		if (poll(&input, 1, -1) < 0 && errno != EINTR)
			return 1;
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
