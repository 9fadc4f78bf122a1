/*
 * Files of /proc/PID that tell of what the host does in the kernel's place: the
 * memory that it locked and pinned (status), and the failures that it is to
 * inject (fail-nth).
 */
#include "shim.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Behind "/proc/PID/", "/proc/self/" or "/proc/thread-self/"; NULL for other paths. */
static const char *in_process(const char *path, pid_t *pid)
{
	if (strncmp(path, "/proc/", 6) != 0)
		return NULL;
	char *end;
	if (strncmp(path + 6, "self/", 5) == 0) {
		*pid = getpid();
		return path + 11;
	}
	if (strncmp(path + 6, "thread-self/", 12) == 0) {
		*pid = (pid_t)raw(SYS_gettid);
		return path + 18;
	}
	*pid = (pid_t)strtol(path + 6, &end, 10);
	return end > path + 6 && *end == '/' ? end + 1 : NULL;
}

/* The thread that "fail-nth" or "task/TID/fail-nth" of process `pid` is about; 0 for other names. */
static pid_t thread_to_fail(const char *name, pid_t pid)
{
	pid_t thread = pid;
	if (strncmp(name, "task/", 5) == 0) {
		char *end;
		thread = (pid_t)strtol(name + 5, &end, 10);
		if (end == name + 5 || *end != '/')
			return 0;
		name = end + 1;
	}
	return strcmp(name, "fail-nth") == 0 && raw(SYS_tgkill, getpid(), thread, 0) == 0 ? thread : 0;
}

/* Adds `pages` to the number of a line such as "VmPin:\t       0 kB\n", in place. */
static void add_pages(char *text, const char *name, long pages)
{
	char *line = strstr(text, name);
	if (line == NULL || pages <= 0)
		return;
	char *end = strstr(line, " kB");
	char *digit = end;
	unsigned long number = strtoul(line + strlen(name), NULL, 10) + (unsigned long)pages * 4;
	for (; end != NULL && number > 0 && digit[-1] != '\t'; number /= 10)
		*--digit = (char)('0' + number % 10);
}

static long account_of(pid_t pid, uint64_t which)
{
	struct uiommu_request request = {.operation = OP_ACCOUNT, .argument = (uint64_t)pid, .number = which};
	return request_host(&request, NULL, NULL, 0, -1);
}

/* The kernel's text, with our numbers in it: a file of its own. -1 if that cannot be had. */
static int open_status(const char *path, pid_t pid)
{
	long locked = account_of(pid, 0), pinned = account_of(pid, 1);
	if (locked < 0 || pinned < 0)
		return -1;
	char text[8192];
	long source = raw(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (source < 0)
		return -1;
	long size = raw(SYS_read, source, text, sizeof(text) - 1);
	raw(SYS_close, source);
	long copy = size < 0 ? -1 : raw(SYS_memfd_create, "status", 0);
	if (copy < 0)
		return -1;
	text[size] = '\0';
	add_pages(text, "VmLck:", locked);
	add_pages(text, "VmPin:", pinned);
	raw(SYS_write, copy, text, size);
	raw(SYS_lseek, copy, 0, SEEK_SET);
	return (int)copy;
}

bool open_process_file(const char *path, int flags, int *fd)
{
	pid_t pid;
	const char *name = in_process(path, &pid);
	if (likely(name == NULL))
		return false;
	pid_t thread = thread_to_fail(name, pid);
	if (thread != 0) {
		long opened = open_about(thread, "/proc/fail-nth", flags, 0);
		if (opened == -ENOENT)
			return false;
		*fd = (int)with_errno(opened);
		return true;
	}
	if (strcmp(name, "status") != 0 || (flags & O_ACCMODE) != O_RDONLY || !any_file_of_ours())
		return false;
	int saved = errno;
	int status = open_status(path, pid);
	errno = saved;
	*fd = status;
	return status >= 0;
}
