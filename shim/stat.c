/*
 * What stat(2) and access(2) say. A placeholder in our tree is a socket inode
 * with the right permissions; what else there is to know of it lies at the same
 * path under DIR/node: a link to "MAJOR:MINOR", or the text. An open file of
 * ours is a socket; the host told its numbers when it was opened.
 */
#include "shim.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* What stands behind the placeholder at the visible `path`. False: nothing known. */
static bool behind(const char *path, bool *device, unsigned numbers[2], struct stat *text)
{
	char node[PATH_SIZE], target[64];
	if (strlen(path) + sizeof(place.nodes) > sizeof(node))
		return false;
	strcpy(stpcpy(node, place.nodes), path);
	long length = raw(SYS_readlinkat, AT_FDCWD, node, target, sizeof(target) - 1);
	*device = length > 0;
	if (length <= 0)
		return raw(SYS_newfstatat, AT_FDCWD, node, text, 0) == 0;
	target[length] = '\0';
	char *end;
	numbers[0] = (unsigned)strtoul(target, &end, 10);
	numbers[1] = *end == ':' ? (unsigned)strtoul(end + 1, NULL, 10) : 0;
	return true;
}

/* Which placeholder a path leads to; NULL if none of ours. */
static const char *placeholder(int dirfd, const char *path, int flags, char *buffer)
{
	const char *visible_path;
	struct located at;
	if (is_empty(path)) {
		if (fd_path(dirfd, buffer) < 0)
			return NULL;
		return visible(buffer);
	}
	at.dirfd = dirfd;
	at.path = path;
	long node = placeholder_path(&at, (flags & AT_SYMLINK_NOFOLLOW) != 0 ? O_NOFOLLOW : 0, buffer, &visible_path);
	return node >= 0 && S_ISSOCK(node) ? visible_path : NULL;
}

static bool stat_placeholder(const char *path, struct stat *status)
{
	char real[PATH_SIZE];
	if (place.root_length + strlen(path) >= sizeof(real))
		return false;
	strcpy(stpcpy(real, place.root), path);
	return raw(SYS_newfstatat, AT_FDCWD, real, status, 0) == 0;
}

NOINLINE static void mend_stat(int dirfd, const char *path, int flags, struct stat *status)
{
	char buffer[PATH_SIZE];
	bool device;
	unsigned numbers[2];
	struct stat text;
	const char *visible_path = placeholder(dirfd, path, flags, buffer);
	if (visible_path == NULL || !behind(visible_path, &device, numbers, &text))
		return;
	/* In /proc it may be an open file of ours, a socket of its own. */
	struct stat opened;
	if (stat_placeholder(visible_path, &opened) && opened.st_ino != status->st_ino)
		*status = opened;
	status->st_nlink = 1;
	status->st_mode = (device ? S_IFCHR : S_IFREG) | (status->st_mode & 07777);
	if (device) {
		status->st_rdev = makedev(numbers[0], numbers[1]);
	} else {
		status->st_size = text.st_size;
		status->st_ino = text.st_ino;
		status->st_mtim = text.st_mtim;
	}
}

static mode_t file_type(const struct fd_entry *entry)
{
	return entry->description == FILE_DEVICE || entry->description == FILE_POLLED ? S_IFCHR : entry->description == FILE_TEXT ? S_IFREG : 0;
}

/* The answer to stat(2) of the file that was opened, if it is still there. */
static bool stat_opened(uint64_t inode, struct stat *status)
{
	struct uiommu_description description;
	if (is_borrowed() || describe_file(inode, &description) < 0 || description.path[0] != '/' ||
	    !stat_placeholder(description.path, status))
		return false;
	char path[PATH_SIZE];
	strcpy(stpcpy(path, place.root), description.path);
	mend_stat(AT_FDCWD, path, 0, status);
	return true;
}

