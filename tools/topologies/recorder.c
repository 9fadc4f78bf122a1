/*
 * Prints the PCI topology of the Linux that it runs on as one JSON line: for each function its name, sysfs path,
 * configuration space (trailing zeros cut) and group; for each group its type and reserved regions.
 *
 *     cc -O2 -static -o recorder recorder.c
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEVICES "/sys/bus/pci/devices"
#define GROUPS "/sys/kernel/iommu_groups"

static int visible(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static int by_number(const struct dirent **left, const struct dirent **right)
{
	return atoi((*left)->d_name) - atoi((*right)->d_name);
}

static size_t read_file(const char *path, unsigned char *bytes, size_t size)
{
	FILE *file = fopen(path, "r");
	size_t length = file ? fread(bytes, 1, size, file) : 0;

	if (file)
		fclose(file);
	return length;
}

static void print_function(const char *name, const char *separator)
{
	static unsigned char config[4096];
	char path[512], target[512] = "";
	size_t length;

	snprintf(path, sizeof(path), DEVICES "/%s", name);
	if (readlink(path, target, sizeof(target) - 1) < 0)
		perror(path);
	printf("%s{\"bdf\": \"%s\", \"path\": \"%s\"", separator, name, strstr(target, "pci"));
	strcat(path, "/iommu_group");
	memset(target, 0, sizeof(target));
	if (readlink(path, target, sizeof(target) - 1) > 0)
		printf(", \"group\": %s", strrchr(target, '/') + 1);
	snprintf(path, sizeof(path), DEVICES "/%s/config", name);
	length = read_file(path, config, sizeof(config));
	while (length > 0 && config[length - 1] == 0)
		length--;
	printf(", \"config\": \"");
	for (size_t i = 0; i < length; i++)
		printf("%02x", config[i]);
	printf("\"}");
}

static void print_group(const char *id, const char *separator)
{
	static char text[8192];
	char path[512], *line, *rest = text;
	const char *comma = "";

	snprintf(path, sizeof(path), GROUPS "/%s/type", id);
	text[read_file(path, (unsigned char *)text, sizeof(text) - 1)] = 0;
	printf("%s{\"id\": %s, \"type\": \"%.*s\", \"reserved\": [", separator, id, (int)strcspn(text, "\n"), text);
	snprintf(path, sizeof(path), GROUPS "/%s/reserved_regions", id);
	text[read_file(path, (unsigned char *)text, sizeof(text) - 1)] = 0;
	while ((line = strsep(&rest, "\n")) && *line) {
		printf("%s\"%s\"", comma, line);
		comma = ", ";
	}
	printf("]}");
}

static void print_all(const char *folder, int (*order)(const struct dirent **, const struct dirent **),
		      void (*print)(const char *, const char *))
{
	struct dirent **entries;
	int count = scandir(folder, &entries, visible, order);

	for (int i = 0; i < count; i++)
		print(entries[i]->d_name, i ? ", " : "");
}

int main(void)
{
	printf("{\"devices\": [");
	print_all(DEVICES, alphasort, print_function);
	printf("], \"groups\": [");
	print_all(GROUPS, by_number, print_group);
	printf("]}\n");
	return 0;
}
