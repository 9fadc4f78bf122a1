/* What the files of the shim know of each other. README.md tells what each is for. */
#ifndef UIOMMU_SHIM_H
#define UIOMMU_SHIM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "protocol.h"
#include "raw.h"

#define EXPORT __attribute__((visibility("default")))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* The next definition of a function behind ours: libc's, or that of another preloaded library. */
#define REAL(name)                                                                                     \
	__extension__({                                                                                \
		static void *address_;                                                                 \
		void *found_ = __atomic_load_n(&address_, __ATOMIC_RELAXED);                           \
		if (unlikely(found_ == NULL))                                                          \
			found_ = find_real(&address_, #name);                                          \
		(__typeof__(&name))found_;                                                             \
	})
void *find_real(void **cache, const char *name);

/* Returns -1 with errno for a negative error number, else the number. */
static inline long with_errno(long result)
{
	if (unlikely(result < 0)) {
		errno = (int)-result;
		return -1;
	}
	return result;
}

/* start.c: where the host is. `active` is false in a program that uiommu did not start: then nothing is done at all. */
struct place {
	bool active;
	char host[64]; /* UIOMMU_HOST: its process id, a colon, and its key, 32 hexadecimal digits */
	uint64_t key[2];
	char directory[80];
	char root[96];  /* DIR/root: the tree of files that clients see */
	size_t root_length;
	char nodes[96]; /* DIR/node: what stands behind the placeholders in it */
	char library[PATH_MAX];
};
extern struct place place;

/* state.c: the address space as the host knows it, and connections. */
struct space {
	uint32_t valid; /* 0 in a forked child: the page is wiped */
	uint32_t lock;
	int32_t pid;
	int32_t primary;
	uint64_t cookie[2];
	uint64_t generation;
	uint64_t watched; /* REPLY_PINNED, REPLY_BOUND; in the high half the version of that */
	uint32_t keeper;
};
extern struct space *space;

/* What the host wants to be told: REPLY_PINNED, REPLY_BOUND. */
static inline uint32_t watched(void) { return likely(space == NULL) ? 0 : (uint32_t)__atomic_load_n(&space->watched, __ATOMIC_RELAXED); }
static inline bool has_pinned_pages(void) { return unlikely((watched() & REPLY_PINNED) != 0); }
static inline void mappings_change(void)
{
	if (unlikely(space != NULL))
		__atomic_add_fetch(&space->generation, 1, __ATOMIC_RELAXED);
}
/* In a vfork child: it shares our memory, so what it does to its descriptors must not be noted. */
bool is_borrowed(void);

long connect_to_host(int flags);
/*
 * One request and its reply. `out` follows the request; the payload of the reply goes to `in`. Negative: an error number.
 * `in` may be any address: -EFAULT if it cannot be written.
 */
long request_host(struct uiommu_request *request, const void *out, void *in, size_t in_length, int fd);
long open_in_host(const char *path, int flags, mode_t mode);
/* Likewise a file that there is for each thread. */
long open_about(pid_t thread, const char *path, int flags, mode_t mode);
long describe_file(uint64_t inode, struct uiommu_description *description);
void sync_with_host(int fd);
/* A descriptor of the file `inode` was closed. If it was the last one the file is released when this returns, as in Linux. */
void tell_closed(uint64_t inode);
/* Called when the program takes our number: gives the connection another one. */
void move_connection(int fd);
void after_fork_in_child(void);
long keeper_connection(void);

/* memory.c: a change of the address space. Begun before it is made, ended after, also if it was not made. */
struct change {
	uintptr_t start;
	bool told; /* somebody wants to know when it is over */
};
struct change begin_change(const void *start, size_t length, enum uiommu_change kind);
void end_change(struct change change);
/* All of it, for a child. */
struct change begin_fork(void);

/*
 * keeper.c: pinned pages shall outlive this process, those that it has and, as others may have its files now, those that it
 * will have. Costs a comparison if it has no files of ours.
 */
void keep_memory(void);
extern bool files_are_shared;

/* blind.c: before a program starts, by its path or by a name that is looked for. */
void tell_if_blind(const char *path);
void tell_if_blind_in_path(const char *name);

/* fdtable.c: what we know about descriptors of this process. */
enum fd_kind {
	FD_UNKNOWN = 0, /* not ours */
	FD_FILE,        /* an open file of ours; value: its socket's inode */
	FD_TEXT,        /* likewise, writes change a text */
	FD_NEAR,        /* a directory above our tree, such as /sys/class */
	FD_TREE,        /* a directory in our tree */
	FD_CONNECTION,  /* our own; value: the struct connection */
};
struct fd_entry {
	uint64_t word; /* kind in the low byte, the value above */
	uint32_t rdev[2];
	uint32_t mode;
	uint16_t description; /* FILE_* */
	uint16_t access;      /* of open(2): O_RDONLY, O_WRONLY, O_RDWR */
};
#define FD_CHUNK 1024u
#define FD_CHUNKS 1024u
extern struct fd_entry *fd_chunks[FD_CHUNKS];

static inline struct fd_entry *fd_entry(int fd)
{
	unsigned index = (unsigned)fd;
	if (index >= FD_CHUNK * FD_CHUNKS)
		return NULL;
	struct fd_entry *chunk = __atomic_load_n(&fd_chunks[index / FD_CHUNK], __ATOMIC_ACQUIRE);
	return chunk == NULL ? NULL : &chunk[index % FD_CHUNK];
}
static inline uint64_t fd_word(int fd)
{
	struct fd_entry *entry = fd_entry(fd);
	return entry == NULL ? 0 : __atomic_load_n(&entry->word, __ATOMIC_ACQUIRE);
}
static inline enum fd_kind fd_kind(int fd) { return (enum fd_kind)(fd_word(fd) & 0xff); }
static inline uint64_t fd_value(int fd) { return fd_word(fd) >> 8; }
static inline bool is_file_kind(enum fd_kind kind) { return kind == FD_FILE || kind == FD_TEXT; }

void note_fd(int fd, enum fd_kind kind, uint64_t value);
void note_file(int fd, uint64_t inode, const struct uiommu_description *description);
void forget_fd(int fd);
void copy_note(int from, int to);
/* The inode of the open file of ours behind `fd`, 0 if there is none (any more). */
uint64_t file_inode(int fd);
static inline bool is_ours(int fd) { return unlikely(is_file_kind(fd_kind(fd))) && file_inode(fd) != 0; }
/* Like that, for a descriptor that we never saw being made. */
uint64_t discover_file(int fd);
/* waiting.c: true once this process had a file that is never writable. */
extern bool silent_files;
/* A descriptor of the open file `inode`, or -1. */
int find_file(uint64_t inode);
void scan_descriptors(void);
bool any_file_of_ours(void);
/* The next number >= `from` of a connection of ours, or -1. */
int next_connection(int from);
/* Before and after `fd` is closed, or becomes something else. The first gives what the second needs. */
uint64_t before_close(int fd);
void after_close(uint64_t word);

/* paths.c */
#define PATH_SIZE (PATH_MAX + 128)
struct located {
	int dirfd;
	const char *path;
	bool ours; /* it leads into our tree */
	char buffer[PATH_SIZE];
};
/* Where (dirfd, path) leads. Fills `at` so that at->dirfd, at->path can be given to the kernel. False: nothing of ours,
 * use what you have. Costs a stack frame of two pages: see suspect(). */
bool locate_slow(struct located *at, int dirfd, const char *path);
/* For (dirfd, path) where the kernel found nothing: a symbolic link of the program's that leads to us? */
bool locate_link(struct located *at, int dirfd, const char *path);
extern int cwd_kind; /* FD_UNKNOWN: find out; FD_NEAR, FD_TREE; -1: an ordinary directory */
/* Not for the program, which may give the kernel whatever it likes. */
static inline bool is_user_pointer(const void *pointer) { return (uintptr_t)pointer - 4096 < ((uintptr_t)1 << 47) - 4096; }
static inline bool is_empty(const char *path) { return path == NULL || path[0] == '\0'; }
/* A few comparisons: false if (dirfd, path) surely does not lead to us. Only then is there anything to locate. */
static inline bool suspect(int dirfd, const char *path)
{
	if (unlikely(!place.active) || !is_user_pointer(path))
		return false;
	if (path[0] == '/') {
		char c = path[1];
		if (likely(!(c == 'd' && path[2] == 'e' && path[3] == 'v') && !(c == 's' && path[2] == 'y' && path[3] == 's') &&
			   !(c == 'p' && path[2] == 'r' && path[3] == 'o') && c != '/' && c != '.' && c != '\0'))
			return false;
	} else if (dirfd == -100 /* AT_FDCWD */) {
		if (likely(cwd_kind == -1))
			return false;
	} else if (likely(fd_kind(dirfd) < FD_NEAR)) {
		return false;
	}
	return true;
}
/* procfs.c: opens a file of /proc/PID that the host has something to say to. False: it is an ordinary one. */
bool open_process_file(const char *path, int flags, int *fd);
static inline bool locate(struct located *at, int dirfd, const char *path)
{
	return unlikely(suspect(dirfd, path)) && locate_slow(at, dirfd, path);
}
#define NOINLINE __attribute__((noinline))
/* The path that the program knows for a path in DIR/root; NULL for others. */
static inline const char *visible(const char *path)
{
	if (likely(!place.active) || path[0] != '/' || __builtin_strncmp(path, place.root, place.root_length) != 0)
		return NULL;
	return path[place.root_length] == '\0' ? "/" : path[place.root_length] == '/' ? path + place.root_length : NULL;
}
/* FD_NEAR, FD_TREE or FD_UNKNOWN, for a canonical path as the kernel knows it. */
enum fd_kind directory_kind(const char *path);
/* Reads what descriptor `fd` refers to (/proc/self/fd) into a buffer of PATH_SIZE; its length, or negative. */
long fd_path(int fd, char *buffer);
/* Names that our tree adds to the directory `path`, one after another, until NULL; `cursor` begins as 0. */
const char *added_name(const char *path, size_t *cursor, size_t *length);

/* stat.c: opens what `at` says for reading its place only (O_PATH), and says the visible path if it is a placeholder. */
long placeholder_path(const struct located *at, int flags, char *buffer, const char **path);

#endif
