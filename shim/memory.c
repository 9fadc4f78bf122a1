/*
 * Changes of the address space.
 *
 * The host remembers mappings, limits and capabilities until `generation`
 * changes. And it keeps the content of pinned pages: before the program unmaps
 * or replaces some, the host is told, so that it can save them. A program that
 * has pinned nothing pays one comparison.
 *
 * libc's own calls do not come here: free() that gives memory back, thread
 * stacks, stdio buffers. DMA into memory that was freed while mapped is lost.
 */
#include "shim.h"

#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <unistd.h>

#define PAGE 4096ul

/* The pages that hold [start, start + length) go away, or become others. */
static void changing(const void *start, size_t length)
{
	if (likely(!has_pinned_pages()) || length == 0 || is_borrowed())
		return;
	int saved = errno;
	struct uiommu_request request = {.operation = OP_CHANGING, .argument = (uintptr_t)start, .number = length};
	request_host(&request, NULL, NULL, 0, -1);
	errno = saved;
}

/*
 * The host shows a file of its directory. A lock of an open file description goes with the last mapping that came of it,
 * in whatever process: so the host knows when nobody has it mapped any more.
 */
static void *map_window(long number, void *address, size_t length, int protection, int flags)
{
	char path[sizeof(place.directory) + 32], digits[24];
	struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
	char *digit = digits + sizeof(digits);
	*--digit = '\0';
	for (; number > 0; number /= 10)
		*--digit = (char)('0' + number % 10);
	strcpy(stpcpy(stpcpy(path, place.directory), "/window-"), digit);
	long file = raw(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
	if (file < 0) {
		errno = (int)-file;
		return MAP_FAILED;
	}
	raw(SYS_fcntl, file, F_OFD_SETLK, &lock);
	void *mapped = REAL(mmap)(address, length, protection, flags, (int)file, 0);
	int saved = errno;
	raw(SYS_close, file);
	mappings_change();
	errno = saved;
	return mapped;
}

static void *map_file(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
	uint64_t inode = file_inode(fd);
	struct uiommu_request request = {
		.operation = OP_MMAP,
		.inode = inode,
		.argument = length,
		.number = (uint64_t)(uint32_t)protection | (uint64_t)(uint32_t)flags << 32,
		.position = (uint64_t)offset,
	};
	if (length == 0 || offset % (off_t)PAGE != 0) {
		errno = EINVAL;
		return MAP_FAILED;
	}
	if ((flags & MAP_FIXED) != 0)
		changing(address, length);
	long result = inode == 0 ? -ENODEV : request_host(&request, NULL, NULL, 0, fd);
	if (result > 0)
		return map_window(result, address, length, protection, flags);
	errno = result < 0 ? (int)-result : ENODEV;
	return MAP_FAILED;
}

/* What huge pages have: their size, and flags that choose another one. */
#define HUGE (2ul << 20)
#define HUGE_SIZE_FLAGS (0x3f << 26)

/*
 * The machine has huge pages, whatever this computer has: without any, a mapping of them is one of ordinary pages with
 * the length and at an address that huge ones would have.
 */
static void *map_huge(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
	if ((flags & MAP_FIXED) != 0)
		changing(address, length);
	void *mapped = REAL(mmap)(address, length, protection, flags, fd, offset);
	if (mapped == MAP_FAILED && errno == ENOMEM && length <= SIZE_MAX - 2 * HUGE) {
		flags &= ~(MAP_HUGETLB | HUGE_SIZE_FLAGS);
		length = (length + HUGE - 1) & -HUGE;
		if ((flags & MAP_FIXED) == 0) {
			int reserve = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
			char *room = REAL(mmap)(NULL, length + HUGE, PROT_NONE, reserve, -1, 0);
			if (room == MAP_FAILED)
				return MAP_FAILED;
			char *start = (char *)(((uintptr_t)room + HUGE - 1) & -HUGE);
			if (start > room)
				REAL(munmap)(room, (size_t)(start - room));
			if (start < room + HUGE)
				REAL(munmap)(start + length, (size_t)(room + HUGE - start));
			address = start;
			flags |= MAP_FIXED;
		}
		mapped = REAL(mmap)(address, length, protection, flags, fd, offset);
	}
	mappings_change();
	return mapped;
}

#define MMAP(name)                                                                                     \
	EXPORT void *name(void *address, size_t length, int protection, int flags, int fd, off_t offset) \
	{                                                                                              \
		if (unlikely(fd >= 0 && is_file_kind(fd_kind(fd))) && (flags & MAP_ANONYMOUS) == 0)    \
			return map_file(address, length, protection, flags, fd, offset);                               \
		if (unlikely((flags & MAP_HUGETLB) != 0))                                              \
			return map_huge(address, length, protection, flags, fd, offset);               \
		if (likely((flags & MAP_FIXED) == 0))                                                  \
			return REAL(name)(address, length, protection, flags, fd, offset);             \
		changing(address, length);                                                             \
		void *mapped = REAL(name)(address, length, protection, flags, fd, offset);             \
		mappings_change();                                                                     \
		return mapped;                                                                         \
	}
MMAP(mmap)
MMAP(mmap64)

/* Likewise a file of huge pages, where none can be mapped. */
EXPORT int memfd_create(const char *name, unsigned int flags)
{
	if (unlikely((flags & MFD_HUGETLB) != 0)) {
		int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;
		void *probe = REAL(mmap)(NULL, HUGE, PROT_READ, kind, -1, 0);
		if (probe == MAP_FAILED)
			flags &= ~(unsigned int)(MFD_HUGETLB | HUGE_SIZE_FLAGS);
		else
			REAL(munmap)(probe, HUGE);
	}
	return REAL(memfd_create)(name, flags);
}

EXPORT int munmap(void *address, size_t length)
{
	changing(address, length);
	int result = REAL(munmap)(address, length);
	mappings_change();
	return result;
}

EXPORT int mprotect(void *address, size_t length, int protection)
{
	int result = REAL(mprotect)(address, length, protection);
	mappings_change();
	return result;
}

EXPORT int pkey_mprotect(void *address, size_t length, int protection, int key)
{
	int result = REAL(pkey_mprotect)(address, length, protection, key);
	mappings_change();
	return result;
}

EXPORT void *mremap(void *address, size_t old_length, size_t length, int flags, ...)
{
	va_list arguments;
	va_start(arguments, flags);
	void *target = va_arg(arguments, void *);
	va_end(arguments);
	if (unlikely(has_pinned_pages())) {
		if ((flags & MREMAP_FIXED) != 0)
			changing(target, length);
		if (length < old_length)
			changing((char *)address + length, old_length - length);
	}
	void *moved = REAL(mremap)(address, old_length, length, flags, target);
	mappings_change();
	if (unlikely(has_pinned_pages()) && moved != MAP_FAILED && moved != address) {
		int saved = errno;
		struct uiommu_request request = {
			.operation = OP_MOVED,
			.argument = (uintptr_t)address,
			.number = old_length < length ? old_length : length,
			.position = (uintptr_t)moved,
		};
		request_host(&request, NULL, NULL, 0, -1);
		errno = saved;
	}
	return moved;
}

EXPORT int madvise(void *address, size_t length, int advice)
{
	if (advice == MADV_DONTNEED || advice == MADV_FREE || advice == MADV_REMOVE || advice == 24 /* MADV_DONTNEED_LOCKED */)
		changing(address, length);
	return REAL(madvise)(address, length, advice);
}

EXPORT int brk(void *end)
{
	void *before = sbrk(0);
	if ((char *)end < (char *)before)
		changing(end, (size_t)((char *)before - (char *)end));
	int result = REAL(brk)(end);
	mappings_change();
	return result;
}

EXPORT void *sbrk(intptr_t increment)
{
	if (unlikely(increment < 0))
		changing((char *)REAL(sbrk)(0) + increment, (size_t)-increment);
	void *before = REAL(sbrk)(increment);
	if (increment != 0)
		mappings_change();
	return before;
}

EXPORT void *shmat(int id, const void *address, int flags)
{
	void *mapped = REAL(shmat)(id, address, flags);
	mappings_change();
	return mapped;
}

/* The length of a segment is not ours to know: everything pinned behind its start is saved. */
EXPORT int shmdt(const void *address)
{
	changing(address, (size_t)1 << 40);
	int result = REAL(shmdt)(address);
	mappings_change();
	return result;
}

/* Limits and capabilities, which the host remembers likewise. */
#define TELL(type, name, parameters, ...)                                                              \
	EXPORT type name parameters                                                                    \
	{                                                                                              \
		type result = REAL(name)(__VA_ARGS__);                                                 \
		mappings_change();                                                                     \
		return result;                                                                         \
	}
TELL(int, setrlimit, (__rlimit_resource_t resource, const struct rlimit *limit), resource, limit)
TELL(int, setrlimit64, (__rlimit_resource_t resource, const struct rlimit64 *limit), resource, limit)
TELL(int, prlimit, (pid_t pid, enum __rlimit_resource resource, const struct rlimit *limit, struct rlimit *old), pid, resource, limit, old)
TELL(int, prlimit64, (pid_t pid, enum __rlimit_resource resource, const struct rlimit64 *limit, struct rlimit64 *old), pid, resource, limit, old)
TELL(int, setuid, (uid_t user), user)
TELL(int, seteuid, (uid_t user), user)
TELL(int, setreuid, (uid_t user, uid_t effective), user, effective)
TELL(int, setresuid, (uid_t user, uid_t effective, uid_t saved), user, effective, saved)
int capset(void *header, const void *data);
TELL(int, capset, (void *header, const void *data), header, data)
