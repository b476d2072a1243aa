// SPDX-License-Identifier: MIT
/* Show what a program was started with: LD_PRELOAD, then each argument between brackets. */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
	const char *preload = getenv("LD_PRELOAD");

	printf("%s\n", preload ? preload : "");
	for (int i = 1; i < argc; i++)
		printf("[%s]\n", argv[i]);
	return 0;
}
