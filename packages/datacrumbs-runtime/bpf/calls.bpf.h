/* SPDX-License-Identifier: MIT */
/* calls.bpf.h: what becomes of a call that has ended: its record, or its part of the sums. */
#ifndef DATACRUMBS_CALLS_BPF_H
#define DATACRUMBS_CALLS_BPF_H

#include "values.bpf.h"

/* Global, so that the verifier takes the result for any number instead of following each case. */
__noinline __u32 dc_log2_slot(__u64 value)
{
	__u32 slot = 0;

	if (value >> 32)
		return DC_HISTOGRAM_SLOTS - 1;
	slot = value >> 16 ? 16 : 0;
	slot += (value >> slot) >> 8 ? 8 : 0;
	slot += (value >> slot) >> 4 ? 4 : 0;
	slot += (value >> slot) >> 2 ? 2 : 0;
	slot += (value >> slot) >> 1 ? 1 : 0;
	return slot;
}

static __always_inline int is_error(struct dc_function *function, __s64 ret)
{
	return ((function->flags & DC_FUNCTION_ERRNO) && ret < 0) ||
	       ((function->flags & DC_FUNCTION_NULL_ERROR) && !ret) ||
	       ((function->flags & DC_FUNCTION_MINUS_ERROR) && ret == -1);
}

#define DC_ATTEMPTS 8 /* others on this CPU may change the value between reading and writing it */

__noinline int dc_note_extremes(struct dc_profile *sums, __u64 duration)
{
	if (!sums)
		return -1;
	for (int i = 0; i < DC_ATTEMPTS; i++) {
		__u64 old = *(volatile __u64 *)&sums->min_ns;

		if (old <= duration ||
		    __sync_val_compare_and_swap(&sums->min_ns, old, duration) == old)
			break;
	}
	for (int i = 0; i < DC_ATTEMPTS; i++) {
		__u64 old = *(volatile __u64 *)&sums->max_ns;

		if (old >= duration ||
		    __sync_val_compare_and_swap(&sums->max_ns, old, duration) == old)
			break;
	}
	return 0;
}

/*
 * Add one call to the sums of its function, process and CPU. Returns 0, or -1 for want of room.
 * "pending" has its values, and is NULL if there are none. Atomic, since a program can be
 * preempted by one that adds to the same sums.
 */
__noinline int dc_add_to_profile(struct dc_pending *pending, __u32 index, __u32 process,
				 __u64 duration, __s64 ret)
{
	struct dc_profile_key key = {};
	struct dc_function *function;
	struct dc_profile *sums;

	function = function_row(index);
	if (!function)
		return -1;
	if (function->flags & DC_FUNCTION_RET_INT)
		ret = (__s32)ret;
	key.function = index;
	key.process = process;
	key.cpu = bpf_get_smp_processor_id();
	key.epoch = dc_control.epoch & 1;
	sums = bpf_map_lookup_elem(&profile, &key);
	if (!sums) {
		bpf_map_update_elem(&profile, &key, (const void *)&dc_no_calls, BPF_NOEXIST);
		sums = bpf_map_lookup_elem(&profile, &key);
		if (!sums) {
			count_loss(DC_LOSS_PROFILE_FULL);
			return -1;
		}
	}
	__sync_fetch_and_add(&sums->count, 1);
	__sync_fetch_and_add(&sums->time_ns, duration);
	__sync_fetch_and_add(&sums->histogram[dc_log2_slot(duration) & (DC_HISTOGRAM_SLOTS - 1)],
			     1);
	dc_note_extremes(sums, duration);
	if (is_error(function, ret))
		__sync_fetch_and_add(&sums->errors, 1);
	else if ((function->flags & DC_FUNCTION_BYTES) && ret > 0) {
		__u32 slot = (function->bytes_argument - 1) & (DC_MAX_VALUES - 1);
		__u64 unit = 1;

		/* as the pump does it: what is not known moves nothing */
		if (function->bytes_argument)
			unit = pending && pending->present & (1U << slot) ? pending->values[slot]
									  : 0;
		__sync_fetch_and_add(&sums->bytes, ret * unit);
	}
	return 0;
}

