// SPDX-License-Identifier: MIT
/* forgetting.c: ids that the programs will define again before they use them. */
#include "strings.h"

#include <stdlib.h>

#define KEPT_FILES 256 /* by time, and as many by bytes */
#define DROPPED UINT32_MAX

/* Where files and captured texts go: the new index of each, or DROPPED. */
struct moves {
	uint32_t *files;
	uint32_t *captured;
};

static bool open_moves(struct moves *moves, const struct dc_strings *strings)
{
	moves->files = malloc((strings->files_count + 1) * sizeof(*moves->files));
	moves->captured = malloc((strings->captured_count + 1) * sizeof(*moves->captured));
	if (!moves->files || !moves->captured)
		return false;
	memset(moves->files, 0xff, strings->files_count * sizeof(*moves->files));
	memset(moves->captured, 0xff, strings->captured_count * sizeof(*moves->captured));
	return true;
}

static void close_moves(struct moves *moves)
{
	free(moves->files);
	free(moves->captured);
}

static int by_time(const void *one, const void *other)
{
	const struct dc_file *a = *(const struct dc_file *const *)one;
	const struct dc_file *b = *(const struct dc_file *const *)other;

	return a->time_ns < b->time_ns ? 1 : a->time_ns > b->time_ns ? -1 : 0;
}

static int by_bytes(const void *one, const void *other)
{
	const struct dc_file *a = *(const struct dc_file *const *)one;
	const struct dc_file *b = *(const struct dc_file *const *)other;

	return a->bytes < b->bytes ? 1 : a->bytes > b->bytes ? -1 : 0;
}

static bool mark_greatest_files(const struct dc_strings *strings, struct moves *moves)
{
	size_t count = strings->files_count;
	const struct dc_file **order = malloc((count + 1) * sizeof(*order));

	if (!order)
		return false;
	for (size_t i = 0; i < count; i++)
		order[i] = &strings->files[i];
	for (int round = 0; round < 2; round++) {
		qsort(order, count, sizeof(*order), round ? by_bytes : by_time);
		for (size_t i = 0; i < count && i < KEPT_FILES; i++)
			moves->files[order[i] - strings->files] = 0;
	}
	free(order);
	return true;
}

static void mark_recent(const struct dc_strings *strings, struct moves *moves)
{
	for (size_t i = 0; i < strings->slots_count; i++) {
		const struct dc_slot *slot = &strings->slots[i];

		if (!slot->is_recent)
			continue;
		if (slot->kind == DC_SLOT_FILE)
			moves->files[slot->index] = 0;
		else if (slot->kind == DC_SLOT_CAPTURED)
			moves->captured[slot->index] = 0;
	}
}

static void move_files(struct dc_strings *strings, uint32_t *moves)
{
	size_t kept = 0;

	for (size_t i = 0; i < strings->files_count; i++) {
		if (moves[i] == DROPPED) {
			if (strings->files[i].path)
				strings->kept_bytes -= strings->files[i].length;
			free(strings->files[i].path);
			continue;
		}
		moves[i] = kept;
		strings->files[kept++] = strings->files[i];
	}
	strings->files_count = kept;
}

static void move_captured(struct dc_strings *strings, uint32_t *moves)
{
	size_t kept = 0;

	for (size_t i = 0; i < strings->captured_count; i++) {
		if (moves[i] == DROPPED) {
			free(strings->captured[i].json);
			continue;
		}
		moves[i] = kept;
		strings->captured[kept++] = strings->captured[i];
	}
	strings->captured_count = kept;
}

/* Put the recent ids into a new table; from now on none is recent. */
static void move_slots(struct dc_strings *strings, struct dc_slot *slots, const struct moves *moves)
{
	struct dc_slot *old = strings->slots;

	strings->slots = slots;
	strings->slots_used = 0;
	for (size_t i = 0; i < strings->slots_count; i++) {
		struct dc_slot slot = old[i];

		if (slot.kind == DC_SLOT_FREE || !slot.is_recent)
			continue;
		slot.is_recent = 0;
		if (slot.kind == DC_SLOT_FILE)
			slot.index = moves->files[slot.index];
		else if (slot.kind == DC_SLOT_CAPTURED)
			slot.index = moves->captured[slot.index];
		*dc_strings_slot(strings, slot.id) = slot;
		strings->slots_used++;
	}
	strings->ids_checked = strings->slots_used;
	free(old);
}

bool dc_strings_forget(struct dc_strings *strings)
{
	struct dc_slot *slots = calloc(strings->slots_count, sizeof(*slots));
	struct moves moves;
	bool done = false;

	if (open_moves(&moves, strings) && slots && mark_greatest_files(strings, &moves)) {
		mark_recent(strings, &moves);
		move_files(strings, moves.files);
		move_captured(strings, moves.captured);
		move_slots(strings, slots, &moves);
		memset(strings->by_hash, 0, strings->by_hash_count * sizeof(*strings->by_hash));
		for (size_t i = 0; i < strings->files_count; i++)
			*dc_strings_hash_slot(strings->by_hash, strings->by_hash_count,
					      strings->files, strings->files[i].hash) = i + 1;
		done = true;
	} else {
		free(slots);
	}
	close_moves(&moves);
	return done;
}
