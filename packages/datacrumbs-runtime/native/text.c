// SPDX-License-Identifier: MIT
/* text.c: numbers and strings as text. */
#include "text.h"

#include <stdlib.h>

const char dc_two_digits[200] = "00010203040506070809"
				"10111213141516171819"
				"20212223242526272829"
				"30313233343536373839"
				"40414243444546474849"
				"50515253545556575859"
				"60616263646566676869"
				"70717273747576777879"
				"80818283848586878889"
				"90919293949596979899";

static const char hex_digits[] = "0123456789abcdef";

bool dc_buffer_grow(struct dc_buffer *buffer, size_t more)
{
	size_t capacity = buffer->capacity ? buffer->capacity : 4096;
	char *text;

	while (capacity - buffer->used < more)
		capacity *= 2;
	text = realloc(buffer->text, capacity);
	if (!text)
		return false;
	buffer->text = text;
	buffer->capacity = capacity;
	return true;
}

bool dc_buffer_append(struct dc_buffer *buffer, const void *bytes, size_t length)
{
	if (!dc_buffer_reserve(buffer, length))
		return false;
	memcpy(buffer->text + buffer->used, bytes, length);
	buffer->used += length;
	return true;
}

void dc_buffer_free(struct dc_buffer *buffer)
{
	free(buffer->text);
	memset(buffer, 0, sizeof(*buffer));
}

char *dc_put_hash(char *out, uint64_t value)
{
	for (int i = DC_HASH_DIGITS - 1; i >= 0; i--) {
		out[i] = hex_digits[value & 15];
		value >>= 4;
	}
	return out + DC_HASH_DIGITS;
}

char *dc_put_hexadecimal(char *out, uint64_t value)
{
	int digits = value ? (67 - __builtin_clzll(value)) / 4 : 1;

	*out++ = '0';
	*out++ = 'x';
	for (int i = digits - 1; i >= 0; i--) {
		out[i] = hex_digits[value & 15];
		value >>= 4;
	}
	return out + digits;
}

static bool is_continuation(unsigned char byte)
{
	return (byte & 0xc0) == 0x80;
}

/*
 * Length of the UTF-8 character at bytes; 0: none is there. *unfinished: what is there is the
 * beginning of one that the end cuts off.
 */
static size_t character_length(const unsigned char *bytes, size_t length, bool *unfinished)
{
	unsigned char first = bytes[0];
	unsigned char lowest = 0x80, highest = 0xbf;
	size_t wanted;

	*unfinished = false;
	if (first < 0x80)
		return 1;
	if (first >= 0xc2 && first <= 0xdf)
		wanted = 2;
	else if (first >= 0xe0 && first <= 0xef)
		wanted = 3;
	else if (first >= 0xf0 && first <= 0xf4)
		wanted = 4;
	else
		return 0;
	if (first == 0xe0)
		lowest = 0xa0; /* shorter form exists */
	else if (first == 0xed)
		highest = 0x9f; /* surrogates */
	else if (first == 0xf0)
		lowest = 0x90;
	else if (first == 0xf4)
		highest = 0x8f; /* beyond U+10FFFF */

	for (size_t i = 1; i < wanted; i++) {
		if (i == length) {
			*unfinished = true;
			return 0;
		}
		if (i == 1 ? bytes[1] < lowest || bytes[1] > highest : !is_continuation(bytes[i]))
			return 0;
	}
	return wanted;
}

static bool is_hex_digit(char byte)
{
	return (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'f');
}

static bool looks_escaped(const char *bytes, size_t length)
{
	return length >= 4 && bytes[1] == 'x' && is_hex_digit(bytes[2]) && is_hex_digit(bytes[3]);
}

/* \xNN, its backslash as JSON wants it. */
static char *put_escaped_byte(char *out, unsigned char byte)
{
	memcpy(out, "\\\\x", 3);
	out[3] = hex_digits[byte >> 4];
	out[4] = hex_digits[byte & 15];
	return out + 5;
}

static char *put_control(char *out, unsigned char byte)
{
	static const char letters[32] = {
		['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r'
	};

	*out++ = '\\';
	if (letters[byte]) {
		*out++ = letters[byte];
		return out;
	}
	memcpy(out, "u00", 3);
	out[3] = hex_digits[byte >> 4];
	out[4] = hex_digits[byte & 15];
	return out + 5;
}

char *dc_put_json(char *out, const char *bytes, size_t length, bool cut)
{
	const char *end = bytes + length;

	while (bytes < end) {
		unsigned char byte = *bytes;
		bool unfinished;
		size_t taken;

		if (byte == '\\' && looks_escaped(bytes, end - bytes)) {
			out = put_escaped_byte(out, byte);
			bytes++;
		} else if (byte == '"' || byte == '\\') {
			*out++ = '\\';
			*out++ = byte;
			bytes++;
		} else if (byte < 0x20) {
			out = put_control(out, byte);
			bytes++;
		} else {
			taken = character_length((const unsigned char *)bytes, end - bytes,
						 &unfinished);
			if (taken) {
				out = dc_put_text(out, bytes, taken);
				bytes += taken;
			} else if (unfinished && cut) {
				break;
			} else {
				out = put_escaped_byte(out, byte);
				bytes++;
			}
		}
	}
	return out;
}

uint64_t dc_hash_text(const char *bytes, size_t length)
{
	uint64_t hash = 0xcbf29ce484222325;

	for (size_t i = 0; i < length; i++)
		hash = (hash ^ (unsigned char)bytes[i]) * 0x100000001b3;
	return hash;
}
