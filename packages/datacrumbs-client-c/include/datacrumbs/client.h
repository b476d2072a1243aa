/* SPDX-License-Identifier: MIT */
/*
 * The DataCrumbs client: two places at which the DataCrumbs daemon learns that a process wants to
 * be recorded. Loading the library (LD_PRELOAD, DT_NEEDED, dlopen) is enough: its constructor
 * calls datacrumbs_start(). Children of a recorded process are recorded as well.
 *
 * The functions do nothing by themselves and never fail. Without a daemon they cost a call each.
 */
#ifndef DATACRUMBS_CLIENT_H
#define DATACRUMBS_CLIENT_H

#if defined(__GNUC__)
#define DATACRUMBS_EXPORT __attribute__((visibility("default")))
#else
#define DATACRUMBS_EXPORT
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Record the calling process (all its threads) from here on. */
DATACRUMBS_EXPORT void datacrumbs_start(void);

/* Stop recording the calling process. Children that exist already stay recorded. */
DATACRUMBS_EXPORT void datacrumbs_stop(void);

#ifdef __cplusplus
}
#endif

#endif
