/* What programs do to files by their names alone: make, remove and rename them, change what is noted of them, watch them. */
#include "shim.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <utime.h>

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
FIXED(mkfifoat, (int dirfd, const char *path, mode_t mode), MAKES(dirfd, path), dirfd, path, mode)
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
/* The content of a text is not the program's to cut: nothing happens, as in sysfs. */
#define TRUNCATE(name, offset)                                                                         \
	EXPORT int name(const char *path, offset length)                                               \
	{                                                                                              \
		struct located at;                                                                     \
		if (unlikely(locate(&at, AT_FDCWD, path)) && at.ours)                                  \
			return REAL(faccessat)(at.dirfd, at.path, W_OK, 0);                            \
		return REAL(name)(path, length);                                                       \
	}
TRUNCATE(truncate, off_t)
TRUNCATE(truncate64, off64_t)
#define FTRUNCATE(name, offset)                                                                        \
	EXPORT int name(int fd, offset length)                                                         \
	{                                                                                              \
		if (unlikely(fd_kind(fd) == FD_TEXT) && file_inode(fd) != 0)                           \
			return 0;                                                                      \
		return REAL(name)(fd, length);                                                         \
	}
FTRUNCATE(ftruncate, off_t)
FTRUNCATE(ftruncate64, off64_t)

/* A function of (dirfd, path): `there` is the call for what was located; the rest are the arguments for all else. */
#define AT(type, name, parameters, dirfd, there, ...)                                                  \
	EXPORT type name parameters                                                                    \
	{                                                                                              \
		struct located at;                                                                     \
		if (unlikely(locate(&at, dirfd, path)))                                                \
			return there;                                                                  \
		return REAL(name)(__VA_ARGS__);                                                        \
	}
AT(int, chmod, (const char *path, mode_t mode), AT_FDCWD, REAL(chmod)(at.path, mode), path, mode)
AT(int, fchmodat, (int dirfd, const char *path, mode_t mode, int flags), dirfd, REAL(fchmodat)(at.dirfd, at.path, mode, flags), dirfd,
   path, mode, flags)
AT(int, chown, (const char *path, uid_t user, gid_t group), AT_FDCWD, REAL(chown)(at.path, user, group), path, user, group)
AT(int, lchown, (const char *path, uid_t user, gid_t group), AT_FDCWD, REAL(lchown)(at.path, user, group), path, user, group)
AT(int, fchownat, (int dirfd, const char *path, uid_t user, gid_t group, int flags), dirfd,
   REAL(fchownat)(at.dirfd, at.path, user, group, flags), dirfd, path, user, group, flags)
AT(int, utime, (const char *path, const struct utimbuf *times), AT_FDCWD, REAL(utime)(at.path, times), path, times)
AT(int, utimes, (const char *path, const struct timeval times[2]), AT_FDCWD, REAL(utimes)(at.path, times), path, times)
AT(int, lutimes, (const char *path, const struct timeval times[2]), AT_FDCWD, REAL(lutimes)(at.path, times), path, times)
AT(int, futimesat, (int dirfd, const char *path, const struct timeval times[2]), dirfd, REAL(futimesat)(at.dirfd, at.path, times),
   dirfd, path, times)
AT(int, utimensat, (int dirfd, const char *path, const struct timespec times[2], int flags), dirfd,
   REAL(utimensat)(at.dirfd, at.path, times, flags), dirfd, path, times, flags)
AT(int, inotify_add_watch, (int fd, const char *path, uint32_t mask), AT_FDCWD, REAL(inotify_add_watch)(fd, at.path, mask), fd, path,
   mask)
AT(long, pathconf, (const char *path, int name), AT_FDCWD, REAL(pathconf)(at.path, name), path, name)
AT(key_t, ftok, (const char *path, int project), AT_FDCWD, REAL(ftok)(at.path, project), path, project)
AT(ssize_t, getxattr, (const char *path, const char *name, void *value, size_t size), AT_FDCWD,
   REAL(getxattr)(at.path, name, value, size), path, name, value, size)
AT(ssize_t, lgetxattr, (const char *path, const char *name, void *value, size_t size), AT_FDCWD,
   REAL(lgetxattr)(at.path, name, value, size), path, name, value, size)
AT(ssize_t, listxattr, (const char *path, char *list, size_t size), AT_FDCWD, REAL(listxattr)(at.path, list, size), path, list, size)
AT(ssize_t, llistxattr, (const char *path, char *list, size_t size), AT_FDCWD, REAL(llistxattr)(at.path, list, size), path, list, size)
AT(int, setxattr, (const char *path, const char *name, const void *value, size_t size, int flags), AT_FDCWD,
   REAL(setxattr)(at.path, name, value, size, flags), path, name, value, size, flags)
AT(int, lsetxattr, (const char *path, const char *name, const void *value, size_t size, int flags), AT_FDCWD,
   REAL(lsetxattr)(at.path, name, value, size, flags), path, name, value, size, flags)
AT(int, removexattr, (const char *path, const char *name), AT_FDCWD, REAL(removexattr)(at.path, name), path, name)
AT(int, lremovexattr, (const char *path, const char *name), AT_FDCWD, REAL(lremovexattr)(at.path, name), path, name)
