// SPDX-License-Identifier: MIT
/* paths.c: absolute paths from what the BPF programs could see. */
#include "paths.h"

#include <string.h>

static size_t append(char *path, size_t used, const char *bytes, size_t length)
{
	memcpy(path + used, bytes, length);
	return used + length;
}

static size_t append_component(char *path, size_t used, const char *component, size_t length)
{
	path[used] = '/';
	return append(path, used + 1, component, length);
}

size_t dc_path_from_components(char *path, const char *components, size_t length, bool cut)
{
	size_t used = 0;
	size_t end = length;

	if (cut)
		used = append(path, 0, DC_PATH_MARK, strlen(DC_PATH_MARK));
	while (end > 0) {
		size_t begin, size;

		if (components[end - 1] == '\0') {
			end--;
			continue;
		}
		begin = end;
		while (begin > 0 && components[begin - 1] != '\0')
			begin--;
		size = end - begin;
		/* the root directory calls itself "/" */
		if (size != 1 || components[begin] != '/')
			used = append_component(path, used, components + begin, size);
		end = begin;
	}
	if (used == 0)
		path[used++] = '/';
	return used;
}

static bool is_dots(const char *component, size_t size, size_t dots)
{
	return size == dots && memcmp(component, "..", dots) == 0;
}

/* Length of an absolute path without its last component. The root is its own parent. */
static size_t parent_length(const char *path, size_t length)
{
	while (length > 0 && path[length - 1] != '/')
		length--;
	return length > 0 ? length - 1 : 0;
}

size_t dc_path_join(char *path, const char *directory, size_t directory_length,
		    const char *argument, size_t length, bool cut)
{
	bool has_named = false;
	size_t used = 0;
	size_t position = 0;

	if (length == 0 || argument[0] != '/') {
		if (directory_length == 0)
			return 0;
		used = append(path, 0, directory, directory_length);
		if (length == 0)
			return used;
		if (used == 1 && path[0] == '/')
			used = 0;
	}
	while (position < length) {
		const char *component = argument + position;
		const char *slash = memchr(component, '/', length - position);
		size_t size = slash ? (size_t)(slash - component) : length - position;

		position += size + 1;
		if (size == 0 || is_dots(component, size, 1))
			continue;
		if (!has_named && is_dots(component, size, 2)) {
			used = parent_length(path, used);
			continue;
		}
		has_named = true;
		used = append_component(path, used, component, size);
	}
	if (used == 0)
		path[used++] = '/';
	if (cut)
		used = append(path, used, DC_PATH_MARK, strlen(DC_PATH_MARK));
	return used;
}
