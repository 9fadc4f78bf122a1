/*
 * The address space as the host knows it, and our connections to the host.
 *
 * Nothing here exists before a program opens the first file of ours. Then there
 * is one page of state, which the kernel wipes in a forked child (so a child
 * made in whatever way begins anew), a *primary* connection, whose end tells
 * the host that the address space is gone, and a connection for each thread
 * that makes requests: they never wait for each other. Connections have high
 * descriptor numbers, are closed by exec, and are not the program's to close.
 *
 * A request in a signal handler that interrupts a request of the same thread
 * travels on a connection made for it.
 */
#include "shim.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

struct space *space;

/* A connection and its owner; `fd` changes if the program wants the number. Kept for reuse when its thread ends. */
struct connection {
	int fd;
	int busy;
	int patience; /* how often to look for a reply before sleeping */
	uint64_t cookie;
	struct connection *next;
};
static __thread struct connection *own __attribute__((tls_model("initial-exec")));
static struct connection *unused;
static pthread_key_t thread_end;
static int thread_end_made;

struct signals {
	uint64_t mask;
};
static struct signals block_signals(void)
{
	struct signals before = {0}, all = {~0ull};
	raw(SYS_rt_sigprocmask, SIG_BLOCK, &all, &before, sizeof(uint64_t));
	return before;
}
static void restore_signals(struct signals before) { raw(SYS_rt_sigprocmask, SIG_SETMASK, &before, 0, sizeof(uint64_t)); }

static void lock(void)
{
	while (__atomic_exchange_n(&space->lock, 1, __ATOMIC_ACQUIRE) != 0)
		raw(SYS_sched_yield);
}
static void unlock(void) { __atomic_store_n(&space->lock, 0, __ATOMIC_RELEASE); }

bool is_borrowed(void) { return space != NULL && space->valid && raw(SYS_getpid) != space->pid; }

long connect_to_host(int flags)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	strcpy(stpcpy(address.sun_path, place.directory), "/host");
	long fd = raw(SYS_socket, AF_UNIX, SOCK_STREAM | flags, 0);
	if (fd < 0)
		return fd;
	long result;
	while ((result = raw(SYS_connect, fd, &address, sizeof(address))) == -EINTR)
		;
	if (result < 0) {
		raw(SYS_close, fd);
		return result == -ECONNREFUSED || result == -ENOENT ? -ENODEV : result;
	}
	return fd;
}

/* Sends `length` bytes and `more`. -EFAULT if `more` cannot be read: then nothing was sent. */
static long send_all(int fd, const void *bytes, size_t length, const void *more, size_t more_length)
{
	struct iovec parts[2] = {{(void *)(uintptr_t)bytes, length}, {(void *)(uintptr_t)more, more_length}};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = more_length > 0 ? 2 : 1};
	while (message.msg_iovlen > 0) {
		long sent = raw(SYS_sendmsg, fd, &message, MSG_NOSIGNAL);
		if (sent == -EINTR)
			continue;
		if (sent < 0)
			return sent;
		while (message.msg_iovlen > 0 && (size_t)sent >= message.msg_iov->iov_len) {
			sent -= (long)message.msg_iov->iov_len;
			message.msg_iov++;
			message.msg_iovlen--;
		}
		if (message.msg_iovlen > 0) {
			message.msg_iov->iov_base = (char *)message.msg_iov->iov_base + sent;
			message.msg_iov->iov_len -= (size_t)sent;
		}
	}
	return 0;
}

static long receive_all(int fd, void *bytes, size_t length)
{
	for (size_t got = 0; got < length;) {
		long size = raw(SYS_recvfrom, fd, (char *)bytes + got, length - got, 0, 0, 0);
		if (size == -EINTR)
			continue;
		if (size <= 0)
			return size < 0 ? size : -EIO;
		got += (size_t)size;
	}
	return 0;
}

/* As long as the host waits awake, about 40 microseconds. */
#define PATIENCE 100

