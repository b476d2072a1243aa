/* SPDX-License-Identifier: MIT */
/* system_calls.bpf.h: one pair of programs for all system calls. */
#ifndef DATACRUMBS_SYSTEM_CALLS_BPF_H
#define DATACRUMBS_SYSTEM_CALLS_BPF_H

#include "aio.bpf.h"
#include "calls.bpf.h"
#include "processes.bpf.h"

#if defined(__TARGET_ARCH_x86)
#define DC_COMPAT_STATUS 0x0002 /* TS_COMPAT, arch/x86/include/asm/thread_info.h */

static __always_inline int is_compat_call(void)
{
	return bpf_get_current_task_btf()->thread_info.status & DC_COMPAT_STATUS;
}

static __always_inline long number_of(struct pt_regs *regs)
{
	return regs->orig_ax;
}

static __always_inline void take_arguments(struct dc_pending *pending, struct pt_regs *regs)
{
	pending->arguments[0] = regs->di;
	pending->arguments[1] = regs->si;
	pending->arguments[2] = regs->dx;
	pending->arguments[3] = regs->r10;
	pending->arguments[4] = regs->r8;
	pending->arguments[5] = regs->r9;
}
#elif defined(__TARGET_ARCH_arm64)
#define DC_COMPAT_FLAG (1UL << 22) /* TIF_32BIT, arch/arm64/include/asm/thread_info.h */

static __always_inline int is_compat_call(void)
{
	return !!(bpf_get_current_task_btf()->thread_info.flags & DC_COMPAT_FLAG);
}

static __always_inline long number_of(struct pt_regs *regs)
{
	return regs->syscallno;
}

static __always_inline void take_arguments(struct dc_pending *pending, struct pt_regs *regs)
{
	pending->arguments[0] = regs->orig_x0;
	pending->arguments[1] = regs->regs[1];
	pending->arguments[2] = regs->regs[2];
	pending->arguments[3] = regs->regs[3];
	pending->arguments[4] = regs->regs[4];
	pending->arguments[5] = regs->regs[5];
}
#endif

static __always_inline __u32 selected(long number)
{
	return number >= 0 && number < DC_MAX_SYSTEM_CALLS ? dc_syscall_functions[number] : 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(dc_sys_enter, struct pt_regs *regs, long number)
{
	__u32 system_call = selected(number);
	struct dc_function *function;
	struct dc_pending *pending;
	struct dc_thread *thread;

	if (!(system_call & ~DC_SYSCALL_RENAMES))
		return 0;
	thread = recorded_thread();
	if (!thread)
		return 0;
	if (is_compat_call()) {
		count_loss(DC_LOSS_COMPAT);
		return 0;
	}
	pending = &thread->pending;
	pending->function = (system_call & ~DC_SYSCALL_RENAMES) - 1;
	function = function_row(pending->function);
	if (!function || function->mode == DC_MODE_OFF)
		return 0;
	take_arguments(pending, regs);
	if (wants_values(function, DC_FUNCTION_ENTRY_VALUES))
		dc_take_entry_values(pending, thread);
	else
		forget_values(pending);
	count_loss(DC_LOSS_ENTERED);
	thread->system_call = system_call;
	pending->start_ns = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(dc_sys_exit, struct pt_regs *regs, long ret)
{
	__u32 system_call = selected(number_of(regs));
	struct dc_function *function;
	struct dc_thread *thread;
	__u64 end_ns;

	if (!system_call)
		return 0;
	if (system_call & DC_SYSCALL_RENAMES && !ret)
		__sync_fetch_and_add(&dc_control.rename_generation, 1);
	if (!(system_call & ~DC_SYSCALL_RENAMES))
		return 0;
	thread = recorded_thread();
	if (!thread)
		return 0;
	/* not before: most callers are not recorded, and asking for the time is what costs most */
	end_ns = bpf_ktime_get_ns();
	if (thread->system_call != system_call) {
		/* it was in flight when the recording began */
		if (!is_compat_call())
			count_loss(DC_LOSS_MISSED_BEGIN);
		return 0;
	}
	thread->system_call = 0;
	function = function_row(thread->pending.function);
	if (!function)
		return 0;
	finish_call(function, &thread->pending, thread, end_ns, ret, 0);
	if (function->flags & DC_FUNCTION_AIO_SUBMIT)
		dc_begin_requests(&thread->pending, ret);
	else if (function->flags & DC_FUNCTION_AIO_EVENTS)
		dc_end_requests(&thread->pending, ret, end_ns);
	return 0;
}

#endif /* DATACRUMBS_SYSTEM_CALLS_BPF_H */
