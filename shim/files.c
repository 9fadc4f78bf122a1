/* Opening files of ours and working with them: open, ioctl, read, write, lseek, mmap. */
#include "shim.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

long placeholder_path(const struct located *at, int flags, char *buffer, const char **path)
{
	struct stat status;
	long fd = raw(SYS_openat, at->dirfd, at->path, O_PATH | O_CLOEXEC | (flags & O_NOFOLLOW), 0);
	if (fd < 0)
		return fd;
	long result = raw(SYS_fstat, fd, &status);
	if (result == 0)
		result = fd_path((int)fd, buffer);
	raw(SYS_close, fd);
	if (result < 0)
		return result;
	/* An open file of ours, by its place in /proc. */
	struct uiommu_description description;
	if (strncmp(buffer, "socket:", 7) == 0 && describe_file(status.st_ino, &description) >= 0 && description.path[0] == '/') {
		*path = strcpy(buffer, description.path);
		return (long)status.st_mode;
	}
	*path = visible(buffer);
	return *path == NULL ? -ENXIO : (long)status.st_mode;
}

/* Opens a path in our tree. */
static long open_ours(const struct located *at, int flags, mode_t mode)
{
	char buffer[PATH_SIZE];
	const char *path;
	bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0;
	if ((flags & O_PATH) == 0) {
		long node = placeholder_path(at, flags, buffer, &path);
		if (node == -ENOENT && (flags & O_CREAT) != 0)
			return -EACCES;
		if (node == -ENXIO)
			return raw(SYS_openat, at->dirfd, at->path, flags, mode);
		if (node < 0)
			return node;
		if ((flags & O_CREAT) != 0 && (flags & O_EXCL) != 0)
			return -EEXIST;
		if ((flags & O_TMPFILE) == O_TMPFILE)
			return S_ISDIR(node) ? -EOPNOTSUPP : -ENOTDIR;
		if (S_ISSOCK(node)) {
			static const int rights[] = {R_OK, W_OK, R_OK | W_OK, R_OK | W_OK};
			if ((flags & O_DIRECTORY) != 0)
				return -ENOTDIR;
			/* What open(2) would check. */
			if (raw(SYS_faccessat2, at->dirfd, at->path, rights[flags & O_ACCMODE], AT_EACCESS) == -EACCES)
				return -EACCES;
			return open_in_host(path, flags, mode);
		}
		if (S_ISREG(node) && writes)
			return -EACCES;
		if (S_ISLNK(node))
			return -ELOOP;
	}
	long fd = raw(SYS_openat, at->dirfd, at->path, flags & ~O_CREAT, mode);
	if (fd >= 0)
		note_fd((int)fd, FD_TREE, 0);
	return fd;
}

NOINLINE static bool open_located(int dirfd, const char *path, int flags, mode_t mode, int *fd)
{
	struct located at;
	if (path[0] == '/' && open_process_file(path, flags, fd))
		return true;
	if (!locate_slow(&at, dirfd, path))
		return false;
	*fd = at.ours ? (int)with_errno(open_ours(&at, flags, mode)) : REAL(openat)(at.dirfd, at.path, flags, mode);
	return true;
}

/* After an open that was not found to be ours: an old entry goes, a near directory is noted, a placeholder that was
 * reached in an unforeseen way (through a symbolic link) is opened. */
NOINLINE static int opened(int fd, int dirfd, const char *path, int flags, mode_t mode)
{
	if (fd >= 0) {
		if (unlikely(fd_word(fd) != 0))
			forget_fd(fd);
		if (unlikely(place.active) && path[0] == '/' &&
		    (path[1] == '\0' || (path[1] == 's' && path[2] == 'y') || (path[1] == 'd' && path[2] == 'e')) &&
		    directory_kind(path) == FD_NEAR)
			note_fd(fd, FD_NEAR, 0);
		else if (unlikely(fd_kind(dirfd) == FD_NEAR) && path[0] != '/') {
			char buffer[PATH_SIZE];
			if (fd_path(fd, buffer) > 0 && directory_kind(buffer) == FD_NEAR)
				note_fd(fd, FD_NEAR, 0);
		}
		return fd;
	}
	if (errno == ENOENT) {
		struct located at;
		bool found = locate_link(&at, dirfd, path);
		errno = ENOENT;
		if (found && (flags & O_NOFOLLOW) == 0)
			return (int)with_errno(open_ours(&at, flags, mode));
	} else if (errno == ENXIO && place.active) {
		char buffer[PATH_SIZE];
		const char *visible_path;
		struct located at = {.dirfd = dirfd, .path = path};
		long node = placeholder_path(&at, flags, buffer, &visible_path);
		if (node >= 0 && S_ISSOCK(node))
			return (int)with_errno(open_in_host(visible_path, flags, mode));
		errno = ENXIO;
	}
	return fd;
}

