/*
 * What posix_spawn(3) is to do in the child before it executes: libc does it by itself, past our hooks. A directory of ours
 * is given to it as the kernel knows it. A file of ours is opened here and now, and the child gets a copy of the descriptor;
 * it stays open until the actions are destroyed.
 */
#include "shim.h"

#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdlib.h>
#include <unistd.h>

/* Not in the headers of every libc. */
int posix_spawn_file_actions_addchdir_np(posix_spawn_file_actions_t *actions, const char *path);

struct opened {
	const posix_spawn_file_actions_t *actions;
	int fd;
	struct opened *next;
};
static struct opened *all_opened;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Out of the way of the numbers that programs choose. */
#define ASIDE 512

static int add_opened(posix_spawn_file_actions_t *actions, int fd, const char *path, int flags, mode_t mode)
{
	struct opened *opened = malloc(sizeof(*opened));
	if (opened == NULL)
		return ENOMEM;
	int file = open(path, flags | O_CLOEXEC, mode), error = errno;
	int aside = file < 0 ? -1 : fcntl(file, F_DUPFD_CLOEXEC, ASIDE);
	if (aside >= 0)
		close(file);
	else
		aside = file;
	if (file >= 0)
		error = posix_spawn_file_actions_adddup2(actions, aside, fd);
	if (error != 0) {
		if (aside >= 0)
			close(aside);
		free(opened);
		return error;
	}
	pthread_mutex_lock(&lock);
	*opened = (struct opened){actions, aside, all_opened};
	all_opened = opened;
	pthread_mutex_unlock(&lock);
	return 0;
}

EXPORT int posix_spawn_file_actions_addopen(posix_spawn_file_actions_t *actions, int fd, const char *path, int flags, mode_t mode)
{
	struct located at;
	if (likely(!locate(&at, AT_FDCWD, path)) || !at.ours)
		return REAL(posix_spawn_file_actions_addopen)(actions, fd, path, flags, mode);
	/* What cannot be opened is told when the child would be started. */
	int saved = errno, error = add_opened(actions, fd, path, flags, mode);
	errno = saved;
	return error == 0 ? 0 : REAL(posix_spawn_file_actions_addopen)(actions, fd, at.path, flags, mode);
}

EXPORT int posix_spawn_file_actions_addchdir_np(posix_spawn_file_actions_t *actions, const char *path)
{
	struct located at;
	return REAL(posix_spawn_file_actions_addchdir_np)(actions, unlikely(locate(&at, AT_FDCWD, path)) ? at.path : path);
}

EXPORT int posix_spawn_file_actions_destroy(posix_spawn_file_actions_t *actions)
{
	pthread_mutex_lock(&lock);
	for (struct opened **link = &all_opened; *link != NULL;) {
		struct opened *opened = *link;
		if (opened->actions != actions) {
			link = &opened->next;
			continue;
		}
		*link = opened->next;
		close(opened->fd);
		free(opened);
	}
	pthread_mutex_unlock(&lock);
	return REAL(posix_spawn_file_actions_destroy)(actions);
}
