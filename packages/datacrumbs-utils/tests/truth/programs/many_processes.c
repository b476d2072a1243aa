/* SPDX-License-Identifier: MIT */
/*
 * usage: many_processes PROCESSES PER_SECOND
 *
 * Starts processes, a few at a time, each of which makes 22 system calls, all different and all
 * failing. Prints how many it started.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define AT_ONCE 8

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static int fail(void)
{
	char byte;
	int done = 0;

	done += close(-1) != -1;
	done += read(-1, &byte, 1) != -1;
	done += write(-1, &byte, 1) != -1;
	done += pread(-1, &byte, 1, 0) != -1;
	done += pwrite(-1, &byte, 1, 0) != -1;
	done += lseek(-1, 0, SEEK_SET) != -1;
	done += dup(-1) != -1;
	done += access("/nonexistent", R_OK) != -1;
	done += open("/nonexistent", O_RDONLY) != -1;
	done += unlink("/nonexistent") != -1;
	done += rmdir("/nonexistent") != -1;
	done += chdir("/nonexistent") != -1;
	done += fchdir(-1) != -1;
	done += ftruncate(-1, 0) != -1;
	done += truncate("/nonexistent", 0) != -1;
	done += fsync(-1) != -1;
	done += fdatasync(-1) != -1;
	done += flock(-1, LOCK_SH) != -1;
	done += chmod("/nonexistent", 0) != -1;
	done += fchmod(-1, 0) != -1;
	done += rename("/nonexistent", "/other") != -1;
	done += readlink("/nonexistent", &byte, 1) != -1;
	return done;
}

int main(int argc, char **argv)
{
	int processes, status = 0, failed = 0;
	double begin = now(), per_second;

	if (argc != 3)
		return 2;
	processes = atoi(argv[1]);
	per_second = atof(argv[2]);
	for (int i = 1; i <= processes; i++) {
		if (!fork())
			_exit(fail());
		if (i % AT_ONCE)
			continue;
		while (wait(&status) > 0)
			failed |= status;
		while (now() - begin < i / per_second)
			usleep(1000);
	}
	while (wait(&status) > 0)
		failed |= status;
	printf("%d\n", processes);
	return failed != 0;
}
