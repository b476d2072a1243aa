/* SPDX-License-Identifier: MIT */
/*
 * functions.bpf.h: functions of programs, libraries and the kernel (uprobe, kprobe, fentry).
 *
 * The call that a thread is in is one frame of a small stack, because functions recurse. Sessions
 * give each call eight bytes of its own (the cookie): calls without values need no frame at all,
 * and the time of a call is never lost even when its frame is.
 */
#ifndef DATACRUMBS_FUNCTIONS_BPF_H
#define DATACRUMBS_FUNCTIONS_BPF_H

#include "calls.bpf.h"
#include "places.bpf.h"
#include "processes.bpf.h"

#define DC_COOKIE_FRAME_BITS 8
#define DC_COOKIE_NO_FRAME 0xff

/* libbpf has it since 1.2 */
#ifndef PT_REGS_PARM6
#if defined(__TARGET_ARCH_x86)
#define PT_REGS_PARM6(x) (__PT_REGS_CAST(x)->r9)
#elif defined(__TARGET_ARCH_arm64)
#define PT_REGS_PARM6(x) (__PT_REGS_CAST(x)->regs[5])
#endif
#endif

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

static __always_inline void take_registers(struct dc_pending *pending, struct pt_regs *ctx)
{
	pending->arguments[0] = PT_REGS_PARM1(ctx);
	pending->arguments[1] = PT_REGS_PARM2(ctx);
	pending->arguments[2] = PT_REGS_PARM3(ctx);
	pending->arguments[3] = PT_REGS_PARM4(ctx);
	pending->arguments[4] = PT_REGS_PARM5(ctx);
	pending->arguments[5] = PT_REGS_PARM6(ctx);
}

static __always_inline struct dc_pending *frame_at(struct dc_frames *calls, __u32 slot)
{
	/* the compiler must use the number that it compared: the verifier believes no other */
	asm volatile("" : "+r"(slot));
	if (slot >= DC_FRAMES)
		return NULL;
	return &calls->frames[slot];
}

/*
 * Frames whose function was left by longjmp() or an exception stay behind. Stacks grow downwards:
 * a frame at or below the caller's stack pointer is dead. Only done when there is no room, since a
 * program that switches stacks (coroutines) could have live ones there.
 */
__noinline int dc_drop_dead_frames(struct dc_frames *calls, __u64 stack_pointer)
{
	if (!calls)
		return 0;
	for (int i = 0; i < DC_FRAMES; i++) {
		struct dc_pending *top = frame_at(calls, calls->depth - 1);

		if (!top || top->stack_pointer > stack_pointer)
			break;
		calls->depth--;
	}
	return 0;
}

/* A frame for a call that begins, or NULL. Its function is set, its values are not. */
static __always_inline struct dc_pending *push_frame(__u32 function, __u64 stack_pointer,
						     __u32 *slot)
{
	struct dc_frames *calls;
	struct dc_pending *pending;

	calls = bpf_task_storage_get(&frames, bpf_get_current_task_btf(), 0,
				     BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!calls) {
		count_loss(DC_LOSS_STATE);
		return NULL;
	}
	if (calls->depth >= DC_FRAMES)
		dc_drop_dead_frames(calls, stack_pointer);
	*slot = calls->depth;
	pending = frame_at(calls, *slot);
	if (!pending) {
		count_loss(DC_LOSS_ARGUMENTS);
		return NULL;
	}
	calls->depth++;
	pending->function = function;
	pending->stack_pointer = stack_pointer;
	forget_values(pending);
	return pending;
}

/* ---- sessions: entry and return in one program ---------------------------------------------- */

static __always_inline int session_entry(struct pt_regs *ctx, struct dc_thread *thread, __u32 index)
{
	struct dc_function *function = function_row(index);
	__u32 slot = DC_COOKIE_NO_FRAME;
	struct dc_pending *pending = NULL;
	__u64 *cookie, now;

	if (!function || function->mode == DC_MODE_OFF)
		return 1;
	if (wants_values(function, DC_FUNCTION_ENTRY_VALUES | DC_FUNCTION_EXIT_VALUES)) {
		pending = push_frame(index, PT_REGS_SP(ctx), &slot);
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
	return session(ctx);
}

SEC("kprobe")
int dc_kprobe_session(struct pt_regs *ctx)
{
	return session(ctx);
}

/* ---- pairs: entry and return in two programs, on kernels without sessions -------------------- */

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
		if (stack_pointer & DC_STACK_SHARED) {
			pending = push_frame(index, stack_pointer, &slot);
			if (pending)
				pending->start_ns = 0;
		}
		return 0;
	}
	pending = push_frame(index, stack_pointer, &slot);
	if (!pending)
		return 0;
	take_registers(pending, ctx);
	if (wants_values(function, DC_FUNCTION_ENTRY_VALUES))
		dc_take_entry_values(pending, thread);
	count_loss(DC_LOSS_ENTERED);
	pending->start_ns = bpf_ktime_get_ns();
	return 0;
}

/* Pop down to the innermost frame of a function, which is returned: its slot, or -1. */
__noinline int dc_pop_frame(struct dc_frames *calls, __u32 index)
{
	if (!calls)
		return -1;
	for (int i = 0; i < DC_FRAMES; i++) {
		struct dc_pending *top = frame_at(calls, calls->depth - 1);

		if (!top)
			break;
		calls->depth--;
		if (top->function == index)
			return calls->depth;
	}
	return -1;
}

/*
 * The same by stack pointer. A function that jumps into another leaves it its stack pointer; the
 * kernel reports their ends innermost first. Without such a frame nothing is popped: the call
 * began before its thread was recorded.
 */
__noinline int dc_pop_frame_at(struct dc_frames *calls, __u64 stack_pointer)
{
	if (!calls)
		return -1;
	for (int i = 1; i <= DC_FRAMES; i++) {
		struct dc_pending *frame = frame_at(calls, calls->depth - i);

		if (!frame)
			break;
		if (frame->stack_pointer == stack_pointer) {
			calls->depth -= i;
			return calls->depth;
		}
	}
	return -1;
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
		pending = frame_at(calls, stack_pointer ? dc_pop_frame_at(calls, stack_pointer)
							: dc_pop_frame(calls, index));
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

	if (!thread)
		return 0;
	cookie = bpf_get_attach_cookie(ctx);
	return pair_entry(ctx, thread, user_function(ctx, cookie),
			  PT_REGS_SP(ctx) | (cookie & DC_COOKIE_BY_STACK ? DC_STACK_SHARED : 0));
}

SEC("uretprobe")
int dc_uprobe_return(struct pt_regs *ctx)
{
	__u64 now = bpf_ktime_get_ns();
	__u64 cookie = bpf_get_attach_cookie(ctx);

	if (cookie & DC_COOKIE_BY_STACK)
		return pair_return(DC_NO_FUNCTION,
				   (PT_REGS_SP(ctx) - DC_RETURN_ADDRESS_BYTES) | DC_STACK_SHARED,
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

	if (!thread)
		return 0;
	index = user_function(ctx, bpf_get_attach_cookie(ctx));
	function = function_row(index);
	if (!function || function->mode == DC_MODE_OFF)
		return 0;
	pending = push_frame(index, PT_REGS_SP(ctx), &slot);
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
	/* the kernel's stack is one per thread: the address of a local orders the frames */
	pending = push_frame(dc_single_function, ~0ULL, &slot);
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
