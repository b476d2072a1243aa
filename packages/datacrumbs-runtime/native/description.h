/* SPDX-License-Identifier: MIT */
/*
 * description.h: what Python says about rings and functions, checked and made into a pump's parts.
 *
 * All need the GIL and set an exception if they return false; dc_pump_close() frees what was made.
 */
#ifndef DATACRUMBS_DESCRIPTION_H
#define DATACRUMBS_DESCRIPTION_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

#include "pump.h"

/* events: [(fd, size_bytes), ...], strings: (fd, size_bytes) */
bool dc_open_rings(struct dc_pump *pump, PyObject *events, PyObject *strings);

/* functions: [(category, name, extra, flags, lanes, bytes_argument, values), ...] */
bool dc_open_formats(struct dc_pump *pump, PyObject *functions);

/* directories: [b"/path", ...] */
bool dc_open_inclusion(struct dc_pump *pump, PyObject *directories);

#endif /* DATACRUMBS_DESCRIPTION_H */
