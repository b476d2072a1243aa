/* SPDX-License-Identifier: MIT */
/*
 * sessions.bpf.h: functions whose entry and return come to one program.
 *
 * A session gives each call eight bytes of its own (the cookie): calls without values need no frame
 * at all, and the time of a call is never lost even when its frame is.
 */
#ifndef DATACRUMBS_SESSIONS_BPF_H
#define DATACRUMBS_SESSIONS_BPF_H

#include "calls.bpf.h"
#include "frames.bpf.h"
#include "processes.bpf.h"

#define DC_COOKIE_FRAME_BITS 8
#define DC_COOKIE_NO_FRAME 0xff

/*
 * Linux 6.13 (adf46113a608, "bpf: Add support for uprobe multi session context"). First they took
 * nothing. On kernels of that kind the loader gives them the declarations of the functions below,
 * which are never called.
 */
extern _Bool bpf_session_is_return(void *ctx) __ksym __weak;
extern __u64 *bpf_session_cookie(void *ctx) __ksym __weak;

__noinline _Bool dc_older_session_is_return(void)
{
	return 0;
}

__noinline __u64 *dc_older_session_cookie(void)
{
	return NULL;
}

static __always_inline int session_entry(struct pt_regs *ctx, struct dc_thread *thread, __u32 index)
{
	struct dc_function *function = function_row(index);
	__u32 slot = DC_COOKIE_NO_FRAME;
	struct dc_pending *pending = NULL;
	__u64 *cookie, now;

	if (!function || function->mode == DC_MODE_OFF)
		return 1;
	if (wants_values(function, DC_FUNCTION_ENTRY_VALUES | DC_FUNCTION_EXIT_VALUES)) {
		pending = push_frame(index, PT_REGS_SP(ctx), &slot, DC_LOSS_ARGUMENTS);
		if (pending) {
			take_registers(pending, ctx);
			dc_take_entry_values(pending, thread);
		} else {
			slot = DC_COOKIE_NO_FRAME;
		}
	}
	count_loss(DC_LOSS_ENTERED);
	cookie = bpf_session_cookie(ctx);
	now = bpf_ktime_get_ns();
	*cookie = (now - dc_base_ns) << DC_COOKIE_FRAME_BITS | slot;
	if (pending)
		pending->start_ns = now;
	return 0;
}

/*
 * The end of a call that has no frame: its function has no values, or they were lost. Only numbers
 * are passed on: kernels before 6.13 have 512 bytes of stack for a program and all that it calls.
 */
static __always_inline void session_bare_return(struct dc_function *function, __u32 index,
						__u64 start_ns, __u64 duration, __s64 ret)
{
	if (function->flags & DC_FUNCTION_FILE_ONLY) {
		count_loss(DC_LOSS_FILTERED);
	} else if (function->mode == DC_MODE_PROFILE || duration < function->threshold_ns) {
		if (!dc_add_to_profile(NULL, index, bpf_get_current_pid_tgid() >> 32, duration,
				       ret))
			count_loss(function->mode == DC_MODE_PROFILE ? DC_LOSS_COUNTED
								     : DC_LOSS_BELOW_THRESHOLD);
	} else {
		write_bare_call(index, start_ns, duration, ret);
	}
}

static __always_inline void session_return(struct pt_regs *ctx, __u32 index, __s64 ret,
					   __u64 end_ns)
{
	__u64 cookie = *bpf_session_cookie(ctx);
	__u64 start_ns = (cookie >> DC_COOKIE_FRAME_BITS) + dc_base_ns;
	__u32 slot = cookie & DC_COOKIE_NO_FRAME;
	struct dc_function *function = function_row(index);
	struct dc_thread *thread;

	if (!function)
		return;
	if (slot != DC_COOKIE_NO_FRAME) {
		struct dc_frames *calls =
			bpf_task_storage_get(&frames, bpf_get_current_task_btf(), 0, 0);
		struct dc_pending *pending = calls ? frame_at(calls, slot) : NULL;

		if (pending && pending->start_ns == start_ns && pending->function == index) {
			/* whatever is above was left without a return */
			calls->depth = slot;
			thread = wants_values(function, DC_FUNCTION_EXIT_VALUES) ? recorded_thread()
										 : NULL;
			finish_call(function, pending, thread, end_ns, ret, 0);
			return;
		}
		count_loss(DC_LOSS_ARGUMENTS);
	}
	session_bare_return(function, index, start_ns, end_ns - start_ns, ret);
}

static __always_inline int session(struct pt_regs *ctx)
{
	struct dc_thread *thread;
	__u64 end_ns;

	if (bpf_session_is_return(ctx)) {
		end_ns = bpf_ktime_get_ns();
		session_return(ctx, bpf_get_attach_cookie(ctx), PT_REGS_RC(ctx), end_ns);
		return 0;
	}
	thread = recorded_thread();
	/* 1: no return probe for a call that is not recorded */
	return thread ? session_entry(ctx, thread, bpf_get_attach_cookie(ctx)) : 1;
}

SEC("uprobe")
int dc_uprobe_session(struct pt_regs *ctx)
{
	stay_on_own_stack();
	return session(ctx);
}

SEC("kprobe")
int dc_kprobe_session(struct pt_regs *ctx)
{
	return session(ctx);
}

#endif /* DATACRUMBS_SESSIONS_BPF_H */
