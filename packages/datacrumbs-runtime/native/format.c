// SPDX-License-Identifier: MIT
/* format.c: how the calls of one function look in the trace. */
#include "format.h"

#include <stdlib.h>

#include "metadata.h"
#include "pump.h"
#include "statistics.h"

#define NUMBER_BYTES 20 /* longest number */
#define COPY_BYTES 32	/* dc_put_padded() copies this many at once */

int dc_value_kind_of(const char *name)
{
	static const char *const names[] = { "-",   "i8",  "i16", "i32", "i64", "u8", "u16",
					     "u32", "u64", "x",	  "b",	 "s",	"f" };

	for (size_t kind = 0; kind < sizeof(names) / sizeof(names[0]); kind++)
		if (strcmp(name, names[kind]) == 0)
			return kind;
	return -1;
}

/* ---- made once ------------------------------------------------------------------------------- */

/* Join texts, up to a NULL; the odd ones are strings that go into JSON. */
static bool make_fixed(struct dc_fixed *fixed, const char *const *texts)
{
	size_t bytes = 0;
	char *joined, *end;

	for (size_t i = 0; texts[i]; i++)
		bytes += i % 2 ? dc_json_limit(strlen(texts[i])) : strlen(texts[i]);
	joined = malloc(bytes + 1);
	if (!joined)
		return false;
	end = joined;
	for (size_t i = 0; texts[i]; i++) {
		size_t length = strlen(texts[i]);

		end = i % 2 ? dc_put_json(end, texts[i], length, false)
			    : dc_put_text(end, texts[i], length);
	}
	fixed->length = end - joined;
	/* room for the last copy of dc_put_padded() */
	fixed->text = calloc(1, fixed->length / COPY_BYTES * COPY_BYTES + COPY_BYTES);
	if (fixed->text)
		memcpy(fixed->text, joined, fixed->length);
	free(joined);
	return fixed->text;
}

bool dc_format_open(struct dc_format *format, const struct dc_format_names *names)
{
	const char *const head[] = { "{\"name\":\"",
				     names->name,
				     "\",\"cat\":\"",
				     names->category,
				     "\",\"ph\":\"X\",\"pid\":",
				     NULL };
	const char *const arguments[] = { ",\"args\":{\"hhash\":\"", names->host_hash, "\"", NULL };
	const char *const extra[] = {
		",\"args\":{\"hhash\":\"", names->host_hash, "\",", "", names->extra, NULL
	};
	const char *const lane_name[] = { "", names->name, NULL };

	if (!make_fixed(&format->head, head) ||
	    !make_fixed(&format->arguments, names->extra[0] ? extra : arguments) ||
	    (format->lanes && !make_fixed(&format->lane_name, lane_name)))
		return false;
	format->limit = format->head.length + format->arguments.length + 256;
	for (uint32_t i = 0; i < format->nr_values; i++) {
		struct dc_value_format *value = &format->values[i];
		const char *const key[] = { ",\"", names->labels[i], "\":", NULL };

		if (!make_fixed(&value->key, key))
			return false;
		format->limit += value->key.length + NUMBER_BYTES + COPY_BYTES;
		if (value->kind == DC_VALUE_FILE)
			format->files |= 1u << i;
		if (value->kind == DC_VALUE_FILE || value->kind == DC_VALUE_CAPTURED)
			format->identifiers |= 1u << i;
	}
	return true;
}

void dc_format_close(struct dc_format *format)
{
	free(format->head.text);
	free(format->arguments.text);
	free(format->lane_name.text);
	for (uint32_t i = 0; i < DC_MAX_VALUES; i++)
		free(format->values[i].key.text);
	free(format->statistics);
	memset(format, 0, sizeof(*format));
}

/* ---- for every call -------------------------------------------------------------------------- */

/* What the ids of a call stand for: indexes of files or captured texts. */
struct identified {
	uint32_t index[DC_MAX_VALUES];
	uint8_t known; /* bit i: value i is */
	bool included; /* one of the files is to be recorded */
	size_t text_bytes;
};

/* Look all ids up before the line is begun, because that may append lines of its own. */
static void identify(struct dc_pump *pump, const struct dc_format *format,
		     const struct dc_call *call, struct identified *found)
{
	uint32_t wanted = format->identifiers & call->present;

	for (; wanted; wanted &= wanted - 1) {
		uint32_t i = __builtin_ctz(wanted);
		bool is_file = format->files & 1u << i;
		const struct dc_slot *slot;

		slot = dc_pump_find(pump, call->values[i]);
		if (!slot || slot->kind != (is_file ? DC_SLOT_FILE : DC_SLOT_CAPTURED)) {
			pump->counters.unknown_ids++;
			continue;
		}
		found->index[i] = slot->index;
		found->known |= 1u << i;
		if (!is_file)
			found->text_bytes += pump->strings.captured[slot->index].length;
		else if (pump->strings.files[slot->index].flags & DC_FILE_INCLUDED)
			found->included = true;
	}
}

