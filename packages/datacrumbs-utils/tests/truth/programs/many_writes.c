/* SPDX-License-Identifier: MIT */
/*
 * usage: many_writes FILE COUNT PROCESSES [PER_SECOND]
 *
 * Each of PROCESSES writes COUNT blocks of 8 bytes to FILE, the i-th at offset 8 * i, as fast as it
 * can or PER_SECOND of them. Ignores SIGHUP if the environment has IGNORE_SIGNALS.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BATCH 1000

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static int write_all(int fd, long count, double per_second)
{
	double begin = now();

	for (long i = 0; i < count; i++) {
		if (pwrite(fd, &i, sizeof(i), i * (long)sizeof(i)) != sizeof(i))
			return 1;
		while (per_second && i % BATCH == 0 && now() - begin < i / per_second)
			;
	}
	return 0;
}

int main(int argc, char **argv)
{
	int processes, status = 0, failed = 0;
	double per_second;
	long count;
	int fd;

	if (argc < 4)
		return 2;
	count = atol(argv[2]);
	processes = atoi(argv[3]);
	per_second = argc > 4 ? atof(argv[4]) : 0;
	if (getenv("IGNORE_SIGNALS")) {
		signal(SIGINT, SIG_IGN);
		signal(SIGTERM, SIG_IGN);
		signal(SIGHUP, SIG_IGN);
	}
	fd = open(argv[1], O_CREAT | O_WRONLY, 0600);
	for (int i = 1; i < processes; i++)
		if (!fork())
			_exit(write_all(fd, count, per_second));
	failed = write_all(fd, count, per_second);
	while (wait(&status) > 0)
		failed |= status;
	return failed;
}
