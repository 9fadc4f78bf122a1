/*
 * syscall(2): how programs call what libc has no function for (openat2), and how some languages' libraries call
 * everything. What could be about files of ours goes to our hooks; all else to the kernel, as libc does it.
 */
#include "shim.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

int pidfd_getfd(int process, int fd, unsigned flags);
int execveat(int dirfd, const char *path, char *const *arguments, char *const *list, int flags);

struct how {
	uint64_t flags, mode, resolve;
};
enum { RESOLVE_BENEATH = 8, RESOLVE_IN_ROOT = 16 };

/*
 * openat2(2). The kernel says whether `how` is one, and whether the path may be resolved like that; below a directory above
 * our tree, which does not have our names, everything is within bounds.
 */
static long open_at(long dirfd, const char *path, const struct how *how, size_t size)
{
	struct located at = {.dirfd = (int)dirfd, .path = path};
	long wrong = raw(SYS_openat2, AT_FDCWD, "", how, size);
	if (wrong != -ENOENT)
		return with_errno(wrong);
	struct how find = {.flags = O_PATH | O_CLOEXEC | (how->flags & O_NOFOLLOW), .resolve = how->resolve};
	bool bounded = (how->resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT)) != 0;
	if (!bounded || fd_kind((int)dirfd) != FD_TREE) {
		if (!locate(&at, (int)dirfd, path) || !at.ours)
			return with_errno(raw(SYS_openat2, dirfd, path, how, size));
		find.resolve &= ~(uint64_t)(RESOLVE_BENEATH | RESOLVE_IN_ROOT);
	}
	long found = raw(SYS_openat2, at.dirfd, at.path, &find, sizeof(find));
	if (found < 0)
		return found == -ENOENT ? openat(at.dirfd, at.path, (int)how->flags, (mode_t)how->mode) : with_errno(found);
	long length = fd_path((int)found, at.buffer);
	raw(SYS_close, found);
	const char *known = length > 0 ? visible(at.buffer) : NULL;
	return openat(AT_FDCWD, known == NULL ? at.buffer : known, (int)how->flags, (mode_t)how->mode);
}

/* It returns the end of the heap, also where it is not the one asked for; brk(3) would remember that. */
static long set_break(uintptr_t end)
{
	uintptr_t before = (uintptr_t)raw(SYS_brk, 0);
	struct change change = begin_change((void *)end, end > 0 && end < before ? before - end : 0, CHANGE_CONTENT);
	long now = raw(SYS_brk, end);
	mappings_change();
	end_change(change);
	return now;
}

/* Some results are large numbers: only the last page of them are errors. */
static long result_of(long result)
{
	return RAW_ERROR(result) ? with_errno(result) : result;
}

EXPORT long syscall(long number, ...)
{
	va_list list;
	va_start(list, number);
	long a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long);
	long d = va_arg(list, long), e = va_arg(list, long), f = va_arg(list, long);
	va_end(list);
	if (likely(!place.active))
		return result_of(raw(number, a, b, c, d, e, f));
	int fd = (int)a;
	switch (number) {
#ifdef SYS_open
	case SYS_open: return open((const char *)a, (int)b, (mode_t)c);
	case SYS_creat: return creat((const char *)a, (mode_t)b);
	case SYS_stat: return stat((const char *)a, (struct stat *)b);
	case SYS_lstat: return lstat((const char *)a, (struct stat *)b);
	case SYS_access: return access((const char *)a, (int)b);
	case SYS_readlink: return readlink((const char *)a, (char *)b, (size_t)c);
	case SYS_dup2: return dup2(fd, (int)b);
#endif
	case SYS_openat: return openat(fd, (const char *)b, (int)c, (mode_t)d);
	case SYS_openat2: return open_at(fd, (const char *)b, (const struct how *)c, (size_t)d);
	case SYS_newfstatat: return fstatat(fd, (const char *)b, (struct stat *)c, (int)d);
	case SYS_fstat: return fstat(fd, (struct stat *)b);
	case SYS_statx: return statx(fd, (const char *)b, (int)c, (unsigned)d, (struct statx *)e);
	case SYS_faccessat: return faccessat(fd, (const char *)b, (int)c, 0);
	case SYS_faccessat2: return faccessat(fd, (const char *)b, (int)c, (int)d);
	case SYS_readlinkat: return readlinkat(fd, (const char *)b, (char *)c, (size_t)d);
	case SYS_chdir: return chdir((const char *)a);
	case SYS_fchdir: return fchdir(fd);
	case SYS_ioctl: return ioctl(fd, (unsigned long)b, c);
	case SYS_read: return read(fd, (void *)b, (size_t)c);
	case SYS_write: return write(fd, (const void *)b, (size_t)c);
	case SYS_readv: return readv(fd, (const struct iovec *)b, (int)c);
	case SYS_writev: return writev(fd, (const struct iovec *)b, (int)c);
	case SYS_pread64: return pread(fd, (void *)b, (size_t)c, d);
	case SYS_pwrite64: return pwrite(fd, (const void *)b, (size_t)c, d);
	case SYS_lseek: return lseek(fd, b, (int)c);
	case SYS_close: return close(fd);
	case SYS_close_range: return close_range((unsigned)a, (unsigned)b, (int)c);
	case SYS_dup: return dup(fd);
	case SYS_dup3: return dup3(fd, (int)b, (int)c);
	case SYS_fcntl: return fcntl(fd, (int)b, c);
	case SYS_recvmsg: return recvmsg(fd, (struct msghdr *)b, (int)c);
	case SYS_sendmsg: return sendmsg(fd, (const struct msghdr *)b, (int)c);
	case SYS_pidfd_getfd: return pidfd_getfd(fd, (int)b, (unsigned)c);
	case SYS_mmap: return (long)mmap((void *)a, (size_t)b, (int)c, (int)d, (int)e, f);
	case SYS_munmap: return munmap((void *)a, (size_t)b);
	case SYS_mprotect: return mprotect((void *)a, (size_t)b, (int)c);
	case SYS_mremap: return (long)mremap((void *)a, (size_t)b, (size_t)c, (int)d, (void *)e);
	case SYS_madvise: return madvise((void *)a, (size_t)b, (int)c);
	case SYS_pkey_mprotect: return pkey_mprotect((void *)a, (size_t)b, (int)c, (int)d);
	case SYS_shmat: return (long)shmat((int)a, (const void *)b, (int)c);
	case SYS_shmdt: return shmdt((const void *)a);
	case SYS_brk: return set_break((uintptr_t)a);
	/* What the host remembers of a process: its user, its limits, its capabilities. */
	case SYS_setuid:
	case SYS_setreuid:
	case SYS_setresuid:
	case SYS_prlimit64:
	case SYS_setrlimit:
	case SYS_capset:
		a = result_of(raw(number, a, b, c, d, e, f));
		mappings_change();
		return a;
	case SYS_execve: return execve((const char *)a, (char *const *)b, (char *const *)c);
	case SYS_execveat: return execveat(fd, (const char *)b, (char *const *)c, (char *const *)d, (int)e);
	default: return result_of(raw(number, a, b, c, d, e, f));
	}
}
