// SPDX-License-Identifier: MIT
/* inclusion.c: the directories below which files are recorded. */
#include "inclusion.h"

#include <stdlib.h>
#include <string.h>

bool dc_inclusion_add(struct dc_inclusion *inclusion, const char *directory, size_t length)
{
	size_t count = inclusion->count + 1;
	char **directories = realloc(inclusion->directories, count * sizeof(*directories));
	size_t *lengths;

	if (!directories)
		return false;
	inclusion->directories = directories;
	lengths = realloc(inclusion->lengths, count * sizeof(*lengths));
	if (!lengths)
		return false;
	inclusion->lengths = lengths;
	while (length > 0 && directory[length - 1] == '/')
		length--;
	directories[count - 1] = malloc(length + 1);
	if (!directories[count - 1])
		return false;
	memcpy(directories[count - 1], directory, length);
	lengths[count - 1] = length;
	inclusion->count = count;
	return true;
}

void dc_inclusion_close(struct dc_inclusion *inclusion)
{
	for (size_t i = 0; i < inclusion->count; i++)
		free(inclusion->directories[i]);
	free(inclusion->directories);
	free(inclusion->lengths);
	memset(inclusion, 0, sizeof(*inclusion));
}

bool dc_inclusion_has(const struct dc_inclusion *inclusion, const char *path, size_t length)
{
	for (size_t i = 0; i < inclusion->count; i++) {
		size_t prefix = inclusion->lengths[i];

		if (length >= prefix && memcmp(path, inclusion->directories[i], prefix) == 0 &&
		    (length == prefix || path[prefix] == '/'))
			return true;
	}
	return inclusion->count == 0;
}
