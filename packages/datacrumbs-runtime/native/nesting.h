/* SPDX-License-Identifier: MIT */
/*
 * nesting.h: a caller's line before its callees' where the trace shows no difference in time.
 *
 * Calls are written when they end, so a callee comes before its caller. Readers sort by begin and
 * length; a callee that begins in the same microsecond and is as long as its caller, in whole
 * microseconds, would be taken for the outer one. So such a caller's line goes before theirs.
 */
#ifndef DATACRUMBS_NESTING_H
#define DATACRUMBS_NESTING_H

#include <stddef.h>
#include <stdint.h>

#include "text.h"

#define DC_TIED_LINES 8

/* The last lines of the buffer, as far as thread, begin and length are the same. */
struct dc_ties {
	uint32_t process, thread;
	uint64_t begin_us, length_us;
	size_t end; /* of the last line in the buffer */
	uint32_t count;
	struct {
		size_t offset;
		uint64_t begin_ns, end_ns;
	} lines[DC_TIED_LINES];
};

struct dc_tied_call {
	uint32_t process, thread;
	uint64_t begin_us, length_us;
	uint64_t begin_ns, end_ns;
};

/* Begin anew with the line at offset. */
static inline void dc_ties_begin(struct dc_ties *ties, const struct dc_tied_call *call,
				 size_t offset, size_t end)
{
	ties->process = call->process;
	ties->thread = call->thread;
	ties->begin_us = call->begin_us;
	ties->length_us = call->length_us;
	ties->end = end;
	ties->count = 1;
	ties->lines[0].offset = offset;
	ties->lines[0].begin_ns = call->begin_ns;
	ties->lines[0].end_ns = call->end_ns;
}

void dc_ties_place(struct dc_ties *ties, const struct dc_tied_call *call, struct dc_buffer *buffer,
		   size_t offset);

/* The line of a call was written from offset to the end of the buffer: move it where it belongs. */
static inline void dc_ties_add(struct dc_ties *ties, const struct dc_tied_call *call,
			       struct dc_buffer *buffer, size_t offset)
{
	if (__builtin_expect(ties->begin_us != call->begin_us ||
				     ties->length_us != call->length_us ||
				     ties->thread != call->thread ||
				     ties->process != call->process || ties->end != offset,
			     1))
		dc_ties_begin(ties, call, offset, buffer->used);
	else
		dc_ties_place(ties, call, buffer, offset);
}

#endif /* DATACRUMBS_NESTING_H */