static __always_inline void fill_call(struct dc_call *call, __u32 function, __u64 start_ns,
				      __u64 pid_tgid, __u64 duration, __s64 ret, __u32 flags)
{
	call->start_ns = start_ns;
	call->duration_ns = duration;
	call->ret = ret;
	call->process = pid_tgid >> 32;
	call->thread = (__u32)pid_tgid;
	call->function = function;
	call->flags = flags;
}

/* The same for a call without values: nothing is prepared in memory, written from registers. */
static __always_inline void write_bare_call(__u32 function, __u64 start_ns, __u64 duration,
					    __s64 ret)
{
	__u32 cpu = bpf_get_smp_processor_id();
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	void *ring = bpf_map_lookup_elem(&events, &cpu);
	struct dc_call *call;

	count_loss(DC_LOSS_OFFERED);
	call = ring ? bpf_ringbuf_reserve(ring, sizeof(*call), 0) : NULL;
	if (!call) {
		count_loss(DC_LOSS_RING_FULL);
		return;
	}
	call->nr_values = 0;
	call->present = 0;
	fill_call(call, function, start_ns, pid_tgid, duration, ret, 0);
	bpf_ringbuf_submit(call, BPF_RB_NO_WAKEUP);
}

/* Write the record of a call to this CPU's ring, or count it as dropped. */
static __always_inline void write_call(struct dc_function *function, struct dc_pending *pending,
				       __u64 pid_tgid, __u64 duration, __s64 ret, __u32 flags)
{
	__u32 cpu = bpf_get_smp_processor_id();
	void *ring = bpf_map_lookup_elem(&events, &cpu);
	struct dc_call *call;

	count_loss(DC_LOSS_OFFERED);
	if (!ring)
		goto full;
	if (!function->nr_values) {
		call = bpf_ringbuf_reserve(ring, sizeof(*call), 0);
		if (!call)
			goto full;
		call->nr_values = 0;
	} else if (function->nr_values <= 4) {
		call = bpf_ringbuf_reserve(ring, sizeof(*call) + 4 * sizeof(__u64), 0);
		if (!call)
			goto full;
		call->nr_values = 4;
		for (int i = 0; i < 4; i++)
			call->values[i] = pending->values[i];
	} else {
		call = bpf_ringbuf_reserve(ring, sizeof(*call) + 8 * sizeof(__u64), 0);
		if (!call)
			goto full;
		call->nr_values = 8;
		for (int i = 0; i < 8; i++)
			call->values[i] = pending->values[i];
	}
	call->present = pending->present;
	fill_call(call, pending->function, pending->start_ns, pid_tgid, duration, ret, flags);
	bpf_ringbuf_submit(call, BPF_RB_NO_WAKEUP);
	return;
full:
	count_loss(DC_LOSS_RING_FULL);
}

/* All values of a call are there: filter it, count it or write it. */
static __always_inline void settle_call(struct dc_function *function, struct dc_pending *pending,
					__u64 pid_tgid, __u64 end_ns, __s64 ret, __u32 flags)
{
	__u64 duration = end_ns - pending->start_ns;

	if ((function->flags & DC_FUNCTION_FILE_ONLY) && !(pending->present & 1)) {
		count_loss(DC_LOSS_FILTERED);
		return;
	}
	if (function->mode == DC_MODE_PROFILE || duration < function->threshold_ns) {
		if (!dc_add_to_profile(pending, pending->function, pid_tgid >> 32, duration, ret))
			count_loss(function->mode == DC_MODE_PROFILE ? DC_LOSS_COUNTED
								     : DC_LOSS_BELOW_THRESHOLD);
		return;
	}
	write_call(function, pending, pid_tgid, duration, ret, flags);
}

static __always_inline void finish_call(struct dc_function *function, struct dc_pending *pending,
					struct dc_thread *thread, __u64 end_ns, __s64 ret,
					__u32 flags)
{
	if (wants_values(function, DC_FUNCTION_EXIT_VALUES))
		dc_take_exit_values(pending, thread, ret);
	settle_call(function, pending, bpf_get_current_pid_tgid(), end_ns, ret, flags);
}

#endif /* DATACRUMBS_CALLS_BPF_H */
