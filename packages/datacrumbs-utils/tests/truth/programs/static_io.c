/* SPDX-License-Identifier: MIT */
/* usage: static_io FILE    Statically linked: nothing can be preloaded into it. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char block[1000] = { 0 };
	FILE *stream;
	int fd;

	if (argc != 2)
		return 2;
	fd = open(argv[1], O_CREAT | O_RDWR | O_TRUNC, 0600);
	for (int i = 0; i < 100; i++)
		if (pwrite(fd, block, sizeof(block), i * 1000) != 1000)
			return 1;
	fsync(fd);
	for (int i = 0; i < 100; i++)
		if (read(fd, block, 500) != 500)
			return 1;
	close(fd);
	stream = fopen(argv[1], "r");
	while (stream && fread(block, 1, sizeof(block), stream) == sizeof(block))
		;
	return stream ? fclose(stream) : 1;
}
