/*
 * What we know about the descriptors of this process: one word for each, so
 * that "not ours" costs a load. The table follows open, dup, close and the
 * like. Programs have ways around our hooks (system calls made by hand, libc's
 * own close inside fclose), so an entry is a guess: file_inode() compares it
 * with the inode of the socket before it is used, and discover_file() finds
 * files of ours that came in unseen.
 */
#include "shim.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

struct fd_entry *fd_chunks[FD_CHUNKS];

static struct fd_entry *make_entry(int fd)
{
	unsigned index = (unsigned)fd;
	if (index >= FD_CHUNK * FD_CHUNKS)
		return NULL;
	struct fd_entry **place_of_chunk = &fd_chunks[index / FD_CHUNK];
	if (__atomic_load_n(place_of_chunk, __ATOMIC_ACQUIRE) == NULL) {
		size_t size = FD_CHUNK * sizeof(struct fd_entry);
		long chunk = raw(SYS_mmap, 0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (RAW_ERROR(chunk))
			return NULL;
		struct fd_entry *expected = NULL;
		if (!__atomic_compare_exchange_n(place_of_chunk, &expected, (struct fd_entry *)chunk, false, __ATOMIC_ACQ_REL,
						 __ATOMIC_ACQUIRE))
			raw(SYS_munmap, chunk, size);
	}
	return fd_entry(fd);
}

void note_fd(int fd, enum fd_kind kind, uint64_t value)
{
	struct fd_entry *entry = kind == FD_UNKNOWN ? fd_entry(fd) : make_entry(fd);
	if (entry != NULL)
		__atomic_store_n(&entry->word, (uint64_t)kind | value << 8, __ATOMIC_RELEASE);
}

void note_file(int fd, uint64_t inode, const struct uiommu_description *description)
{
	struct fd_entry *entry = make_entry(fd);
	if (entry == NULL)
		return;
	entry->rdev[0] = description->major;
	entry->rdev[1] = description->minor;
	entry->mode = description->mode;
	entry->description = (uint16_t)description->kind;
	entry->access = (uint16_t)(description->flags & O_ACCMODE);
	if (description->kind == FILE_SILENT || description->kind == FILE_POLLED)
		silent_files = true;
	note_fd(fd, description->kind == FILE_TEXT ? FD_TEXT : FD_FILE, inode);
}

void forget_fd(int fd)
{
	if (fd_word(fd) != 0 && !is_borrowed())
		note_fd(fd, FD_UNKNOWN, 0);
}

void copy_note(int from, int to)
{
	uint64_t word = fd_word(from);
	if ((word & 0xff) == FD_CONNECTION)
		word = 0;
	if ((word == 0 && fd_word(to) == 0) || is_borrowed())
		return;
	struct fd_entry *target = word == 0 ? fd_entry(to) : make_entry(to);
	if (target == NULL)
		return;
	if (word != 0) {
		struct fd_entry *source = fd_entry(from);
		target->rdev[0] = source->rdev[0];
		target->rdev[1] = source->rdev[1];
		target->mode = source->mode;
		target->description = source->description;
		target->access = source->access;
	}
	__atomic_store_n(&target->word, word, __ATOMIC_RELEASE);
}

int next_connection(int from)
{
	for (unsigned index = (unsigned)from; index < FD_CHUNK * FD_CHUNKS; index++) {
		if (fd_chunks[index / FD_CHUNK] == NULL) {
			index |= FD_CHUNK - 1;
			continue;
		}
		if (fd_kind((int)index) == FD_CONNECTION)
			return (int)index;
	}
	return -1;
}

int find_file(uint64_t inode)
{
	for (unsigned chunk = 0; chunk < FD_CHUNKS; chunk++) {
		if (__atomic_load_n(&fd_chunks[chunk], __ATOMIC_ACQUIRE) == NULL)
			continue;
		for (unsigned i = 0; i < FD_CHUNK; i++) {
			int fd = (int)(chunk * FD_CHUNK + i);
			if (is_file_kind(fd_kind(fd)) && fd_value(fd) == inode && file_inode(fd) == inode)
				return fd;
		}
	}
	return -1;
}

bool any_file_of_ours(void)
{
	for (unsigned index = 0; index < FD_CHUNK * FD_CHUNKS; index++) {
		if (fd_chunks[index / FD_CHUNK] == NULL) {
			index |= FD_CHUNK - 1;
			continue;
		}
		enum fd_kind kind = fd_kind((int)index);
		if (kind != FD_UNKNOWN && kind != FD_CONNECTION)
			return true;
	}
	return false;
}

static uint64_t socket_inode(int fd)
{
	struct stat status;
	long result;
#ifdef SYS_fstat
	result = raw(SYS_fstat, fd, &status);
#else
	result = raw(SYS_newfstat, fd, &status);
#endif
	return result == 0 && S_ISSOCK(status.st_mode) ? status.st_ino : 0;
}

uint64_t file_inode(int fd)
{
	uint64_t word = fd_word(fd);
	if (!is_file_kind((enum fd_kind)(word & 0xff)))
		return 0;
	uint64_t inode = socket_inode(fd);
	if (likely(inode == word >> 8))
		return inode;
	forget_fd(fd);
	return discover_file(fd);
}

uint64_t discover_file(int fd)
{
	if (!place.active || fd_kind(fd) == FD_CONNECTION)
		return 0;
	uint64_t inode = socket_inode(fd);
	if (inode == 0)
		return 0;
	struct sockaddr_un peer;
	socklen_t length = sizeof(peer) - 1;
	memset(&peer, 0, sizeof(peer));
	if (raw(SYS_getpeername, fd, &peer, &length) != 0 || peer.sun_family != AF_UNIX)
		return 0;
	size_t directory = strlen(place.directory);
	if (strncmp(peer.sun_path, place.directory, directory) != 0 || strcmp(peer.sun_path + directory, "/host") != 0)
		return 0;
	struct uiommu_description description;
	if (describe_file(inode, &description) < 0)
		return 0; /* a connection of another process, inherited by accident */
	note_file(fd, inode, &description);
	return inode;
}

/* After exec: what did we inherit? */
void scan_descriptors(void)
{
	struct {
		uint64_t inode;
		int64_t offset;
		unsigned short length;
		unsigned char type;
		char name[];
	} *entry;
	char buffer[4096] __attribute__((aligned(8)));
	char path[PATH_SIZE];
	long directory = raw(SYS_openat, AT_FDCWD, "/proc/thread-self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	if (directory < 0)
		return;
	for (long size; (size = raw(SYS_getdents64, directory, buffer, sizeof(buffer))) > 0;) {
		for (long at = 0; at < size; at += entry->length) {
			entry = (void *)(buffer + at);
			int fd = 0;
			for (const char *digit = entry->name; *digit >= '0' && *digit <= '9'; digit++)
				fd = fd * 10 + (*digit - '0');
			if (entry->name[0] == '.' || fd == directory)
				continue;
			if (fd_path(fd, path) < 0)
				continue;
			if (strncmp(path, "socket:", 7) == 0)
				discover_file(fd);
			else if (path[0] == '/' && directory_kind(path) != FD_UNKNOWN)
				note_fd(fd, directory_kind(path), 0);
		}
	}
	raw(SYS_close, directory);
}
