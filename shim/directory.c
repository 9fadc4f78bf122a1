/*
 * Listings. A directory of our tree is a real one. To one above it (/dev,
 * /sys/class) our names are added behind what the computer has, and what the
 * computer has under the same names is left out.
 *
 * libc's own scandir, glob and nftw read directories without our hooks:
 * scandir is written anew here, glob is given our functions, nftw is given the
 * path in DIR/root and its callback the visible one. fts(3) is not: it shows
 * our tree only when it starts in it, with DIR/root in its paths.
 */
#include "shim.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A directory stream to which names are added. */
struct listing {
	DIR *stream;
	struct listing *next;
	size_t cursor;
	struct dirent entry;
	char path[];
};
static struct listing *listings;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static DIR *noted(DIR *stream, const char *path)
{
	if (stream == NULL || directory_kind(path) != FD_NEAR)
		return stream;
	note_fd(dirfd(stream), FD_NEAR, 0);
	struct listing *listing = calloc(1, sizeof(*listing) + strlen(path) + 1);
	if (listing == NULL)
		return stream;
	listing->stream = stream;
	strcpy(listing->path, path);
	pthread_mutex_lock(&lock);
	listing->next = listings;
	__atomic_store_n(&listings, listing, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&lock);
	return stream;
}

static bool has_listings(void) { return __atomic_load_n(&listings, __ATOMIC_ACQUIRE) != NULL; }

static struct listing *listing_of(DIR *stream)
{
	if (likely(!has_listings()))
		return NULL;
	pthread_mutex_lock(&lock);
	struct listing *listing = listings;
	while (listing != NULL && listing->stream != stream)
		listing = listing->next;
	pthread_mutex_unlock(&lock);
	return listing;
}

