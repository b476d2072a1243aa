/* SPDX-License-Identifier: MIT */
/* What both programs say: `command: error: where: what`, one line each, on standard error. */
#ifndef DC_MESSAGE_H
#define DC_MESSAGE_H

__attribute__((format(printf, 2, 3))) void dc_say(const char *kind, const char *format, ...);

/* Whether an environment variable says yes (1, true, yes, on). */
int dc_environment_flag(const char *name);

/* Named by main(), used by dc_say(). */
extern const char *dc_command_name;

#endif
