/* client WHAT: one group of promises; prints "ok" or "FAIL" and the promise, one a line. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <poll.h>
#include <pthread.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include "echo.h"

enum {
	SIGNAL = GET + 1, PIN, UNPIN, PEEK, POKE, QUEUE, PUSH, WAIT, WAKE, FILL, HOLD, WATCH, COUNT, WAITERS,
};

static int echo(void) { return open("/dev/toy/echo", O_RDWR | O_CLOEXEC); }
static int listed(const char *path, const char *name)
{
	int found = 0;
	DIR *stream = opendir(path);
	for (struct dirent *entry; stream != NULL && (entry = readdir(stream)) != NULL;)
		found += strcmp(entry->d_name, name) == 0;
	if (stream != NULL)
		closedir(stream);
	return found;
}

static int visited, wrong;
static int visit(const char *path, const struct stat *status, int type, struct FTW *at)
{
	(void)status, (void)type;
	visited++;
	wrong += strncmp(path, "/sys/devices/toy0", 17) != 0 || (at->level > 0 && strchr(path + at->base, '/') != NULL);
	return 0;
}

static void paths(void)
{
	char text[4096], line[64] = "";
	struct stat status;
	struct statx more;
	say("open", works(echo()));
	say("openat by directory", works(openat(open("/dev/toy", O_RDONLY | O_DIRECTORY), "echo", O_RDWR)));
	say("openat by a directory above", works(openat(open("/dev", O_RDONLY | O_DIRECTORY), "toy/echo", O_RDWR)));
	say("a path with //, . and ..", works(open("//dev/./fd/../toy//echo", O_RDWR)));
	say("a link in /dev/char", works(open("/dev/char/240:7", O_RDWR)));
	FILE *file = fopen("/sys/bus/toy/devices/one/vendor", "r");
	say("fopen", file != NULL && fgets(line, sizeof(line), file) && strcmp(line, "0x1234\n") == 0);
	say("stat says character device", stat("/dev/toy/echo", &status) == 0 && S_ISCHR(status.st_mode) &&
		status.st_rdev == makedev(240, 7) && (status.st_mode & 0777) == 0660);
	say("lstat", lstat("/dev/toyflat", &status) == 0 && S_ISCHR(status.st_mode) && status.st_rdev == makedev(240, 8));
	say("lstat says link", lstat("/sys/bus/toy/devices/one", &status) == 0 && S_ISLNK(status.st_mode));
	say("fstat", fstat(echo(), &status) == 0 && S_ISCHR(status.st_mode) && status.st_rdev == makedev(240, 7));
	say("fstatat", fstatat(open("/dev", O_RDONLY), "toyflat", &status, 0) == 0 && S_ISCHR(status.st_mode));
	say("fstatat of a descriptor", fstatat(echo(), "", &status, AT_EMPTY_PATH) == 0 && S_ISCHR(status.st_mode));
	say("stat of an O_PATH descriptor", fstat(open("/dev/toy/echo", O_PATH), &status) == 0 && S_ISCHR(status.st_mode));
	say("statx", statx(AT_FDCWD, "/dev/toy/echo", 0, STATX_ALL, &more) == 0 && S_ISCHR(more.stx_mode) &&
		more.stx_rdev_major == 240 && more.stx_rdev_minor == 7);
	say("a text that can be written is a file", stat("/sys/bus/toy/devices/one/control", &status) == 0 &&
		S_ISREG(status.st_mode) && status.st_size == 5);
	say("access", access("/dev/toy/echo", R_OK | W_OK) == 0 && refused(access("/dev/toy/none", F_OK), ENOENT));
	say("faccessat, euidaccess", faccessat(open("/dev/toy", O_RDONLY), "echo", R_OK, 0) == 0 && euidaccess("/dev/toyflat", R_OK) == 0);
	say("a missing file", refused(open("/dev/toy/none", O_RDWR), ENOENT));
	say("O_CREAT | O_EXCL", refused(open("/dev/toy/echo", O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST));
	say("O_DIRECTORY", refused(open("/dev/toy/echo", O_RDONLY | O_DIRECTORY), ENOTDIR));
	say("a text that cannot be written", refused(open("/sys/bus/toy/devices/one/vendor", O_WRONLY), EACCES));
	ssize_t length = readlink("/sys/bus/toy/devices/one", text, sizeof(text));
	say("readlink", length == 25 && memcmp(text, "../../../devices/toy0/one", 25) == 0);
	say("realpath", realpath("/sys/bus/toy/devices/one/../one/vendor", text) && strcmp(text, "/sys/devices/toy0/one/vendor") == 0);
	say("chdir and getcwd", chdir("/sys/bus/toy/devices/one") == 0 && getcwd(text, sizeof(text)) && strcmp(text, "/sys/devices/toy0/one") == 0);
	say("a relative path", open("vendor", O_RDONLY) >= 0 && access("../one/name", R_OK) == 0);
	say("a relative path that leaves the tree", access("../../../../dev/null", R_OK) == 0 && works(open("../../../../dev/toy/echo", O_RDWR)));
	say("relative realpath", realpath("..", text) && strcmp(text, "/sys/devices/toy0") == 0);
	length = readlink("/proc/self/cwd", text, sizeof(text));
	say("/proc/self/cwd", length == 21 && memcmp(text, "/sys/devices/toy0/one", 21) == 0);
	say("chdir back", chdir("/dev") == 0 && works(open("toy/echo", O_RDWR)) && chdir("/tmp") == 0 && refused(open("toy/echo", O_RDWR), ENOENT));
	char name[64];
	snprintf(name, sizeof(name), "/proc/self/fd/%d", echo());
	length = readlink(name, text, sizeof(text));
	say("/proc/self/fd/N", length == 13 && memcmp(text, "/dev/toy/echo", 13) == 0);
	say("listings show our names once", listed("/dev", "toy") == 1 && listed("/dev", "toyflat") == 1 && listed("/dev", "null") == 1 &&
		listed("/sys/class", "toyclass") == 1 && listed("/sys/bus", "toy") == 1 && listed("/sys/bus/toy/devices", "one") == 1);
	struct dirent **entries;
	int count = scandir("/sys/devices/toy0/one", &entries, NULL, alphasort);
	say("scandir", count == 6 && strcmp(entries[2]->d_name, "control") == 0 && entries[2]->d_type == DT_REG);
	glob_t found;
	say("glob", glob("/sys/bus/toy/devices/*/vendor", 0, NULL, &found) == 0 && found.gl_pathc == 1 &&
		strcmp(found.gl_pathv[0], "/sys/bus/toy/devices/one/vendor") == 0);
	say("glob in a directory above", glob("/dev/toy*", 0, NULL, &found) == 0 && found.gl_pathc == 2);
	say("nftw", nftw("/sys/devices/toy0", visit, 8, FTW_PHYS) == 0 && visited == 6 && wrong == 0);
	int control = open("/sys/bus/toy/devices/one/control", O_WRONLY);
	say("write to a text", write(control, "two\n", 4) == 4);
	file = fopen("/sys/bus/toy/devices/one/control", "r");
	say("it is stored", file && fgets(line, sizeof(line), file) && strcmp(line, "two\n") == 0);
	say("its errno", refused((int)write(control, "busy", 4), EBUSY));
	say("the host's tree is not shown as such", listed("/", "uiommu") == 0);
}

