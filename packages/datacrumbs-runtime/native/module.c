// SPDX-License-Identifier: MIT
/* module.c: the pump as the Python type datacrumbs_runtime.trace._pump.Pump. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "description.h"
#include "metadata.h"
#include "pump.h"
#include "results.h"

struct pump_object {
	PyObject_HEAD
	struct dc_pump pump;
	pthread_mutex_t lock; /* taken without the GIL, see lock() */
	bool is_open;
};

/* Whoever waits for the lock must not hold the GIL: its holder may be waiting for that. */
static void lock(struct pump_object *self)
{
	Py_BEGIN_ALLOW_THREADS
	pthread_mutex_lock(&self->lock);
	Py_END_ALLOW_THREADS
}

static bool lock_open(struct pump_object *self)
{
	lock(self);
	if (self->is_open)
		return true;
	pthread_mutex_unlock(&self->lock);
	PyErr_SetString(PyExc_ValueError, "the pump is closed");
	return false;
}

static PyObject *unlock(struct pump_object *self, PyObject *result)
{
	pthread_mutex_unlock(&self->lock);
	return result;
}

/* ---- opening --------------------------------------------------------------------------------- */

static int pump_init(PyObject *object, PyObject *args, PyObject *keywords)
{
	static char *names[] = { "events",   "strings",		"functions",
				 "hostname", "clock_offset_ns", "buffer_bytes",
				 "kept_ids", "kept_bytes",	"included",
				 NULL };
	struct pump_object *self = (struct pump_object *)object;
	struct dc_pump *pump = &self->pump;
	unsigned long long buffer_bytes = 1 << 20, kept_ids = 128 << 10, kept_bytes = 32 << 20;
	PyObject *events, *strings, *functions, *included = NULL;
	const char *hostname;
	long long offset;

	if (self->is_open) {
		PyErr_SetString(PyExc_RuntimeError, "the pump is open already");
		return -1;
	}
	if (!PyArg_ParseTupleAndKeywords(args, keywords, "OOOsL|$KKKO", names, &events, &strings,
					 &functions, &hostname, &offset, &buffer_bytes, &kept_ids,
					 &kept_bytes, &included))
		return -1;
	pump->clock_offset_ns = offset;
	pump->buffer_limit = buffer_bytes;
	pump->time_text.high = UINT32_MAX;
	dc_put_hash(pump->host_hash, dc_hash_text(hostname, strlen(hostname)));
	if (!dc_address_key_make(&pump->address_key)) {
		PyErr_SetFromErrno(PyExc_OSError);
		goto failed;
	}
	if (!dc_strings_open(&pump->strings, kept_ids, kept_bytes) ||
	    !dc_lanes_open(&pump->lanes) ||
	    !dc_buffer_reserve(&pump->buffer, buffer_bytes + buffer_bytes / 4) ||
	    !dc_metadata_begin(pump, hostname, getpid())) {
		PyErr_NoMemory();
		goto failed;
	}
	if (!dc_open_rings(pump, events, strings) || !dc_open_formats(pump, functions) ||
	    (included && !dc_open_inclusion(pump, included)))
		goto failed;
	self->is_open = true;
	return 0;
failed:
	dc_pump_close(pump);
	memset(pump, 0, sizeof(*pump));
	return -1;
}

static PyObject *pump_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
	struct pump_object *self = (struct pump_object *)type->tp_alloc(type, 0);

	(void)args;
	(void)keywords;
	if (self)
		pthread_mutex_init(&self->lock, NULL);
	return (PyObject *)self;
}

static PyObject *pump_close(PyObject *object, PyObject *unused)
{
	struct pump_object *self = (struct pump_object *)object;

	(void)unused;
	lock(self);
	if (self->is_open) {
		self->is_open = false;
		dc_pump_close(&self->pump);
	}
	return unlock(self, Py_NewRef(Py_None));
}

static void pump_dealloc(PyObject *object)
{
	struct pump_object *self = (struct pump_object *)object;
	PyTypeObject *type = Py_TYPE(object);

	if (self->is_open)
		dc_pump_close(&self->pump);
	pthread_mutex_destroy(&self->lock);
	type->tp_free(object);
	Py_DECREF(type);
}

/* ---- lines ----------------------------------------------------------------------------------- */

static PyObject *pump_drain(PyObject *object, PyObject *unused)
{
	struct pump_object *self = (struct pump_object *)object;
	bool is_open;
	int64_t count = 0;

	(void)unused;
	Py_BEGIN_ALLOW_THREADS
	pthread_mutex_lock(&self->lock);
	is_open = self->is_open;
	if (is_open)
		count = dc_pump_drain(&self->pump);
	pthread_mutex_unlock(&self->lock);
	Py_END_ALLOW_THREADS
	if (!is_open) {
		PyErr_SetString(PyExc_ValueError, "the pump is closed");
		return NULL;
	}
	return count < 0 ? PyErr_NoMemory() : PyLong_FromLongLong(count);
}

static PyObject *pump_take(PyObject *object, PyObject *unused)
{
	struct pump_object *self = (struct pump_object *)object;
	struct dc_buffer *buffer = &self->pump.buffer;
	PyObject *lines;

	(void)unused;
	if (!lock_open(self))
		return NULL;
	lines = PyBytes_FromStringAndSize(buffer->text, buffer->used);
	if (lines) {
		buffer->used = 0;
		self->pump.ties.count = 0;
		self->pump.ties.end = SIZE_MAX;
	}
	return unlock(self, lines);
}

