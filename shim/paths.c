/*
 * Where a path leads.
 *
 * The files that uiommu shows exist as a real tree, DIR/root: /sys/bus/pci is
 * DIR/root/sys/bus/pci. So an absolute path needs a prefix and nothing more,
 * and the kernel does the rest: symbolic links, "..", directory descriptors,
 * the working directory. Our tree owns whole directories (the *prefixes*, such
 * as /sys/bus/pci and /dev/iommu); the directories above them (the *near*
 * ones, such as /sys/bus and /dev) stay the computer's own, and our names are
 * added where they are listed.
 *
 * Before a prefix is reached a path is taken apart here, "." and ".." by
 * spelling; behind it the kernel does it, unless ".." leads out of our tree.
 * Paths that do not begin with /dev or /sys never come here.
 */
#include "shim.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* The host's list of prefixes: one a line, in a page that the host rewrites when it changes. */
#define PREFIXES_SIZE 65536
static const char *prefixes;

static const char *load_prefixes(void)
{
	const char *list = __atomic_load_n(&prefixes, __ATOMIC_ACQUIRE);
	if (likely(list != NULL))
		return list;
	char path[sizeof(place.directory) + 16];
	strcpy(stpcpy(path, place.directory), "/prefixes");
	list = "";
	long fd = raw(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (fd >= 0) {
		long address = raw(SYS_mmap, 0, PREFIXES_SIZE, PROT_READ, MAP_SHARED, fd, 0);
		if (!RAW_ERROR(address))
			list = (const char *)address;
		raw(SYS_close, fd);
	}
	__atomic_store_n(&prefixes, list, __ATOMIC_RELEASE);
	return list;
}

enum relation { APART, OWNED, ABOVE };

/* How `path` (normalised, `length` long, "" for the root) stands to our tree. */
static enum relation relation_of(const char *path, size_t length)
{
	enum relation relation = APART;
	for (const char *line = load_prefixes(); *line != '\0';) {
		const char *end = strchrnul(line, '\n');
		size_t size = (size_t)(end - line);
		if (size == length && memcmp(line, path, length) == 0)
			return OWNED;
		if (size > length && line[length] == '/' && memcmp(line, path, length) == 0)
			relation = ABOVE;
		line = *end == '\0' ? end : end + 1;
	}
	return relation;
}

const char *added_name(const char *path, size_t *cursor, size_t *length)
{
	size_t above = strcmp(path, "/") == 0 ? 0 : strlen(path);
	const char *list = load_prefixes();
	for (const char *line = list + *cursor; *line != '\0';) {
		const char *end = strchrnul(line, '\n');
		size_t size = (size_t)(end - line);
		const char *next = *end == '\0' ? end : end + 1;
		if (size > above + 1 && line[above] == '/' && memcmp(line, path, above) == 0 &&
		    memchr(line + above + 1, '/', size - above - 1) == NULL) {
			*cursor = (size_t)(next - list);
			*length = size - above - 1;
			return line + above + 1;
		}
		line = next;
	}
	return NULL;
}

/* The first ".." of an absolute path, or of what is left of one. */
static const char *dot_dot(const char *path)
{
	for (; (path = strstr(path, "/..")) != NULL; path += 3)
		if (path[3] == '/' || path[3] == '\0')
			return path + 1;
	return NULL;
}

/*
 * Walks an absolute path through the near directories. True if it reaches our tree: `out` then has the path in DIR/root.
 * False otherwise: `out` has the normalised path up to where it left, followed by the rest as it was.
 */
static bool walk(const char *path, char *out)
{
	char *start = out + place.root_length;
	char *end = start;
	memcpy(out, place.root, place.root_length);
	while (*path != '\0') {
		while (*path == '/')
			path++;
		size_t size = (size_t)(strchrnul(path, '/') - path);
		if (size == 0)
			break;
		if (size == 1 && path[0] == '.') {
			path += 1;
			continue;
		}
		if (size == 2 && path[0] == '.' && path[1] == '.') {
			while (end > start && *--end != '/')
				;
			path += 2;
			continue;
		}
		if ((size_t)(end - out) + size + strlen(path) + 4 > PATH_SIZE)
			break;
		*end = '/';
		memcpy(end + 1, path, size);
		end += size + 1;
		path += size;
		enum relation relation = relation_of(start, (size_t)(end - start));
		if (relation == ABOVE)
			continue;
		if (relation == OWNED || dot_dot(path) == NULL) {
			strcpy(end, path);
			return relation == OWNED;
		}
		/* Somewhere else; ".." may come back. */
	}
	*end = '\0';
	return false;
}

long fd_path(int fd, char *buffer)
{
	char name[40] = "/proc/thread-self/fd/"; /* the process's own ends with its first thread */
	char *digit = name + sizeof("/proc/thread-self/fd/") - 1;
	unsigned divisor = 1;
	while ((unsigned)fd / divisor >= 10)
		divisor *= 10;
	for (; divisor > 0; divisor /= 10)
		*digit++ = (char)('0' + (unsigned)fd / divisor % 10);
	*digit = '\0';
	long length = raw(SYS_readlinkat, AT_FDCWD, name, buffer, PATH_SIZE - 1);
	if (length >= 0)
		buffer[length] = '\0';
	return length;
}

enum fd_kind directory_kind(const char *path)
{
	if (visible(path) != NULL)
		return FD_TREE;
	if (strcmp(path, "/") != 0 && strncmp(path, "/dev", 4) != 0 && strncmp(path, "/sys", 4) != 0)
		return FD_UNKNOWN;
	return relation_of(path, strcmp(path, "/") == 0 ? 0 : strlen(path)) == ABOVE ? FD_NEAR : FD_UNKNOWN;
}

int cwd_kind = FD_UNKNOWN;

/* The visible path of what `dirfd` is, and what kind of directory that is. */
static enum fd_kind base_of(int dirfd, char *buffer)
{
	char real[PATH_SIZE];
	long length = dirfd == AT_FDCWD ? raw(SYS_getcwd, real, PATH_SIZE) : fd_path(dirfd, real);
	enum fd_kind kind = length > 0 && real[0] == '/' ? directory_kind(real) : FD_UNKNOWN;
	if (dirfd == AT_FDCWD)
		cwd_kind = kind == FD_UNKNOWN ? -1 : (int)kind;
	if (kind != FD_UNKNOWN)
		strcpy(buffer, kind == FD_TREE ? visible(real) : real);
	return kind;
}

/*
 * Takes ".." out of an absolute path: what is above a directory of our tree is above what links lead to, as libpci has it
 * with /sys/bus/pci/devices/0000:00:01.0/../../../kernel/iommu_groups/0. False if what is before a ".." is not there.
 */
static bool climb(char *path)
{
	char inside[PATH_SIZE], rest[PATH_SIZE];
	for (const char *dots; (dots = dot_dot(path)) != NULL;) {
		strcpy(rest, dots + 2);
		path[dots - path] = '\0';
		bool owned = walk(path, inside);
		strcpy(path, inside + place.root_length);
		if (owned) {
			long fd = raw(SYS_openat, AT_FDCWD, inside, O_PATH | O_CLOEXEC, 0);
			if (RAW_ERROR(fd))
				return false;
			long length = fd_path((int)fd, inside);
			raw(SYS_close, fd);
			if (length < 0)
				return false;
			strcpy(path, visible(inside) == NULL ? inside : visible(inside));
		}
		size_t end = strlen(path);
		while (end > 0 && path[end - 1] == '/')
			end--;
		while (end > 0 && path[--end] != '/')
			;
		if (end + strlen(rest) + 2 > PATH_SIZE)
			return false;
		strcpy(path + end, *rest == '\0' && end == 0 ? "/" : rest);
	}
	return true;
}

/* An absolute path, as the program means it; `path` and `dirfd` are what the kernel knows it by inside our tree. */
static bool locate_absolute(struct located *at, const char *whole, int dirfd, const char *path)
{
	char climbed[PATH_SIZE], inside[PATH_SIZE];
	if (!walk(whole, at->buffer))
		return false;
	at->ours = true;
	at->dirfd = dirfd;
	at->path = path == NULL ? at->buffer : path;
	if (likely(dot_dot(whole) == NULL) || !climb(strcpy(climbed, whole)) || walk(climbed, inside))
		return true;
	/* ".." leads out of our tree, where the kernel would stay in DIR/root. */
	at->ours = false;
	at->dirfd = AT_FDCWD;
	at->path = strcpy(at->buffer, climbed);
	return true;
}

bool locate_link(struct located *at, int dirfd, const char *path)
{
	char target[PATH_SIZE], current[PATH_SIZE], joined[PATH_SIZE];
	if (likely(!place.active) || !is_user_pointer(path) || strnlen(path, PATH_MAX) == PATH_MAX)
		return false;
	strcpy(current, path);
	for (int links = 0; links < 8; links++) {
		/* The link is the last part of the path that is there. */
		size_t end = strlen(current);
		long length;
		for (;;) {
			char rest = current[end];
			current[end] = '\0';
			length = raw(SYS_readlinkat, dirfd, current, target, PATH_MAX);
			current[end] = rest;
			if (length != -ENOENT)
				break;
			while (end > 0 && current[end - 1] != '/')
				end--;
			while (end > 0 && current[end - 1] == '/')
				end--;
			if (end == 0)
				return false;
		}
		if (length <= 0)
			return false;
		target[length] = '\0';
		size_t start = 0;
		if (target[0] != '/')
			for (start = end; start > 0 && current[start - 1] != '/';)
				start--;
		if (start + (size_t)length + strlen(current + end) >= PATH_MAX)
			return false;
		memcpy(joined, current, start);
		strcpy(stpcpy(joined + start, target), current + end);
		strcpy(current, joined);
		if (suspect(dirfd, current) && locate_slow(at, dirfd, current) && at->ours)
			return true;
	}
	return false;
}

bool locate_slow(struct located *at, int dirfd, const char *path)
{
	size_t length = strnlen(path, PATH_MAX);
	if (length == 0 || length == PATH_MAX)
		return false; /* AT_EMPTY_PATH, or an error */
	if (path[0] == '/')
		return locate_absolute(at, path, AT_FDCWD, NULL);
	char joined[PATH_SIZE];
	enum fd_kind kind = base_of(dirfd, joined);
	if (kind == FD_UNKNOWN)
		return false;
	size_t base = strlen(joined);
	if (base + length + 2 > PATH_SIZE)
		return false;
	joined[base] = '/';
	memcpy(joined + base + 1, path, length + 1);
	return kind == FD_TREE ? locate_absolute(at, joined, dirfd, path) : locate_absolute(at, joined, AT_FDCWD, NULL);
}
