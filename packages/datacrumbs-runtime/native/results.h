/* SPDX-License-Identifier: MIT */
/*
 * results.h: what the pump has counted, as Python objects. All need the GIL.
 */
#ifndef DATACRUMBS_RESULTS_H
#define DATACRUMBS_RESULTS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "pump.h"

/* {name: count} */
PyObject *dc_results_counters(const struct dc_pump *pump);

/*
 * Of each function that was called: (index, calls, errors, time_ns, min_ns, max_ns, bytes, p50_ns,
 * p99_ns, (calls of 2^i to 2^(i+1) ns, ...)).
 */
PyObject *dc_results_functions(const struct dc_pump *pump);

/*
 * The files that took longest and those with most bytes, up to limit of each:
 * [[(path or None, hash, calls, time_ns, bytes), ...], [...]].
 */
PyObject *dc_results_files(const struct dc_pump *pump, size_t limit);

#endif /* DATACRUMBS_RESULTS_H */
