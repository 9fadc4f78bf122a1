/* ways WHAT: more ways to open, to ask about and to hand on our files; prints "ok" or "FAIL" and the promise. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>
#include <utime.h>
#include "echo.h"

#define DEVICE "/dev/toy/echo"
#define FOLDER "/sys/bus/toy/devices/one"

extern char **environ;
static int fd;
static char text[4096];

static void names(void)
{
	struct statvfs system;
	struct stat opened, named, linked;
	say("statvfs", statvfs(DEVICE, &system) == 0);
	say("times", utimensat(AT_FDCWD, DEVICE, NULL, 0) == 0 && utimes(DEVICE, NULL) == 0 && lutimes(DEVICE, NULL) == 0 && utime(DEVICE, NULL) == 0);
	say("lchown", lchown(DEVICE, -1, -1) == 0);
	say("attributes", (setxattr(DEVICE, "user.x", "y", 1, 0) == 0 || errno != ENOENT) && (removexattr(DEVICE, "user.x") == 0 || errno != ENOENT));
	say("ftok", ftok(DEVICE, 1) != -1);
	say("no FIFO is made", refused(mkfifoat(AT_FDCWD, "/dev/toy/fifo", 0600), EPERM));
	say("no file without a name", refused(open("/dev/toy", O_TMPFILE | O_RDWR, 0600), EOPNOTSUPP));
	int control = open(FOLDER "/control", O_RDWR);
	say("a text is not cut", ftruncate(control, 0) == 0 && pread(control, text, 1, 0) == 1);
	snprintf(text, sizeof(text), "/proc/self/fd/%d", fd);
	say("fstat is stat", fstat(fd, &opened) == 0 && stat(DEVICE, &named) == 0 && stat(text, &linked) == 0 && opened.st_ino == named.st_ino &&
		opened.st_dev == named.st_dev && linked.st_ino == named.st_ino && linked.st_dev == named.st_dev);
	say("and of a text", fstat(control, &opened) == 0 && stat(FOLDER "/control", &named) == 0 && opened.st_ino == named.st_ino && opened.st_size == named.st_size);
	DIR *stream = opendir("/dev");
	int all = 0, left = 0;
	while (readdir(stream) != NULL)
		all++;
	rewinddir(stream);
	for (int i = 0; i < 3; i++)
		readdir(stream);
	long early = telldir(stream);
	while (readdir(stream) != NULL)
		;
	for (seekdir(stream, early); readdir(stream) != NULL;)
		left++;
	say("telldir and seekdir", left == all - 3);
	closedir(stream);
}

static int open_how(int base, const char *path, uint64_t flags, uint64_t resolve)
{
	struct open_how how = {.flags = flags, .resolve = resolve};
	return (int)syscall(SYS_openat2, base, path, &how, sizeof(how));
}
static void bounds(void)
{
	int tree = open("/dev/toy", O_RDONLY), above = open("/dev", O_RDONLY);
	say("below a directory of ours", works(open_how(tree, "echo", O_RDWR, RESOLVE_BENEATH)) && works(open_how(above, "toy/echo", O_RDWR, RESOLVE_BENEATH)));
	say("not out of it", refused(open_how(tree, "../toy/echo", O_RDWR, RESOLVE_BENEATH), EXDEV));
	say("as if it were the root", works(open_how(tree, "/echo", O_RDWR, RESOLVE_IN_ROOT)) && works(open_how(tree, "../../echo", O_RDWR, RESOLVE_IN_ROOT)));
	say("without links", refused(open_how(AT_FDCWD, FOLDER "/name", O_RDONLY, RESOLVE_NO_SYMLINKS), ELOOP));
	say("what means nothing", refused(open_how(tree, "echo", 1ull << 40, 0), EINVAL) && refused(open_how(tree, "echo", O_RDWR, 0xf00), EINVAL) &&
		refused(syscall(SYS_openat2, tree, "echo", NULL, 24), EFAULT) && refused(syscall(SYS_openat2, tree, "echo", text, 8), EINVAL));
}

static int spawned(const posix_spawn_file_actions_t *actions, char *const *arguments)
{
	pid_t child;
	int end = -1, error = posix_spawnp(&child, arguments[0], actions, NULL, arguments, environ);
	if (error == 0)
		waitpid(child, &end, 0);
	errno = error;
	return end;
}
static void spawning(char *self)
{
	char *arguments[] = {self, "works", "9", NULL}, *cat[] = {"cmp", "vendor", FOLDER "/vendor", NULL};
	posix_spawn_file_actions_t actions;
	posix_spawn_file_actions_init(&actions);
	say("a file to be opened in the child", posix_spawn_file_actions_addopen(&actions, 9, DEVICE, O_RDWR, 0) == 0 && spawned(&actions, arguments) == 0);
	say("again", spawned(&actions, arguments) == 0);
	posix_spawn_file_actions_destroy(&actions);
	say("nothing stays open", fcntl(512, F_GETFD) == -1);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, fd, 9);
	say("a file that is handed on", spawned(&actions, arguments) == 0);
	posix_spawn_file_actions_addchdir_np(&actions, FOLDER);
	say("a directory to start in", spawned(&actions, cat) == 0);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 9, "/dev/toy/none", O_RDWR, 0);
	say("one that is not there", spawned(&actions, arguments) == -1 && errno == ENOENT);
}

static void *reads_for_ever(void *unused)
{
	char byte;
	for (;;)
		(void)!pread(fd, &byte, 1, 0);
	return unused;
}
static void streams(void)
{
	FILE *device = fopen(DEVICE, "r+");
	say("a device as a stream", device != NULL && fwrite("abc", 1, 3, device) == 3 && fseek(device, 1, SEEK_SET) == 0 && fgetc(device) == 'b' &&
		works(fileno(device)) && fclose(device) == 0);
	FILE *control = fdopen(open(FOLDER "/control", O_WRONLY), "w");
	say("an error of a store", control != NULL && fputs("busy", control) >= 0 && fclose(control) == EOF && errno == EBUSY);
	pthread_t thread;
	struct timespec end;
	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += 60;
	say("a thread that reads can be cancelled", pthread_create(&thread, NULL, reads_for_ever, NULL) == 0 && pthread_cancel(thread) == 0 &&
		pthread_timedjoin_np(thread, NULL, &end) == 0 && works(fd));
}

/* A descriptor that came past our hooks is known when it is asked about. */
static void fetched(void)
{
	struct stat status;
	int pair[2], file;
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec part = {&byte, 1};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	*header = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
	int other = open(DEVICE, O_RDWR);
	memcpy(CMSG_DATA(header), &other, sizeof(other));
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0 || sendmsg(pair[0], &message, 0) != 1)
		say("a message", 0);
	say("by a message, by number", syscall(SYS_recvmsg, pair[1], &message, 0) == 1 && (memcpy(&file, CMSG_DATA(header), sizeof(file)), 1) &&
		pwrite(file, "q", 1, 0) == 1 && fstat(file, &status) == 0 && S_ISCHR(status.st_mode) && works(file));
	int process = (int)syscall(SYS_pidfd_open, getpid(), 0);
	file = (int)syscall(SYS_pidfd_getfd, process, fd, 0);
	say("out of another process", (file < 0 && errno == EPERM) || (pwrite(file, "q", 1, 0) == 1 && works(file)));
}

int main(int count, char **arguments)
{
	const char *what = count > 1 ? arguments[1] : "";
	if (strcmp(what, "works") == 0)
		return works(atoi(arguments[2])) ? 0 : 1;
	fd = open(DEVICE, O_RDWR);
	if (strcmp(what, "names") == 0)
		names();
	else if (strcmp(what, "bounds") == 0)
		bounds();
	else if (strcmp(what, "spawning") == 0)
		spawning(arguments[0]);
	else if (strcmp(what, "streams") == 0)
		streams();
	else if (strcmp(what, "fetched") == 0)
		fetched();
	return 0;
}