static void files(void)
{
	char bytes[8] = "", big[9000];
	int fd = echo();
	say("write and pread", write(fd, "hello", 5) == 5 && pread(fd, bytes, 5, 0) == 5 && memcmp(bytes, "hello", 5) == 0);
	say("lseek", lseek(fd, 0, SEEK_CUR) == 5 && lseek(fd, 1, SEEK_SET) == 1 && refused((int)lseek(fd, 0, SEEK_END), EINVAL));
	say("read moves the position, which dup shares", read(fd, bytes, 2) == 2 && memcmp(bytes, "el", 2) == 0 && lseek(dup(fd), 0, SEEK_CUR) == 3);
	say("pwrite", pwrite(fd, "J", 1, 0) == 1 && pread(fd, bytes, 1, 0) == 1 && bytes[0] == 'J');
	struct iovec parts[2] = {{bytes, 2}, {bytes + 2, 3}};
	say("readv, preadv", preadv(fd, parts, 2, 0) == 5 && memcmp(bytes, "Jello", 5) == 0);
	say("writev, pwritev2", pwritev2(fd, parts, 2, 100, 0) == 5 && pread(fd, bytes, 5, 100) == 5);
	memset(big, 'x', sizeof(big));
	say("more than a page", pwrite(fd, big, sizeof(big), 200) == 9000);
	memset(big, 0, sizeof(big));
	say("more than a page back", pread(fd, big, sizeof(big), 200) == 9000 && big[0] == 'x' && big[8999] == 'x');
	say("mmap is refused", mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EINVAL);
	say("dup, dup2, dup3, fcntl", works(dup(fd)) && works(dup2(fd, 50)) && works(dup3(fd, 51, O_CLOEXEC)) && works(fcntl(fd, F_DUPFD, 60)));
	say("dup2 over one of ours", dup2(0, 50) == 50 && !works(50));
	say("the lowest number is given", (close(fd), echo()) == fd);
	say("close, then the number is another file", close(fd) == 0 && open("/dev/null", O_RDWR) == fd && !works(fd) && errno == ENOTTY);
	say("close_range", close_range(40, 70, 0) == 0 && refused(ioctl(60, GET, 0), EBADF) && works(fd = echo()));
	closefrom(3);
	say("closefrom", refused(close(fd), EBADF) && works(echo()));
	for (int i = 3; i < 2000; i++)
		close(i);
	say("closing everything by hand", works(echo()));
	for (int i = 900; i < 1010; i++)
		dup2(1, i);
	say("taking every number by hand", works(echo()) && fcntl(970, F_GETFD) >= 0);
	closefrom(3);

	int pair[2], other = echo();
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
		return;
	char control[CMSG_SPACE(sizeof(int))] = "", byte = 0;
	struct iovec part = {&byte, 1};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
	rights->cmsg_level = SOL_SOCKET, rights->cmsg_type = SCM_RIGHTS, rights->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(rights), &other, sizeof(int));
	pid_t child = fork();
	if (child == 0) {
		close(other);
		recvmsg(pair[1], &message, 0);
		memcpy(&other, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
		_exit(works(other) && pread(other, bytes, 1, 0) == 1 ? 0 : 1);
	}
	int end;
	sendmsg(pair[0], &message, 0);
	waitpid(child, &end, 0);
	say("a file sent to another process", end == 0);
}

