/*
 * New processes and new programs. A new program must be loaded with the shim
 * again and find the host, whatever environment the program gives it; and it
 * must know if it inherits files of ours. All of this may run in a vfork child:
 * nothing here allocates.
 */
#include "shim.h"

#include <alloca.h>
#include <pty.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

static const char preload[] = "LD_PRELOAD=", asan[] = "ASAN_OPTIONS=", asan_option[] = "verify_asan_link_order=0";

static const char *variable(char *const *list, const char *name)
{
	size_t length = strlen(name);
	for (; list != NULL && *list != NULL; list++)
		if (strncmp(*list, name, length) == 0)
			return *list + length;
	return NULL;
}

/* What must be put in, at most: the variables, and text for them. */
struct addition {
	const char *preload, *asan;
	bool inherited, directory;
	size_t count, size;
};

static bool lacks(char *const *list, struct addition *add)
{
	if (likely(!place.active))
		return false;
	*add = (struct addition){0};
	for (; list != NULL && list[add->count] != NULL; add->count++)
		;
	add->preload = variable(list, preload);
	add->asan = variable(list, asan);
	add->directory = variable(list, "UIOMMU_DIR=") == NULL;
	add->inherited = any_file_of_ours() && variable(list, "UIOMMU_INHERITED=") == NULL;
	bool loaded = add->preload != NULL && strstr(add->preload, place.library) != NULL;
	if (loaded && !add->directory && !add->inherited)
		return false;
	if (loaded)
		add->preload = NULL;
	else if (add->preload == NULL)
		add->preload = "";
	if (add->asan != NULL && strstr(add->asan, asan_option) != NULL)
		add->asan = NULL;
	else if (add->asan == NULL)
		add->asan = "";
	add->size = (add->count + 7) * sizeof(char *) + sizeof(preload) + sizeof(place.library) + sizeof(asan) + sizeof(asan_option) +
		    sizeof(place.directory) + sizeof(place.host) + 64 + (add->preload ? strlen(add->preload) : 0) + (add->asan ? strlen(add->asan) : 0);
	return true;
}

/* The variables of `list` with what it lacks, in `room` of `add->size` bytes. */
static char *const *complete(char *const *list, const struct addition *add, void *room)
{
	char **result = room;
	char *text = (char *)(result + add->count + 7);
	size_t count = 0;
	for (size_t i = 0; i < add->count; i++) {
		bool replaced = (add->preload != NULL && strncmp(list[i], preload, sizeof(preload) - 1) == 0) ||
				(add->asan != NULL && strncmp(list[i], asan, sizeof(asan) - 1) == 0);
		if (!replaced)
			result[count++] = list[i];
	}
	if (add->preload != NULL) {
		result[count++] = text;
		text = stpcpy(stpcpy(text, preload), place.library);
		if (add->preload[0] != '\0')
			text = stpcpy(stpcpy(text, ":"), add->preload);
		text++;
	}
	if (add->asan != NULL) {
		result[count++] = text;
		text = stpcpy(text, asan);
		if (add->asan[0] != '\0')
			text = stpcpy(stpcpy(text, add->asan), ":");
		text = stpcpy(text, asan_option) + 1;
	}
	if (add->directory) {
		result[count++] = text;
		text = stpcpy(stpcpy(text, "UIOMMU_DIR="), place.directory) + 1;
		result[count++] = text;
		text = stpcpy(stpcpy(text, "UIOMMU_HOST="), place.host) + 1;
	}
	if (add->inherited) {
		result[count++] = text;
		stpcpy(text, "UIOMMU_INHERITED=1");
	}
	result[count] = NULL;
	return result;
}

/* `list` becomes what the new program shall have. */
#define COMPLETE(list)                                                                                 \
	struct addition add;                                                                           \
	if (unlikely(lacks(list, &add)))                                                               \
		list = complete(list, &add, alloca(add.size));                                         \
	keep_memory()

