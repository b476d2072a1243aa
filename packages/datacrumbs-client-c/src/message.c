// SPDX-License-Identifier: MIT
#include "message.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

const char *dc_command_name = "datacrumbs";

void dc_say(const char *kind, const char *format, ...)
{
	char line[4096];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	/* Text from elsewhere (a path, the signer's answer) must not steer the terminal. */
	for (unsigned char *c = (unsigned char *)line; *c; c++)
		if (*c < ' ' || *c == 0x7f)
			*c = '?';
	fprintf(stderr, "%s: %s: %s\n", dc_command_name, kind, line);
}

int dc_environment_flag(const char *name)
{
	const char *value = getenv(name);

	return value && (!strcasecmp(value, "1") || !strcasecmp(value, "true") ||
			 !strcasecmp(value, "yes") || !strcasecmp(value, "on"));
}
