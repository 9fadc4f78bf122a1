/*
 * The same as loop.c through umockdev, for comparison: one 40-byte ioctl, read and written by a handler in another
 * process. Run it under umockdev-wrapper. Prints the median and the 99th percentile in nanoseconds.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <umockdev.h>
#include <unistd.h>

struct map { uint32_t size, flags, ioas, reserved; uint64_t address, length, iova; };
#define MAP _IOWR(';', 0x85, struct map)

static gboolean handle(UMockdevIoctlBase *base, UMockdevIoctlClient *client, gpointer data)
{
	(void)base, (void)data;
	if (umockdev_ioctl_client_get_request(client) != MAP)
		return FALSE;
	UMockdevIoctlData *bytes = umockdev_ioctl_data_resolve(umockdev_ioctl_client_get_arg(client), 0, sizeof(struct map), NULL);
	((struct map *)bytes->data)->iova = 42;
	umockdev_ioctl_client_complete(client, 0, 0);
	g_object_unref(bytes);
	return TRUE;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}
static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static int measure(int rounds)
{
	double *times = calloc((size_t)rounds, sizeof(*times));
	int fd = open("/dev/toy", O_RDWR);
	struct map map = {.size = sizeof(map)};
	for (int i = 0; i < rounds + 500; i++) {
		double start = now();
		if (ioctl(fd, MAP, &map) != 0 || map.iova != 42)
			return 1;
		if (i >= 500)
			times[i - 500] = now() - start;
	}
	qsort(times, (size_t)rounds, sizeof(*times), compare);
	printf("%.0f %.0f\n", times[rounds / 2], times[rounds * 99 / 100]);
	fflush(stdout);
	return 0;
}

static void ended(GPid pid, gint status, gpointer loop)
{
	(void)pid;
	if (status != 0)
		exit(1);
	g_main_loop_quit(loop);
}

int main(int count, char **arguments)
{
	GError *error = NULL;
	UMockdevTestbed *testbed = umockdev_testbed_new();
	if (!umockdev_testbed_add_from_string(testbed, "P: /devices/toy\nN: toy\nE: DEVNAME=/dev/toy\nE: SUBSYSTEM=misc\n", &error))
		return 1;
	UMockdevIoctlBase *handler = umockdev_ioctl_base_new();
	g_signal_connect(handler, "handle-ioctl", G_CALLBACK(handle), NULL);
	if (!umockdev_testbed_attach_ioctl(testbed, "/dev/toy", handler, &error))
		return 1;
	pid_t child = fork();
	if (child == 0)
		_exit(measure(count > 1 ? atoi(arguments[1]) : 2000));
	GMainLoop *loop = g_main_loop_new(NULL, FALSE);
	g_child_watch_add(child, ended, loop);
	g_main_loop_run(loop);
	g_object_unref(testbed);
	return 0;
}
