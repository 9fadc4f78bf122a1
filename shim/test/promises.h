/* What the programs of this folder share: promises, one a line as "ok" or "FAIL", and the toy device's first ioctl. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#define GET 0x3b01
struct get { uint32_t size, a; uint64_t b, sum; };

static void say(const char *what, int ok)
{
	printf("%s %s", ok ? "ok" : "FAIL", what);
	if (!ok)
		printf(" (%s)", strerror(errno));
	printf("\n");
	fflush(stdout);
}
static int works(int file)
{
	struct get get = {24, 2, 40, 0};
	return ioctl(file, GET, &get) == 0 && get.sum == 42;
}
static int refused(long result, int error) { return result == -1 && errno == error; }
