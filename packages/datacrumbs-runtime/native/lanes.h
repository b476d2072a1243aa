/* SPDX-License-Identifier: MIT */
/*
 * lanes.h: invented threads for work that overlaps within one thread (block requests, AIO).
 *
 * Timelines draw the slices of one thread as nested calls; those that overlap otherwise are
 * dropped. So each (process, function) gets as many lanes as it has slices at one time.
 */
#ifndef DATACRUMBS_LANES_H
#define DATACRUMBS_LANES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DC_FIRST_LANE 0x1000000 /* thread ids end below 2^22 */
#define DC_LANE_MEMORY 16	/* slices that a lane remembers one by one */

struct dc_lane {
	uint32_t tid;
	uint32_t remembered;
	uint64_t floor; /* slices must begin here or later: earlier ones are forgotten */
	uint64_t last_begin, last_end; /* the slice that ends last */
	uint64_t begins[DC_LANE_MEMORY];
	uint64_t ends[DC_LANE_MEMORY];
};

struct dc_lane_group {
	uint32_t process;
	uint32_t function;
	uint32_t count;
	uint32_t capacity;
	struct dc_lane *lanes; /* NULL: this place is free */
};

struct dc_lanes {
	struct dc_lane_group *groups; /* open addressing */
	size_t groups_count, groups_used;
	uint32_t next_tid;
};

bool dc_lanes_open(struct dc_lanes *lanes);
void dc_lanes_close(struct dc_lanes *lanes);

/*
 * Find the lane for a slice from begin to end (exclusive). Slices come in any order. Returns its
 * thread id, *number: its place within the group, *is_new: it was made for this slice; 0: no
 * memory.
 */
uint32_t dc_lanes_place(struct dc_lanes *lanes, uint32_t process, uint32_t function, uint64_t begin,
			uint64_t end, uint32_t *number, bool *is_new);

/* A process ended: forget its lanes. */
void dc_lanes_forget(struct dc_lanes *lanes, uint32_t process);

#endif /* DATACRUMBS_LANES_H */