NOINLINE static void mend_fstat(int fd, struct stat *status)
{
	if (!is_file_kind(fd_kind(fd)) && discover_file(fd) == 0) {
		mend_stat(fd, "", 0, status); /* O_PATH */
		return;
	}
	const struct fd_entry *entry = fd_entry(fd);
	if (status->st_ino != fd_value(fd) && file_inode(fd) == 0)
		return;
	dev_t device = makedev(entry->rdev[0], entry->rdev[1]);
	struct stat opened;
	if (stat_opened(fd_value(fd), &opened) && opened.st_rdev == device) {
		*status = opened;
		return;
	}
	status->st_mode = file_type(entry) | entry->mode;
	status->st_rdev = device;
	status->st_nlink = 1;
}

/* Only what turns out to be a socket can be a placeholder or a file of ours. */
#define MEND(result, status, how)                                                                      \
	if ((result) == 0 && unlikely(S_ISSOCK((status)->st_mode)) && place.active) {                  \
		int saved_ = errno;                                                                    \
		how;                                                                                   \
		errno = saved_;                                                                        \
	}                                                                                              \
	return result

static int stat_at(int dirfd, const char *path, struct stat *status, int flags)
{
	/* The same in every libc; before glibc 2.33 there is no function of this name to call. */
	int result = (int)with_errno(raw(SYS_newfstatat, dirfd, path, status, flags));
	if (result == 0 && is_empty(path) && dirfd >= 0 && is_file_kind(fd_kind(dirfd))) {
		MEND(result, status, mend_fstat(dirfd, status));
	}
	MEND(result, status, mend_stat(dirfd, path, flags, status));
}

/* Of a path that was not found. */
NOINLINE static int stat_linked(int dirfd, const char *path, struct stat *status, int flags)
{
	struct located at;
	bool found = (flags & AT_SYMLINK_NOFOLLOW) == 0 && locate_link(&at, dirfd, path);
	errno = ENOENT;
	return found ? stat_at(at.dirfd, at.path, status, flags) : -1;
}
/* Of a path that may be ours. */
NOINLINE static int stat_located(int dirfd, const char *path, struct stat *status, int flags)
{
	struct located at;
	if (locate_slow(&at, dirfd, path))
		return stat_at(at.dirfd, at.path, status, flags);
	int result = stat_at(dirfd, path, status, flags);
	return result != 0 && errno == ENOENT ? stat_linked(dirfd, path, status, flags) : result;
}

/* Of a path that leads to nothing or to a socket, as far as the kernel knows. */
NOINLINE static int stat_again(int result, const char *path, struct stat *status, int flags)
{
	if (result != 0)
		return errno == ENOENT && place.active ? stat_linked(AT_FDCWD, path, status, flags) : result;
	MEND(result, status, mend_stat(AT_FDCWD, path, flags, status));
}

#define STAT(name, type, flags)                                                                        \
	EXPORT int name(const char *path, type *status)                                                \
	{                                                                                              \
		if (unlikely(suspect(AT_FDCWD, path)))                                                 \
			return stat_located(AT_FDCWD, path, (struct stat *)status, flags);             \
		int result = REAL(name)(path, status);                                                 \
		if (likely(result == 0 && !S_ISSOCK(status->st_mode)))                                 \
			return 0;                                                                      \
		return stat_again(result, path, (struct stat *)status, flags);                         \
	}
STAT(stat, struct stat, 0)
STAT(stat64, struct stat64, 0)
STAT(lstat, struct stat, AT_SYMLINK_NOFOLLOW)
STAT(lstat64, struct stat64, AT_SYMLINK_NOFOLLOW)

#define FSTAT(name, type)                                                                              \
	EXPORT int name(int fd, type *status)                                                          \
	{                                                                                              \
		int result = REAL(name)(fd, status);                                                   \
		MEND(result, (struct stat *)status, mend_fstat(fd, (struct stat *)status));            \
	}
FSTAT(fstat, struct stat)
FSTAT(fstat64, struct stat64)

