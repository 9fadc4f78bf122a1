/*
 * Changes of the address space.
 *
 * The host remembers mappings, limits and capabilities until `generation`
 * changes. And it keeps the content of pinned pages: before the program unmaps
 * or replaces some, the host is told, so that it can save them. While devices
 * are bound to the address space it is told of every change before it is made,
 * so that they forget what they knew, and after, so that they may look again.
 * A program that has neither pays one comparison.
 *
 * libc's own calls do not come here: free() that gives memory back, thread
 * stacks, stdio buffers. DMA into pinned memory that was freed is lost. What a
 * bound device knows of such memory is out of date, and harmless: it reads and
 * writes what is at that address of the process now, if the process may.
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

/* The pages that hold [start, start + length) go away, become others, or are seen in another way. */
struct change begin_change(const void *start, size_t length, enum uiommu_change kind)
{
	struct change change = {(uintptr_t)start, false};
	uint32_t wanted = kind == CHANGE_CONTENT ? REPLY_PINNED | REPLY_BOUND : REPLY_BOUND;
	if (likely((watched() & wanted) == 0) || length == 0 || is_borrowed())
		return change;
	int saved = errno;
	struct uiommu_request request = {
		.operation = OP_CHANGING,
		.argument = change.start,
		.number = length,
		.position = kind,
	};
	if (request_host(&request, NULL, NULL, 0, -1) == 1)
		change.told = true;
	errno = saved;
	return change;
}

void end_change(struct change change)
{
	if (likely(!change.told))
		return;
	int saved = errno;
	struct uiommu_request request = {.operation = OP_CHANGED, .argument = change.start};
	request_host(&request, NULL, NULL, 0, -1);
	errno = saved;
}

struct change begin_fork(void) { return begin_change(NULL, (size_t)1 << 47, CHANGE_VIEW); }

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
	struct change change = begin_change(address, (flags & MAP_FIXED) != 0 ? length : 0, CHANGE_CONTENT);
	long result = inode == 0 ? -ENODEV : request_host(&request, NULL, NULL, 0, fd);
	void *mapped = MAP_FAILED;
	if (result > 0)
		mapped = map_window(result, address, length, protection, flags);
	else
		errno = result < 0 ? (int)-result : ENODEV;
	end_change(change);
	return mapped;
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
		bool huge = (flags & MAP_HUGETLB) != 0;                                                \
		if (likely((flags & MAP_FIXED) == 0 && !huge))                                         \
			return REAL(name)(address, length, protection, flags, fd, offset);             \
		struct change change = begin_change(address, (flags & MAP_FIXED) != 0 ? length : 0, CHANGE_CONTENT); \
		void *mapped = huge ? map_huge(address, length, protection, flags, fd, offset)         \
				    : REAL(name)(address, length, protection, flags, fd, offset);      \
		mappings_change();                                                                     \
		end_change(change);                                                                    \
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
	struct change change = begin_change(address, length, CHANGE_CONTENT);
	int result = REAL(munmap)(address, length);
	mappings_change();
	end_change(change);
	return result;
}

EXPORT int mprotect(void *address, size_t length, int protection)
{
	struct change change = begin_change(address, length, CHANGE_VIEW);
	int result = REAL(mprotect)(address, length, protection);
	mappings_change();
	end_change(change);
	return result;
}

EXPORT int pkey_mprotect(void *address, size_t length, int protection, int key)
{
	struct change change = begin_change(address, length, CHANGE_VIEW);
	int result = REAL(pkey_mprotect)(address, length, protection, key);
	mappings_change();
	end_change(change);
	return result;
}

/* Pinned pages go along with their content; the host is told where they are before anything else happens to them. */
static void tell_moved(void *address, size_t length, void *moved)
{
	int saved = errno;
	struct uiommu_request request = {
		.operation = OP_MOVED,
		.argument = (uintptr_t)address,
		.number = length,
		.position = (uintptr_t)moved,
	};
	request_host(&request, NULL, NULL, 0, -1);
	errno = saved;
}

EXPORT void *mremap(void *address, size_t old_length, size_t length, int flags, ...)
{
	va_list arguments;
	va_start(arguments, flags);
	void *target = va_arg(arguments, void *);
	va_end(arguments);
	size_t kept = old_length < length ? old_length : length;
	struct change old = begin_change(address, kept, CHANGE_VIEW);
	struct change end = begin_change((char *)address + length, length < old_length ? old_length - length : 0, CHANGE_CONTENT);
	struct change new = begin_change(target, (flags & MREMAP_FIXED) != 0 ? length : 0, CHANGE_CONTENT);
	void *moved = REAL(mremap)(address, old_length, length, flags, target);
	mappings_change();
	if (unlikely(has_pinned_pages()) && moved != MAP_FAILED && moved != address)
		tell_moved(address, kept, moved);
	end_change(new);
	end_change(end);
	end_change(old);
	return moved;
}

EXPORT int madvise(void *address, size_t length, int advice)
{
	bool discards = advice == MADV_DONTNEED || advice == MADV_FREE || advice == MADV_REMOVE || advice == 24 /* MADV_DONTNEED_LOCKED */;
	struct change change = begin_change(address, discards ? length : 0, CHANGE_CONTENT);
	int result = REAL(madvise)(address, length, advice);
	end_change(change);
	return result;
}

EXPORT int brk(void *end)
{
	char *before = sbrk(0);
	struct change change = begin_change(end, (char *)end < before ? (size_t)(before - (char *)end) : 0, CHANGE_CONTENT);
	int result = REAL(brk)(end);
	mappings_change();
	end_change(change);
	return result;
}

EXPORT void *sbrk(intptr_t increment)
{
	if (increment == 0)
		return REAL(sbrk)(0);
	size_t lost = increment < 0 ? (size_t)-increment : 0;
	struct change change = begin_change(lost > 0 ? (char *)REAL(sbrk)(0) - lost : NULL, lost, CHANGE_CONTENT);
	void *before = REAL(sbrk)(increment);
	mappings_change();
	end_change(change);
	return before;
}

/* The length of a segment is not ours to know: everything behind its start may change. */
#define SEGMENT_MAX ((size_t)1 << 40)

EXPORT void *shmat(int id, const void *address, int flags)
{
	struct change change = begin_change(address, (flags & SHM_REMAP) != 0 ? SEGMENT_MAX : 0, CHANGE_CONTENT);
	void *mapped = REAL(shmat)(id, address, flags);
	mappings_change();
	end_change(change);
	return mapped;
}

EXPORT int shmdt(const void *address)
{
	struct change change = begin_change(address, SEGMENT_MAX, CHANGE_CONTENT);
	int result = REAL(shmdt)(address);
	mappings_change();
	end_change(change);
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
