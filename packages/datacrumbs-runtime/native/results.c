// SPDX-License-Identifier: MIT
/* results.c: what the pump has counted, as Python objects. */
#include "results.h"

#include <stdlib.h>

#include "statistics.h"

typedef unsigned long long count_t;

PyObject *dc_results_counters(const struct dc_pump *pump)
{
	const struct dc_counters *counters = &pump->counters;

	return Py_BuildValue("{sKsKsKsKsKsKsKsn}", "events", (count_t)counters->events, "strings",
			     (count_t)counters->strings, "discarded", (count_t)counters->discarded,
			     "bad_records", (count_t)counters->bad_records, "unknown_ids",
			     (count_t)counters->unknown_ids, "excluded",
			     (count_t)counters->excluded, "text_bytes",
			     (count_t)counters->text_bytes, "files",
			     (Py_ssize_t)pump->strings.files_count);
}

static PyObject *histogram_of(const struct dc_statistics *statistics)
{
	uint64_t slots[DC_HISTOGRAM_SLOTS] = { 0 };
	PyObject *tuple = PyTuple_New(DC_HISTOGRAM_SLOTS);

	if (!tuple)
		return NULL;
	for (uint32_t bucket = 0; bucket < DC_BUCKETS; bucket++) {
		uint32_t slot = dc_bucket_octave(bucket);

		slots[slot < DC_HISTOGRAM_SLOTS ? slot : DC_HISTOGRAM_SLOTS - 1] +=
			statistics->buckets[bucket];
	}
	for (uint32_t slot = 0; slot < DC_HISTOGRAM_SLOTS; slot++) {
		PyObject *number = PyLong_FromUnsignedLongLong(slots[slot]);

		if (!number) {
			Py_DECREF(tuple);
			return NULL;
		}
		PyTuple_SET_ITEM(tuple, slot, number);
	}
	return tuple;
}

/* Append and give away; false: an exception is set. */
static bool append(PyObject *list, PyObject *item)
{
	int result = item ? PyList_Append(list, item) : -1;

	Py_XDECREF(item);
	return result == 0;
}

PyObject *dc_results_functions(const struct dc_pump *pump)
{
	PyObject *list = PyList_New(0);

	for (size_t i = 0; list && i < pump->formats_count; i++) {
		const struct dc_statistics *statistics = pump->formats[i].statistics;
		PyObject *histogram, *row;

		if (!statistics)
			continue;
		histogram = histogram_of(statistics);
		row = histogram ? Py_BuildValue(
					  "nKKKKKKKKN", (Py_ssize_t)i, (count_t)statistics->calls,
					  (count_t)statistics->errors, (count_t)statistics->time_ns,
					  (count_t)statistics->min_ns, (count_t)statistics->max_ns,
					  (count_t)statistics->bytes,
					  (count_t)dc_statistics_percentile(statistics, 0.50),
					  (count_t)dc_statistics_percentile(statistics, 0.99),
					  histogram)
				: NULL;
		if (!append(list, row))
			Py_CLEAR(list);
	}
	return list;
}

static int by_time(const void *one, const void *other)
{
	const struct dc_file *a = *(const struct dc_file *const *)one;
	const struct dc_file *b = *(const struct dc_file *const *)other;

	return a->time_ns < b->time_ns ? 1 : a->time_ns > b->time_ns ? -1 : 0;
}

static int by_bytes(const void *one, const void *other)
{
	const struct dc_file *a = *(const struct dc_file *const *)one;
	const struct dc_file *b = *(const struct dc_file *const *)other;

	return a->bytes < b->bytes ? 1 : a->bytes > b->bytes ? -1 : by_time(one, other);
}

static PyObject *rows_of(const struct dc_file **files, size_t count)
{
	PyObject *list = PyList_New(0);

	for (size_t i = 0; list && i < count; i++) {
		const struct dc_file *file = files[i];

		if (!append(list,
			    Py_BuildValue("y#s#KKK", file->path,
					  file->path ? (Py_ssize_t)file->length : 0, file->digits,
					  (Py_ssize_t)DC_HASH_DIGITS, (count_t)file->calls,
					  (count_t)file->time_ns, (count_t)file->bytes)))
			Py_CLEAR(list);
	}
	return list;
}

PyObject *dc_results_files(const struct dc_pump *pump, size_t limit)
{
	size_t count = 0;
	const struct dc_file **files = malloc((pump->strings.files_count + 1) * sizeof(*files));
	PyObject *slowest, *biggest;

	if (!files)
		return PyErr_NoMemory();
	for (size_t i = 0; i < pump->strings.files_count; i++)
		if (pump->strings.files[i].calls)
			files[count++] = &pump->strings.files[i];
	limit = count < limit ? count : limit;
	qsort(files, count, sizeof(*files), by_time);
	slowest = rows_of(files, limit);
	qsort(files, count, sizeof(*files), by_bytes);
	biggest = rows_of(files, limit);
	free(files);
	if (slowest && biggest)
		return Py_BuildValue("[NN]", slowest, biggest);
	Py_XDECREF(slowest);
	Py_XDECREF(biggest);
	return NULL;
}