static inline mode_t mode_argument(int flags, va_list arguments)
{
	return (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(arguments, mode_t) : 0;
}

/* Most opens: it worked, and nothing is to be noted. */
static inline bool is_plain(int fd, int dirfd, const char *path)
{
	return fd >= 0 ? fd_word(fd) == 0 && !suspect(dirfd, path) && !(path[0] == '/' && path[1] == '\0') : (errno != ENXIO && errno != ENOENT) || !place.active;
}

/* Before an open that would make what a link of the program's points to. */
NOINLINE static bool open_linked(int dirfd, const char *path, int flags, mode_t mode, int *fd)
{
	struct located at;
	if (!locate_link(&at, dirfd, path))
		return false;
	*fd = (int)with_errno(open_ours(&at, flags, mode));
	return true;
}

#define OPEN(name, base, path, flags, ...)                                                             \
	int fd;                                                                                        \
	if (unlikely(suspect(base, path)) && open_located(base, path, flags, mode, &fd))               \
		return fd;                                                                             \
	if (unlikely((flags & (O_CREAT | O_EXCL | O_NOFOLLOW)) == O_CREAT) && place.active &&          \
	    open_linked(base, path, flags, mode, &fd))                                                 \
		return fd;                                                                             \
	fd = REAL(name)(__VA_ARGS__);                                                                  \
	return likely(is_plain(fd, base, path)) ? fd : opened(fd, base, path, flags, mode)
#define MODE                                                                                           \
	va_list arguments;                                                                             \
	va_start(arguments, flags);                                                                    \
	mode_t mode = mode_argument(flags, arguments);                                                 \
	va_end(arguments)

EXPORT int open(const char *path, int flags, ...)
{
	MODE;
	OPEN(open, AT_FDCWD, path, flags, path, flags, mode);
}
EXPORT int open64(const char *path, int flags, ...)
{
	MODE;
	OPEN(open64, AT_FDCWD, path, flags, path, flags, mode);
}
EXPORT int openat(int dirfd, const char *path, int flags, ...)
{
	MODE;
	OPEN(openat, dirfd, path, flags, dirfd, path, flags, mode);
}
EXPORT int openat64(int dirfd, const char *path, int flags, ...)
{
	MODE;
	OPEN(openat64, dirfd, path, flags, dirfd, path, flags, mode);
}
EXPORT int creat(const char *path, mode_t mode)
{
	int flags = O_CREAT | O_WRONLY | O_TRUNC;
	OPEN(creat, AT_FDCWD, path, flags, path, mode);
}
EXPORT int creat64(const char *path, mode_t mode)
{
	int flags = O_CREAT | O_WRONLY | O_TRUNC;
	OPEN(creat64, AT_FDCWD, path, flags, path, mode);
}
/* What -D_FORTIFY_SOURCE makes of them; with O_CREAT they abort in libc. */
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int dirfd, const char *path, int flags);
int __openat64_2(int dirfd, const char *path, int flags);
EXPORT int __open_2(const char *path, int flags)
{
	mode_t mode = 0;
	OPEN(__open_2, AT_FDCWD, path, flags, path, flags);
}
EXPORT int __open64_2(const char *path, int flags)
{
	mode_t mode = 0;
	OPEN(__open64_2, AT_FDCWD, path, flags, path, flags);
}
EXPORT int __openat_2(int dirfd, const char *path, int flags)
{
	mode_t mode = 0;
	OPEN(__openat_2, dirfd, path, flags, dirfd, path, flags);
}
EXPORT int __openat64_2(int dirfd, const char *path, int flags)
{
	mode_t mode = 0;
	OPEN(__openat64_2, dirfd, path, flags, dirfd, path, flags);
}

static long file_ioctl(int fd, uint64_t inode, unsigned long number, void *argument)
{
	switch (number) {
	/* Answered by the kernel for every file, before the file's own handler. */
	case FIOCLEX:
	case FIONCLEX:
	case FIONBIO:
	case FIOASYNC:
		return raw(SYS_ioctl, fd, number, argument);
	default:;
	}
	uintptr_t address = (uintptr_t)argument;
	struct uiommu_request request = {
		.operation = OP_IOCTL,
		.inode = inode,
		.number = (uint32_t)number,
		.argument = address,
	};
	/* Up to 64 bytes, never into the next page, and nothing where no pointer can be. */
	if (address >= 4096 && address < (uintptr_t)1 << 56) {
		size_t left = 4096 - address % 4096;
		request.length = left < UIOMMU_ARGUMENT_MAX ? (uint32_t)left : UIOMMU_ARGUMENT_MAX;
	}
	return request_host(&request, argument, argument, 0, fd);
}