/* Write the FH lines of the files that have none yet; false: no memory. */
static bool declare_files(struct dc_pump *pump, const struct dc_format *format,
			  const struct dc_call *call, const struct identified *found)
{
	uint32_t files = found->known & format->files;

	for (; files; files &= files - 1) {
		uint32_t index = found->index[__builtin_ctz(files)];
		struct dc_file *file = &pump->strings.files[index];

		/* a second file that is not to be recorded may have lost its path to the limit */
		if (file->flags & DC_FILE_DECLARED || !file->path)
			continue;
		file->flags |= DC_FILE_DECLARED;
		if (!dc_metadata_file(pump, file, file->path, call->process, call->thread))
			return false;
	}
	return true;
}

static char *put_value(char *out, uint32_t kind, uint64_t value)
{
	switch (kind) {
	case DC_VALUE_I8:
		return dc_put_signed(out, (int8_t)value);
	case DC_VALUE_I16:
		return dc_put_signed(out, (int16_t)value);
	case DC_VALUE_I32:
		return dc_put_signed(out, (int32_t)value);
	case DC_VALUE_I64:
		return dc_put_signed(out, (int64_t)value);
	case DC_VALUE_U8:
		return dc_put_unsigned(out, (uint8_t)value);
	case DC_VALUE_U16:
		return dc_put_unsigned(out, (uint16_t)value);
	case DC_VALUE_U32:
		return dc_put_unsigned(out, (uint32_t)value);
	case DC_VALUE_HEXADECIMAL:
		*out++ = '"';
		out = dc_put_hexadecimal(out, value);
		*out++ = '"';
		return out;
	case DC_VALUE_BOOLEAN:
		return value & 0xff ? dc_put_text(out, "true", 4) : dc_put_text(out, "false", 5);
	default:
		return dc_put_unsigned(out, value);
	}
}

static char *put_thread(struct dc_thread_text *cached, char *out, uint32_t process, uint32_t thread)
{
	if (__builtin_expect(
		    cached->process != process || cached->thread != thread || !cached->length, 0)) {
		char *end = dc_put_unsigned(cached->text, process);

		end = dc_put_text(end, ",\"tid\":", 7);
		end = dc_put_unsigned(end, thread);
		cached->length = end - cached->text;
		cached->process = process;
		cached->thread = thread;
	}
	return dc_put_padded(out, cached->text, cached->length);
}

/* Microseconds since the epoch have 16 digits until the year 2286. */
static char *put_time(struct dc_time_text *cached, char *out, uint64_t time_us)
{
	const uint32_t eight = 100000000;
	uint64_t high = time_us / eight;

	if (__builtin_expect(high != cached->high, 0)) {
		if (high < 10000000 || high >= eight)
			return dc_put_unsigned(out, time_us);
		cached->high = high;
		dc_put_eight(cached->digits, high);
	}
	memcpy(out, cached->digits, 8);
	return dc_put_eight(out + 8, time_us % eight);
}

static bool is_error(uint32_t flags, int64_t ret)
{
	return (flags & DC_FUNCTION_ERRNO && ret < 0) ||
	       (flags & DC_FUNCTION_NULL_ERROR && ret == 0) ||
	       (flags & DC_FUNCTION_MINUS_ERROR && ret == -1);
}

/* The BPF programs sum up bytes by the same rule in profile mode. */
static uint64_t bytes_of(const struct dc_format *format, const struct dc_call *call, int64_t ret)
{
	uint32_t factor = format->bytes_argument;

	if (!(format->flags & DC_FUNCTION_BYTES) || ret <= 0)
		return 0;
	if (factor)
		return call->present & 1u << (factor - 1) ? ret * call->values[factor - 1] : 0;
	return ret;
}

/* Add a call to the sums of its function and of its file, if that is known. */
static bool count_call(struct dc_pump *pump, struct dc_format *format, const struct dc_call *call,
		       const struct identified *found, int64_t ret, bool has_ret)
{
	bool failed = has_ret && is_error(format->flags, ret);
	uint64_t bytes = has_ret && !failed ? bytes_of(format, call, ret) : 0;
	uint32_t files = found->known & format->files;

	if (__builtin_expect(!format->statistics, 0)) {
		format->statistics = calloc(1, sizeof(*format->statistics));
		if (!format->statistics)
			return false;
	}
	dc_statistics_add(format->statistics, call->duration_ns, failed, bytes);
	if (files) {
		struct dc_file *file = &pump->strings.files[found->index[__builtin_ctz(files)]];

		file->calls++;
		file->time_ns += call->duration_ns;
		file->bytes += bytes;
	}
	return true;
}

