/* SPDX-License-Identifier: MIT */
/* Where this installation lies, told by where the running program lies. */
#ifndef DC_PREFIX_H
#define DC_PREFIX_H

#include <limits.h>
#include <stddef.h>

/*
 * Write the installation prefix (the directory above the program's bin/) to prefix.
 * Returns 0, or -1 with errno.
 */
int dc_find_prefix(char prefix[PATH_MAX]);

/* Join prefix and rest with a slash. Returns 0, or -1 with errno ENAMETOOLONG. */
int dc_join_path(char path[PATH_MAX], const char *prefix, const char *rest);

#endif
