// SPDX-License-Identifier: MIT
/* strings.c: what the 64-bit ids in events stand for. */
#include "strings.h"

#include <stdio.h>
#include <stdlib.h>

#include "paths.h"

#define FIRST_SLOTS 1024
#define LONGEST_DIRECTORY (DC_MAX_STRING_BYTES + 8)

static bool grow_array(void **array, size_t *capacity, size_t count, size_t item_bytes)
{
	size_t wanted = *capacity ? 2 * *capacity : 256;
	void *grown;

	if (count < *capacity)
		return true;
	grown = realloc(*array, wanted * item_bytes);
	if (!grown)
		return false;
	*array = grown;
	*capacity = wanted;
	return true;
}

bool dc_strings_open(struct dc_strings *strings, size_t ids_limit, size_t kept_limit)
{
	memset(strings, 0, sizeof(*strings));
	strings->ids_limit = ids_limit;
	strings->kept_limit = kept_limit;
	strings->slots_count = FIRST_SLOTS;
	strings->slots = calloc(FIRST_SLOTS, sizeof(*strings->slots));
	strings->by_hash_count = FIRST_SLOTS;
	strings->by_hash = calloc(FIRST_SLOTS, sizeof(*strings->by_hash));
	/* the longest path, and the longest captured text as JSON */
	strings->scratch = malloc(dc_path_limit(LONGEST_DIRECTORY, DC_MAX_STRING_BYTES) +
				  dc_json_limit(DC_MAX_STRING_BYTES) + DC_TEXT_SLACK);
	return strings->slots && strings->by_hash && strings->scratch;
}

void dc_strings_close(struct dc_strings *strings)
{
	for (size_t i = 0; i < strings->files_count; i++)
		free(strings->files[i].path);
	for (size_t i = 0; i < strings->captured_count; i++)
		free(strings->captured[i].json);
	free(strings->files);
	free(strings->captured);
	free(strings->slots);
	free(strings->by_hash);
	free(strings->scratch);
	dc_inclusion_close(&strings->inclusion);
	memset(strings, 0, sizeof(*strings));
}

/* ---- ids ------------------------------------------------------------------------------------- */

static bool grow_slots(struct dc_strings *strings)
{
	struct dc_strings bigger = { .slots_count = 2 * strings->slots_count };

	bigger.slots = calloc(bigger.slots_count, sizeof(*bigger.slots));
	if (!bigger.slots)
		return false;
	for (size_t i = 0; i < strings->slots_count; i++)
		if (strings->slots[i].kind != DC_SLOT_FREE)
			*dc_strings_slot(&bigger, strings->slots[i].id) = strings->slots[i];
	free(strings->slots);
	strings->slots = bigger.slots;
	strings->slots_count = bigger.slots_count;
	return true;
}

static bool set_slot(struct dc_strings *strings, uint64_t id, enum dc_slot_kind kind,
		     uint32_t index)
{
	struct dc_slot *slot;

	if (2 * (strings->slots_used + 1) > strings->slots_count && !grow_slots(strings))
		return false;
	slot = dc_strings_slot(strings, id);
	if (slot->kind == DC_SLOT_FREE)
		strings->slots_used++;
	*slot = (struct dc_slot){ .id = id, .index = index, .kind = kind, .is_recent = 1 };
	return true;
}

bool dc_strings_mark_missing(struct dc_strings *strings, uint64_t id)
{
	return set_slot(strings, id, DC_SLOT_MISSING, 0);
}

/* ---- files ----------------------------------------------------------------------------------- */

uint32_t *dc_strings_hash_slot(uint32_t *by_hash, size_t count, const struct dc_file *files,
			       uint64_t hash)
{
	size_t at = (dc_mix(hash) >> 32) & (count - 1);

	while (by_hash[at] && files[by_hash[at] - 1].hash != hash)
		at = (at + 1) & (count - 1);
	return &by_hash[at];
}

static bool grow_by_hash(struct dc_strings *strings)
{
	size_t count = 2 * strings->by_hash_count;
	uint32_t *by_hash = calloc(count, sizeof(*by_hash));

	if (!by_hash)
		return false;
	for (size_t i = 0; i < strings->files_count; i++)
		*dc_strings_hash_slot(by_hash, count, strings->files, strings->files[i].hash) =
			i + 1;
	free(strings->by_hash);
	strings->by_hash = by_hash;
	strings->by_hash_count = count;
	return true;
}

/* Index of the file with a path, a new one if there is none; UINT32_MAX: no memory. */
static uint32_t intern_file(struct dc_strings *strings, const char *path, size_t length)
{
	uint64_t hash = dc_hash_text(path, length);
	struct dc_file *file;
	uint32_t *slot;

	slot = dc_strings_hash_slot(strings->by_hash, strings->by_hash_count, strings->files, hash);
	if (*slot)
		return *slot - 1;
	if (2 * (strings->files_count + 1) > strings->by_hash_count) {
		if (!grow_by_hash(strings))
			return UINT32_MAX;
		slot = dc_strings_hash_slot(strings->by_hash, strings->by_hash_count,
					    strings->files, hash);
	}
	if (strings->files_count == UINT32_MAX - 1 ||
	    !grow_array((void **)&strings->files, &strings->files_capacity, strings->files_count,
			sizeof(*strings->files)))
		return UINT32_MAX;
	file = &strings->files[strings->files_count];
	memset(file, 0, sizeof(*file));
	file->hash = hash;
	file->length = length;
	if (dc_inclusion_has(&strings->inclusion, path, length))
		file->flags = DC_FILE_INCLUDED;
	dc_put_hash(file->digits, hash);
	*slot = ++strings->files_count;
	return *slot - 1;
}