static void wild(void)
{
	int fd = echo();
	struct get get = {24, 2, 40, 0};
	works(fd); /* the shim has what memory it needs */
	char *edge = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(edge + 4096, 4096);
	say("NULL", refused(ioctl(fd, GET, NULL), EFAULT));
	say("a small number", refused(ioctl(fd, GET, 42), EFAULT));
	say("unmapped", refused(ioctl(fd, GET, edge + 4096), EFAULT));
	say("a kernel address", refused(ioctl(fd, GET, (void *)0xffffffff81000000), EFAULT));
	say("no canonical address", refused(ioctl(fd, GET, (void *)0x8000000000000000), EFAULT));
	memcpy(edge + 4096 - 24, &get, 24);
	say("the last bytes of a page", ioctl(fd, GET, edge + 4096 - 24) == 0);
	say("past the end", refused(ioctl(fd, GET, edge + 4096 - 20), EFAULT));
	char *two = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(two + 4096 - 8, &get, 24);
	say("across two pages", ioctl(fd, GET, two + 4096 - 8) == 0 && (memcpy(&get, two + 4096 - 8, 24), get.sum == 42));
	memcpy(edge, &get, 24);
	mprotect(edge, 4096, PROT_READ);
	say("a result to read-only memory", refused(ioctl(fd, GET, edge), EFAULT));
	mprotect(edge, 4096, PROT_NONE);
	say("PROT_NONE", refused(ioctl(fd, GET, edge), EFAULT));
	say("read to nowhere", refused((int)pread(fd, edge, 10, 0), EFAULT) && refused((int)pread(fd, edge, 10000, 0), EFAULT));
	say("write from nowhere", refused((int)pwrite(fd, edge, 10, 0), EFAULT) && refused((int)pwrite(fd, edge, 10000, 0), EFAULT));
	say("an unknown number", refused(ioctl(fd, 0x3b80, &get), ENOTTY) && refused(ioctl(fd, ~0u, &get), ENOTTY));
	uint64_t fill[2] = {(uintptr_t)two, 8192};
	say("a buffer named in a struct", ioctl(fd, FILL, fill) == 0 && two[0] == 0x5a && two[8191] == 0x5a);
	fill[0] = (uintptr_t)edge;
	say("a wild buffer in a struct", refused(ioctl(fd, FILL, fill), EFAULT));
	say("all goes on", works(fd));
}

