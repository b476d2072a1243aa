/* SPDX-License-Identifier: MIT */
/*
 * format.h: how the calls of one function look in the trace.
 *
 * Everything about a line that does not change from call to call is made once, when the pump is
 * opened. What changes most stands together at the end: that compresses best.
 *
 * {"name":"read","cat":"POSIX","ph":"X","pid":7,"tid":8,"args":{"hhash":"...",
 *  head----------------------------------> thread text->arguments----------->
 * "ret":4096,"count":4096,"fhash":"...","ns":21874},"dur":22,"ts":1795155786922564}
 * ret------->values------>files-------->times------------------------------------->
 */
#ifndef DATACRUMBS_FORMAT_H
#define DATACRUMBS_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "event.h"
#include "text.h"

enum dc_value_kind {
	DC_VALUE_NONE = 0, /* not in the trace */
	DC_VALUE_I8,
	DC_VALUE_I16,
	DC_VALUE_I32,
	DC_VALUE_I64,
	DC_VALUE_U8,
	DC_VALUE_U16,
	DC_VALUE_U32,
	DC_VALUE_U64,
	DC_VALUE_HEXADECIMAL, /* a pointer: "0x..." */
	DC_VALUE_BOOLEAN,
	DC_VALUE_CAPTURED, /* id of a captured text */
	DC_VALUE_FILE,	   /* id of a file */
};

/* A text with slack behind it, see dc_put_padded(). */
struct dc_fixed {
	char *text;
	uint32_t length;
};

struct dc_value_format {
	struct dc_fixed key; /* ,"label": */
	uint32_t kind;	     /* enum dc_value_kind */
};

struct dc_format {
	struct dc_fixed head;
	struct dc_fixed arguments;
	uint32_t flags; /* enum dc_function_flag */
	uint8_t nr_values;
	uint8_t bytes_argument; /* value index + 1; 0: none */
	bool lanes;
	uint8_t identifiers;	   /* bit i: value i is an id */
	uint8_t files;		   /* bit i: value i is the id of a file */
	size_t limit;		   /* longest line, without captured texts */
	struct dc_fixed lane_name; /* what the lanes of the function are called, as JSON */
	struct dc_value_format values[DC_MAX_VALUES];
	struct dc_statistics *statistics; /* NULL before the first call */
};

/* The kind that a format's name (i8 ... f) stands for; -1: none. */
int dc_value_kind_of(const char *name);

/* What a function is called and whether its calls have more to say than the format knows. */
struct dc_format_names {
	const char *category, *name;
	const char *extra; /* JSON members without a comma around them, may be empty */
	const char *host_hash;
	const char *labels[DC_MAX_VALUES];
};

/* Fill the texts of a format whose flags, nr_values and kinds are set; false: no memory. */
bool dc_format_open(struct dc_format *format, const struct dc_format_names *names);
void dc_format_close(struct dc_format *format);

struct dc_pump;

/* Append the line of a call to the buffer and count it; false: no memory. */
bool dc_format_call(struct dc_pump *pump, struct dc_format *format, const struct dc_call *call);

#endif /* DATACRUMBS_FORMAT_H */