/* Keep the path of a file, as long as the limit allows it. */
static bool keep_path(struct dc_strings *strings, struct dc_file *file, const char *path)
{
	if (file->path)
		return true;
	if (!(file->flags & DC_FILE_DIRECTORY) &&
	    strings->kept_bytes + file->length > strings->kept_limit)
		return true;
	file->path = malloc(file->length ? file->length : 1);
	if (!file->path)
		return false;
	memcpy(file->path, path, file->length);
	strings->kept_bytes += file->length;
	return true;
}

/* Write the path that a record tells to scratch; 0: it cannot be told. */
static size_t path_of(struct dc_strings *strings, const struct dc_string *record, size_t length)
{
	bool cut = record->flags & DC_STRING_CUT;
	const struct dc_file *directory = NULL;
	struct dc_slot *slot;
	char *path = strings->scratch;

	switch (record->kind) {
	case DC_STRING_FILE:
		return dc_path_from_components(path, record->text, length, cut);
	case DC_STRING_PATH:
		slot = dc_strings_slot(strings, record->directory);
		if (record->directory && slot->kind == DC_SLOT_FILE) {
			slot->is_recent = 1;
			directory = &strings->files[slot->index];
		}
		if (!directory || !directory->path || directory->length > LONGEST_DIRECTORY)
			return dc_path_join(path, "", 0, record->text,
					    strnlen(record->text, length), cut);
		return dc_path_join(path, directory->path, directory->length, record->text,
				    strnlen(record->text, length), cut);
	case DC_STRING_PIPE:
		return sprintf(path, "pipe:[%llu]", (unsigned long long)record->number);
	case DC_STRING_SOCKET:
		return sprintf(path, "socket:[%llu]", (unsigned long long)record->number);
	default:
		length = strnlen(record->text, length);
		if (length >= 6 && memcmp(record->text, "memfd:", 6) == 0)
			return dc_put_text(path, record->text, length) - path;
		path = dc_put_text(path, "anon_inode:", strlen("anon_inode:"));
		return dc_put_text(path, record->text, length) - strings->scratch;
	}
}

static enum dc_define_result define_file(struct dc_strings *strings, const struct dc_string *record,
					 size_t length, struct dc_file **file)
{
	size_t path_length = path_of(strings, record, length);
	uint32_t index;

	if (path_length == 0)
		return DC_DEFINED_NOTHING;
	index = intern_file(strings, strings->scratch, path_length);
	if (index == UINT32_MAX || !set_slot(strings, record->id, DC_SLOT_FILE, index))
		return DC_DEFINE_NO_MEMORY;
	*file = &strings->files[index];
	if (record->flags & DC_STRING_DIRECTORY)
		(*file)->flags |= DC_FILE_DIRECTORY;
	if (!keep_path(strings, *file, strings->scratch))
		return DC_DEFINE_NO_MEMORY;
	return DC_DEFINED_FILE;
}

/* ---- captured texts -------------------------------------------------------------------------- */

static enum dc_define_result define_captured(struct dc_strings *strings,
					     const struct dc_string *record, size_t length)
{
	const struct dc_slot *slot = dc_strings_slot(strings, record->id);
	struct dc_captured *captured;
	char *end = strings->scratch;
	char *json;

	*end++ = '"';
	end = dc_put_json(end, record->text, strnlen(record->text, length),
			  record->flags & DC_STRING_CUT);
	*end++ = '"';
	json = malloc(end - strings->scratch);
	if (!json)
		return DC_DEFINE_NO_MEMORY;
	memcpy(json, strings->scratch, end - strings->scratch);
	if (slot->kind == DC_SLOT_CAPTURED) {
		captured = &strings->captured[slot->index];
		free(captured->json);
	} else {
		if (!grow_array((void **)&strings->captured, &strings->captured_capacity,
				strings->captured_count, sizeof(*strings->captured)) ||
		    !set_slot(strings, record->id, DC_SLOT_CAPTURED, strings->captured_count)) {
			free(json);
			return DC_DEFINE_NO_MEMORY;
		}
		captured = &strings->captured[strings->captured_count++];
	}
	captured->json = json;
	captured->length = end - strings->scratch;
	return DC_DEFINED_CAPTURED;
}

enum dc_define_result dc_strings_define(struct dc_strings *strings, const struct dc_string *record,
					struct dc_file **file)
{
	size_t length = record->length;

	if (length > DC_MAX_STRING_BYTES)
		length = DC_MAX_STRING_BYTES;
	if (record->kind == DC_STRING_TEXT)
		return define_captured(strings, record, length);
	return define_file(strings, record, length, file);
}
