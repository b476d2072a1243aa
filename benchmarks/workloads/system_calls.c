// SPDX-License-Identifier: MIT
/*
 * system_calls OPERATION SECONDS FILE: repeat one operation for a while and print the nanoseconds
 * that each took, and how many there were.
 *
 * Operations: pwrite, pread (4 KiB in a file of 4 MiB), open (open and close).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK_BYTES = 4096, BLOCKS = 1024, BATCH = 256 };

static char block[BLOCK_BYTES];

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e9 + now.tv_nsec;
}

static int operate(const char *operation, int file, const char *path, unsigned at)
{
	off_t offset = (off_t)(at % BLOCKS) * BLOCK_BYTES;

	switch (operation[1]) {
	case 'w':
		return pwrite(file, block, BLOCK_BYTES, offset) == BLOCK_BYTES;
	case 'r':
		return pread(file, block, BLOCK_BYTES, offset) == BLOCK_BYTES;
	default: {
		int other = open(path, O_RDONLY);

		return other >= 0 && close(other) == 0;
	}
	}
}

int main(int argc, char **argv)
{
	double begin, end;
	unsigned long calls = 0;
	int file;

	if (argc != 4) {
		fprintf(stderr, "usage: system_calls OPERATION SECONDS FILE\n");
		return 2;
	}
	file = open(argv[3], O_RDWR | O_CREAT, 0600);
	if (file < 0 || ftruncate(file, (off_t)BLOCKS * BLOCK_BYTES)) {
		perror(argv[3]);
		return 1;
	}
	for (unsigned i = 0; i < BLOCKS; i++)
		operate("pwrite", file, argv[3], i);
	begin = now_ns();
	end = begin + atof(argv[2]) * 1e9;
	do {
		for (unsigned i = 0; i < BATCH; i++) {
			if (!operate(argv[1], file, argv[3], calls++)) {
				perror(argv[1]);
				return 1;
			}
		}
	} while (now_ns() < end);
	printf("%.1f %lu\n", (now_ns() - begin) / calls, calls);
	return 0;
}
