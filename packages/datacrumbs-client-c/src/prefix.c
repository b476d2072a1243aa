// SPDX-License-Identifier: MIT
#include "prefix.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int dc_find_prefix(char prefix[PATH_MAX])
{
	/* /proc/self/exe names the file itself, whatever links and PATH led to it. */
	ssize_t length = readlink("/proc/self/exe", prefix, PATH_MAX);
	char *slash;

	if (length < 0)
		return -1;
	if (length == PATH_MAX) {
		errno = ENAMETOOLONG;
		return -1;
	}
	prefix[length] = '\0';
	for (int level = 0; level < 2; level++) {
		slash = strrchr(prefix, '/');
		if (!slash) {
			errno = ENOENT;
			return -1;
		}
		*slash = '\0';
	}
	return 0;
}

int dc_join_path(char path[PATH_MAX], const char *prefix, const char *rest)
{
	int length = snprintf(path, PATH_MAX, "%s/%s", prefix, rest);

	if (length < 0 || length >= PATH_MAX) {
		errno = ENAMETOOLONG;
		return -1;
	}
	return 0;
}
