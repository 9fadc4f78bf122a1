/* Paths that come out of the kernel: links, the working directory, realpath. What lies in DIR/root is shown as the
 * program knows it. And those that only go in: chmod, chown, inotify and the like. */
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

static ssize_t read_link(int dirfd, const char *path, char *into, size_t size)
{
	struct located at;
	char target[PATH_SIZE];
	if (locate(&at, dirfd, path)) {
		dirfd = at.dirfd;
		path = at.path;
	} else if (likely(!place.active) || path == NULL || path[0] != '/' || (path[1] != 'p' && path[1] != 'd')) {
		/* Relative: only a link inside our tree can lead into it, and those are relative themselves. */
		return REAL(readlinkat)(dirfd, path, into, size);
	} else {
		struct uiommu_description description;
		int fd = descriptor_of(path);
		uint64_t inode = fd >= 0 && is_file_kind(fd_kind(fd)) ? file_inode(fd) : 0;
		if (inode != 0 && describe_file(inode, &description) >= 0)
			return shown(description.path, into, size);
	}
	ssize_t length = REAL(readlinkat)(dirfd, path, target, sizeof(target) - 1);
	if (length < 0)
		return length;
	target[length] = '\0';
	const char *seen = visible(target);
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

/* Paths that only go in */

#define AT(dirfd)                                                                                      \
	struct located at;                                                                             \
	if (unlikely(locate(&at, dirfd, path)))
EXPORT int chmod(const char *path, mode_t mode)
{
	AT(AT_FDCWD) return REAL(fchmodat)(at.dirfd, at.path, mode, 0);
	return REAL(chmod)(path, mode);
}
EXPORT int fchmodat(int dirfd, const char *path, mode_t mode, int flags)
{
	AT(dirfd) return REAL(fchmodat)(at.dirfd, at.path, mode, flags);
	return REAL(fchmodat)(dirfd, path, mode, flags);
}
EXPORT int chown(const char *path, uid_t user, gid_t group)
{
	AT(AT_FDCWD) return REAL(fchownat)(at.dirfd, at.path, user, group, 0);
	return REAL(chown)(path, user, group);
}
EXPORT int fchownat(int dirfd, const char *path, uid_t user, gid_t group, int flags)
{
	AT(dirfd) return REAL(fchownat)(at.dirfd, at.path, user, group, flags);
	return REAL(fchownat)(dirfd, path, user, group, flags);
}
/*
 * Names come and go in our tree as devices do, never by a program's wish: EPERM, as in sysfs. A name that is there, or
 * is not, is told first.
 */
static bool is_fixed(int dirfd, const char *path, bool makes)
{
	struct located at;
	struct stat status;
	if (likely(!locate(&at, dirfd, path)) || !at.ours)
		return false;
	long result = raw(SYS_newfstatat, at.dirfd, at.path, &status, AT_SYMLINK_NOFOLLOW);
	errno = makes ? (result == 0 ? EEXIST : EPERM) : (result == 0 ? EPERM : (int)-result);
	return true;
}
#define FIXED(name, parameters, condition, ...)                                                        \
	EXPORT int name parameters { return unlikely(condition) ? -1 : REAL(name)(__VA_ARGS__); }
#define MAKES(dirfd, path) is_fixed(dirfd, path, true)
#define ENDS(dirfd, path) is_fixed(dirfd, path, false)
FIXED(mkdir, (const char *path, mode_t mode), MAKES(AT_FDCWD, path), path, mode)
FIXED(mkdirat, (int dirfd, const char *path, mode_t mode), MAKES(dirfd, path), dirfd, path, mode)
FIXED(mknod, (const char *path, mode_t mode, dev_t device), MAKES(AT_FDCWD, path), path, mode, device)
FIXED(mknodat, (int dirfd, const char *path, mode_t mode, dev_t device), MAKES(dirfd, path), dirfd, path, mode, device)
FIXED(mkfifo, (const char *path, mode_t mode), MAKES(AT_FDCWD, path), path, mode)
FIXED(symlink, (const char *target, const char *path), MAKES(AT_FDCWD, path), target, path)
FIXED(symlinkat, (const char *target, int dirfd, const char *path), MAKES(dirfd, path), target, dirfd, path)
FIXED(link, (const char *from, const char *to), ENDS(AT_FDCWD, from) || MAKES(AT_FDCWD, to), from, to)
FIXED(linkat, (int base, const char *from, int dirfd, const char *to, int flags), ENDS(base, from) || MAKES(dirfd, to), base, from,
      dirfd, to, flags)
FIXED(unlink, (const char *path), ENDS(AT_FDCWD, path), path)
FIXED(unlinkat, (int dirfd, const char *path, int flags), ENDS(dirfd, path), dirfd, path, flags)
FIXED(rmdir, (const char *path), ENDS(AT_FDCWD, path), path)
FIXED(remove, (const char *path), ENDS(AT_FDCWD, path), path)
FIXED(rename, (const char *from, const char *to), ENDS(AT_FDCWD, from) || MAKES(AT_FDCWD, to), from, to)
FIXED(renameat, (int base, const char *from, int dirfd, const char *to), ENDS(base, from) || MAKES(dirfd, to), base, from, dirfd, to)
FIXED(renameat2, (int base, const char *from, int dirfd, const char *to, unsigned flags), ENDS(base, from) || MAKES(dirfd, to), base,
      from, dirfd, to, flags)
EXPORT int truncate(const char *path, off_t length)
{
	struct located at; /* the content of a text is not the program's to cut: nothing happens, as in sysfs */
	if (unlikely(locate(&at, AT_FDCWD, path)) && at.ours)
		return REAL(faccessat)(at.dirfd, at.path, W_OK, 0);
	return REAL(truncate)(path, length);
}

EXPORT int inotify_add_watch(int fd, const char *path, uint32_t mask)
{
	AT(AT_FDCWD) return REAL(inotify_add_watch)(fd, at.path, mask);
	return REAL(inotify_add_watch)(fd, path, mask);
}
EXPORT ssize_t getxattr(const char *path, const char *name, void *value, size_t size)
{
	AT(AT_FDCWD) return REAL(getxattr)(at.path, name, value, size);
	return REAL(getxattr)(path, name, value, size);
}
EXPORT ssize_t lgetxattr(const char *path, const char *name, void *value, size_t size)
{
	AT(AT_FDCWD) return REAL(lgetxattr)(at.path, name, value, size);
	return REAL(lgetxattr)(path, name, value, size);
}
EXPORT ssize_t listxattr(const char *path, char *list, size_t size)
{
	AT(AT_FDCWD) return REAL(listxattr)(at.path, list, size);
	return REAL(listxattr)(path, list, size);
}
EXPORT ssize_t llistxattr(const char *path, char *list, size_t size)
{
	AT(AT_FDCWD) return REAL(llistxattr)(at.path, list, size);
	return REAL(llistxattr)(path, list, size);
}
EXPORT long pathconf(const char *path, int name)
{
	AT(AT_FDCWD) return REAL(pathconf)(at.path, name);
	return REAL(pathconf)(path, name);
}
