/* corners WHAT: uncommon ways to open, to ask about and to use our files; prints "ok" or "FAIL" and the promise. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>
#include "echo.h"

#define DEVICE "/dev/toy/echo"
#define TEXT "/sys/bus/toy/devices/one/vendor"

static int fd;
static char *volatile nowhere; /* which the compiler does not know */
static char text[8192];
static struct stat status;

static int is_device(int result) { return result == 0 && S_ISCHR(status.st_mode) && status.st_rdev == makedev(240, 7); }
static const char *by_number(const char *folder, int file)
{
	snprintf(text, sizeof(text), "%s/%d", folder, file);
	return text;
}

static void opening(void)
{
	struct open_how how = {.flags = O_RDWR};
	say("openat2", works((int)syscall(SYS_openat2, AT_FDCWD, DEVICE, &how, sizeof(how))));
	say("syscall", works((int)syscall(SYS_openat, AT_FDCWD, DEVICE, O_RDWR)));
	int place = open(DEVICE, O_PATH);
	say("O_PATH opens nothing", place >= 0 && refused(ioctl(place, GET, 0), EBADF));
	say("/proc/self/fd of an O_PATH one", works(open(by_number("/proc/self/fd", place), O_RDWR)));
	say("/proc/self/fd", works(open(by_number("/proc/self/fd", fd), O_RDWR)));
	say("/dev/fd", works(open(by_number("/dev/fd", fd), O_RDWR)));
	say("what is below a device", refused(open(DEVICE "/x", O_RDWR), ENOTDIR) && refused(open(DEVICE "/", O_RDWR), ENOTDIR) &&
		refused(openat(fd, "x", O_RDWR), ENOTDIR) && refused(fchdir(fd), ENOTDIR) && opendir(DEVICE) == NULL);
	memset(text, 'a', sizeof(text) - 1);
	memcpy(text, "/dev/", 5);
	say("a path that is too long", refused(open(text, O_RDWR), ENAMETOOLONG));
	say("no path", refused(open(nowhere, O_RDWR), EFAULT) && refused(open((char *)1, O_RDWR), EFAULT) && refused(stat(nowhere, &status), EFAULT) &&
		refused(open((char *)~0ul, O_RDWR), EFAULT) && refused(open("", O_RDWR), ENOENT));
	int reads = open(DEVICE, O_RDONLY), writes = open(DEVICE, O_WRONLY);
	say("an access mode is kept", (fcntl(reads, F_GETFL) & O_ACCMODE) == O_RDONLY && (fcntl(writes, F_GETFL) & O_ACCMODE) == O_WRONLY &&
		(fcntl(dup(fd), F_GETFL) & O_ACCMODE) == O_RDWR);
	say("and holds", works(reads) && refused(write(reads, text, 1), EBADF) && refused(read(writes, text, 1), EBADF));
	FILE *file = freopen(TEXT, "r", fopen("/dev/null", "r"));
	say("freopen", file != NULL && fgets(text, sizeof(text), file) && strcmp(text, "0x1234\n") == 0);
}

static void links(const char *folder)
{
	char device[256], twice[256], tree[256], inside[300];
	snprintf(device, sizeof(device), "%s/device", folder);
	snprintf(twice, sizeof(twice), "%s/twice", folder);
	snprintf(tree, sizeof(tree), "%s/tree", folder);
	snprintf(inside, sizeof(inside), "%s/echo", tree);
	if (symlink(DEVICE, device) != 0 || symlink("device", twice) != 0 || symlink("/dev/toy", tree) != 0)
		say("links of our own", 0);
	say("open a link to a device", works(open(device, O_RDWR)) && works(open(twice, O_RDWR)) && works(open(inside, O_RDWR)));
	say("stat it", is_device(stat(device, &status)) && is_device(stat(twice, &status)) && is_device(stat(inside, &status)));
	say("lstat sees the link", lstat(device, &status) == 0 && S_ISLNK(status.st_mode));
	say("O_NOFOLLOW", refused(open(device, O_RDWR | O_NOFOLLOW), ELOOP));
	say("access, realpath, fopen", access(twice, R_OK) == 0 && realpath(twice, text) && strcmp(text, DEVICE) == 0 && fopen(device, "r"));
	say("what would make a file opens the device", works(open(device, O_RDWR | O_CREAT | O_TRUNC, 0600)) && fopen(twice, "w") && access("/dev/toy", F_OK) == 0);
	say("chdir", chdir(tree) == 0 && getcwd(text, sizeof(text)) && strcmp(text, "/dev/toy") == 0 && works(open("echo", O_RDWR)) && chdir("/") == 0);
	say("opendir", opendir(tree) != NULL);
	say("a link to nothing", symlink("/nowhere", "gone") != 0 || (refused(open("gone", O_RDWR), ENOENT) && unlink("gone") == 0));
}