EXPORT int execve(const char *path, char *const *arguments, char *const *list)
{
	COMPLETE(list);
	tell_if_blind(path);
	return REAL(execve)(path, arguments, list);
}
EXPORT int execv(const char *path, char *const *arguments)
{
	char *const *list = environ;
	COMPLETE(list);
	tell_if_blind(path);
	return REAL(execve)(path, arguments, list);
}
EXPORT int execvpe(const char *file, char *const *arguments, char *const *list)
{
	COMPLETE(list);
	tell_if_blind_in_path(file);
	return REAL(execvpe)(file, arguments, list);
}
EXPORT int execvp(const char *file, char *const *arguments)
{
	char *const *list = environ;
	COMPLETE(list);
	tell_if_blind_in_path(file);
	return REAL(execvpe)(file, arguments, list);
}
EXPORT int fexecve(int fd, char *const *arguments, char *const *list)
{
	COMPLETE(list);
	return REAL(fexecve)(fd, arguments, list);
}
int execveat(int dirfd, const char *path, char *const *arguments, char *const *list, int flags);
EXPORT int execveat(int dirfd, const char *path, char *const *arguments, char *const *list, int flags)
{
	COMPLETE(list);
	return (int)with_errno(raw(SYS_execveat, dirfd, path, arguments, list, flags));
}

/* The arguments of execl and its like, as an array in the caller's frame. */
#define GATHER(first)                                                                                  \
	size_t count = 1;                                                                              \
	va_list walk;                                                                                  \
	va_start(walk, first);                                                                         \
	while (va_arg(walk, char *) != NULL)                                                           \
		count++;                                                                               \
	va_end(walk);                                                                                  \
	char **arguments = alloca((count + 1) * sizeof(char *));                                       \
	va_start(walk, first);                                                                         \
	arguments[0] = (char *)(uintptr_t)first;                                                       \
	for (size_t i = 1; i <= count; i++)                                                            \
		arguments[i] = va_arg(walk, char *)
EXPORT int execl(const char *path, const char *first, ...)
{
	GATHER(first);
	va_end(walk);
	return execv(path, arguments);
}
EXPORT int execlp(const char *file, const char *first, ...)
{
	GATHER(first);
	va_end(walk);
	return execvp(file, arguments);
}
EXPORT int execle(const char *path, const char *first, ...)
{
	GATHER(first);
	char *const *list = va_arg(walk, char *const *);
	va_end(walk);
	return execve(path, arguments, list);
}

EXPORT int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
		       const posix_spawnattr_t *attributes, char *const *arguments, char *const *list)
{
	COMPLETE(list);
	tell_if_blind(path);
	return REAL(posix_spawn)(pid, path, actions, attributes, arguments, list);
}
EXPORT int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
			const posix_spawnattr_t *attributes, char *const *arguments, char *const *list)
{
	COMPLETE(list);
	tell_if_blind_in_path(file);
	return REAL(posix_spawnp)(pid, file, actions, attributes, arguments, list);
}

/* These run a shell with our own environment, past the hooks above. */
static void complete_own_environment(void)
{
	struct addition add;
	keep_memory();
	if (likely(!lacks(environ, &add)))
		return;
	for (char *const *list = complete(environ, &add, alloca(add.size)); *list != NULL; list++) {
		char *value = strchr(*list, '=');
		if (value != NULL && (strncmp(*list, "LD_PRELOAD=", 11) == 0 || strncmp(*list, "UIOMMU_", 7) == 0)) {
			char name[32];
			size_t length = (size_t)(value - *list);
			if (length < sizeof(name)) {
				memcpy(name, *list, length);
				name[length] = '\0';
				setenv(name, value + 1, 1);
			}
		}
	}
}
EXPORT int system(const char *command)
{
	complete_own_environment();
	return REAL(system)(command);
}
EXPORT FILE *popen(const char *command, const char *type)
{
	complete_own_environment();
	return REAL(popen)(command, type);
}

/* A child may come to be the only one that has a file of ours. */
EXPORT pid_t fork(void)
{
	keep_memory();
	struct change change = begin_fork();
	pid_t child = REAL(fork)();
	if (child != 0)
		end_change(change);
	return child;
}
EXPORT int daemon(int keep_directory, int keep_output)
{
	keep_memory();
	return REAL(daemon)(keep_directory, keep_output);
}
EXPORT int forkpty(int *master, char *name, const struct termios *terminal, const struct winsize *size)
{
	keep_memory();
	struct change change = begin_fork();
	pid_t child = REAL(forkpty)(master, name, terminal, size);
	if (child != 0)
		end_change(change);
	return child;
}
