/*
 * A program that the dynamic linker does not load, or not with us, sees nothing of the machine. The host is told of it, for
 * whoever wonders. Runs before exec, maybe in a vfork child: system calls only.
 */
#include "shim.h"

#include <elf.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD_SIZE 1024

/* Program headers lie right behind the file's own; where they do not, the program is taken to be like others. */
static bool is_static(const char *head, long size)
{
	Elf64_Ehdr file;
	if (size < (long)sizeof(file))
		return false;
	memcpy(&file, head, sizeof(file));
	if (memcmp(file.e_ident, ELFMAG, SELFMAG) != 0 || file.e_ident[EI_CLASS] != ELFCLASS64 || file.e_phentsize != sizeof(Elf64_Phdr) ||
	    file.e_phoff > HEAD_SIZE || file.e_phoff + (uint64_t)file.e_phnum * sizeof(Elf64_Phdr) > (uint64_t)size)
		return false;
	for (unsigned i = 0; i < file.e_phnum; i++) {
		Elf64_Phdr part;
		memcpy(&part, head + file.e_phoff + i * sizeof(part), sizeof(part));
		if (part.p_type == PT_INTERP)
			return false;
	}
	return true;
}

static bool is_privileged(const struct stat *file)
{
	return ((file->st_mode & S_ISUID) != 0 && file->st_uid != (uid_t)raw(SYS_geteuid)) ||
	       ((file->st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) && file->st_gid != (gid_t)raw(SYS_getegid));
}

static void tell(const char *path, enum uiommu_blindness why)
{
	struct uiommu_hello hello = {
		.magic = UIOMMU_MAGIC,
		.version = UIOMMU_VERSION,
		.kind = HELLO_BLIND,
		.key = {place.key[0], place.key[1]},
		.pid = (uint32_t)raw(SYS_getpid),
		.flags = why,
		.path_length = (uint32_t)strlen(path),
	};
	struct uiommu_reply reply;
	struct iovec parts[2] = {{&hello, sizeof(hello)}, {(void *)(uintptr_t)path, hello.path_length}};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
	long fd = connect_to_host(SOCK_CLOEXEC);
	if (fd < 0)
		return;
	/* The answer is waited for: the host has heard of it then before this process ends. */
	if (raw(SYS_sendmsg, fd, &message, MSG_NOSIGNAL) > 0)
		raw(SYS_recvfrom, fd, &reply, sizeof(reply), 0, 0, 0);
	raw(SYS_close, fd);
}

void tell_if_blind(const char *path)
{
	char head[HEAD_SIZE];
	struct stat status;
	if (unlikely(!place.active) || !is_user_pointer(path))
		return;
	long fd = raw(SYS_openat, AT_FDCWD, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC, 0);
	if (fd < 0)
		return;
	long size = raw(SYS_pread64, fd, head, sizeof(head), 0);
	bool privileged = raw(SYS_fstat, fd, &status) == 0 && is_privileged(&status);
	raw(SYS_close, fd);
	if (unlikely(privileged))
		tell(path, BLIND_PRIVILEGED);
	else if (unlikely(is_static(head, size)))
		tell(path, BLIND_STATIC);
}

void tell_if_blind_in_path(const char *name)
{
	char path[PATH_SIZE];
	const char *folders = getenv("PATH");
	if (unlikely(!place.active) || !is_user_pointer(name))
		return;
	if (strchr(name, '/') != NULL || folders == NULL) {
		tell_if_blind(name);
		return;
	}
	for (const char *end; *folders != '\0'; folders = *end == '\0' ? end : end + 1) {
		end = strchrnul(folders, ':');
		size_t length = (size_t)(end - folders);
		if (length == 0 || length + strlen(name) + 2 > sizeof(path))
			continue;
		memcpy(path, folders, length);
		path[length] = '/';
		strcpy(path + length + 1, name);
		if (raw(SYS_faccessat, AT_FDCWD, path, X_OK) == 0) {
			tell_if_blind(path);
			return;
		}
	}
}
