/* SPDX-License-Identifier: MIT */
/*
 * metadata.h: the lines of a trace that are about hosts, files, processes and threads.
 */
#ifndef DATACRUMBS_METADATA_H
#define DATACRUMBS_METADATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pump.h"

/* All append to the pump's buffer; false: no memory. */

/* The first lines: "[", the host, the unit of time. */
bool dc_metadata_begin(struct dc_pump *pump, const char *hostname, uint32_t process);

/* FH: the path of a file, before the first call that names its hash. */
bool dc_metadata_file(struct dc_pump *pump, const struct dc_file *file, const char *path,
		      uint32_t process, uint32_t thread);

/* What a process or thread is called, or that a process ended. */
bool dc_metadata_process(struct dc_pump *pump, const struct dc_string *record);

/* The name of a lane. */
bool dc_metadata_lane(struct dc_pump *pump, const struct dc_fixed *name, uint32_t process,
		      uint32_t tid, uint32_t number);

#endif /* DATACRUMBS_METADATA_H */