#define FSTATAT(name, type)                                                                            \
	EXPORT int name(int dirfd, const char *path, type *status, int flags)                          \
	{                                                                                              \
		if (unlikely(suspect(dirfd, path)))                                                    \
			return stat_located(dirfd, path, (struct stat *)status, flags);                \
		int result = stat_at(dirfd, path, (struct stat *)status, flags);                       \
		if (result != 0 && errno == ENOENT && place.active)                                    \
			return stat_linked(dirfd, path, (struct stat *)status, flags);                 \
		return result;                                                                         \
	}
FSTATAT(fstatat, struct stat)
FSTATAT(fstatat64, struct stat64)

/* What <sys/stat.h> called before glibc 2.33. The version number says one layout on 64-bit machines. */
int __xstat(int version, const char *path, struct stat *status);
int __xstat64(int version, const char *path, struct stat64 *status);
int __lxstat(int version, const char *path, struct stat *status);
int __lxstat64(int version, const char *path, struct stat64 *status);
int __fxstat(int version, int fd, struct stat *status);
int __fxstat64(int version, int fd, struct stat64 *status);
int __fxstatat(int version, int dirfd, const char *path, struct stat *status, int flags);
int __fxstatat64(int version, int dirfd, const char *path, struct stat64 *status, int flags);
#define OLD_STAT(name, type, flags)                                                                    \
	EXPORT int name(int version, const char *path, type *status)                                   \
	{                                                                                              \
		(void)version;                                                                         \
		return fstatat(AT_FDCWD, path, (struct stat *)status, flags);                          \
	}
OLD_STAT(__xstat, struct stat, 0)
OLD_STAT(__xstat64, struct stat64, 0)
OLD_STAT(__lxstat, struct stat, AT_SYMLINK_NOFOLLOW)
OLD_STAT(__lxstat64, struct stat64, AT_SYMLINK_NOFOLLOW)
EXPORT int __fxstat(int version, int fd, struct stat *status)
{
	(void)version;
	int result = (int)with_errno(raw(SYS_fstat, fd, status));
	MEND(result, status, mend_fstat(fd, status));
}
EXPORT int __fxstat64(int version, int fd, struct stat64 *status)
{
	(void)version;
	return __fxstat(1, fd, (struct stat *)status);
}
EXPORT int __fxstatat(int version, int dirfd, const char *path, struct stat *status, int flags)
{
	(void)version;
	return fstatat(dirfd, path, status, flags);
}
EXPORT int __fxstatat64(int version, int dirfd, const char *path, struct stat64 *status, int flags)
{
	(void)version;
	return fstatat64(dirfd, path, status, flags);
}

static void mend_statx(int dirfd, const char *path, int flags, struct statx *status)
{
	struct stat plain = {
		.st_mode = status->stx_mode,
		.st_ino = status->stx_ino,
		.st_dev = makedev(status->stx_dev_major, status->stx_dev_minor),
		.st_size = (off_t)status->stx_size,
	};
	if (is_empty(path) && dirfd >= 0)
		mend_fstat(dirfd, &plain);
	else
		mend_stat(dirfd, path, flags, &plain);
	if (plain.st_mode == status->stx_mode)
		return;
	status->stx_mode = (uint16_t)plain.st_mode;
	status->stx_nlink = 1;
	status->stx_rdev_major = major(plain.st_rdev);
	status->stx_rdev_minor = minor(plain.st_rdev);
	status->stx_size = (uint64_t)plain.st_size;
	status->stx_ino = plain.st_ino;
	status->stx_dev_major = major(plain.st_dev);
	status->stx_dev_minor = minor(plain.st_dev);
}

EXPORT int statx(int dirfd, const char *path, int flags, unsigned mask, struct statx *status)
{
	struct located at;
	if (unlikely(locate(&at, dirfd, path))) {
		dirfd = at.dirfd;
		path = at.path;
	}
	int result = REAL(statx)(dirfd, path, flags, mask, status);
	if (result != 0 && errno == ENOENT && place.active) {
		bool found = (flags & AT_SYMLINK_NOFOLLOW) == 0 && locate_link(&at, dirfd, path);
		errno = ENOENT;
		if (!found)
			return -1;
		dirfd = at.dirfd;
		path = at.path;
		result = REAL(statx)(dirfd, path, flags, mask, status);
	}
	if (result == 0 && unlikely(S_ISSOCK(status->stx_mode)) && place.active) {
		int saved = errno;
		mend_statx(dirfd, path, flags, status);
		errno = saved;
	}
	return result;
}

