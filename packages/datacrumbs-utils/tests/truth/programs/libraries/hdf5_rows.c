/* SPDX-License-Identifier: MIT */
/*
 * usage: hdf5_rows FILE ROWS
 *
 * Writes and reads a data set row by row, and opens some that are not there. Prints
 * "PID NAME CALLS ERRORS BYTES" for the functions of HDF5 that it called.
 */
#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define COLUMNS 100
#define MISSING 3

static void report(const char *name, int calls, int errors)
{
	printf("%d %s %d %d 0\n", getpid(), name, calls, errors);
}

int main(int argc, char **argv)
{
	hsize_t all[2] = { 0, COLUMNS }, row[2] = { 1, COLUMNS }, start[2] = { 0, 0 };
	hid_t file, space, line, data;
	double values[COLUMNS] = { 0 };
	int rows, failed = 0;

	if (argc != 3)
		return 2;
	rows = atoi(argv[2]);
	all[0] = rows;
	H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
	file = H5Fcreate(argv[1], H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
	space = H5Screate_simple(2, all, NULL);
	line = H5Screate_simple(2, row, NULL);
	data = H5Dcreate2(file, "rows", H5T_NATIVE_DOUBLE, space, H5P_DEFAULT, H5P_DEFAULT,
			  H5P_DEFAULT);
	for (int i = 0; i < rows; i++) {
		start[0] = i;
		failed |= H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, row, NULL) < 0;
		failed |= H5Dwrite(data, H5T_NATIVE_DOUBLE, line, space, H5P_DEFAULT, values) < 0;
		failed |= H5Dread(data, H5T_NATIVE_DOUBLE, line, space, H5P_DEFAULT, values) < 0;
	}
	for (int i = 0; i < MISSING; i++)
		failed |= H5Dopen2(file, "missing", H5P_DEFAULT) >= 0;
	H5Sclose(line);
	H5Sclose(space);
	H5Dclose(data);
	H5Fclose(file);
	report("H5Fcreate", 1, 0);
	report("H5Screate_simple", 2, 0);
	report("H5Dcreate2", 1, 0);
	report("H5Sselect_hyperslab", rows, 0);
	report("H5Dwrite", rows, 0);
	report("H5Dread", rows, 0);
	report("H5Dopen2", MISSING, MISSING);
	report("H5Sclose", 2, 0);
	report("H5Dclose", 1, 0);
	report("H5Fclose", 1, 0);
	return failed;
}