/* A reply, its payload put to `in`. It is looked for `patience` times before sleeping. -EFAULT if that cannot be written; the connection is in step either way. */
static long receive_reply(int fd, int patience, struct uiommu_reply *reply, void *in, size_t in_length)
{
	struct iovec parts[2] = {{reply, sizeof(*reply)}, {in, in_length}};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = in_length > 0 ? 2 : 1};
	long size = -EAGAIN, fault = 0;
	while (size == -EAGAIN && patience-- > 0)
		size = raw(SYS_recvmsg, fd, &message, MSG_DONTWAIT);
	while (size == -EAGAIN || size == -EINTR)
		size = raw(SYS_recvmsg, fd, &message, 0);
	if (size == -EFAULT) {
		fault = -EFAULT;
		size = 0;
	} else if (size <= 0) {
		return size < 0 ? size : -EIO;
	}
	size_t got = (size_t)size;
	if (got < sizeof(*reply)) {
		long result = receive_all(fd, (char *)reply + got, sizeof(*reply) - got);
		if (result < 0)
			return result;
		got = sizeof(*reply);
	}
	for (size_t at = got - sizeof(*reply); at < reply->length;) {
		char scratch[UIOMMU_PAYLOAD_MAX];
		size_t left = reply->length - at;
		bool keep = fault == 0 && at < in_length;
		size_t room = keep ? in_length - at : sizeof(scratch);
		long more = raw(SYS_recvfrom, fd, keep ? (char *)in + at : scratch, left < room ? left : room, 0, 0, 0);
		if (more == -EINTR)
			continue;
		if (more == -EFAULT && keep) {
			fault = -EFAULT;
			continue;
		}
		if (more <= 0)
			return more < 0 ? more : -EIO;
		at += (size_t)more;
	}
	return fault;
}

/* Gives one of our own descriptors a number where the program does not look for the lowest free one. */
static long move_up(long fd)
{
	struct rlimit limit;
	long from = 960;
	if (raw(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, &limit) == 0 && limit.rlim_cur < 1024)
		from = limit.rlim_cur > 32 ? (long)limit.rlim_cur - 32 : 3;
	long high = raw(SYS_fcntl, fd, F_DUPFD_CLOEXEC, from);
	if (high < 0)
		high = raw(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 3);
	raw(SYS_close, fd);
	return high;
}

static struct uiommu_hello hello_of(enum uiommu_hello_kind kind)
{
	return (struct uiommu_hello){
		.magic = UIOMMU_MAGIC,
		.version = UIOMMU_VERSION,
		.kind = (uint16_t)kind,
		.key = {place.key[0], place.key[1]},
		.cookie = {space->cookie[0], space->cookie[1]},
		.pid = (uint32_t)space->pid,
	};
}

/* A program that may open no more files can still use those it has: our own connections do not count. */
static long connect_beyond_limit(void)
{
	struct rlimit limit, raised;
	long result = raw(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, &limit);
	raised = (struct rlimit){limit.rlim_max, limit.rlim_max};
	if (result < 0 || limit.rlim_cur >= limit.rlim_max || raw(SYS_prlimit64, 0, RLIMIT_NOFILE, &raised, 0) < 0)
		return -EMFILE;
	result = connect_to_host(SOCK_CLOEXEC);
	if (result >= 0)
		result = move_up(result);
	raw(SYS_prlimit64, 0, RLIMIT_NOFILE, &limit, 0);
	return result;
}

static long control_connection(enum uiommu_hello_kind kind)
{
	struct uiommu_reply reply;
	long fd = connect_to_host(SOCK_CLOEXEC);
	fd = fd == -EMFILE ? connect_beyond_limit() : fd < 0 ? fd : move_up(fd);
	if (fd < 0)
		return fd;
	struct uiommu_hello hello = hello_of(kind);
	struct stat status;
	hello.token = (uint32_t)(kind == HELLO_CONTROL ? raw(SYS_gettid) : fd);
	hello.inode = raw(SYS_fstat, fd, &status) == 0 ? status.st_ino : 0;
	long result = send_all((int)fd, &hello, sizeof(hello), NULL, 0);
	if (result == 0)
		result = receive_reply((int)fd, 0, &reply, NULL, 0);
	if (result == 0 && reply.result < 0)
		result = reply.result;
	if (result < 0) {
		raw(SYS_close, fd);
		return result;
	}
	return fd;
}