NOINLINE static int access_located(int dirfd, const char *path, int mode, int flags)
{
	struct located at;
	bool found = locate_slow(&at, dirfd, path);
	return REAL(faccessat)(found ? at.dirfd : dirfd, found ? at.path : path, mode, flags);
}
NOINLINE static int access_linked(int dirfd, const char *path, int mode, int flags)
{
	struct located at;
	bool found = (flags & AT_SYMLINK_NOFOLLOW) == 0 && locate_link(&at, dirfd, path);
	errno = ENOENT;
	return found ? REAL(faccessat)(at.dirfd, at.path, mode, flags) : -1;
}
#define ACCESS(real, ...)                                                                              \
	{                                                                                              \
		if (unlikely(suspect(dirfd, path)))                                                    \
			return access_located(dirfd, path, mode, flags);                               \
		int result = REAL(real)(__VA_ARGS__);                                                  \
		return likely(result == 0 || errno != ENOENT || !place.active) ? result : access_linked(dirfd, path, mode, flags); \
	}
EXPORT int access(const char *path, int mode)
{
	int dirfd = AT_FDCWD, flags = 0;
	ACCESS(access, path, mode)
}
EXPORT int euidaccess(const char *path, int mode)
{
	int dirfd = AT_FDCWD, flags = AT_EACCESS;
	ACCESS(euidaccess, path, mode)
}
EXPORT int eaccess(const char *path, int mode)
{
	int dirfd = AT_FDCWD, flags = AT_EACCESS;
	ACCESS(eaccess, path, mode)
}
EXPORT int faccessat(int dirfd, const char *path, int mode, int flags)
ACCESS(faccessat, dirfd, path, mode, flags)

/* Our tree says of itself what sysfs would: libraries look before they trust what they read. */
#define SYSFS_MAGIC 0x62656572
static bool is_sysfs(const char *path)
{
	const char *shown = visible(path);
	return shown != NULL && strncmp(shown, "/sys", 4) == 0;
}
#define STATFS(name, type)                                                                             \
	EXPORT int name(const char *path, struct type *status)                                         \
	{                                                                                              \
		struct located at;                                                                     \
		if (likely(!locate(&at, AT_FDCWD, path)))                                              \
			return REAL(name)(path, status);                                               \
		char buffer[PATH_SIZE];                                                                \
		const char *shown;                                                                     \
		long node = placeholder_path(&at, 0, buffer, &shown);                                  \
		if (node < 0)                                                                          \
			return (int)with_errno(node);                                                  \
		int result = REAL(name)(buffer, status);                                               \
		if (result == 0 && is_sysfs(buffer))                                                   \
			status->f_type = SYSFS_MAGIC;                                                  \
		return result;                                                                         \
	}
STATFS(statfs, statfs)
STATFS(statfs64, statfs64)
#define FSTATFS(name, type)                                                                            \
	EXPORT int name(int fd, struct type *status)                                                   \
	{                                                                                              \
		char buffer[PATH_SIZE];                                                                \
		int result = REAL(name)(fd, status);                                                   \
		if (result == 0 && unlikely(place.active) && fd_path(fd, buffer) > 0 && is_sysfs(buffer)) \
			status->f_type = SYSFS_MAGIC;                                                  \
		return result;                                                                         \
	}
FSTATFS(fstatfs, statfs)
FSTATFS(fstatfs64, statfs64)
#define STATVFS(name, type)                                                                            \
	EXPORT int name(const char *path, struct type *status)                                         \
	{                                                                                              \
		struct located at;                                                                     \
		return REAL(name)(unlikely(locate(&at, AT_FDCWD, path)) ? at.path : path, status);     \
	}
STATVFS(statvfs, statvfs)
STATVFS(statvfs64, statvfs64)
