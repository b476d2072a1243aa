/* SPDX-License-Identifier: MIT */
/*
 * frames.bpf.h: the calls of functions that a thread is in.
 *
 * Each is one frame of a small stack, because functions recurse.
 */
#ifndef DATACRUMBS_FRAMES_BPF_H
#define DATACRUMBS_FRAMES_BPF_H

#include "values.bpf.h"

/* libbpf has it since 1.2 */
#ifndef PT_REGS_PARM6
#if defined(__TARGET_ARCH_x86)
#define PT_REGS_PARM6(x) (__PT_REGS_CAST(x)->r9)
#elif defined(__TARGET_ARCH_arm64)
#define PT_REGS_PARM6(x) (__PT_REGS_CAST(x)->regs[5])
#endif
#endif

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

/*
 * A frame for a call that begins, or NULL; what is lost then is said by whoever asks. Its function
 * is set, its values are not.
 */
static __always_inline struct dc_pending *push_frame(__u32 function, __u64 stack_pointer,
						     __u32 *slot, __u32 loss)
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
		count_loss(loss);
		return NULL;
	}
	calls->depth++;
	pending->function = function;
	pending->stack_pointer = stack_pointer;
	forget_values(pending);
	return pending;
}

/*
 * Pop down to the innermost frame of a function, which is returned: its slot, or -1. With a stack
 * pointer to the frame that has it, whatever its function: one that jumps into another leaves it
 * its stack pointer, and the kernel reports their ends innermost first. Without such a frame
 * nothing is popped: the begin of this call was not seen (the kernel may skip a program, or the
 * thread was not recorded yet), those of the calls around it were.
 */
__noinline int dc_pop_frame(struct dc_frames *calls, __u32 function, __u64 stack_pointer)
{
	if (!calls)
		return -1;
	for (int i = 1; i <= DC_FRAMES; i++) {
		struct dc_pending *frame = frame_at(calls, calls->depth - i);

		if (!frame)
			break;
		if (stack_pointer ? frame->stack_pointer == stack_pointer
				  : frame->function == function) {
			calls->depth -= i;
			return calls->depth;
		}
	}
	return -1;
}

#endif /* DATACRUMBS_FRAMES_BPF_H */
