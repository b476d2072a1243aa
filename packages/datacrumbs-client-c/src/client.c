// SPDX-License-Identifier: MIT
/*
 * libdatacrumbs_client.so: loaded into every recorded program, hence silent always, libc only, and
 * nothing at exit: that a process forked or ended is seen by the kernel side itself.
 */
#include "datacrumbs/client.h"

/*
 * The kernel puts a uprobe in the place of the first instruction. A 5-byte nop there is emulated,
 * not single-stepped, and newer kernels even turn it into a call. The endbr64 that compilers put
 * first would be single-stepped, at twenty times the cost: hence a body without a prologue.
 * datacrumbs_wrap knows these bytes (wrap.c).
 */
#if defined(__x86_64__)
#define DC_MARK __attribute__((naked, noinline, used)) DATACRUMBS_EXPORT
#define DC_MARK_BODY __asm__(".byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n\tret")
#else
#define DC_MARK __attribute__((noinline, used)) DATACRUMBS_EXPORT
#define DC_MARK_BODY __asm__ volatile("nop" ::: "memory")
#endif

DC_MARK void datacrumbs_start(void)
{
	DC_MARK_BODY;
}

DC_MARK void datacrumbs_stop(void)
{
	DC_MARK_BODY;
}

__attribute__((constructor)) static void start_when_loaded(void)
{
	datacrumbs_start();
}
