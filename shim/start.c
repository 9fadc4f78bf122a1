/* The beginning: where the host is, and what the program inherited. Does as little as it can: every program pays for it. */
#include "shim.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

struct place place;

void *find_real(void **cache, const char *name)
{
	void *found = dlsym(RTLD_NEXT, name);
	__atomic_store_n(cache, found, __ATOMIC_RELAXED);
	return found;
}

/* Node raises the limit of open files for itself; the first program gets the one that uiommu was started with. */
static void restore_limit(void)
{
	const char *soft = getenv("UIOMMU_NOFILE");
	struct rlimit limit;
	if (soft == NULL)
		return;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		rlim_t wanted = strtoul(soft, NULL, 10);
		if (wanted > 0 && wanted <= limit.rlim_max) {
			limit.rlim_cur = wanted;
			setrlimit(RLIMIT_NOFILE, &limit);
		}
	}
	unsetenv("UIOMMU_NOFILE");
}

__attribute__((constructor)) static void start(void)
{
	const char *directory = getenv("UIOMMU_DIR");
	if (directory == NULL || strlen(directory) >= sizeof(place.directory))
		return;
	const char *host = getenv("UIOMMU_HOST");
	const char *key = host == NULL ? NULL : strchr(host, ':');
	if (key == NULL || strlen(host) >= sizeof(place.host) || strlen(key + 1) != 2 * sizeof(place.key))
		return;
	strcpy(place.host, host);
	for (size_t i = 0; i < sizeof(place.key); i++) {
		char digits[3] = {key[1 + 2 * i], key[2 + 2 * i], '\0'};
		((uint8_t *)place.key)[i] = (uint8_t)strtoul(digits, NULL, 16);
	}
	strcpy(place.directory, directory);
	strcpy(stpcpy(place.root, directory), "/root");
	strcpy(stpcpy(place.nodes, directory), "/node");
	place.root_length = strlen(place.root);
	Dl_info self;
	if (dladdr(&place, &self) == 0 || self.dli_fname == NULL || strlen(self.dli_fname) >= sizeof(place.library))
		return;
	strcpy(place.library, self.dli_fname);
	place.active = true;
	restore_limit();
	files_are_shared = getenv("UIOMMU_INHERITED") != NULL;
	if (files_are_shared)
		scan_descriptors();
}
