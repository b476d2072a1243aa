/* SPDX-License-Identifier: MIT */
/* calls.bpf.h: the values of a call, taken when it begins and when it ends, and its record. */
#ifndef DATACRUMBS_CALLS_BPF_H
#define DATACRUMBS_CALLS_BPF_H

#include "strings.bpf.h"

/* struct _IO_FILE of glibc keeps the descriptor here on 64-bit machines; part of its ABI */
#define DC_GLIBC_FILENO_OFFSET 112

static __always_inline struct dc_function *function_row(__u32 index)
{
	return bpf_map_lookup_elem(&functions, &index);
}

static __always_inline void set_value(struct dc_pending *pending, __u32 slot, __u64 value)
{
	slot &= DC_MAX_VALUES - 1;
	pending->values[slot] = value;
	pending->present |= 1U << slot;
}

static __always_inline __u64 argument(struct dc_pending *pending, __u32 position)
{
	return position < DC_MAX_ARGUMENTS ? pending->arguments[position] : 0;
}

static long vma_file(struct task_struct *task, struct vm_area_struct *vma, __u64 *file)
{
	*file = (__u64)READ(vma, vm_area_struct, vm_file);
	return 0;
}

static __always_inline __u64 mapped_file(__u64 address)
{
	__u64 file = 0;

	bpf_find_vma(bpf_get_current_task_btf(), address, vma_file, &file, 0);
	return file;
}

/* Remember the file that a call is about. Returns its id, or 0. */
static __always_inline __u64 note_file(struct dc_pending *pending, struct dc_cached_file *cached,
				       __u64 file)
{
	struct dc_name name_of;

	if (!file)
		return 0;
	name_of_file(&name_of, file);
	pending->inode = name_of.inode;
	pending->file = cached ? cached_file_id(cached, &name_of) : dc_file_id(&name_of);
	return pending->file;
}

static __always_inline void note_position(struct dc_pending *pending, __u32 slot, __u64 file)
{
	__u64 inode;
	__u32 type;

	if (!file)
		return;
	inode = (__u64)READ(file, file, f_inode);
	type = READ(inode, inode, i_mode) & DC_FILE_TYPE_MASK;
	if (type != DC_FILE_REGULAR && type != DC_FILE_BLOCK)
		return;
	set_value(pending, slot, READ(file, file, f_pos));
	/* where an appended write lands is known only when it is done */
	if (READ(file, file, f_flags) & DC_OPEN_APPEND)
		pending->appending = file;
}

/* The number behind a pointer, if it can be read. */
static __always_inline void take_user_value(struct dc_pending *pending, __u32 slot,
					    struct dc_source *source, __u64 address)
{
	__u32 size = source->size & 15;
	__u64 value = 0;

	if (!address || size > sizeof(value))
		return;
	if (!bpf_probe_read_user(&value, size, (const void *)(address + source->offsets[0])))
		set_value(pending, slot, value);
}

/*
 * Take the values that must be taken when the call begins: its arguments' registers and the files
 * of descriptors, which the call may close. "thread" remembers files.
 */
__noinline int dc_take_entry_values(struct dc_pending *pending, struct dc_thread *thread)
{
	struct dc_function *function;

	if (!pending || !thread)
		return 0;
	pending->present = 0;
	pending->appending = 0;
	pending->inode = 0;
	pending->file = 0;
	function = function_row(pending->function);
	if (!function)
		return 0;
	for (__u32 i = 0; i < DC_MAX_VALUES; i++) {
		struct dc_source *source = &function->sources[i];
		__u64 value = 0;
		__u64 file = 0;

		if (i >= function->nr_sources)
			break;
		value = argument(pending, source->argument);
		switch (source->kind) {
		case DC_SOURCE_ARGUMENT:
			set_value(pending, i, value);
			break;
		case DC_SOURCE_STREAM: {
			__u32 descriptor = 0;

			if (bpf_probe_read_user(&descriptor, sizeof(descriptor),
						(const void *)(value + DC_GLIBC_FILENO_OFFSET)))
				break;
			value = descriptor;
		}
			/* fallthrough */
		case DC_SOURCE_FD:
			file = file_of_descriptor(value);
			value = note_file(pending,
					  thread ? &thread->files[value & (DC_CACHED_FILES - 1)]
						 : NULL,
					  file);
			if (value)
				set_value(pending, i, value);
			break;
		case DC_SOURCE_MAPPING:
			value = mapped_file(value);
			/* fallthrough */
		case DC_SOURCE_FIELD_FILE: /* kernel functions: the argument is the file */
			value = note_file(pending, NULL, value);
			if (value)
				set_value(pending, i, value);
			break;
		case DC_SOURCE_POSITION:
			note_position(pending, i, file_of_descriptor(value));
			break;
		case DC_SOURCE_USER_VALUE:
			/* an offset that the call moves on: where it began */
			if (!source->at_end)
				take_user_value(pending, i, source, value);
			break;
		case DC_SOURCE_USER_STRING:
			value = dc_string_id(value, 0, 0);
			if (value)
				set_value(pending, i, value);
			break;
		}
	}
	return 0;
}

/* Take the values that are known, or readable for sure, only when the call has ended. */
__noinline int dc_take_exit_values(struct dc_pending *pending, __s64 ret)
{
	struct dc_function *function;

	if (!pending)
		return 0;
	function = function_row(pending->function);
	if (!function)
		return 0;
	for (__u32 i = 0; i < DC_MAX_VALUES; i++) {
		struct dc_source *source = &function->sources[i];
		__u64 value = 0;

		if (i >= function->nr_sources)
			break;
		value = argument(pending, source->argument);
		switch (source->kind) {
		case DC_SOURCE_RETURNED_FD:
			if (ret >= 0) {
				__u64 id = note_file(pending, NULL, file_of_descriptor(ret));

				if (id) {
					set_value(pending, i, id);
					break;
				}
			}
			if (source->argument >= DC_MAX_ARGUMENTS)
				break;
			/* fallthrough */
		case DC_SOURCE_PATH:
			/* chdir(): the path was relative to another directory than now */
			if (source->at_end && !ret)
				value = 0;
			value = dc_string_id(value, 1,
					     source->directory < DC_MAX_ARGUMENTS
						     ? (int)argument(pending, source->directory)
						     : DC_AT_FDCWD);
			if (value)
				set_value(pending, i, value);
			else
				count_loss(DC_LOSS_STRING_UNREADABLE);
			break;
		case DC_SOURCE_USER_STRING:
			/* at entry its memory may not have been there yet */
			if (pending->present & (1U << i) || !value)
				break;
			value = dc_string_id(value, 0, 0);
			if (value)
				set_value(pending, i, value);
			else
				count_loss(DC_LOSS_STRING_UNREADABLE);
			break;
		case DC_SOURCE_USER_VALUE:
			if (source->at_end)
				take_user_value(pending, i, source, value);
			break;
		case DC_SOURCE_POSITION:
			if (pending->appending && ret > 0)
				set_value(pending, i, READ(pending->appending, file, f_pos) - ret);
			break;
		}
	}
	return 0;
}

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

/* Whether the end of a call needs values that are not there yet. */
static __always_inline int wants_exit_values(struct dc_function *function)
{
	return function->flags & DC_FUNCTION_EXIT_VALUES;
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
					__u64 pid_tgid, __u64 end_ns, __s64 ret, __u32 flags)
{
	if (wants_exit_values(function))
		dc_take_exit_values(pending, ret);
	settle_call(function, pending, pid_tgid, end_ns, ret, flags);
}

#endif /* DATACRUMBS_CALLS_BPF_H */
