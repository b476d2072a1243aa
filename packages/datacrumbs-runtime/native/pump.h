/* SPDX-License-Identifier: MIT */
/*
 * pump.h: from the rings of the BPF programs to the lines of a trace.
 */
#ifndef DATACRUMBS_PUMP_H
#define DATACRUMBS_PUMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "addresses.h"
#include "format.h"
#include "lanes.h"
#include "nesting.h"
#include "ring.h"
#include "strings.h"
#include "text.h"

struct dc_counters {
	uint64_t events;      /* lines of calls */
	uint64_t strings;     /* string records */
	uint64_t discarded;   /* records that a program reserved and gave up */
	uint64_t bad_records; /* records that make no sense; a ring with one such header is left */
	uint64_t unknown_ids; /* values left out because their string was lost */
	uint64_t excluded;    /* calls on files that are not to be recorded */
	uint64_t text_bytes;  /* of all lines */
};

/* "pid,\"tid\":tid" of the last call, which the next one mostly shares. */
struct dc_thread_text {
	uint32_t process, thread;
	uint32_t length;
	char text[64];
};

/* The first digits of the last time, which change every 100 s. */
struct dc_time_text {
	uint32_t high;
	char digits[8];
};

struct dc_pump {
	struct dc_ring *rings; /* of events */
	size_t rings_count;
	size_t first_ring; /* to begin with, so that all get their turn */
	struct dc_ring strings_ring;
	struct dc_format *formats;
	size_t formats_count;
	struct dc_strings strings;
	struct dc_lanes lanes;
	struct dc_buffer buffer;
	size_t buffer_limit;	 /* drain no further when the buffer holds this much */
	int64_t clock_offset_ns; /* epoch - CLOCK_MONOTONIC */
	char host_hash[DC_HASH_DIGITS + 1];
	struct dc_counters counters;
	struct dc_thread_text thread_text;
	struct dc_time_text time_text;
	struct dc_ties ties;
	struct dc_address_key address_key;
	uint32_t waits_left; /* how often this drain may still wait for a late string */
};

/*
 * Read all rings up to what they hold now, or until the buffer is full. Returns the number of
 * records, or -1: no memory.
 */
int64_t dc_pump_drain(struct dc_pump *pump);

/*
 * Look an id up; one that is unknown may be in a string record that is still being written, for
 * which this waits a moment. May append metadata lines. NULL: unknown.
 */
const struct dc_slot *dc_pump_find(struct dc_pump *pump, uint64_t id);

void dc_pump_close(struct dc_pump *pump);

/* Microseconds since the epoch. */
static inline uint64_t dc_pump_time_us(const struct dc_pump *pump, uint64_t monotonic_ns)
{
	return (monotonic_ns + pump->clock_offset_ns) / 1000;
}

#endif /* DATACRUMBS_PUMP_H */
