/* SPDX-License-Identifier: MIT */
/*
 * usage: stdio_calls FILE
 *
 * Makes calls of stdio and afterwards prints "NAME RESULT" for each with write(2), which is not
 * stdio; pointers are shown as 0 or 1.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char report[8192];
static size_t used;

static void note(const char *name, long result)
{
	/* no printf() here: it would be recorded */
	char digits[24];
	int begin = sizeof(digits);
	int negative = result < 0;
	unsigned long rest = negative ? -result : result;

	do {
		digits[--begin] = '0' + rest % 10;
		rest /= 10;
	} while (rest);
	if (negative)
		digits[--begin] = '-';
	memcpy(report + used, name, strlen(name));
	used += strlen(name);
	report[used++] = ' ';
	memcpy(report + used, digits + begin, sizeof(digits) - begin);
	used += sizeof(digits) - begin;
	report[used++] = '\n';
}

int main(int argc, char **argv)
{
	static char block[5000];
	char line[100], *text = NULL;
	size_t room = 0;
	FILE *stream;

	if (argc != 2)
		return 2;
	stream = fopen(argv[1], "w+");
	note("fopen", stream != NULL);
	for (int i = 0; i < 10; i++)
		note("fwrite", fwrite(block, 100, i, stream));
	note("fprintf", fprintf(stream, "number %d\n", 42));
	note("fputs", fputs("one\ntwo\n", stream));
	note("fseek", fseek(stream, 0, SEEK_SET));
	for (int i = 0; i < 4; i++)
		note("fread", fread(block, 1000, 2, stream));
	note("fseek", fseek(stream, -8, SEEK_END));
	note("ftell", ftell(stream));
	note("fgets", fgets(line, sizeof(line), stream) != NULL);
	note("getline", getline(&text, &room, stream));
	note("fgets", fgets(line, sizeof(line), stream) != NULL);
	note("fseek", fseek(stream, -1, SEEK_SET));
	note("fflush", fflush(stream));
	note("fclose", fclose(stream));
	note("fopen", fopen("/nonexistent/file", "r") != NULL);
	return write(1, report, used) != (ssize_t)used;
}
