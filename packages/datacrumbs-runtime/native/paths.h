/* SPDX-License-Identifier: MIT */
/*
 * paths.h: absolute paths from what the BPF programs could see.
 */
#ifndef DATACRUMBS_PATHS_H
#define DATACRUMBS_PATHS_H

#include <stdbool.h>
#include <stddef.h>

#define DC_PATH_MARK "..." /* stands for the part of a path that was cut off */

/*
 * Bytes that a path may take: of "length" bytes of components, or of an argument of "length" bytes
 * below a directory of "directory_length".
 */
static inline size_t dc_path_limit(size_t directory_length, size_t length)
{
	return directory_length + length + 8;
}

/*
 * Turn components, the last first, each ended by a NUL, into "/first/.../last". cut: components at
 * the beginning of the path are missing; ".../" stands for them. Returns the length.
 */
size_t dc_path_from_components(char *path, const char *components, size_t length, bool cut);

/*
 * Join a path argument to its directory as the kernel would walk it. Empty and "." components and
 * slashes at the end vanish. ".." at the beginning goes up from the directory, whose path is
 * physical; a later ".." stays, because what stands before it may be a symbolic link. An absolute
 * argument needs no directory; an empty one names the directory itself. cut: the end of the
 * argument is missing; "..." stands for it. Returns the length, 0: no path without a directory.
 */
size_t dc_path_join(char *path, const char *directory, size_t directory_length,
		    const char *argument, size_t length, bool cut);

#endif /* DATACRUMBS_PATHS_H */
