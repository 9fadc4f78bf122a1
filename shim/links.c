/* Paths that come out of the kernel: links, the working directory, realpath. What lies in DIR/root is shown as the
 * program knows it. */
#include "shim.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

/* The number at the end of /proc/self/fd/N, /proc/PID/fd/N, /dev/fd/N; -1 for other paths. */
static int descriptor_of(const char *path)
{
	const char *digits;
	if (strncmp(path, "/dev/fd/", 8) == 0) {
		digits = path + 8;
	} else {
		if (strncmp(path, "/proc/", 6) != 0 || (digits = strstr(path, "/fd/")) == NULL)
			return -1;
		if (strncmp(path + 6, "self/", 5) != 0 && strncmp(path + 6, "thread-self/", 12) != 0 &&
		    strtol(path + 6, NULL, 10) != raw(SYS_getpid))
			return -1;
		digits += 4;
	}
	char *end;
	long fd = strtol(digits, &end, 10);
	return end != digits && *end == '\0' ? (int)fd : -1;
}

static ssize_t shown(const char *text, char *into, size_t size)
{
	size_t length = strlen(text);
	if (length > size)
		length = size;
	memcpy(into, text, length);
	return (ssize_t)length;
}

/* Of a link in /proc/PID/fd: what the kernel calls a socket may be an open file of ours, of any process. */
static bool name_opened(const char *target, struct uiommu_description *description)
{
	static const char prefix[] = "socket:[";
	return strncmp(target, prefix, sizeof(prefix) - 1) == 0 &&
	       describe_file(strtoul(target + sizeof(prefix) - 1, NULL, 10), description) >= 0;
}

static ssize_t read_link(int dirfd, const char *path, char *into, size_t size)
{
	struct located at;
	char target[PATH_SIZE];
	if (locate(&at, dirfd, path)) {
		dirfd = at.dirfd;
		path = at.path;
	} else if (likely(!place.active) || !is_user_pointer(path) ||
		   (path[0] == '/' ? path[1] != 'p' && path[1] != 'd' : dirfd == AT_FDCWD || path[0] < '0' || path[0] > '9')) {
		/* Relative: only a link inside our tree can lead into it, and those are relative themselves. */
		return REAL(readlinkat)(dirfd, path, into, size);
	}
	ssize_t length = REAL(readlinkat)(dirfd, path, target, sizeof(target) - 1);
	if (length < 0)
		return length;
	target[length] = '\0';
	struct uiommu_description description;
	const char *seen = name_opened(target, &description) ? description.path : visible(target);
	return shown(seen == NULL ? target : seen, into, size);
}

EXPORT ssize_t readlink(const char *path, char *into, size_t size)
{
	if (likely(!place.active))
		return REAL(readlink)(path, into, size);
	return read_link(AT_FDCWD, path, into, size);
}
EXPORT ssize_t readlinkat(int dirfd, const char *path, char *into, size_t size) { return read_link(dirfd, path, into, size); }

void __chk_fail(void) __attribute__((noreturn));
ssize_t __readlink_chk(const char *path, char *into, size_t size, size_t room);
ssize_t __readlinkat_chk(int dirfd, const char *path, char *into, size_t size, size_t room);
char *__getcwd_chk(char *into, size_t size, size_t room);
char *__getwd_chk(char *into, size_t room);
char *__realpath_chk(const char *path, char *into, size_t room);
EXPORT ssize_t __readlink_chk(const char *path, char *into, size_t size, size_t room)
{
	if (size > room)
		__chk_fail();
	return readlink(path, into, size);
}
EXPORT ssize_t __readlinkat_chk(int dirfd, const char *path, char *into, size_t size, size_t room)
{
	if (size > room)
		__chk_fail();
	return readlinkat(dirfd, path, into, size);
}

/* The working directory */

static void unprefix(char *path)
{
	const char *seen = path == NULL ? NULL : visible(path);
	if (unlikely(seen != NULL))
		memmove(path, seen, strlen(seen) + 1);
}

EXPORT char *getcwd(char *into, size_t size)
{
	char *path = REAL(getcwd)(into, size);
	if (unlikely(path == NULL && errno == ERANGE && place.active && into != NULL && size > 0)) {
		/* Too long with DIR/root in front, perhaps not without. */
		char whole[PATH_SIZE];
		if (raw(SYS_getcwd, whole, sizeof(whole)) > 0 && visible(whole) != NULL && strlen(visible(whole)) < size)
			return strcpy(into, visible(whole));
		errno = ERANGE;
	}
	unprefix(path);
	return path;
}
EXPORT char *get_current_dir_name(void)
{
	char *path = REAL(get_current_dir_name)();
	unprefix(path);
	return path;
}
char *getwd(char *into);
EXPORT char *getwd(char *into)
{
	return getcwd(into, PATH_MAX);
}
EXPORT char *__getcwd_chk(char *into, size_t size, size_t room)
{
	if (size > room)
		__chk_fail();
	return getcwd(into, size);
}
EXPORT char *__getwd_chk(char *into, size_t room)
{
	char *path = getcwd(into, room < PATH_MAX ? room : PATH_MAX);
	if (path == NULL && errno == ERANGE && room < PATH_MAX)
		__chk_fail();
	return path;
}

EXPORT int chdir(const char *path)
{
	struct located at;
	bool located = locate(&at, AT_FDCWD, path);
	/* at.dirfd is the working directory, or the path is absolute. */
	int result = REAL(chdir)(located ? at.path : path);
	if (result != 0 && errno == ENOENT && !located && place.active) {
		bool found = locate_link(&at, AT_FDCWD, path);
		errno = ENOENT;
		result = found ? REAL(chdir)(at.path) : -1;
	}
	if (result == 0)
		cwd_kind = FD_UNKNOWN;
	return result;
}
EXPORT int fchdir(int fd)
{
	int result = REAL(fchdir)(fd);
	if (result == 0)
		cwd_kind = FD_UNKNOWN;
	return result;
}

/* realpath */

static char *given(const char *path, char *into)
{
	return into == NULL ? strdup(path) : strcpy(into, path);
}

/* Of a path where libc found nothing: an open file of ours, or a link to us. */
static char *real_link(const char *path, char *into)
{
	struct located at;
	struct uiommu_description description;
	int fd = descriptor_of(path);
	if (fd >= 0 && is_file_kind(fd_kind(fd)) && describe_file(fd_value(fd), &description) >= 0)
		return given(description.path, into);
	bool found = locate_link(&at, AT_FDCWD, path);
	errno = ENOENT;
	return found ? realpath(visible(at.path) == NULL ? at.path : visible(at.path), into) : NULL;
}

EXPORT char *realpath(const char *path, char *into)
{
	struct located at;
	if (likely(!locate(&at, AT_FDCWD, path))) {
		char *found = REAL(realpath)(path, into);
		if (found == NULL && errno == ENOENT && place.active)
			return real_link(path, into);
		unprefix(found);
		return found;
	}
	char *found = REAL(realpath)(at.path, NULL);
	if (found == NULL)
		return NULL;
	unprefix(found);
	if (into == NULL)
		return found;
	if (strlen(found) >= PATH_MAX) {
		free(found);
		errno = ENAMETOOLONG;
		return NULL;
	}
	strcpy(into, found);
	free(found);
	return into;
}
EXPORT char *canonicalize_file_name(const char *path) { return realpath(path, NULL); }
EXPORT char *__realpath_chk(const char *path, char *into, size_t room)
{
	if (room < PATH_MAX)
		__chk_fail();
	return realpath(path, into);
}
