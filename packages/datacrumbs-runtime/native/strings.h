/* SPDX-License-Identifier: MIT */
/*
 * strings.h: what the 64-bit ids in events stand for: files and captured texts.
 */
#ifndef DATACRUMBS_STRINGS_H
#define DATACRUMBS_STRINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "event.h"
#include "inclusion.h"
#include "text.h"

enum dc_file_flag {
	DC_FILE_DIRECTORY = 1 << 0,
	DC_FILE_DECLARED = 1 << 1, /* its FH line is written */
	DC_FILE_INCLUDED = 1 << 2, /* calls on it are recorded */
};

/* One path; several ids may stand for it. */
struct dc_file {
	uint64_t hash;
	char digits[DC_HASH_DIGITS];
	char *path; /* NULL: forgotten, see dc_strings.kept_limit */
	uint32_t length;
	uint32_t flags; /* enum dc_file_flag */
	uint64_t calls;
	uint64_t time_ns;
	uint64_t bytes;
};

/* A captured text, quoted as JSON. */
struct dc_captured {
	char *json;
	size_t length;
};

enum dc_slot_kind {
	DC_SLOT_FREE = 0,
	DC_SLOT_FILE,
	DC_SLOT_CAPTURED,
	DC_SLOT_MISSING, /* asked for, never defined: its string was lost */
};

struct dc_slot {
	uint64_t id;
	uint32_t index;	   /* into files or captured */
	uint8_t kind;	   /* enum dc_slot_kind */
	uint8_t is_recent; /* defined or asked for since the ids were last looked through */
};

struct dc_strings {
	struct dc_slot *slots; /* open addressing, a power of two */
	size_t slots_count, slots_used;
	struct dc_file *files;
	size_t files_count, files_capacity;
	uint32_t *by_hash; /* file index + 1, open addressing on dc_file.hash */
	size_t by_hash_count;
	struct dc_captured *captured;
	size_t captured_count, captured_capacity;
	size_t ids_limit;   /* beyond it, ids that are not recent are forgotten */
	size_t ids_checked; /* how many there were when they were last looked through */
	size_t kept_bytes;  /* of paths */
	size_t kept_limit;  /* beyond it only directories keep their path */
	struct dc_inclusion inclusion;
	char *scratch;
};

bool dc_strings_open(struct dc_strings *strings, size_t ids_limit, size_t kept_limit);
void dc_strings_close(struct dc_strings *strings);

enum dc_define_result {
	DC_DEFINED_FILE,
	DC_DEFINED_CAPTURED,
	DC_DEFINED_NOTHING, /* a path that cannot be told, e.g. its directory was lost */
	DC_DEFINE_NO_MEMORY,
};

/*
 * Remember what an id stands for; a later record for the same id replaces it. For DC_DEFINED_FILE
 * *file is set and scratch holds its path: both valid until the next definition.
 */
enum dc_define_result dc_strings_define(struct dc_strings *strings, const struct dc_string *record,
					struct dc_file **file);

/* Remember that an id stands for nothing that is known; false: no memory. */
bool dc_strings_mark_missing(struct dc_strings *strings, uint64_t id);

/*
 * Keep memory bounded however many files a run touches. The programs remember a limited number of
 * ids as sent, those used last; so an id that no call has named while twice as many others were
 * defined will be defined again before it is used. Files with the greatest sums are kept anyway.
 * Moves files and captured texts: nothing may hold an index. false: no memory.
 */
bool dc_strings_forget(struct dc_strings *strings);

/* Whether it is time for dc_strings_forget(). */
static inline bool dc_strings_are_many(const struct dc_strings *strings)
{
	return strings->slots_used > strings->ids_checked + strings->ids_limit;
}

static inline uint64_t dc_mix(uint64_t value)
{
	return value * 0x9e3779b97f4a7c15;
}

/* The slot of an id, or the free one where it would go. */
static inline struct dc_slot *dc_strings_slot(const struct dc_strings *strings, uint64_t id)
{
	size_t at = (dc_mix(id) >> 32) & (strings->slots_count - 1);

	while (strings->slots[at].kind != DC_SLOT_FREE && strings->slots[at].id != id)
		at = (at + 1) & (strings->slots_count - 1);
	return &strings->slots[at];
}

/* The slot of the path hash of a file, or the free one where it would go. */
uint32_t *dc_strings_hash_slot(uint32_t *by_hash, size_t count, const struct dc_file *files,
			       uint64_t hash);

#endif /* DATACRUMBS_STRINGS_H */