EXPORT int ioctl(int fd, unsigned long number, ...)
{
	va_list arguments;
	va_start(arguments, number);
	void *argument = va_arg(arguments, void *);
	va_end(arguments);
	if (likely(!is_file_kind(fd_kind(fd)))) {
		int result = REAL(ioctl)(fd, number, argument);
		/* What terminals are asked ('T') is not worth a second look. */
		if (likely(result >= 0 || errno != ENOTTY || !place.active || (number & 0xff00) == 0x5400))
			return result;
		uint64_t inode = discover_file(fd);
		errno = ENOTTY;
		return inode == 0 ? result : (int)with_errno(file_ioctl(fd, inode, number, argument));
	}
	long result = file_ioctl(fd, fd_value(fd), number, argument);
	/* The host has no such file open: the descriptor was closed behind our back, and is another's now. */
	if (unlikely(result == -EBADF)) {
		uint64_t inode = file_inode(fd);
		if (inode == 0)
			return REAL(ioctl)(fd, number, argument);
		result = file_ioctl(fd, inode, number, argument);
	}
	return (int)with_errno(result);
}

/* Reading and writing are points where a thread can be cancelled. Before glibc 2.34 only programs with threads have this. */
#pragma weak pthread_testcancel
static void test_cancel(void)
{
	if (pthread_testcancel != NULL)
		pthread_testcancel();
}

static long read_file(int fd, uint64_t inode, void *into, size_t count, uint64_t position)
{
	test_cancel();
	struct uiommu_request request = {
		.operation = OP_READ,
		.inode = inode,
		.number = count,
		.argument = (uintptr_t)into,
		.position = position,
	};
	return request_host(&request, NULL, into, count <= UIOMMU_PAYLOAD_MAX ? count : 0, fd);
}
static long write_file(int fd, uint64_t inode, const void *from, size_t count, uint64_t position)
{
	test_cancel();
	struct uiommu_request request = {
		.operation = OP_WRITE,
		.length = count <= UIOMMU_PAYLOAD_MAX ? (uint32_t)count : 0,
		.inode = inode,
		.number = count,
		.argument = (uintptr_t)from,
		.position = position,
	};
	return request_host(&request, from, NULL, 0, fd);
}

typedef long transfer(int fd, uint64_t inode, void *bytes, size_t count, uint64_t position);
static long read_part(int fd, uint64_t inode, void *bytes, size_t count, uint64_t position)
{
	return read_file(fd, inode, bytes, count, position);
}
static long write_part(int fd, uint64_t inode, void *bytes, size_t count, uint64_t position)
{
	return write_file(fd, inode, bytes, count, position);
}
/* As the kernel does for files without a vector form: one piece after the other, until one comes short. */
static long transfer_vector(transfer *one, int fd, uint64_t inode, const struct iovec *parts, int count, uint64_t position)
{
	long total = 0;
	if (count < 0 || count > IOV_MAX)
		return -EINVAL;
	for (int i = 0; i < count; i++) {
		long done = one(fd, inode, parts[i].iov_base, parts[i].iov_len, position);
		if (done < 0)
			return total > 0 ? total : done;
		total += done;
		if (position != UIOMMU_NO_POSITION)
			position += (uint64_t)done;
		if ((size_t)done < parts[i].iov_len)
			break;
	}
	return total;
}

#define OURS(fd) (unlikely(is_file_kind(fd_kind(fd))) && (inode = file_inode(fd)) != 0)
#define POSITION(offset)                                                                               \
	if ((offset) < 0)                                                                              \
	return with_errno(-EINVAL)

EXPORT ssize_t read(int fd, void *into, size_t count)
{
	uint64_t inode;
	if (OURS(fd))
		return with_errno(read_file(fd, inode, into, count, UIOMMU_NO_POSITION));
	return REAL(read)(fd, into, count);
}
EXPORT ssize_t write(int fd, const void *from, size_t count)
{
	uint64_t inode;
	if (OURS(fd))
		return with_errno(write_file(fd, inode, from, count, UIOMMU_NO_POSITION));
	return REAL(write)(fd, from, count);
}
#define POSITIONED(name, pointer, count_type, how)                                                     \
	EXPORT ssize_t name(int fd, pointer bytes, count_type count, off_t offset)                     \
	{                                                                                              \
		uint64_t inode;                                                                        \
		if (OURS(fd)) {                                                                        \
			POSITION(offset);                                                              \
			return with_errno(how);                                                        \
		}                                                                                      \
		return REAL(name)(fd, bytes, count, offset);                                           \
	}
