// SPDX-License-Identifier: MIT
/*
 * function_calls CALLS SECONDS: call the library's empty function at most CALLS times and at most
 * for SECONDS, and print the nanoseconds that each took, and how many there were.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int dc_bench_empty(int number);

enum { BATCH = 1000 };

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e9 + now.tv_nsec;
}

int main(int argc, char **argv)
{
	unsigned long calls = 0, limit;
	double begin, end;

	if (argc != 3) {
		fprintf(stderr, "usage: function_calls CALLS SECONDS\n");
		return 2;
	}
	limit = strtoul(argv[1], NULL, 10);
	begin = now_ns();
	end = begin + atof(argv[2]) * 1e9;
	do {
		for (int i = 0; i < BATCH; i++)
			calls += dc_bench_empty(1);
	} while (calls < limit && now_ns() < end);
	printf("%.1f %lu\n", (now_ns() - begin) / calls, calls);
	return 0;
}
