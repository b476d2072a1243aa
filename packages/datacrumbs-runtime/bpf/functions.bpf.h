/* SPDX-License-Identifier: MIT */
/*
 * functions.bpf.h: functions of programs, libraries and the kernel whose entry and return come to
 * two programs (uprobe, kprobe, fentry).
 */
#ifndef DATACRUMBS_FUNCTIONS_BPF_H
#define DATACRUMBS_FUNCTIONS_BPF_H

#include "calls.bpf.h"
#include "frames.bpf.h"
#include "places.bpf.h"
#include "processes.bpf.h"

/* ---- uprobes and kprobes, on kernels without sessions ---------------------------------------- */

static __always_inline int pair_entry(struct pt_regs *ctx, struct dc_thread *thread, __u32 index,
				      __u64 stack_pointer)
{
	struct dc_function *function = function_row(index);
	struct dc_pending *pending;
	__u32 slot = 0;

	if (!function)
		return 0;
	if (function->mode == DC_MODE_OFF) {
		/* an end that is known by its stack pointer must find its own begin */
		if (stack_pointer & DC_FRAME_BY_STACK) {
			pending = push_frame(index, stack_pointer, &slot, DC_LOSS_SPANS_FULL);
			if (pending)
				pending->start_ns = 0;
		}
		return 0;
	}
	pending = push_frame(index, stack_pointer, &slot, DC_LOSS_SPANS_FULL);
	if (!pending)
		return 0;
	take_registers(pending, ctx);
	if (wants_values(function, DC_FUNCTION_ENTRY_VALUES))
		dc_take_entry_values(pending, thread);
	count_loss(DC_LOSS_ENTERED);
	pending->start_ns = bpf_ktime_get_ns();
	return 0;
}

static __always_inline int pair_return(__u32 index, __u64 stack_pointer, __s64 ret, __u64 end_ns)
{
	struct dc_function *function = NULL;
	struct dc_pending *pending = NULL;
	struct dc_thread *thread = recorded_thread();
	struct dc_frames *calls;

	if (!thread)
		return 0;
	calls = bpf_task_storage_get(&frames, bpf_get_current_task_btf(), 0, 0);
	if (calls)
		pending = frame_at(calls, dc_pop_frame(calls, index, stack_pointer));
	if (pending)
		function = function_row(pending->function);
	if (!function) {
		count_loss(DC_LOSS_MISSED_BEGIN);
		return 0;
	}
	if (!pending->start_ns)
		return 0;
	finish_call(function, pending, thread, end_ns, ret, 0);
	return 0;
}

SEC("uprobe")
int dc_uprobe_entry(struct pt_regs *ctx)
{
	struct dc_thread *thread = recorded_thread();
	__u64 cookie;

	stay_on_own_stack();
	if (!thread)
		return 0;
	cookie = bpf_get_attach_cookie(ctx);
	return pair_entry(ctx, thread, user_function(ctx, cookie),
			  PT_REGS_SP(ctx) | (cookie & DC_COOKIE_BY_STACK ? DC_FRAME_BY_STACK : 0));
}

SEC("uretprobe")
int dc_uprobe_return(struct pt_regs *ctx)
{
	__u64 now = bpf_ktime_get_ns();
	__u64 cookie = bpf_get_attach_cookie(ctx);

	stay_on_own_stack();
	if (cookie & DC_COOKIE_BY_STACK)
		return pair_return(DC_NO_FUNCTION,
				   (PT_REGS_SP(ctx) - DC_RETURN_ADDRESS_BYTES) | DC_FRAME_BY_STACK,
				   PT_REGS_RC(ctx), now);
	return pair_return(user_function(ctx, cookie), 0, PT_REGS_RC(ctx), now);
}

/* A USDT probe without an end: a moment. */
SEC("uprobe")
int dc_uprobe_instant(struct pt_regs *ctx)
{
	struct dc_thread *thread = recorded_thread();
	struct dc_function *function;
	struct dc_pending *pending;
	struct dc_frames *calls;
	__u32 index, slot = 0;

	stay_on_own_stack();
	if (!thread)
		return 0;
	index = user_function(ctx, bpf_get_attach_cookie(ctx));
	function = function_row(index);
	if (!function || function->mode == DC_MODE_OFF)
		return 0;
	pending = push_frame(index, PT_REGS_SP(ctx), &slot, DC_LOSS_SPANS_FULL);
	if (!pending)
		return 0;
	take_registers(pending, ctx);
	if (wants_values(function, DC_FUNCTION_ENTRY_VALUES))
		dc_take_entry_values(pending, thread);
	count_loss(DC_LOSS_ENTERED);
	pending->start_ns = bpf_ktime_get_ns();
	finish_call(function, pending, thread, pending->start_ns, 0, DC_CALL_NO_RETURN);
	calls = bpf_task_storage_get(&frames, bpf_get_current_task_btf(), 0, 0);
	if (calls)
		calls->depth = slot;
	return 0;
}

SEC("kprobe")
int dc_kprobe_entry(struct pt_regs *ctx)
{
	struct dc_thread *thread = recorded_thread();

	return thread ? pair_entry(ctx, thread, kernel_function(ctx), PT_REGS_SP(ctx)) : 0;
}

SEC("kretprobe")
int dc_kprobe_return(struct pt_regs *ctx)
{
	__u64 now = bpf_ktime_get_ns();

	return pair_return(kernel_function(ctx), 0, PT_REGS_RC(ctx), now);
}

/* ---- fentry and fexit: loaded once per function ---------------------------------------------- */

SEC("fentry")
int dc_fentry(void *ctx)
{
	struct dc_thread *thread = recorded_thread();
	__u32 slot = 0;
	struct dc_function *function;
	struct dc_pending *pending;

	if (!thread)
		return 0;
	function = function_row(dc_single_function);
	if (!function || function->mode == DC_MODE_OFF)
		return 0;
	/*
	 * Functions of the kernel are never jumped out of, and few are attached this way: when
	 * there is no room left, ends that were not seen have filled it, and all may go.
	 */
	pending = push_frame(dc_single_function, ~0ULL, &slot, DC_LOSS_SPANS_FULL);
	if (!pending)
		return 0;
	for (__u32 i = 0; i < DC_MAX_ARGUMENTS; i++) {
		__u64 value = 0;

		if (bpf_get_func_arg(ctx, i, &value))
			value = 0;
		pending->arguments[i] = value;
	}
	if (wants_values(function, DC_FUNCTION_ENTRY_VALUES))
		dc_take_entry_values(pending, thread);
	count_loss(DC_LOSS_ENTERED);
	pending->start_ns = bpf_ktime_get_ns();
	return 0;
}

SEC("fexit")
int dc_fexit(void *ctx)
{
	__u64 now = bpf_ktime_get_ns();
	__u64 ret = 0;

	if (bpf_get_func_ret(ctx, &ret))
		ret = 0;
	return pair_return(dc_single_function, 0, ret, now);
}

#endif /* DATACRUMBS_FUNCTIONS_BPF_H */