static PyObject *pump_append(PyObject *object, PyObject *line)
{
	struct pump_object *self = (struct pump_object *)object;
	PyObject *result = NULL;
	Py_buffer bytes;

	if (PyObject_GetBuffer(line, &bytes, PyBUF_SIMPLE) < 0)
		return NULL;
	if (lock_open(self)) {
		if (dc_buffer_append(&self->pump.buffer, bytes.buf, bytes.len))
			result = Py_NewRef(Py_None);
		else
			PyErr_NoMemory();
		self->pump.counters.text_bytes += bytes.len;
		unlock(self, result);
	}
	PyBuffer_Release(&bytes);
	return result;
}

static PyObject *pump_set_clock_offset(PyObject *object, PyObject *offset_ns)
{
	struct pump_object *self = (struct pump_object *)object;
	long long offset = PyLong_AsLongLong(offset_ns);

	if (offset == -1 && PyErr_Occurred())
		return NULL;
	if (!lock_open(self))
		return NULL;
	self->pump.clock_offset_ns = offset;
	return unlock(self, Py_NewRef(Py_None));
}

static PyObject *pump_pending(PyObject *object, void *unused)
{
	struct pump_object *self = (struct pump_object *)object;
	size_t pending;

	(void)unused;
	if (!lock_open(self))
		return NULL;
	pending = self->pump.buffer.used;
	pthread_mutex_unlock(&self->lock);
	return PyLong_FromSize_t(pending);
}

static PyObject *pump_host_hash(PyObject *object, void *unused)
{
	(void)unused;
	return PyUnicode_FromString(((struct pump_object *)object)->pump.host_hash);
}

/* ---- results --------------------------------------------------------------------------------- */

static PyObject *pump_counters(PyObject *object, PyObject *unused)
{
	struct pump_object *self = (struct pump_object *)object;

	(void)unused;
	return lock_open(self) ? unlock(self, dc_results_counters(&self->pump)) : NULL;
}

static PyObject *pump_function_statistics(PyObject *object, PyObject *unused)
{
	struct pump_object *self = (struct pump_object *)object;

	(void)unused;
	return lock_open(self) ? unlock(self, dc_results_functions(&self->pump)) : NULL;
}

static PyObject *pump_file_statistics(PyObject *object, PyObject *limit)
{
	struct pump_object *self = (struct pump_object *)object;
	Py_ssize_t count = PyNumber_AsSsize_t(limit, PyExc_OverflowError);

	if (count == -1 && PyErr_Occurred())
		return NULL;
	if (count < 0) {
		PyErr_SetString(PyExc_ValueError, "limit is negative");
		return NULL;
	}
	return lock_open(self) ? unlock(self, dc_results_files(&self->pump, count)) : NULL;
}

static PyMethodDef pump_methods[] = {
	{ "drain", pump_drain, METH_NOARGS, "Read the rings; return the number of records." },
	{ "take", pump_take, METH_NOARGS, "Return and forget the lines." },
	{ "append", pump_append, METH_O, "Add a line." },
	{ "set_clock_offset", pump_set_clock_offset, METH_O, "Set epoch - CLOCK_MONOTONIC." },
	{ "counters", pump_counters, METH_NOARGS, "Return the counters." },
	{ "function_statistics", pump_function_statistics, METH_NOARGS, "Return sums." },
	{ "file_statistics", pump_file_statistics, METH_O, "Return the busiest files." },
	{ "close", pump_close, METH_NOARGS, "Unmap the rings and free the tables." },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef pump_properties[] = {
	{ "pending", pump_pending, NULL, "Bytes of lines that wait to be taken.", NULL },
	{ "host_hash", pump_host_hash, NULL, "The hhash of all lines.", NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot pump_slots[] = {
	{ Py_tp_doc, "Turns what BPF programs wrote into rings into the lines of a trace." },
	{ Py_tp_new, pump_new },
	{ Py_tp_init, pump_init },
	{ Py_tp_dealloc, pump_dealloc },
	{ Py_tp_methods, pump_methods },
	{ Py_tp_getset, pump_properties },
	{ 0, NULL },
};

static PyType_Spec pump_spec = {
	.name = "datacrumbs_runtime.trace._pump.Pump",
	.basicsize = sizeof(struct pump_object),
	.flags = Py_TPFLAGS_DEFAULT,
	.slots = pump_slots,
};

static PyObject *module_hash_text(PyObject *module, PyObject *bytes)
{
	char digits[DC_HASH_DIGITS];
	char *text;
	Py_ssize_t length;

	(void)module;
	if (PyBytes_AsStringAndSize(bytes, &text, &length) < 0)
		return NULL;
	dc_put_hash(digits, dc_hash_text(text, length));
	return PyUnicode_FromStringAndSize(digits, DC_HASH_DIGITS);
}

static PyMethodDef module_methods[] = {
	{ "hash_text", module_hash_text, METH_O, "Return the hash of a host name or path." },
	{ NULL, NULL, 0, NULL },
};

static int module_exec(PyObject *module)
{
	PyObject *type = PyType_FromModuleAndSpec(module, &pump_spec, NULL);
	int result;

	if (!type)
		return -1;
	result = PyModule_AddType(module, (PyTypeObject *)type);
	Py_DECREF(type);
	return result;
}

static PyModuleDef_Slot module_slots[] = {
	{ Py_mod_exec, module_exec },
	{ 0, NULL },
};

static PyModuleDef module_definition = {
	PyModuleDef_HEAD_INIT,	     .m_name = "_pump",	      .m_doc = "The native event pump.",
	.m_methods = module_methods, .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__pump(void)
{
	return PyModuleDef_Init(&module_definition);
}