/* The lane of a call that may overlap others of its thread; 0: no memory. */
static uint32_t lane_of(struct dc_pump *pump, const struct dc_format *format,
			const struct dc_call *call)
{
	uint32_t number;
	bool is_new;
	uint32_t tid = dc_lanes_place(&pump->lanes, call->process, call->function, call->start_ns,
				      call->start_ns + call->duration_ns, &number, &is_new);

	if (tid && is_new &&
	    !dc_metadata_lane(pump, &format->lane_name, call->process, tid, number))
		return 0;
	return tid;
}

bool dc_format_call(struct dc_pump *pump, struct dc_format *format, const struct dc_call *call)
{
	bool has_ret =
		!(format->flags & DC_FUNCTION_NO_RETURN) && !(call->flags & DC_CALL_NO_RETURN);
	int64_t ret = format->flags & DC_FUNCTION_RET_INT ? (int32_t)call->ret : call->ret;
	uint64_t end_ns = call->start_ns + call->duration_ns;
	uint64_t begin_us = dc_pump_time_us(pump, call->start_ns);
	struct dc_tied_call tied = {
		.process = call->process,
		.thread = call->thread,
		.begin_us = begin_us,
		.length_us = dc_pump_time_us(pump, end_ns) - begin_us,
		.begin_ns = call->start_ns,
		.end_ns = end_ns,
	};
	struct identified found = { .known = 0 };
	bool hides = format->flags & DC_FUNCTION_HIDES_ADDRESSES;
	size_t offset;
	uint32_t values;
	uint64_t number;
	char *out;

	if (format->identifiers & call->present)
		identify(pump, format, call, &found);
	if (pump->strings.inclusion.count && format->files && !found.included) {
		pump->counters.excluded++;
		return true;
	}
	if (!declare_files(pump, format, call, &found))
		return false;
	if (format->lanes) {
		tied.thread = lane_of(pump, format, call);
		if (!tied.thread)
			return false;
	}
	if (!count_call(pump, format, call, &found, ret, has_ret) ||
	    !dc_buffer_reserve(&pump->buffer, format->limit + found.text_bytes))
		return false;

	offset = pump->buffer.used;
	out = pump->buffer.text + offset;
	out = dc_put_padded(out, format->head.text, format->head.length);
	out = put_thread(&pump->thread_text, out, call->process, tied.thread);
	out = dc_put_padded(out, format->arguments.text, format->arguments.length);
	if (hides && dc_is_kernel_address(call->ret))
		ret = dc_hide_address(&pump->address_key, call->ret);
	if (has_ret) {
		out = dc_put_text(out, ",\"ret\":", 7);
		out = dc_put_signed(out, ret);
	}
	values = call->present & ~(uint32_t)format->files &
		 ~(format->identifiers & ~(uint32_t)found.known);
	for (; values; values &= values - 1) {
		uint32_t i = __builtin_ctz(values);
		const struct dc_value_format *value = &format->values[i];

		if (i >= format->nr_values)
			break;
		number = call->values[i];
		if (hides && value->kind != DC_VALUE_CAPTURED && dc_is_kernel_address(number)) {
			/* a part of an address, or one that is called a number, is not shown */
			if (value->kind != DC_VALUE_HEXADECIMAL)
				continue;
			number = dc_hide_address(&pump->address_key, number);
		}
		if (value->kind == DC_VALUE_NONE)
			continue;
		out = dc_put_padded(out, value->key.text, value->key.length);
		if (value->kind == DC_VALUE_CAPTURED) {
			const struct dc_captured *captured =
				&pump->strings.captured[found.index[i]];

			out = dc_put_text(out, captured->json, captured->length);
		} else {
			out = put_value(out, value->kind, number);
		}
	}
	for (values = found.known & format->files; values; values &= values - 1) {
		uint32_t i = __builtin_ctz(values);

		out = dc_put_padded(out, format->values[i].key.text, format->values[i].key.length);
		*out++ = '"';
		out = dc_put_text(out, pump->strings.files[found.index[i]].digits, DC_HASH_DIGITS);
		*out++ = '"';
	}
	out = dc_put_text(out, ",\"ns\":", 6);
	out = dc_put_unsigned(out, call->duration_ns);
	out = dc_put_text(out, "},\"dur\":", 8);
	out = dc_put_unsigned(out, tied.length_us);
	out = dc_put_text(out, ",\"ts\":", 6);
	out = put_time(&pump->time_text, out, begin_us);
	out = dc_put_text(out, "}\n", 2);

	pump->counters.events++;
	pump->buffer.used = out - pump->buffer.text;
	pump->counters.text_bytes += pump->buffer.used - offset;
	dc_ties_add(&pump->ties, &tied, &pump->buffer, offset);
	return true;
}
