// SPDX-License-Identifier: MIT
/* nesting.c: a caller's line before its callees' where the trace shows no difference in time. */
#include "nesting.h"

#define LONGEST_MOVED_LINE 4096 /* others stay where they are */

static bool is_within(const struct dc_ties *ties, uint32_t i, const struct dc_tied_call *call)
{
	uint64_t begin_ns = ties->lines[i].begin_ns, end_ns = ties->lines[i].end_ns;

	return begin_ns >= call->begin_ns && end_ns <= call->end_ns &&
	       (begin_ns > call->begin_ns || end_ns < call->end_ns);
}

void dc_ties_place(struct dc_ties *ties, const struct dc_tied_call *call, struct dc_buffer *buffer,
		   size_t offset)
{
	size_t length = buffer->used - offset;
	char line[LONGEST_MOVED_LINE];
	uint32_t first = ties->count;

	while (first > 0 && is_within(ties, first - 1, call))
		first--;
	if (ties->count == DC_TIED_LINES || length > sizeof(line)) {
		dc_ties_begin(ties, call, offset, buffer->used);
		return;
	}
	if (first < ties->count) {
		size_t target = ties->lines[first].offset;

		memcpy(line, buffer->text + offset, length);
		memmove(buffer->text + target + length, buffer->text + target, offset - target);
		memcpy(buffer->text + target, line, length);
		offset = target;
	}
	for (uint32_t i = ties->count; i > first; i--) {
		ties->lines[i] = ties->lines[i - 1];
		ties->lines[i].offset += length;
	}
	ties->lines[first].offset = offset;
	ties->lines[first].begin_ns = call->begin_ns;
	ties->lines[first].end_ns = call->end_ns;
	ties->count++;
	ties->end = buffer->used;
}
