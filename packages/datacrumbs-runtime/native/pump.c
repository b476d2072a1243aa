// SPDX-License-Identifier: MIT
/* pump.c: draining the rings. */
#include "pump.h"

#include <stdlib.h>
#include <time.h>

#include "metadata.h"

/*
 * A program remembers a string's id before it has written the string, so a call of another CPU may
 * name an id whose record is microseconds away. Longer than this a drain never waits in all.
 */
#define WAITS_PER_DRAIN 20
#define WAIT_NS 50000

static bool is_call(const struct dc_pump *pump, const struct dc_call *call, uint32_t length)
{
	return length >= sizeof(*call) && call->nr_values <= DC_MAX_VALUES &&
	       length >= sizeof(*call) + call->nr_values * sizeof(call->values[0]) &&
	       (uint64_t)call->present >> call->nr_values == 0 &&
	       call->function < pump->formats_count;
}

static bool is_string(const struct dc_string *string, uint32_t length)
{
	return length >= sizeof(*string) && string->length <= length - sizeof(*string) &&
	       string->kind >= DC_STRING_TEXT && string->kind <= DC_STRING_PROCESS_EXIT;
}

static bool define(struct dc_pump *pump, const struct dc_string *record)
{
	struct dc_file *file;

	switch (dc_strings_define(&pump->strings, record, &file)) {
	case DC_DEFINED_CAPTURED:
		return true;
	case DC_DEFINED_NOTHING:
		return dc_strings_mark_missing(&pump->strings, record->id);
	case DC_DEFINED_FILE:
		/* most directories only serve to complete paths; others wait until a call names
		 * them */
		if (file->flags & (DC_FILE_DECLARED | DC_FILE_DIRECTORY) ||
		    !(file->flags & DC_FILE_INCLUDED))
			return true;
		file->flags |= DC_FILE_DECLARED;
		return dc_metadata_file(pump, file, pump->strings.scratch, record->process,
					record->thread);
	default:
		return false;
	}
}

static bool take_string(struct dc_pump *pump, const struct dc_string *record)
{
	pump->counters.strings++;
	switch (record->kind) {
	case DC_STRING_PROCESS_EXIT:
		dc_lanes_forget(&pump->lanes, record->process);
		return dc_metadata_process(pump, record);
	case DC_STRING_PROCESS_NAME:
	case DC_STRING_THREAD_NAME:
		return dc_metadata_process(pump, record);
	default:
		return define(pump, record);
	}
}

/* A ring whose headers make no sense cannot be read any further. */
static void leave_ring(struct dc_pump *pump, struct dc_ring *ring)
{
	pump->counters.bad_records++;
	ring->broken = true;
	ring->end = ring->position;
}

static void snapshot(struct dc_pump *pump, struct dc_ring *ring)
{
	if (!dc_ring_snapshot(ring))
		leave_ring(pump, ring);
}

/* Read the strings that are there now. Returns how many, -1: no memory. */
static int64_t drain_strings(struct dc_pump *pump)
{
	struct dc_ring *ring = &pump->strings_ring;
	enum dc_ring_result result;
	const void *record;
	uint32_t length;
	int64_t count = 0;
	bool enough = true;

	snapshot(pump, ring);
	while (enough && (result = dc_ring_next(ring, &record, &length,
						&pump->counters.discarded)) == DC_RING_RECORD) {
		count++;
		if (is_string(record, length))
			enough = take_string(pump, record);
		else
			pump->counters.bad_records++;
	}
	if (enough && result == DC_RING_BROKEN)
		leave_ring(pump, ring);
	dc_ring_release(ring);
	return enough ? count : -1;
}

static int64_t drain_events(struct dc_pump *pump, struct dc_ring *ring)
{
	enum dc_ring_result result = DC_RING_EMPTY;
	const void *record;
	uint32_t length;
	int64_t count = 0;
	bool enough = true;

	while (enough && pump->buffer.used < pump->buffer_limit) {
		const struct dc_call *call;

		result = dc_ring_next(ring, &record, &length, &pump->counters.discarded);
		if (result != DC_RING_RECORD)
			break;
		count++;
		call = record;
		if (__builtin_expect(is_call(pump, call, length), 1))
			enough = dc_format_call(pump, &pump->formats[call->function], call);
		else
			pump->counters.bad_records++;
	}
	if (result == DC_RING_BROKEN)
		leave_ring(pump, ring);
	dc_ring_release(ring);
	return enough ? count : -1;
}

const struct dc_slot *dc_pump_find(struct dc_pump *pump, uint64_t id)
{
	const struct timespec pause = { .tv_nsec = WAIT_NS };
	struct dc_slot *slot = dc_strings_slot(&pump->strings, id);

	while (__builtin_expect(slot->kind == DC_SLOT_FREE, 0)) {
		if (drain_strings(pump) > 0) {
			slot = dc_strings_slot(&pump->strings, id);
			continue;
		}
		if (pump->waits_left == 0) {
			dc_strings_mark_missing(&pump->strings, id);
			return NULL;
		}
		pump->waits_left--;
		nanosleep(&pause, NULL);
	}
	if (!slot->is_recent)
		slot->is_recent = 1;
	return slot->kind == DC_SLOT_MISSING ? NULL : slot;
}

int64_t dc_pump_drain(struct dc_pump *pump)
{
	int64_t total, count;

	if (dc_strings_are_many(&pump->strings) && !dc_strings_forget(&pump->strings))
		return -1;
	/* A string is written before the first call that names it: so look at the calls first. */
	for (size_t i = 0; i < pump->rings_count; i++)
		snapshot(pump, &pump->rings[i]);
	pump->waits_left = WAITS_PER_DRAIN;
	total = drain_strings(pump);
	if (total < 0)
		return -1;
	for (size_t i = 0; i < pump->rings_count; i++) {
		count = drain_events(pump,
				     &pump->rings[(pump->first_ring + i) % pump->rings_count]);
		if (count < 0)
			return -1;
		total += count;
	}
	if (pump->rings_count)
		pump->first_ring = (pump->first_ring + 1) % pump->rings_count;
	return total;
}

void dc_pump_close(struct dc_pump *pump)
{
	for (size_t i = 0; i < pump->rings_count; i++)
		dc_ring_close(&pump->rings[i]);
	dc_ring_close(&pump->strings_ring);
	for (size_t i = 0; i < pump->formats_count; i++)
		dc_format_close(&pump->formats[i]);
	free(pump->rings);
	free(pump->formats);
	dc_strings_close(&pump->strings);
	dc_lanes_close(&pump->lanes);
	dc_buffer_free(&pump->buffer);
}
