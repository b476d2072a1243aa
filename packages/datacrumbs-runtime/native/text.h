/* SPDX-License-Identifier: MIT */
/*
 * text.h: numbers and strings as text, and the buffer that lines are written into.
 */
#ifndef DATACRUMBS_TEXT_H
#define DATACRUMBS_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define DC_TEXT_SLACK 64 /* bytes that copies may write past their end */
#define DC_HASH_DIGITS 16

/* ---- the buffer ------------------------------------------------------------------------------ */

struct dc_buffer {
	char *text;
	size_t used;
	size_t capacity;
};

bool dc_buffer_grow(struct dc_buffer *buffer, size_t more);

/* Make room for "more" bytes and the slack; false: no memory. */
static inline bool dc_buffer_reserve(struct dc_buffer *buffer, size_t more)
{
	if (__builtin_expect(buffer->capacity - buffer->used >= more + DC_TEXT_SLACK, 1))
		return true;
	return dc_buffer_grow(buffer, more + DC_TEXT_SLACK);
}

bool dc_buffer_append(struct dc_buffer *buffer, const void *bytes, size_t length);
void dc_buffer_free(struct dc_buffer *buffer);

/* ---- numbers --------------------------------------------------------------------------------- */

extern const char dc_two_digits[200];

static inline char *dc_put_two(char *out, uint32_t value)
{
	memcpy(out, dc_two_digits + 2 * value, 2);
	return out + 2;
}

/* Exactly eight digits. */
static inline char *dc_put_eight(char *out, uint32_t value)
{
	uint32_t high = value / 10000, low = value % 10000;

	dc_put_two(out, high / 100);
	dc_put_two(out + 2, high % 100);
	dc_put_two(out + 4, low / 100);
	dc_put_two(out + 6, low % 100);
	return out + 8;
}

/* Up to eight digits, value < 100,000,000. */
static inline char *dc_put_small(char *out, uint32_t value)
{
	if (value < 10000) {
		if (value < 100) {
			if (value < 10) {
				*out = '0' + value;
				return out + 1;
			}
			return dc_put_two(out, value);
		}
		if (value < 1000) {
			*out = '0' + value / 100;
			return dc_put_two(out + 1, value % 100);
		}
		dc_put_two(out, value / 100);
		return dc_put_two(out + 2, value % 100);
	}
	out = dc_put_small(out, value / 10000);
	value %= 10000;
	dc_put_two(out, value / 100);
	return dc_put_two(out + 2, value % 100);
}

static inline char *dc_put_unsigned(char *out, uint64_t value)
{
	const uint64_t eight = 100000000;

	if (value < eight)
		return dc_put_small(out, value);
	if (value < eight * eight) {
		out = dc_put_small(out, value / eight);
	} else {
		out = dc_put_small(out, value / (eight * eight));
		out = dc_put_eight(out, value / eight % eight);
	}
	return dc_put_eight(out, value % eight);
}

static inline char *dc_put_signed(char *out, int64_t value)
{
	if (value >= 0)
		return dc_put_unsigned(out, value);
	*out = '-';
	return dc_put_unsigned(out + 1, -(uint64_t)value);
}

/* "0x" and as few lower-case digits as needed. */
char *dc_put_hexadecimal(char *out, uint64_t value);

/* Exactly DC_HASH_DIGITS lower-case digits. */
char *dc_put_hash(char *out, uint64_t value);

/* ---- strings --------------------------------------------------------------------------------- */

/* Copy a constant text; writes up to DC_TEXT_SLACK bytes too much, reads as much too much. */
static inline char *dc_put_padded(char *out, const char *text, size_t length)
{
	size_t done = 0;

	do {
		memcpy(out + done, text + done, 32);
		done += 32;
	} while (done < length);
	return out + length;
}

static inline char *dc_put_text(char *out, const char *text, size_t length)
{
	memcpy(out, text, length);
	return out + length;
}

/* Longest JSON form of "length" bytes, without quotation marks. */
static inline size_t dc_json_limit(size_t length)
{
	return 6 * length;
}

/*
 * Write bytes as the inside of a JSON string. Whatever the bytes are, the result is valid UTF-8
 * JSON and can be turned back (trace/path_text.py): a byte that is not part of valid UTF-8 becomes
 * the four characters \xNN (two lower-case digits), and so does a backslash that stands before
 * such four characters already. cut: bytes end where a reader stopped, so an unfinished character
 * at their end is left out.
 */
char *dc_put_json(char *out, const char *bytes, size_t length, bool cut);

/* FNV-1a, 64 bits: hash of host names and paths, equal on all nodes. */
uint64_t dc_hash_text(const char *bytes, size_t length);

#endif /* DATACRUMBS_TEXT_H */
