// SPDX-License-Identifier: MIT
/* description.c: what Python says about rings and functions. */
#include "description.h"

#include <stdlib.h>

static bool open_ring(struct dc_ring *ring, PyObject *pair)
{
	unsigned long long size_bytes;
	int fd, error;

	if (!PyTuple_Check(pair) ||
	    !PyArg_ParseTuple(pair, "iK;a ring is (fd, size_bytes)", &fd, &size_bytes)) {
		if (!PyErr_Occurred())
			PyErr_SetString(PyExc_TypeError, "a ring is (fd, size_bytes)");
		return false;
	}
	error = dc_ring_open(ring, fd, size_bytes);
	if (error) {
		errno = -error;
		PyErr_SetFromErrno(PyExc_OSError);
		return false;
	}
	return true;
}

bool dc_open_rings(struct dc_pump *pump, PyObject *events, PyObject *strings)
{
	PyObject *list = PySequence_Fast(events, "events is not a sequence");
	Py_ssize_t count;
	bool opened = false;

	if (!list)
		return false;
	count = PySequence_Fast_GET_SIZE(list);
	pump->rings = calloc(count ? count : 1, sizeof(*pump->rings));
	if (!pump->rings) {
		PyErr_NoMemory();
		goto done;
	}
	for (Py_ssize_t i = 0; i < count; i++) {
		if (!open_ring(&pump->rings[i], PySequence_Fast_GET_ITEM(list, i)))
			goto done;
		pump->rings_count++;
	}
	opened = open_ring(&pump->strings_ring, strings);
done:
	Py_DECREF(list);
	return opened;
}

/* values: ((label, format), ...) */
static bool read_values(struct dc_format *format, struct dc_format_names *names, PyObject *values)
{
	Py_ssize_t count = PyTuple_GET_SIZE(values);

	if (count > DC_MAX_VALUES) {
		PyErr_Format(PyExc_ValueError, "more than %d values", DC_MAX_VALUES);
		return false;
	}
	format->nr_values = count;
	for (Py_ssize_t i = 0; i < count; i++) {
		const char *kind;
		int number;

		if (!PyArg_ParseTuple(PyTuple_GET_ITEM(values, i), "ss;a value is (label, format)",
				      &names->labels[i], &kind))
			return false;
		number = dc_value_kind_of(kind);
		if (number < 0) {
			PyErr_Format(PyExc_ValueError, "unknown format of a value: %s", kind);
			return false;
		}
		format->values[i].kind = number;
	}
	return true;
}

/* function: (category, name, extra, flags, lanes, bytes_argument, values) */
static bool open_format(const struct dc_pump *pump, struct dc_format *format, PyObject *function)
{
	struct dc_format_names names = { .host_hash = pump->host_hash };
	PyObject *values;
	int lanes;

	if (!PyTuple_Check(function)) {
		PyErr_SetString(PyExc_TypeError, "a function is a tuple");
		return false;
	}
	if (!PyArg_ParseTuple(function,
			      "sssIpbO!;a function is (category, name, extra, flags, "
			      "lanes, bytes_argument, values)",
			      &names.category, &names.name, &names.extra, &format->flags, &lanes,
			      &format->bytes_argument, &PyTuple_Type, &values) ||
	    !read_values(format, &names, values))
		return false;
	if (format->bytes_argument > DC_MAX_VALUES) {
		PyErr_SetString(PyExc_ValueError, "bytes_argument is not the number of a value");
		return false;
	}
	format->lanes = lanes;
	if (!dc_format_open(format, &names)) {
		PyErr_NoMemory();
		return false;
	}
	return true;
}

bool dc_open_formats(struct dc_pump *pump, PyObject *functions)
{
	PyObject *list = PySequence_Fast(functions, "functions is not a sequence");
	Py_ssize_t count;
	bool opened = true;

	if (!list)
		return false;
	count = PySequence_Fast_GET_SIZE(list);
	pump->formats = calloc(count ? count : 1, sizeof(*pump->formats));
	if (!pump->formats) {
		PyErr_NoMemory();
		opened = false;
	}
	for (Py_ssize_t i = 0; opened && i < count; i++) {
		pump->formats_count++;
		opened = open_format(pump, &pump->formats[i], PySequence_Fast_GET_ITEM(list, i));
	}
	Py_DECREF(list);
	return opened;
}

bool dc_open_inclusion(struct dc_pump *pump, PyObject *directories)
{
	PyObject *list = PySequence_Fast(directories, "included is not a sequence");
	bool opened = true;

	if (!list)
		return false;
	for (Py_ssize_t i = 0; opened && i < PySequence_Fast_GET_SIZE(list); i++) {
		char *directory;
		Py_ssize_t length;

		if (PyBytes_AsStringAndSize(PySequence_Fast_GET_ITEM(list, i), &directory,
					    &length) < 0) {
			opened = false;
		} else if (!dc_inclusion_add(&pump->strings.inclusion, directory, length)) {
			PyErr_NoMemory();
			opened = false;
		}
	}
	Py_DECREF(list);
	return opened;
}
