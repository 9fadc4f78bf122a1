/*
 * Pinned pages stay as they were when their process is gone, while somebody
 * else still has the file that pinned them. For that its address space must
 * stay: a *keeper* is a process that shares it (CLONE_VM) and does nothing but
 * wait for the host to let go of it.
 *
 * One is started when it can matter: memory is pinned and the file may be, or
 * come to be, in other hands, by fork, exec or a message. It has no descriptor but its
 * connection, no controlling terminal, all signals blocked, and is nobody's
 * child that the program could wait for: its parent ends before the program
 * goes on. It must not touch thread-local storage, which is another thread's:
 * system calls only.
 */
#include "shim.h"

#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define STACK_SIZE 8192

struct keeper {
	int connection;
	char parent_stack[STACK_SIZE] __attribute__((aligned(16)));
	char stack[STACK_SIZE] __attribute__((aligned(16)));
};

static int keep(void *value)
{
	const struct keeper *keeper = value;
	char byte;
	raw(SYS_prctl, PR_SET_NAME, "uiommu-keeper");
	while (raw(SYS_read, keeper->connection, &byte, 1) == -EINTR)
		;
	return 0;
}

static int start_keeping(void *value)
{
	struct keeper *keeper = value;
	int fd = keeper->connection;
	raw(SYS_setsid);
	raw(SYS_chdir, "/");
	if (fd > 0)
		raw(SYS_close_range, 0, fd - 1, 0);
	raw(SYS_close_range, fd + 1, ~0u, 0);
	clone(keep, keeper->stack + STACK_SIZE, CLONE_VM, value);
	return 0;
}

bool files_are_shared;

void keep_memory(void)
{
	if (likely(space == NULL))
		return;
	files_are_shared = true;
	if (likely(!has_pinned_pages()) || __atomic_exchange_n(&space->keeper, 1, __ATOMIC_ACQ_REL) != 0)
		return;
	int saved = errno;
	uint64_t all = ~0ull, before = 0;
	long memory = raw(SYS_mmap, 0, sizeof(struct keeper), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (RAW_ERROR(memory))
		return;
	struct keeper *keeper = (struct keeper *)memory;
	long connection = keeper_connection();
	if (connection < 0) {
		raw(SYS_munmap, memory, sizeof(struct keeper));
		return;
	}
	keeper->connection = (int)connection;
	raw(SYS_rt_sigprocmask, SIG_BLOCK, &all, &before, sizeof(all));
	int parent = clone(start_keeping, keeper->parent_stack + STACK_SIZE, CLONE_VM | CLONE_VFORK, keeper);
	if (parent > 0)
		while (raw(SYS_wait4, parent, 0, __WCLONE, 0) == -EINTR)
			;
	raw(SYS_rt_sigprocmask, SIG_SETMASK, &before, 0, sizeof(before));
	raw(SYS_close, connection);
	errno = saved;
}
