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

/* Behind "/proc/PID/" or "/proc/self/"; NULL for other paths. */
static const char *in_process(const char *path, pid_t *pid)
{
	if (strncmp(path, "/proc/", 6) != 0)
		return NULL;
	char *end;
	if (strncmp(path + 6, "self/", 5) == 0) {
		*pid = getpid();
		return path + 11;
	}
	*pid = (pid_t)strtol(path + 6, &end, 10);
	return end > path + 6 && *end == '/' ? end + 1 : NULL;
}

/* "fail-nth", or "task/TID/fail-nth". */
static bool is_fail_nth(const char *name)
{
	if (strncmp(name, "task/", 5) == 0) {
		name += 5;
		name += strspn(name, "0123456789");
		if (*name++ != '/')
			return false;
	}
	return strcmp(name, "fail-nth") == 0;
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
	if (is_fail_nth(name)) {
		long opened = open_in_host("/proc/fail-nth", flags, 0);
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
