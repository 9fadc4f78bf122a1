/* The first ioctl of the toy device "echo", and what it promises. */
#include <stdint.h>
#include <sys/ioctl.h>
#include "promises.h"

#define GET 0x3b01
struct get { uint32_t size, a; uint64_t b, sum; };

static int works(int file)
{
	struct get get = {24, 2, 40, 0};
	return ioctl(file, GET, &get) == 0 && get.sum == 42;
}
static int refused(long result, int error) { return result == -1 && errno == error; }