long keeper_connection(void) { return control_connection(HELLO_KEEPER); }

static struct connection *new_connection(void)
{
	struct signals before = block_signals();
	lock();
	struct connection *connection = unused;
	if (connection != NULL)
		unused = connection->next;
	unlock();
	if (connection == NULL) {
		long page = raw(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (!RAW_ERROR(page)) {
			connection = (struct connection *)page;
			size_t count = 4096 / sizeof(*connection);
			lock();
			for (size_t i = 1; i < count; i++) {
				connection[i].next = unused;
				unused = &connection[i];
			}
			unlock();
		}
	}
	restore_signals(before);
	return connection;
}

static long open_connection(struct connection **made)
{
	struct connection *connection = new_connection();
	if (connection == NULL)
		return -ENOMEM;
	long fd = control_connection(HELLO_CONTROL);
	*connection = (struct connection){.fd = (int)fd, .cookie = space->cookie[0]};
	if (fd >= 0) {
		note_fd((int)fd, FD_CONNECTION, (uintptr_t)connection);
		*made = connection;
		return 0;
	}
	struct signals before = block_signals();
	lock();
	connection->next = unused;
	unused = connection;
	unlock();
	restore_signals(before);
	return fd;
}

static void close_connection(struct connection *connection)
{
	note_fd(connection->fd, FD_UNKNOWN, 0);
	raw(SYS_close, connection->fd);
	struct signals before = block_signals();
	lock();
	connection->next = unused;
	unused = connection;
	unlock();
	restore_signals(before);
}

static void end_of_thread(void *value)
{
	struct connection *connection = value;
	own = NULL;
	if (space != NULL && space->valid && connection->cookie == space->cookie[0])
		close_connection(connection);
}

void move_connection(int fd)
{
	struct connection *connection = (struct connection *)(uintptr_t)fd_value(fd);
	long other = raw(SYS_fcntl, fd, F_DUPFD_CLOEXEC, fd + 1);
	if (other < 0)
		other = raw(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 3);
	if (other < 0)
		return;
	note_fd((int)other, FD_CONNECTION, (uintptr_t)connection);
	if (connection != NULL)
		__atomic_store_n(&connection->fd, (int)other, __ATOMIC_RELEASE);
	else
		space->primary = (int)other;
	note_fd(fd, FD_UNKNOWN, 0);
}

/* Closes what a forked child has of its parent's connections. */
void after_fork_in_child(void)
{
	for (int fd = -1; (fd = next_connection(fd + 1)) >= 0;) {
		note_fd(fd, FD_UNKNOWN, 0);
		raw(SYS_close, fd);
	}
	unused = NULL;
	own = NULL;
}

/* Makes the state and the primary connection, once for each address space. */
static long begin(void)
{
	if (likely(space != NULL && space->valid))
		return 0;
	struct signals before = block_signals();
	if (space == NULL) {
		long page = raw(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		struct space *nothing = NULL;
		if (RAW_ERROR(page)) {
			restore_signals(before);
			return page;
		}
		raw(SYS_madvise, page, 4096, MADV_WIPEONFORK);
		if (!__atomic_compare_exchange_n(&space, &nothing, (struct space *)page, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			raw(SYS_munmap, page, 4096);
		else
			pthread_atfork(NULL, NULL, after_fork_in_child);
	}
	long result = 0;
	lock();
	if (!space->valid) {
		after_fork_in_child();
		if (!thread_end_made)
			thread_end_made = pthread_key_create(&thread_end, end_of_thread) == 0;
		space->pid = (int)raw(SYS_getpid);
		/* Where Yama restricts who may read our memory. */
		raw(SYS_prctl, PR_SET_PTRACER, strtol(place.host, NULL, 10));
		if (raw(SYS_getrandom, space->cookie, sizeof(space->cookie), 0) != sizeof(space->cookie))
			space->cookie[0] = (uint64_t)space->pid;
		long fd = control_connection(HELLO_PRIMARY);
		if (fd < 0) {
			result = fd;
		} else {
			space->primary = (int)fd;
			note_fd((int)fd, FD_CONNECTION, 0);
			__atomic_store_n(&space->valid, 1, __ATOMIC_RELEASE);
		}
	}
	unlock();
	restore_signals(before);
	return result;
}

static long install_file(const struct uiommu_reply *reply);

/* The host cannot take a descriptor out of this process: it gets it from us, or learns that there is none. */
static void send_descriptor(int fd, uint32_t token)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct iovec part = {&token, sizeof(token)};
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
	struct msghdr message = {
		.msg_name = &address,
		.msg_namelen = sizeof(address),
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	strcpy(stpcpy(address.sun_path, place.directory), "/helper");
	long socket = raw(SYS_socket, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (socket < 0)
		return;
	for (long sent = -EINTR; sent == -EINTR || sent == -EBADF;) {
		sent = raw(SYS_sendmsg, socket, &message, MSG_NOSIGNAL);
		if (sent == -EBADF) {
			if (message.msg_controllen == 0)
				break;
			message.msg_controllen = 0;
		}
	}
	raw(SYS_close, socket);
}

/* Threads hear of it in any order. */
static void note_watched(const struct uiommu_reply *reply)
{
	uint64_t now = (uint64_t)reply->version << 32 | (reply->flags & (REPLY_PINNED | REPLY_BOUND));
	uint64_t before = __atomic_load_n(&space->watched, __ATOMIC_RELAXED);
	while ((int32_t)(reply->version - (uint32_t)(before >> 32)) > 0 &&
	       !__atomic_compare_exchange_n(&space->watched, &before, now, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

static long exchange(struct connection *connection, struct uiommu_request *request, const void *out, void *in, size_t in_length, int fd)
{
	struct uiommu_reply reply;
	int control = connection->fd;
	long result = send_all(control, request, sizeof(*request), out, request->length);
	if (result == -EFAULT && (request->operation == OP_IOCTL || request->operation == OP_WRITE)) {
		request->length = 0;
		result = send_all(control, request, sizeof(*request), NULL, 0);
	}
	if (result < 0)
		return result == -EPIPE ? -EIO : result;
	if (request->operation == OP_IOCTL)
		in_length = request->length;
	result = receive_reply(control, connection->patience, &reply, in, in_length);
	while (unlikely(result == 0 && (reply.flags & REPLY_SEND_FD) != 0)) {
		send_descriptor((int)reply.address, reply.token);
		result = receive_reply(control, connection->patience, &reply, in, in_length);
	}
	if (result < 0 && result != -EFAULT)
		return result;
	connection->patience = (reply.flags & REPLY_AWAKE) != 0 ? PATIENCE : 0;
	note_watched(&reply);
	if (unlikely(reply.flags & REPLY_DRAIN)) {
		char byte;
		raw(SYS_recvfrom, fd, &byte, 1, MSG_DONTWAIT, 0, 0);
	}
	if (unlikely(reply.flags & REPLY_LOWER)) {
		char byte;
		int other = find_file(reply.address);
		if (other >= 0)
			raw(SYS_recvfrom, other, &byte, 1, MSG_DONTWAIT, 0, 0);
	}
	if (unlikely(reply.flags & REPLY_INSTALL)) {
		long installed = install_file(&reply);
		if (installed < 0 || reply.address == 0)
			return installed;
	}
	return result < 0 ? result : reply.result;
}

long request_host(struct uiommu_request *request, const void *out, void *in, size_t in_length, int fd)
{
	long result = begin();
	if (result < 0)
		return result;
	request->generation = __atomic_load_n(&space->generation, __ATOMIC_RELAXED);
	struct connection *connection = own;
	if (unlikely(connection == NULL || connection->cookie != space->cookie[0])) {
		result = open_connection(&connection);
		if (result < 0)
			return result;
		own = connection;
		if (thread_end_made)
			pthread_setspecific(thread_end, connection);
	}
	bool nested = connection->busy != 0;
	if (unlikely(nested)) {
		result = open_connection(&connection);
		if (result < 0)
			return result;
	}
	connection->busy = 1;
	result = exchange(connection, request, out, in, in_length, fd);
	connection->busy = 0;
	if (unlikely(nested))
		close_connection(connection);
	if (unlikely(files_are_shared) && request->operation == OP_IOCTL)
		keep_memory();
	return result;
}

/* Makes a descriptor that is an open file of the host. */
static long make_file(struct uiommu_hello *hello, const char *path, bool close_on_exec, uint32_t *reply_flags)
{
	struct uiommu_reply reply;
	struct uiommu_description description = {0};
	struct stat status;
	long fd = connect_to_host(close_on_exec ? SOCK_CLOEXEC : 0);
	if (fd < 0)
		return fd;
	long result = raw(SYS_fstat, fd, &status);
	hello->inode = status.st_ino;
	if (result == 0)
		result = send_all((int)fd, hello, sizeof(*hello), path, hello->path_length);
	if (result == 0)
		result = receive_reply((int)fd, 0, &reply, &description, sizeof(description));
	if (result == 0) {
		note_watched(&reply);
		*reply_flags = reply.flags;
		result = reply.result;
	}
	if (result < 0 || (*reply_flags & REPLY_TEXT) != 0) {
		raw(SYS_close, fd);
		return result;
	}
	note_file((int)fd, status.st_ino, &description);
	return fd;
}

static long install_file(const struct uiommu_reply *reply)
{
	uint32_t flags;
	struct uiommu_hello hello = hello_of(HELLO_ADOPT);
	hello.token = reply->token;
	long fd = make_file(&hello, NULL, true, &flags);
	if (fd < 0)
		return fd;
	if (reply->address != 0)
		*(int32_t *)(uintptr_t)reply->address = (int32_t)fd;
	return fd;
}

long open_in_host(const char *path, int flags, mode_t mode) { return open_about(0, path, flags, mode); }

long open_about(pid_t thread, const char *path, int flags, mode_t mode)
{
	long result = begin();
	if (result < 0)
		return result;
	uint32_t reply_flags;
	struct uiommu_hello hello = hello_of(HELLO_OPEN);
	hello.flags = (uint32_t)flags;
	hello.token = (uint32_t)thread;
	hello.path_length = (uint32_t)strlen(path);
	result = make_file(&hello, path, (flags & O_CLOEXEC) != 0, &reply_flags);
	if (result < 0)
		return result;
	if ((reply_flags & REPLY_TEXT) != 0) {
		char text[PATH_SIZE];
		if (strlen(path) + sizeof(place.nodes) > sizeof(text))
			return -ENAMETOOLONG;
		strcpy(stpcpy(text, place.nodes), path);
		return raw(SYS_openat, AT_FDCWD, text, flags & ~(O_CREAT | O_TRUNC), mode);
	}
	if ((flags & O_NONBLOCK) != 0)
		raw(SYS_fcntl, result, F_SETFL, O_NONBLOCK);
	return result;
}

long describe_file(uint64_t inode, struct uiommu_description *description)
{
	struct uiommu_request request = {.operation = OP_DESCRIBE, .inode = inode};
	return request_host(&request, NULL, description, sizeof(*description), -1);
}

/* Returns when the host has heard what was written to `fd` behind our back. */
void sync_with_host(int fd)
{
	for (;;) {
		int unread = 0;
		struct uiommu_request request = {.operation = OP_SYNC, .inode = fd_value(fd)};
		if (raw(SYS_ioctl, fd, 0x5411 /* SIOCOUTQ */, &unread) < 0)
			return;
		if (request_host(&request, NULL, NULL, 0, -1) < 0 || unread == 0)
			return;
	}
}

void tell_closed(uint64_t inode)
{
	/* Who never spoke to the host shares the file with a parent who did: there is nobody to wait for. */
	if (space == NULL || !space->valid || is_borrowed())
		return;
	int saved = errno;
	struct uiommu_request request = {.operation = OP_CLOSED, .inode = inode};
	request_host(&request, NULL, NULL, 0, -1);
	errno = saved;
}
