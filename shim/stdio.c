/*
 * Streams over files of ours. libc's stdio makes its own system calls, which no
 * hook sees. So a file of ours is given a stream of our own making
 * (fopencookie), whose functions are our read and write: an error of a store
 * arrives at fflush or fclose, as it does on Linux.
 */
#include "shim.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct stream {
	int fd;
	FILE *file;
	struct stream *next;
};
static struct stream *streams;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static ssize_t stream_read(void *value, char *into, size_t size) { return read(((struct stream *)value)->fd, into, size); }
static ssize_t stream_write(void *value, const char *from, size_t size)
{
	ssize_t written = write(((struct stream *)value)->fd, from, size);
	return written < 0 ? 0 : written; /* 0 is what stdio takes for an error here */
}
static int stream_seek(void *value, off64_t *offset, int whence)
{
	off64_t position = lseek64(((struct stream *)value)->fd, *offset, whence);
	if (position < 0)
		return -1;
	*offset = position;
	return 0;
}
static int stream_close(void *value)
{
	struct stream *stream = value;
	pthread_mutex_lock(&lock);
	struct stream **link = &streams;
	while (*link != stream)
		link = &(*link)->next;
	*link = stream->next;
	pthread_mutex_unlock(&lock);
	int result = close(stream->fd);
	free(stream);
	return result;
}

/* NULL if there is no memory; then `fd` stays open. */
static FILE *stream_of(int fd, const char *mode)
{
	struct stream *stream = malloc(sizeof(*stream));
	cookie_io_functions_t functions = {stream_read, stream_write, stream_seek, stream_close};
	if (stream == NULL || (stream->file = fopencookie(stream, mode, functions)) == NULL) {
		free(stream);
		return NULL;
	}
	stream->fd = fd;
	pthread_mutex_lock(&lock);
	stream->next = streams;
	streams = stream;
	pthread_mutex_unlock(&lock);
	return stream->file;
}

EXPORT FILE *fdopen(int fd, const char *mode)
{
	return is_ours(fd) ? stream_of(fd, mode) : REAL(fdopen)(fd, mode);
}

/* What fopen does with the descriptor that it got, or did not get. */
static FILE *stream_of_new(int fd, const char *mode)
{
	FILE *file = fd < 0 ? NULL : fdopen(fd, mode);
	if (file == NULL && fd >= 0)
		close(fd);
	return file;
}

static int flags_of(const char *mode)
{
	int flags = mode[0] == 'r' ? O_RDONLY : mode[0] == 'w' ? O_WRONLY | O_CREAT | O_TRUNC : O_WRONLY | O_CREAT | O_APPEND;
	for (const char *more = mode + 1; *more != '\0' && *more != ','; more++) {
		if (*more == '+')
			flags = (flags & ~O_ACCMODE) | O_RDWR;
		else if (*more == 'x')
			flags |= O_EXCL;
		else if (*more == 'e')
			flags |= O_CLOEXEC;
	}
	return flags;
}

/* A placeholder that was reached through a link, or a link that leads to nothing of the computer's own. */
static FILE *open_linked(const char *path, const char *mode)
{
	struct located at;
	int error = errno;
	if (error == ENXIO || (error == ENOENT && locate_link(&at, AT_FDCWD, path)))
		return stream_of_new(open(path, flags_of(mode), 0666), mode);
	errno = error;
	return NULL;
}

#define FOPEN(name)                                                                                    \
	EXPORT FILE *name(const char *path, const char *mode)                                          \
	{                                                                                              \
		struct located at;                                                                     \
		if (unlikely(locate(&at, AT_FDCWD, path)) ||                                           \
		    (mode[0] != 'r' && unlikely(locate_link(&at, AT_FDCWD, path))))                    \
			return stream_of_new(open(path, flags_of(mode), 0666), mode);                  \
		int fd;                                                                                \
		if (unlikely(suspect(AT_FDCWD, path)) && open_process_file(path, flags_of(mode), &fd)) \
			return stream_of_new(fd, mode);                                                \
		FILE *file = REAL(name)(path, mode);                                                   \
		return unlikely(file == NULL && place.active) ? open_linked(path, mode) : file;        \
	}
FOPEN(fopen)
FOPEN(fopen64)

#define FREOPEN(name)                                                                                  \
	EXPORT FILE *name(const char *path, const char *mode, FILE *file)                              \
	{                                                                                              \
		struct located at;                                                                     \
		if (likely(!locate(&at, AT_FDCWD, path)))                                              \
			return REAL(name)(path, mode, file);                                           \
		int fd = open(path, flags_of(mode), 0666);                                             \
		FILE *again = fd < 0 ? NULL : REAL(name)("/dev/null", mode, file);                     \
		if (again != NULL)                                                                     \
			dup2(fd, fileno(again));                                                       \
		if (fd >= 0)                                                                           \
			close(fd);                                                                     \
		return again;                                                                          \
	}
FREOPEN(freopen)
FREOPEN(freopen64)

static int our_fileno(const FILE *file)
{
	int fd = -1;
	if (likely(__atomic_load_n(&streams, __ATOMIC_ACQUIRE) == NULL))
		return -1;
	pthread_mutex_lock(&lock);
	for (struct stream *stream = streams; stream != NULL; stream = stream->next)
		if (stream->file == file)
			fd = stream->fd;
	pthread_mutex_unlock(&lock);
	return fd;
}
#define FILENO(name)                                                                                   \
	EXPORT int name(FILE *file)                                                                    \
	{                                                                                              \
		int fd = our_fileno(file);                                                            \
		return fd >= 0 ? fd : REAL(name)(file);                                                \
	}
FILENO(fileno)
FILENO(fileno_unlocked)

EXPORT int fclose(FILE *file)
{
	/* A stream of our own closes its descriptor by our close(). */
	int fd = unlikely(place.active) && our_fileno(file) < 0 ? REAL(fileno)(file) : -1;
	if (likely(fd < 0 || fd_word(fd) == 0))
		return REAL(fclose)(file);
	fflush(file);
	uint64_t word = before_close(fd);
	int result = REAL(fclose)(file);
	after_close(word);
	return result;
}
