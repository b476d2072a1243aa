// SPDX-License-Identifier: MIT
/* metadata.c: the lines of a trace that are about hosts, files, processes and threads. */
#include "metadata.h"

#include <stdio.h>

#define LINE_BYTES 512 /* more than any line needs besides its strings */

/* Write the line up to and with the host's hash. The buffer has room. */
static char *begin_line(const struct dc_pump *pump, char *out, const char *name, uint32_t process,
			uint32_t thread)
{
	return out +
	       sprintf(out,
		       "{\"name\":\"%s\",\"cat\":\"dftracer\",\"ph\":\"M\",\"pid\":%u,\"tid\":%u,"
		       "\"args\":{\"hhash\":\"%s\"",
		       name, process, thread, pump->host_hash);
}

static char *put_name(char *out, const char *name, size_t length, bool cut)
{
	out = dc_put_text(out, ",\"name\":\"", 9);
	out = dc_put_json(out, name, length, cut);
	*out++ = '"';
	return out;
}

static char *reserve(struct dc_pump *pump, size_t text_bytes)
{
	if (!dc_buffer_reserve(&pump->buffer, LINE_BYTES + dc_json_limit(text_bytes)))
		return NULL;
	return pump->buffer.text + pump->buffer.used;
}

static bool end_line(struct dc_pump *pump, char *out)
{
	out = dc_put_text(out, "}}\n", 3);
	pump->counters.text_bytes += out - (pump->buffer.text + pump->buffer.used);
	pump->buffer.used = out - pump->buffer.text;
	return true;
}

bool dc_metadata_begin(struct dc_pump *pump, const char *hostname, uint32_t process)
{
	char *out = reserve(pump, strlen(hostname));

	if (!out)
		return false;
	out = dc_put_text(out, "[\n", 2);
	out = begin_line(pump, out, "HH", process, process);
	out = put_name(out, hostname, strlen(hostname), false);
	out += sprintf(out, ",\"value\":\"%s\"", pump->host_hash);
	end_line(pump, out);

	out = reserve(pump, 0);
	if (!out)
		return false;
	out = begin_line(pump, out, "CM", process, process);
	out += sprintf(out, ",\"name\":\"time_metric\",\"value\":\"US\"");
	return end_line(pump, out);
}

bool dc_metadata_file(struct dc_pump *pump, const struct dc_file *file, const char *path,
		      uint32_t process, uint32_t thread)
{
	char *out = reserve(pump, file->length);

	if (!out)
		return false;
	out = begin_line(pump, out, "FH", process, thread);
	out = put_name(out, path, file->length, false);
	out = dc_put_text(out, ",\"value\":\"", 10);
	out = dc_put_text(out, file->digits, DC_HASH_DIGITS);
	*out++ = '"';
	return end_line(pump, out);
}

bool dc_metadata_process(struct dc_pump *pump, const struct dc_string *record)
{
	size_t length = strnlen(record->text, record->length);
	bool cut = record->flags & DC_STRING_CUT;
	uint64_t time_us = dc_pump_time_us(pump, record->time_ns);
	char *out = reserve(pump, length);

	if (!out)
		return false;
	switch (record->kind) {
	case DC_STRING_PROCESS_NAME:
		out = begin_line(pump, out, "process_name", record->process, record->process);
		out = put_name(out, record->text, length, cut);
		out += sprintf(out, ",\"ppid\":%llu,\"uid\":%u,\"since\":%llu",
			       (unsigned long long)record->number, record->uid,
			       (unsigned long long)time_us);
		break;
	case DC_STRING_THREAD_NAME:
		out = begin_line(pump, out, "thread_name", record->process, record->thread);
		out = put_name(out, record->text, length, cut);
		break;
	default:
		out = begin_line(pump, out, "process_exit", record->process, record->process);
		out += sprintf(out, ",\"at\":%llu", (unsigned long long)time_us);
	}
	return end_line(pump, out);
}

bool dc_metadata_lane(struct dc_pump *pump, const struct dc_fixed *name, uint32_t process,
		      uint32_t tid, uint32_t number)
{
	char *out = reserve(pump, name->length);

	if (!out)
		return false;
	out = begin_line(pump, out, "thread_name", process, tid);
	out = dc_put_text(out, ",\"name\":\"", 9);
	out = dc_put_text(out, name->text, name->length);
	out += sprintf(out, " %u\"", number + 1);
	return end_line(pump, out);
}
