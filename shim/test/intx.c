/* intx: the edu device's INTx, triggered by register 0x60 and unmasked through an eventfd. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { INFO = 0x3b6c, SET_IRQS = 0x3b6e, BIND = 0x3b76, IOEVENTFD = 0x3b74 };
enum { STATUS = 0x24, RAISE = 0x60, ACKNOWLEDGE = 0x64 };

static int device, trigger, unmask;
static uint64_t bar;

static void say(const char *what, int ok)
{
	printf("%s %s\n", ok ? "ok" : "FAIL", what);
	fflush(stdout);
}
static void set(uint64_t at, uint32_t value)
{
	if (pwrite(device, &value, 4, (off_t)(bar + at)) != 4)
		perror("pwrite");
}
static uint32_t get(uint64_t at)
{
	uint32_t value = 0;
	if (pread(device, &value, 4, (off_t)(bar + at)) != 4)
		perror("pread");
	return value;
}
static int irq(uint32_t flags, int fd)
{
	struct { uint32_t size, flags, index, start, count; int32_t fd; } request = {24, flags, 0, 0, 1, fd};
	return ioctl(device, SET_IRQS, &request);
}
/* How often the interrupt came within `patience` milliseconds. */
static uint64_t came(int patience)
{
	struct pollfd wait = {.fd = trigger, .events = POLLIN};
	uint64_t count = 0;
	return poll(&wait, 1, patience) == 1 && read(trigger, &count, 8) == 8 ? count : 0;
}
static void signal_it(int fd)
{
	uint64_t one = 1;
	if (write(fd, &one, 8) != 8)
		perror("write");
}

int main(int count, char **arguments)
{
	char path[512], name[300] = "";
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev", count > 1 ? arguments[1] : "0000:00:01.0");
	DIR *listing = opendir(path);
	for (struct dirent *entry; listing != NULL && (entry = readdir(listing)) != NULL;)
		if (strncmp(entry->d_name, "vfio", 4) == 0)
			snprintf(name, sizeof(name), "/dev/vfio/devices/%s", entry->d_name);
	device = open(name, O_RDWR);
	struct { uint32_t size, flags; int32_t iommufd; uint32_t id; } bind = {16, 0, open("/dev/iommu", O_RDWR), 0};
	say("bind", ioctl(device, BIND, &bind) == 0);
	struct { uint32_t size, flags, index, cap; uint64_t length, offset; } region = {32, 0, 0, 0, 0, 0};
	ioctl(device, INFO, &region);
	bar = region.offset;
	uint16_t command = 0;
	off_t config = (off_t)7 << 40;
	if (pread(device, &command, 2, config + 4) != 2)
		perror("config");
	command |= 6;
	if (pwrite(device, &command, 2, config + 4) != 2)
		perror("config");

	trigger = eventfd(0, EFD_NONBLOCK), unmask = eventfd(0, 0);
	say("INTx to an eventfd", irq(4 | 32, trigger) == 0);
	say("unmask by an eventfd", irq(4 | 16, unmask) == 0);
	say("only one of those", irq(4 | 16, unmask) == -1 && errno == EBUSY);
	set(RAISE, 1);
	say("it comes", came(1000) == 1);
	set(RAISE, 2);
	say("and is masked then", came(20) == 0);
	signal_it(unmask);
	say("unmasked with the line still up, it comes again", came(1000) == 1);
	set(ACKNOWLEDGE, ~0u);
	signal_it(unmask);
	say("unmasked with the line down, it does not", came(20) == 0);
	int good = 0;
	for (int i = 0; i < 50; i++) {
		set(RAISE, 4);
		good += came(1000) == 1 && get(STATUS) == 4;
		set(ACKNOWLEDGE, 4);
		signal_it(unmask);
	}
	say("fifty times, with no call between unmask and raise", good == 50);
	say("no unmask eventfd any more", irq(4 | 16, -1) == 0);
	set(RAISE, 1);
	came(1000);
	signal_it(unmask);
	say("its signals unmask nothing", came(20) == 0);

	int write_it = eventfd(0, 0);
	struct { uint32_t size, flags; uint64_t offset, data; int32_t fd; uint32_t pad; } direct = {32, 4, bar + 8, 5, write_it, 0};
	say("an eventfd that writes a register", ioctl(device, IOEVENTFD, &direct) == 0);
	signal_it(write_it);
	say("it is written by the next read", get(8) == 120);
	direct.data = 6;
	direct.offset = bar + 4;
	say("the same eventfd writes another", ioctl(device, IOEVENTFD, &direct) == 0);
	signal_it(write_it);
	say("both are written", get(4) == ~6u && get(8) == 120);
	close(device);
	return 0;
}
