// SPDX-License-Identifier: MIT
/* A function that does nothing: what its callers pay is what the probe costs. */
__attribute__((noinline)) int dc_bench_empty(int number)
{
	__asm__ volatile("");
	return number;
}
