/* SPDX-License-Identifier: MIT */
/*
 * inclusion.h: the directories below which files are recorded.
 */
#ifndef DATACRUMBS_INCLUSION_H
#define DATACRUMBS_INCLUSION_H

#include <stdbool.h>
#include <stddef.h>

/* Without directories, every file is recorded. */
struct dc_inclusion {
	char **directories;
	size_t *lengths; /* without a slash at the end: 0 is the root */
	size_t count;
};

/* Add a directory; false: no memory. */
bool dc_inclusion_add(struct dc_inclusion *inclusion, const char *directory, size_t length);
void dc_inclusion_close(struct dc_inclusion *inclusion);

/* Whether a path is one of the directories or below one. */
bool dc_inclusion_has(const struct dc_inclusion *inclusion, const char *path, size_t length);

#endif /* DATACRUMBS_INCLUSION_H */