static void queues(void)
{
	int fd = echo(), queue = -1, other = -1;
	say("a call gives a descriptor", ioctl(fd, QUEUE, &queue) == 0 && queue > fd && fcntl(queue, F_GETFD) == FD_CLOEXEC);
	struct pollfd waits = {.fd = queue, .events = POLLIN};
	say("poll: nothing there", poll(&waits, 1, 20) == 0);
	ioctl(fd, PUSH, 7);
	say("poll: something there", poll(&waits, 1, 1000) == 1 && waits.revents == POLLIN);
	char byte = 0;
	say("read takes it", read(queue, &byte, 1) == 1 && byte == 7);
	say("poll: nothing there again", poll(&waits, 1, 20) == 0);
	say("read of nothing", refused((int)read(queue, &byte, 1), EAGAIN));
	ioctl(fd, PUSH, 8), ioctl(fd, PUSH, 9);
	say("two, one taken, one left", read(queue, &byte, 1) == 1 && poll(&waits, 1, 1000) == 1 && read(queue, &byte, 1) == 1 && byte == 9 && poll(&waits, 1, 20) == 0);
	int set = epoll_create1(0);
	struct epoll_event event = {.events = EPOLLIN};
	epoll_ctl(set, EPOLL_CTL_ADD, queue, &event);
	ioctl(fd, PUSH, 1);
	say("epoll", epoll_wait(set, &event, 1, 1000) == 1);
	say("no position", refused((int)lseek(queue, 0, SEEK_SET), ESPIPE) && refused((int)pread(queue, &byte, 1, 0), ESPIPE));
	struct pollfd device = {.fd = fd, .events = POLLIN | POLLOUT};
	say("a device is always ready", poll(&device, 1, 1000) == 1 && device.revents == (POLLIN | POLLOUT));
	const char *read_only = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	say("no place for the number", refused(ioctl(fd, QUEUE, read_only), EFAULT));
	struct rlimit few = {(rlim_t)set + 1, 20000}, before;
	getrlimit(RLIMIT_NOFILE, &before);
	few.rlim_max = before.rlim_max;
	setrlimit(RLIMIT_NOFILE, &few);
	say("no descriptor left", refused(ioctl(fd, QUEUE, &other), EMFILE) && other == -1);
	setrlimit(RLIMIT_NOFILE, &before);

	int event_fd = eventfd(0, EFD_NONBLOCK);
	uint64_t value = 0;
	say("an eventfd is signalled before the call returns", ioctl(fd, SIGNAL, &event_fd) == 0 && read(event_fd, &value, 8) == 8 && value == 1);
	int none = 500, plain = open("/dev/null", O_RDWR);
	say("no eventfd", refused(ioctl(fd, SIGNAL, &plain), EINVAL) && refused(ioctl(fd, SIGNAL, &none), EBADF) && refused(ioctl(fd, SIGNAL, &fd), EINVAL));
	say("an eventfd is held", ioctl(fd, HOLD, &event_fd) == 0);
	close(fd);
	say("the last close has released the file when it returns", read(event_fd, &value, 8) == 8);
	int one = echo(), two = dup(one);
	ioctl(one, HOLD, &event_fd);
	close(one);
	say("an earlier one has not", refused((int)read(event_fd, &value, 8), EAGAIN));
	dup2(plain, two);
	say("dup2 over the last one has", read(event_fd, &value, 8) == 8);

	one = echo();
	int watched = eventfd(0, 0);
	ioctl(one, QUEUE, &queue);
	waits.fd = queue;
	say("an eventfd is watched", ioctl(one, WATCH, &watched) == 0 && ioctl(one, COUNT, 0) == 0);
	value = 1;
	int heard = 0;
	for (int i = 1; i <= 20; i++)
		heard += write(watched, &value, 8) == 8 && ioctl(one, COUNT, 0) == i;
	say("a signal is heard before the next call", heard == 20);
	fcntl(watched, F_SETFL, O_NONBLOCK);
	say("its counter is taken back", refused((int)read(watched, &value, 8), EAGAIN));
	while (read(queue, &byte, 1) == 1)
		;
	value = 1;
	say("a signal is heard without a call", write(watched, &value, 8) == 8 && poll(&waits, 1, 2000) == 1 && read(queue, &byte, 1) == 1 && byte == 21);
	close(one), close(queue);
	usleep(20000);
	say("nobody hears it when the file is closed", write(watched, &value, 8) == 8 && read(watched, &value, 8) == 8);
}

