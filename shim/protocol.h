/*
 * What the shim and the host say to each other. src/host/protocol.ts mirrors
 * this file; a test compares the two.
 *
 * Every connection is a unix stream socket to DIR/host. It begins with a hello
 * and the host's reply. A *control* connection then carries requests, one at a
 * time: request, reply, request, reply. A *file* connection is the open file
 * itself: the program's descriptor. What a program writes into it without our
 * hooks (stdio does) is a write(2); what the host puts into it is a byte that
 * poll(2) sees.
 *
 * Numbers are little endian and lie as C lays them out.
 */
#ifndef UIOMMU_PROTOCOL_H
#define UIOMMU_PROTOCOL_H

#include <stdint.h>

#define UIOMMU_MAGIC 0x6d6f6975u
#define UIOMMU_VERSION 1

/* Argument bytes sent along with an ioctl; payload bytes sent along with a write or a reply. */
#define UIOMMU_ARGUMENT_MAX 64
#define UIOMMU_PAYLOAD_MAX 4096

enum uiommu_hello_kind {
	HELLO_PRIMARY = 1, /* the first control connection of an address space: its end is the end of that */
	HELLO_CONTROL = 2, /* a control connection of another thread */
	HELLO_OPEN = 3,    /* a file connection: open `path` */
	HELLO_ADOPT = 4,   /* a file connection: the file that a reply told with `token` */
	HELLO_KEEPER = 5,  /* the host closes it when nobody needs the address space any more */
	HELLO_BLIND = 6,   /* program `path` is about to start, without the shim; `flags` is an enum uiommu_blindness */
};

enum uiommu_blindness {
	BLIND_STATIC = 0,     /* statically linked */
	BLIND_PRIVILEGED = 1, /* setuid or setgid: the system leaves LD_PRELOAD out */
};

struct uiommu_hello {
	uint32_t magic;
	uint16_t version;
	uint16_t kind;
	uint64_t key[2];      /* proves that the host started this program: from its environment */
	uint64_t cookie[2];   /* names the address space */
	uint64_t inode;       /* of the socket: names the open file (HELLO_OPEN, HELLO_ADOPT) */
	uint32_t pid;         /* as the program knows it */
	uint32_t flags;       /* of open(2) */
	/*
	 * Of the reply (HELLO_ADOPT); the socket's descriptor (HELLO_PRIMARY), which tells the process; the thread that speaks
	 * (HELLO_CONTROL), or that `path` is about (HELLO_OPEN).
	 */
	uint32_t token;
	uint32_t path_length; /* bytes that follow */
};

enum uiommu_operation {
	OP_IOCTL = 1,     /* number, argument; the bytes at the argument follow */
	OP_READ = 2,      /* argument, length of it in `number`, position; up to PAYLOAD_MAX come back in the reply, more are put there by the host */
	OP_WRITE = 3,     /* likewise; up to PAYLOAD_MAX follow */
	OP_SEEK = 4,      /* position, whence in `number` */
	OP_MMAP = 5,      /* argument: length, number: protection and (high half) flags, position: offset; the result names DIR/window-RESULT, to be locked and mapped */
	OP_DESCRIBE = 6,  /* a struct uiommu_description comes back */
	OP_SYNC = 7,      /* nothing: what went before has been heard */
	OP_CHANGING = 8,  /* the pages at argument, `number` bytes, are about to change; `position` is an enum uiommu_change. Result 1: say OP_CHANGED when they have */
	OP_MOVED = 9,     /* the pages at argument, `number` bytes, are now at `position` */
	OP_CLOSED = 10,   /* a descriptor of the file was closed: if it was the last one, the file is released when the reply comes */
	OP_CHANGED = 12,  /* the change that this thread began at argument is over, whether it was made or not */
	OP_ACCOUNT = 11,  /* how many pages of process `argument` the host locked (`number` 0) or pinned (1) */
};

/* What a change does to pages. */
enum uiommu_change {
	CHANGE_CONTENT = 0, /* they are unmapped or replaced: what is pinned is to be kept as it is now */
	CHANGE_VIEW = 1,    /* what is in them stays: they are protected, moved, or copied for a child */
};

/* Position of read and write that means the file's own. */
#define UIOMMU_NO_POSITION UINT64_MAX

struct uiommu_request {
	uint32_t operation;
	uint32_t length;     /* bytes that follow */
	uint64_t inode;      /* the open file */
	uint64_t number;
	uint64_t argument;
	uint64_t position;
	uint64_t generation; /* changes whenever the program may have changed its mappings, limits or capabilities */
};

enum uiommu_reply_flags {
	REPLY_PINNED = 1,  /* the host holds pages of this address space: tell changes of their content (OP_CHANGING) */
	REPLY_DRAIN = 2,   /* take one byte out of the file connection: it is no longer readable */
	REPLY_INSTALL = 4, /* make a descriptor of the file `token`; store its number at `address`, or return it if that is 0 */
	REPLY_TEXT = 8,    /* (to HELLO_OPEN) no connection needed: open the text itself */
	REPLY_SEND_FD = 16, /* no reply yet: send descriptor `address` to the helper, named `token`; the reply follows */
	REPLY_BOUND = 64,  /* devices use this address space as it is: tell every change (OP_CHANGING) */
	REPLY_LOWER = 32,  /* take one byte out of the connection of file `address`, an inode: it is no longer readable */
	REPLY_AWAKE = 128, /* the next reply will be there in a moment: look for it before you sleep */
};

struct uiommu_reply {
	int64_t result;   /* negative: an error number */
	uint32_t length;  /* bytes that follow; they go to the argument */
	uint32_t flags;
	uint64_t address;
	uint32_t token;
	uint32_t version; /* of REPLY_PINNED and REPLY_BOUND, which change: the reply with the highest number is right */
};

enum uiommu_file_kind {
	FILE_DEVICE = 1,
	FILE_TEXT = 2,
	FILE_ANONYMOUS = 3,
	FILE_SILENT = 4, /* likewise, and never writable */
	FILE_POLLED = 5, /* a device that is readable at times, and never writable */
};

/* Follows the reply to HELLO_OPEN, HELLO_ADOPT and OP_DESCRIBE. */
struct uiommu_description {
	uint32_t kind;
	uint32_t mode; /* permission bits */
	uint32_t major;
	uint32_t minor;
	uint32_t flags; /* of open(2) */
	char path[256]; /* what /proc/self/fd shows, NUL-terminated */
};

/*
 * What the host tells the helper that holds eventfds, through the FIFO DIR/helper-commands. Through DIR/helper-answers
 * comes one int32 for each, 0 or an error number; through DIR/helper-signals, unasked, the token of each watched eventfd
 * that a client has signalled. At the socket DIR/helper clients send descriptors, each with its token.
 */
enum uiommu_helper_operation {
	HELPER_TAKE = 1,    /* take descriptor `fd` out of process `pid` */
	HELPER_RECEIVE = 2, /* process `pid` sends it: wait for it */
	HELPER_SIGNAL = 3,
	HELPER_RELEASE = 4,
	HELPER_WATCH = 5,   /* from now on tell its signals; `fd` 0: no longer */
	HELPER_LOOK = 6,    /* when answered, every signal so far has been told */
};

struct uiommu_helper_command {
	uint32_t operation;
	uint32_t token; /* names the eventfd from HELPER_TAKE on */
	uint32_t pid;
	int32_t fd;
};

#endif