static void asking(void)
{
	struct statx more;
	say("stat of /proc/self/fd", is_device(stat(by_number("/proc/self/fd", fd), &status)) && access(text, R_OK | W_OK) == 0);
	say("its realpath", realpath(by_number("/proc/self/fd", fd), text + 100) && strcmp(text + 100, DEVICE) == 0);
	say("statx of a descriptor", statx(fd, "", AT_EMPTY_PATH, STATX_ALL, &more) == 0 && S_ISCHR(more.stx_mode) && more.stx_rdev_major == 240);
	say("statx without a path", statx(fd, nowhere, AT_EMPTY_PATH, STATX_ALL, &more) == 0 ? S_ISCHR(more.stx_mode) : errno == EFAULT);
	say("an answer to nowhere", refused(stat(DEVICE, (void *)8), EFAULT) && refused(fstat(fd, (void *)8), EFAULT));
	say("faccessat2", syscall(SYS_faccessat2, AT_FDCWD, DEVICE, R_OK, 0) == 0);
	say("it is no socket", refused(send(fd, "x", 1, 0), ENOTSOCK) && refused(recv(fd, text, 1, MSG_DONTWAIT), ENOTSOCK) &&
		refused(shutdown(fd, 2), ENOTSOCK) && refused(getsockname(fd, NULL, NULL), ENOTSOCK));
	int pair[2], passwd = open("/etc/passwd", O_RDONLY);
	if (pipe(pair) != 0 || write(pair[1], "hi", 2) != 2)
		say("a pipe", 0);
	say("nothing is spliced into it", refused(sendfile(fd, passwd, NULL, 10), EINVAL) && refused(splice(pair[0], NULL, fd, NULL, 2, 0), EINVAL));
	say("no terminal, nothing to fetch", !isatty(fd) && refused(ioctl(fd, FIONREAD, text), ENOTTY));
	struct epoll_event event = {.events = EPOLLIN};
	fd_set set;
	FD_ZERO(&set);
	FD_SET(fd, &set);
	say("epoll refuses it, select finds it ready", refused(epoll_ctl(epoll_create1(0), EPOLL_CTL_ADD, fd, &event), EPERM) && select(fd + 1, &set, NULL, NULL, NULL) == 1);
	say("names are not the program's to change", refused(unlink(TEXT), EPERM) && refused(mkdir("/sys/bus/toy/x", 0700), EPERM) &&
		refused(mkdir("/sys/bus/toy/devices", 0700), EEXIST) && refused(rmdir("/sys/bus/toy/none"), ENOENT) &&
		refused(rename(TEXT, "/tmp/x"), EPERM) && refused(symlink("x", "/sys/bus/toy/y"), EPERM) && refused(open("/sys/bus/toy/new", O_CREAT | O_WRONLY, 0600), EACCES));
	say("all goes on", works(fd));
}

static void *hammer(void *value)
{
	for (int i = 0; i < 20; i++)
		if (!works(fd))
			__atomic_add_fetch((int *)value, 1, __ATOMIC_RELAXED);
	return NULL;
}
static void nothing(int number) { (void)number; }
static void limits(void)
{
	pthread_t threads[200];
	int bad = 0, made = 0;
	for (int i = 0; i < 200; i++)
		made += pthread_create(&threads[made], NULL, hammer, &bad) == 0;
	for (int i = 0; i < made; i++)
		pthread_join(threads[i], NULL);
	say("200 threads", made > 50 && bad == 0);
	struct rlimit before, few;
	getrlimit(RLIMIT_NOFILE, &before);
	few = before;
	few.rlim_cur = 20;
	setrlimit(RLIMIT_NOFILE, &few);
	int opened[32], count = 0;
	while (count < 32 && (opened[count] = open(DEVICE, O_RDWR)) >= 0)
		count++;
	say("no more files than allowed", count < 20 && errno == EMFILE);
	pthread_create(&threads[0], NULL, hammer, &bad);
	pthread_join(threads[0], NULL);
	getrlimit(RLIMIT_NOFILE, &few);
	say("a new thread works all the same", bad == 0 && few.rlim_cur == 20);
	while (count > 0)
		close(opened[--count]);
	setrlimit(RLIMIT_NOFILE, &before);
	struct sigaction action = {.sa_handler = nothing};
	sigaction(SIGALRM, &action, NULL);
	ualarm(300, 300);
	for (int i = 0; i < 1000; i++)
		bad += !works(fd);
	ualarm(0, 0);
	say("signals", bad == 0);
	pid_t child = fork();
	int end = 0;
	if (child == 0) {
		struct rlimit no_core = {0, 0};
		setrlimit(RLIMIT_CORE, &no_core);
		works(fd);
		raise(SIGSEGV);
	}
	waitpid(child, &end, 0);
	say("a child that crashes", WIFSIGNALED(end) && works(fd));
	int pair[2];
	char answer = 0;
	if (pipe(pair) == 0 && fork() == 0) {
		setsid();
		if (fork() == 0) {
			usleep(20000);
			answer = works(fd) ? 'y' : 'n';
			_exit(write(pair[1], &answer, 1) != 1);
		}
		_exit(0);
	}
	say("a daemon", read(pair[0], &answer, 1) == 1 && answer == 'y');
	char *edge = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mprotect(edge + 4096, 4096, PROT_NONE);
	srand(1);
	for (int i = 0; i < 3000; i++) {
		unsigned request = rand() % 3 == 0 ? (unsigned)rand() * 2u : GET;
		char *argument = rand() % 3 ? edge + 4096 - rand() % 80 : (char *)((uintptr_t)rand() << (rand() % 40));
		for (int k = 0; k < 80; k++)
			edge[4095 - k] = (char)rand();
		if (request == GET && ioctl(fd, request, argument) == -1 && errno != EINVAL && errno != EFAULT)
			bad++;
		else if (request != GET && ioctl(fd, request, argument) == -1 && errno == EIO)
			bad++;
	}
	say("random calls", bad == 0 && works(fd));
}

int main(int count, char **arguments)
{
	const char *what = count > 1 ? arguments[1] : "";
	fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (strcmp(what, "opening") == 0)
		opening();
	else if (strcmp(what, "links") == 0 && count > 2)
		links(arguments[2]);
	else if (strcmp(what, "asking") == 0)
		asking();
	else if (strcmp(what, "limits") == 0)
		limits();
	else
		return 2;
	return 0;
}