static int shared_fd, failures;
static void *hammer(void *value)
{
	(void)value;
	for (int i = 0; i < 300; i++)
		if (!works(shared_fd))
			__atomic_add_fetch(&failures, 1, __ATOMIC_RELAXED);
	return NULL;
}
static int waiting_fd;
static void *wait_for_wake(void *value)
{
	__atomic_store_n((int *)value, ioctl(waiting_fd, WAIT, 0), __ATOMIC_RELAXED);
	return NULL;
}
/* A call keeps its file, whoever closes that meanwhile. */
static int call_keeps_file(void)
{
	pthread_t waiter;
	uint64_t released;
	int woken = 0, end = eventfd(0, EFD_NONBLOCK);
	waiting_fd = echo();
	if (ioctl(waiting_fd, HOLD, &end) != 0)
		return 0;
	pthread_create(&waiter, NULL, wait_for_wake, &woken);
	while (ioctl(shared_fd, WAITERS, 0) == 0)
		usleep(1000);
	close(waiting_fd);
	int kept = read(end, &released, sizeof(released)) == -1;
	ioctl(shared_fd, WAKE, 0);
	pthread_join(waiter, NULL);
	kept = kept && woken > 0 && read(end, &released, sizeof(released)) == sizeof(released);
	close(end);
	return kept;
}
static int lists(const char *what)
{
	char path[64], target[64];
	int found = 0;
	for (int fd = 0; fd < 1100; fd++) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		ssize_t length = readlink(path, target, sizeof(target));
		found += length > 0 && strncmp(target, what, strlen(what)) == 0;
	}
	return found;
}
static void threads(void)
{
	pthread_t all[16], waiter;
	int woken = 0, before = lists("socket:");
	shared_fd = echo();
	for (int i = 0; i < 16; i++)
		pthread_create(&all[i], NULL, hammer, NULL);
	for (int i = 0; i < 16; i++)
		pthread_join(all[i], NULL);
	say("many threads on one file", failures == 0);
	works(shared_fd);
	say("a thread's connection ends with it", lists("socket:") - before <= 2);
	waiting_fd = shared_fd;
	pthread_create(&waiter, NULL, wait_for_wake, &woken);
	say("a call that waits stops nobody else", works(shared_fd));
	/* Perhaps it does not wait yet. */
	while (__atomic_load_n(&woken, __ATOMIC_RELAXED) == 0 && ioctl(shared_fd, WAKE, 0) == 0)
		usleep(1000);
	pthread_join(waiter, NULL);
	say("it returns when its time comes", woken > 0);
	say("the file of a call that waits stays when it is closed, and goes with the call", call_keeps_file());
	pid_t child = fork();
	if (child == 0)
		_exit(works(shared_fd) && works(echo()) ? 0 : 1);
	int end = -1;
	waitpid(child, &end, 0);
	say("a forked child goes on with the file", end == 0 && works(shared_fd));
}