POSITIONED(pread, void *, size_t, read_file(fd, inode, bytes, count, (uint64_t)offset))
POSITIONED(pread64, void *, size_t, read_file(fd, inode, bytes, count, (uint64_t)offset))
POSITIONED(pwrite, const void *, size_t, write_file(fd, inode, bytes, count, (uint64_t)offset))
POSITIONED(pwrite64, const void *, size_t, write_file(fd, inode, bytes, count, (uint64_t)offset))
POSITIONED(preadv, const struct iovec *, int, transfer_vector(read_part, fd, inode, bytes, count, (uint64_t)offset))
POSITIONED(preadv64, const struct iovec *, int, transfer_vector(read_part, fd, inode, bytes, count, (uint64_t)offset))
POSITIONED(pwritev, const struct iovec *, int, transfer_vector(write_part, fd, inode, bytes, count, (uint64_t)offset))
POSITIONED(pwritev64, const struct iovec *, int, transfer_vector(write_part, fd, inode, bytes, count, (uint64_t)offset))
#define WITH_FLAGS(name, one)                                                                          \
	EXPORT ssize_t name(int fd, const struct iovec *parts, int count, off_t offset, int flags)     \
	{                                                                                              \
		uint64_t inode;                                                                        \
		if (OURS(fd)) {                                                                        \
			if (offset < -1)                                                               \
				return with_errno(-EINVAL);                                            \
			if (flags != 0)                                                                \
				return with_errno(-EOPNOTSUPP);                                        \
			return with_errno(transfer_vector(one, fd, inode, parts, count, (uint64_t)offset)); \
		}                                                                                      \
		return REAL(name)(fd, parts, count, offset, flags);                                    \
	}
WITH_FLAGS(preadv2, read_part)
WITH_FLAGS(preadv64v2, read_part)
WITH_FLAGS(pwritev2, write_part)
WITH_FLAGS(pwritev64v2, write_part)
EXPORT ssize_t readv(int fd, const struct iovec *parts, int count)
{
	uint64_t inode;
	if (OURS(fd))
		return with_errno(transfer_vector(read_part, fd, inode, parts, count, UIOMMU_NO_POSITION));
	return REAL(readv)(fd, parts, count);
}
EXPORT ssize_t writev(int fd, const struct iovec *parts, int count)
{
	uint64_t inode;
	if (OURS(fd))
		return with_errno(transfer_vector(write_part, fd, inode, parts, count, UIOMMU_NO_POSITION));
	return REAL(writev)(fd, parts, count);
}
void __chk_fail(void) __attribute__((noreturn));
ssize_t __read_chk(int fd, void *into, size_t count, size_t size);
ssize_t __pread_chk(int fd, void *into, size_t count, off_t offset, size_t size);
ssize_t __pread64_chk(int fd, void *into, size_t count, off_t offset, size_t size);
EXPORT ssize_t __read_chk(int fd, void *into, size_t count, size_t size)
{
	if (count > size)
		__chk_fail();
	return read(fd, into, count);
}
EXPORT ssize_t __pread_chk(int fd, void *into, size_t count, off_t offset, size_t size)
{
	if (count > size)
		__chk_fail();
	return pread(fd, into, count, offset);
}
EXPORT ssize_t __pread64_chk(int fd, void *into, size_t count, off_t offset, size_t size)
{
	if (count > size)
		__chk_fail();
	return pread64(fd, into, count, offset);
}

static off_t seek_file(uint64_t inode, off_t offset, int whence)
{
	struct uiommu_request request = {
		.operation = OP_SEEK,
		.inode = inode,
		.number = (uint64_t)whence,
		.position = (uint64_t)offset,
	};
	return with_errno(request_host(&request, NULL, NULL, 0, -1));
}
EXPORT off_t lseek(int fd, off_t offset, int whence)
{
	uint64_t inode;
	if (OURS(fd))
		return seek_file(inode, offset, whence);
	return REAL(lseek)(fd, offset, whence);
}
EXPORT off64_t lseek64(int fd, off64_t offset, int whence)
{
	uint64_t inode;
	if (OURS(fd))
		return seek_file(inode, offset, whence);
	return REAL(lseek64)(fd, offset, whence);
}