EXPORT DIR *opendir(const char *path)
{
	struct located at;
	char real[PATH_SIZE];
	if (unlikely(locate(&at, AT_FDCWD, path))) {
		if (!at.ours)
			return REAL(opendir)(at.path);
		long fd = raw(SYS_openat, at.dirfd, at.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
		if (fd < 0) {
			errno = (int)-fd;
			return NULL;
		}
		note_fd((int)fd, FD_TREE, 0);
		DIR *stream = REAL(fdopendir)((int)fd);
		if (stream == NULL)
			close((int)fd);
		return stream;
	}
	DIR *stream = REAL(opendir)(path);
	if (unlikely(stream == NULL && errno == ENOENT && place.active) && locate_link(&at, AT_FDCWD, path))
		return REAL(opendir)(at.path);
	if (likely(!place.active) || stream == NULL)
		return stream;
	if (fd_word(dirfd(stream)) != 0)
		forget_fd(dirfd(stream));
	bool near = path[0] == '/' ? path[1] == '\0' || path[1] == 'd' || path[1] == 's' || path[1] == '/' : cwd_kind == FD_NEAR;
	return near && fd_path(dirfd(stream), real) > 0 ? noted(stream, real) : stream;
}

EXPORT DIR *fdopendir(int fd)
{
	char real[PATH_SIZE];
	DIR *stream = REAL(fdopendir)(fd);
	return unlikely(fd_kind(fd) == FD_NEAR) && fd_path(fd, real) > 0 ? noted(stream, real) : stream;
}

EXPORT int closedir(DIR *stream)
{
	struct listing *listing = listing_of(stream);
	if (unlikely(listing != NULL)) {
		pthread_mutex_lock(&lock);
		struct listing **link = &listings;
		while (*link != listing)
			link = &(*link)->next;
		*link = listing->next;
		pthread_mutex_unlock(&lock);
		free(listing);
	}
	if (unlikely(place.active) && fd_word(dirfd(stream)) != 0)
		forget_fd(dirfd(stream));
	return REAL(closedir)(stream);
}

EXPORT void rewinddir(DIR *stream)
{
	struct listing *listing = listing_of(stream);
	if (unlikely(listing != NULL))
		listing->cursor = 0;
	REAL(rewinddir)(stream);
}

/* Where a listing is: among our names a negative number, which the kernel never gives. */
EXPORT long telldir(DIR *stream)
{
	struct listing *listing = listing_of(stream);
	return unlikely(listing != NULL && listing->cursor > 0) ? -(long)listing->cursor : REAL(telldir)(stream);
}
EXPORT void seekdir(DIR *stream, long position)
{
	struct listing *listing = listing_of(stream);
	if (unlikely(listing != NULL)) {
		listing->cursor = position < 0 ? (size_t)-position : 0;
		if (position < 0)
			return; /* the computer's names have come already */
	}
	REAL(seekdir)(stream, position);
}

static bool is_added(const char *path, const char *name)
{
	size_t cursor = 0, length;
	for (const char *added; (added = added_name(path, &cursor, &length)) != NULL;)
		if (strlen(name) == length && memcmp(name, added, length) == 0)
			return true;
	return false;
}

static struct dirent *next_added(struct listing *listing)
{
	size_t length;
	const char *name = added_name(listing->path, &listing->cursor, &length);
	if (name == NULL || length >= sizeof(listing->entry.d_name))
		return NULL;
	struct dirent *entry = &listing->entry;
	memcpy(entry->d_name, name, length);
	entry->d_name[length] = '\0';
	entry->d_reclen = sizeof(*entry);
	entry->d_ino = 1 + listing->cursor;
	char path[PATH_SIZE];
	struct stat status;
	entry->d_type = DT_UNKNOWN;
	if ((size_t)snprintf(path, sizeof(path), "%s/%s", strcmp(listing->path, "/") == 0 ? "" : listing->path, entry->d_name) <
		    sizeof(path) &&
	    lstat(path, &status) == 0) {
		entry->d_type = (unsigned char)IFTODT(status.st_mode);
		entry->d_ino = status.st_ino;
	}
	return entry;
}

/* Perhaps one of ours: the type of placeholders is not for the program's eyes. */
NOINLINE static struct dirent *shown(DIR *stream, struct dirent *entry)
{
	struct stat status;
	if (place.active && fstatat(dirfd(stream), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0)
		entry->d_type = (unsigned char)IFTODT(status.st_mode);
	return entry;
}

static bool is_socket(const struct dirent *entry) { return unlikely(entry != NULL && entry->d_type == DT_SOCK); }

/* While there is a listing, perhaps that of this stream. */
NOINLINE static struct dirent *read_listed(DIR *stream)
{
	struct listing *listing = listing_of(stream);
	struct dirent *entry;
	do
		entry = REAL(readdir)(stream);
	while (listing != NULL && entry != NULL && is_added(listing->path, entry->d_name));
	if (listing == NULL)
		return is_socket(entry) ? shown(stream, entry) : entry;
	return entry == NULL ? next_added(listing) : entry;
}

/* Called for every file of every directory: what is rare is elsewhere, so that no register is saved for it. */
EXPORT struct dirent *readdir(DIR *stream)
{
	if (unlikely(has_listings()))
		return read_listed(stream);
	struct dirent *entry = REAL(readdir)(stream);
	return is_socket(entry) ? shown(stream, entry) : entry;
}
EXPORT struct dirent64 *readdir64(DIR *stream)
{
	_Static_assert(sizeof(struct dirent) == sizeof(struct dirent64), "one layout on 64-bit machines");
	if (unlikely(has_listings()))
		return (struct dirent64 *)read_listed(stream);
	struct dirent *entry = (struct dirent *)REAL(readdir64)(stream);
	return (struct dirent64 *)(is_socket(entry) ? shown(stream, entry) : entry);
}
int readdir_r(DIR *stream, struct dirent *entry, struct dirent **result);
int readdir64_r(DIR *stream, struct dirent64 *entry, struct dirent64 **result);
static int next_entry(DIR *stream, struct dirent *entry, struct dirent **result)
{
	int saved = errno;
	errno = 0;
	struct dirent *next = readdir(stream);
	int error = errno;
	errno = saved;
	*result = NULL;
	if (next == NULL)
		return error;
	memcpy(entry, next, offsetof(struct dirent, d_name) + strlen(next->d_name) + 1);
	*result = entry;
	return 0;
}
EXPORT int readdir_r(DIR *stream, struct dirent *entry, struct dirent **result) { return next_entry(stream, entry, result); }
EXPORT int readdir64_r(DIR *stream, struct dirent64 *entry, struct dirent64 **result)
{
	return next_entry(stream, (struct dirent *)entry, (struct dirent **)result);
}

/* scandir */

typedef int entry_filter(const struct dirent *);
typedef int entry_order(const struct dirent **, const struct dirent **);

static int collect(DIR *stream, struct dirent ***list, entry_filter *filter, entry_order *order)
{
	struct dirent **found = NULL;
	size_t count = 0, room = 0;
	int saved = errno;
	if (stream == NULL)
		return -1;
	errno = 0;
	for (struct dirent *entry; (entry = readdir(stream)) != NULL;) {
		if (filter != NULL && filter(entry) == 0)
			continue;
		if (count == room) {
			struct dirent **more = realloc(found, (room = room * 2 + 16) * sizeof(*found));
			if (more == NULL)
				goto failed;
			found = more;
		}
		size_t size = offsetof(struct dirent, d_name) + strlen(entry->d_name) + 1;
		if (size < sizeof(struct dirent))
			size = sizeof(struct dirent);
		if ((found[count] = calloc(1, size)) == NULL)
			goto failed;
		memcpy(found[count], entry, offsetof(struct dirent, d_name) + strlen(entry->d_name) + 1);
		count++;
		errno = 0;
	}
	if (errno != 0)
		goto failed;
	closedir(stream);
	if (order != NULL && count > 0)
		qsort(found, count, sizeof(*found), (int (*)(const void *, const void *))(void (*)(void))order);
	*list = found == NULL ? calloc(1, sizeof(*found)) : found;
	errno = saved;
	return (int)count;
failed:
	saved = errno;
	while (count > 0)
		free(found[--count]);
	free(found);
	closedir(stream);
	errno = saved;
	return -1;
}

EXPORT int scandir(const char *path, struct dirent ***list, entry_filter *filter, entry_order *order)
{
	if (likely(!place.active))
		return REAL(scandir)(path, list, filter, order);
	return collect(opendir(path), list, filter, order);
}
static DIR *opendir_at(int base, const char *path)
{
	int fd = openat(base, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? NULL : fdopendir(fd);
}
EXPORT int scandirat(int base, const char *path, struct dirent ***list, entry_filter *filter, entry_order *order)
{
	if (likely(!place.active))
		return REAL(scandirat)(base, path, list, filter, order);
	return collect(opendir_at(base, path), list, filter, order);
}
typedef int entry_filter64(const struct dirent64 *);
typedef int entry_order64(const struct dirent64 **, const struct dirent64 **);
EXPORT int scandir64(const char *path, struct dirent64 ***list, entry_filter64 *filter, entry_order64 *order)
{
	return scandir(path, (struct dirent ***)list, (entry_filter *)filter, (entry_order *)order);
}
EXPORT int scandirat64(int base, const char *path, struct dirent64 ***list, entry_filter64 *filter, entry_order64 *order)
{
	return scandirat(base, path, (struct dirent ***)list, (entry_filter *)filter, (entry_order *)order);
}

/* glob */

static void *glob_open(const char *path) { return opendir(path); }
static void glob_close(void *stream) { closedir(stream); }
static struct dirent *glob_read(void *stream) { return readdir(stream); }
static int glob_stat(const char *path, struct stat *status) { return stat(path, status); }
static int glob_lstat(const char *path, struct stat *status) { return lstat(path, status); }

static bool may_be_ours(const char *pattern)
{
	return place.active && (pattern[0] == '/' ? pattern[1] != 'h' && pattern[1] != 'u' && pattern[1] != 't' : cwd_kind != -1);
}
EXPORT int glob(const char *pattern, int flags, int (*failed)(const char *, int), glob_t *found)
{
	if ((flags & GLOB_ALTDIRFUNC) == 0 && may_be_ours(pattern)) {
		found->gl_opendir = glob_open;
		found->gl_closedir = glob_close;
		found->gl_readdir = glob_read;
		found->gl_stat = glob_stat;
		found->gl_lstat = glob_lstat;
		int result = REAL(glob)(pattern, flags | GLOB_ALTDIRFUNC, failed, found);
		found->gl_flags &= ~GLOB_ALTDIRFUNC;
		return result;
	}
	return REAL(glob)(pattern, flags, failed, found);
}
EXPORT int glob64(const char *pattern, int flags, int (*failed)(const char *, int), glob64_t *found)
{
	if ((flags & GLOB_ALTDIRFUNC) != 0)
		return REAL(glob64)(pattern, flags, failed, found);
	return glob(pattern, flags, failed, (glob_t *)found);
}

/* ftw: the path that the callback sees is the end of the one in DIR/root. */

static __thread __nftw_func_t walk_function __attribute__((tls_model("initial-exec")));
static __thread __ftw_func_t old_walk_function __attribute__((tls_model("initial-exec")));

static int walked(const char *path, const struct stat *status, int type, struct FTW *position)
{
	struct FTW seen = *position;
	struct stat mended = *status;
	seen.base -= (int)place.root_length;
	if (S_ISSOCK(status->st_mode))
		lstat(path + place.root_length, &mended);
	return walk_function(path + place.root_length, &mended, type, &seen);
}
static int old_walked(const char *path, const struct stat *status, int type)
{
	struct stat mended = *status;
	if (S_ISSOCK(status->st_mode))
		lstat(path + place.root_length, &mended);
	return old_walk_function(path + place.root_length, &mended, type);
}
EXPORT int nftw(const char *path, __nftw_func_t function, int descriptors, int flags)
{
	struct located at;
	if (likely(!locate(&at, AT_FDCWD, path)) || !at.ours || at.path[0] != '/')
		return REAL(nftw)(path, function, descriptors, flags);
	__nftw_func_t outer = walk_function;
	walk_function = function;
	int result = REAL(nftw)(at.path, walked, descriptors, flags);
	walk_function = outer;
	return result;
}
EXPORT int nftw64(const char *path, __nftw64_func_t function, int descriptors, int flags)
{
	return nftw(path, (__nftw_func_t)function, descriptors, flags);
}
EXPORT int ftw(const char *path, __ftw_func_t function, int descriptors)
{
	struct located at;
	if (likely(!locate(&at, AT_FDCWD, path)) || !at.ours || at.path[0] != '/')
		return REAL(ftw)(path, function, descriptors);
	__ftw_func_t outer = old_walk_function;
	old_walk_function = function;
	int result = REAL(ftw)(at.path, old_walked, descriptors);
	old_walk_function = outer;
	return result;
}
EXPORT int ftw64(const char *path, __ftw64_func_t function, int descriptors)
{
	return ftw(path, (__ftw_func_t)function, descriptors);
}
