/* Promises, one a line: "ok" or "FAIL", what is promised, and the errno that broke it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

static void say(const char *what, int ok)
{
	printf("%s %s", ok ? "ok" : "FAIL", what);
	if (!ok)
		printf(" (%s)", strerror(errno));
	printf("\n");
	fflush(stdout);
}