static void spawns(char *self)
{
	extern char **environ;
	int end = -1, fd = open("/dev/toy/echo", O_RDWR);
	char number[16], command[256];
	snprintf(number, sizeof(number), "%d", fd);
	char *arguments[] = {self, "inherited", number, NULL}, *none[] = {NULL};
	pid_t child;
	say("posix_spawn", posix_spawn(&child, self, NULL, NULL, arguments, environ) == 0 && waitpid(child, &end, 0) == child && end == 0);
	say("posix_spawn without environment", posix_spawn(&child, self, NULL, NULL, arguments, none) == 0 && waitpid(child, &end, 0) == child && end == 0);
	child = vfork();
	if (child == 0) {
		dup2(fd, 77);
		close(fd);
		arguments[2] = "77";
		execve(self, arguments, none);
		_exit(9);
	}
	say("vfork and exec", waitpid(child, &end, 0) == child && end == 0);
	say("what a vfork child does to descriptors is its own", works(fd) && refused(ioctl(77, GET, 0), EBADF));
	child = fork();
	if (child == 0) {
		execl(self, self, "inherited", number, (char *)NULL);
		_exit(9);
	}
	say("fork and execl", waitpid(child, &end, 0) == child && end == 0);
	snprintf(command, sizeof(command), "exec env -i %s inherited %d", self, fd);
	say("system, env -i", system(command) == 0);
	clearenv();
	FILE *pipe = popen(command, "r");
	say("popen without environment", pipe != NULL && pclose(pipe) == 0);
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	child = fork();
	if (child == 0) {
		execl(self, self, "inherited", number, (char *)NULL);
		_exit(9);
	}
	say("close-on-exec", waitpid(child, &end, 0) == child && WEXITSTATUS(end) == 1);
}

/* Opens COUNT files, uses each, and closes them. */
static void many(int count)
{
	struct rlimit limit;
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	int opened = 0, good = 0, last = -1;
	for (int i = 0; i < count; i++) {
		last = echo();
		opened += last >= 0;
	}
	say("all are open", opened == count);
	for (int fd = last; fd > 2; fd--)
		good += works(fd);
	say("all work", good >= count);
}

/* For kill -9 at any moment: opens, pins, forks, queues, closes, for ever. */
static void churn(void)
{
	char *memory = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (unsigned round = 0;; round++) {
		int fd = echo(), queue = -1, event = eventfd(0, 0);
		struct { uint64_t address; uint32_t pages, writable; uint64_t pinned; } pin = {(uintptr_t)memory, 1 + round % 200, 1, 0};
		ioctl(fd, PIN, &pin);
		ioctl(fd, QUEUE, &queue);
		ioctl(fd, HOLD, &event);
		pwrite(fd, memory, 5000, 10);
		munmap(memory, 4096 * (round % 3));
		if (round % 4 == 3 && fork() == 0)
			_exit(0);
		madvise(memory, 1 << 20, MADV_DONTNEED);
		close(fd), close(queue), close(event);
		memory = mmap(memory, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	}
}

int main(int count, char **arguments)
{
	const char *what = count > 1 ? arguments[1] : "";
	if (strcmp(what, "paths") == 0)
		paths();
	else if (strcmp(what, "files") == 0)
		files();
	else if (strcmp(what, "wild") == 0)
		wild();
	else if (strcmp(what, "queues") == 0)
		queues();
	else if (strcmp(what, "threads") == 0)
		threads();
	else if (strcmp(what, "spawns") == 0)
		spawns(arguments[0]);
	else if (strcmp(what, "many") == 0)
		many(atoi(arguments[2]));
	else if (strcmp(what, "churn") == 0)
		churn();
	else if (strcmp(what, "inherited") == 0)
		return works(atoi(arguments[2])) && works(echo()) ? 0 : 1;
	else if (strcmp(what, "works") == 0)
		return works(atoi(arguments[2])) ? 0 : 1;
	else
		return 2;
	return 0;
}
