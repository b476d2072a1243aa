// SPDX-License-Identifier: MIT
/* lanes.c: invented threads for work that overlaps within one thread. */
#include "lanes.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_GROUPS 64
#define FIRST_LANES 4

bool dc_lanes_open(struct dc_lanes *lanes)
{
	memset(lanes, 0, sizeof(*lanes));
	lanes->next_tid = DC_FIRST_LANE;
	lanes->groups_count = FIRST_GROUPS;
	lanes->groups = calloc(FIRST_GROUPS, sizeof(*lanes->groups));
	return lanes->groups;
}

void dc_lanes_close(struct dc_lanes *lanes)
{
	for (size_t i = 0; i < lanes->groups_count; i++)
		free(lanes->groups[i].lanes);
	free(lanes->groups);
	memset(lanes, 0, sizeof(*lanes));
}

static struct dc_lane_group *find_group(struct dc_lane_group *groups, size_t count,
					uint32_t process, uint32_t function)
{
	uint64_t key = (uint64_t)process << 32 | function;
	size_t at = (key * 0x9e3779b97f4a7c15 >> 32) & (count - 1);

	while (groups[at].lanes &&
	       (groups[at].process != process || groups[at].function != function))
		at = (at + 1) & (count - 1);
	return &groups[at];
}

/* Move all groups but those of one process (0: of none) to a table of another size. */
static bool rebuild(struct dc_lanes *lanes, size_t count, uint32_t without_process)
{
	struct dc_lane_group *groups = calloc(count, sizeof(*groups));

	if (!groups)
		return false;
	lanes->groups_used = 0;
	for (size_t i = 0; i < lanes->groups_count; i++) {
		struct dc_lane_group *group = &lanes->groups[i];

		if (!group->lanes)
			continue;
		if (without_process && group->process == without_process) {
			free(group->lanes);
			continue;
		}
		*find_group(groups, count, group->process, group->function) = *group;
		lanes->groups_used++;
	}
	free(lanes->groups);
	lanes->groups = groups;
	lanes->groups_count = count;
	return true;
}

static bool fits(const struct dc_lane *lane, uint64_t begin, uint64_t end)
{
	if (begin >= lane->last_end)
		return true;
	if (end > lane->last_begin || begin < lane->floor)
		return false;
	for (uint32_t i = 0; i < lane->remembered; i++)
		if (begin < lane->ends[i] && end > lane->begins[i])
			return false;
	return true;
}

static void remember(struct dc_lane *lane, uint64_t begin, uint64_t end)
{
	uint32_t place = lane->remembered;

	if (place < DC_LANE_MEMORY) {
		lane->remembered++;
	} else {
		place = 0;
		for (uint32_t i = 1; i < DC_LANE_MEMORY; i++)
			if (lane->ends[i] < lane->ends[place])
				place = i;
		if (lane->ends[place] > lane->floor)
			lane->floor = lane->ends[place];
	}
	lane->begins[place] = begin;
	lane->ends[place] = end;
	if (end >= lane->last_end) {
		lane->last_begin = begin;
		lane->last_end = end;
	}
}

static struct dc_lane *add_lane(struct dc_lanes *lanes, struct dc_lane_group *group)
{
	struct dc_lane *lane;

	if (group->count == group->capacity) {
		uint32_t capacity = group->capacity ? 2 * group->capacity : FIRST_LANES;
		struct dc_lane *grown = realloc(group->lanes, capacity * sizeof(*grown));

		if (!grown)
			return NULL;
		group->lanes = grown;
		group->capacity = capacity;
	}
	lane = &group->lanes[group->count++];
	memset(lane, 0, sizeof(*lane));
	lane->tid = lanes->next_tid++;
	return lane;
}

uint32_t dc_lanes_place(struct dc_lanes *lanes, uint32_t process, uint32_t function, uint64_t begin,
			uint64_t end, uint32_t *number, bool *is_new)
{
	struct dc_lane_group *group =
		find_group(lanes->groups, lanes->groups_count, process, function);
	struct dc_lane *lane = NULL;

	if (!group->lanes) {
		if (2 * (lanes->groups_used + 1) > lanes->groups_count) {
			if (!rebuild(lanes, 2 * lanes->groups_count, 0))
				return 0;
			group = find_group(lanes->groups, lanes->groups_count, process, function);
		}
		*group = (struct dc_lane_group){ .process = process, .function = function };
	}
	for (uint32_t i = 0; i < group->count && !lane; i++) {
		if (fits(&group->lanes[i], begin, end)) {
			lane = &group->lanes[i];
			*number = i;
		}
	}
	*is_new = !lane;
	if (!lane) {
		lane = add_lane(lanes, group);
		if (!lane)
			return 0;
		*number = group->count - 1;
		if (group->count == 1)
			lanes->groups_used++;
	}
	remember(lane, begin, end);
	return lane->tid;
}

void dc_lanes_forget(struct dc_lanes *lanes, uint32_t process)
{
	for (size_t i = 0; i < lanes->groups_count; i++) {
		if (lanes->groups[i].lanes && lanes->groups[i].process == process) {
			rebuild(lanes, lanes->groups_count, process);
			return;
		}
	}
}
