/* SPDX-License-Identifier: MIT */
/*
 * usage: mpirun mpi_file FILE CALLS
 *
 * Every rank writes and reads its part of a file. Prints "PID NAME CALLS ERRORS BYTES" for the
 * functions of MPI that it called.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define BLOCK 1000

static char text[1000];
static int used;

static void report(const char *name, int calls)
{
	used += snprintf(text + used, sizeof(text) - used, "%d %s %d 0 0\n", getpid(), name, calls);
}

int main(int argc, char **argv)
{
	static char block[BLOCK];
	int calls, rank;
	MPI_File file;

	if (argc != 3)
		return 2;
	calls = atoi(argv[2]);
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_File_open(MPI_COMM_WORLD, argv[1], MPI_MODE_CREATE | MPI_MODE_RDWR, MPI_INFO_NULL,
		      &file);
	for (int i = 0; i < calls; i++)
		MPI_File_write_at(file, (MPI_Offset)(rank * calls + i) * BLOCK, block, BLOCK,
				  MPI_BYTE, MPI_STATUS_IGNORE);
	MPI_Barrier(MPI_COMM_WORLD);
	for (int i = 0; i < calls; i++)
		MPI_File_read_at(file, (MPI_Offset)(rank * calls + i) * BLOCK, block, BLOCK,
				 MPI_BYTE, MPI_STATUS_IGNORE);
	MPI_File_close(&file);
	MPI_Finalize();
	report("MPI_Init", 1);
	report("MPI_File_open", 1);
	report("MPI_File_write_at", calls);
	report("MPI_Barrier", 1);
	report("MPI_File_read_at", calls);
	report("MPI_File_close", 1);
	report("MPI_Finalize", 1);
	return write(1, text, used) != used;
}
