/* SPDX-License-Identifier: MIT */
/*
 * tracepoints.bpf.h: tracepoints of the kernel, as instants or as begin and end of a span.
 *
 * What to read from the arguments stands in the maps "tracepoints" and "functions"; the loader
 * worked out the offsets from the running kernel's BTF. Work that leaves its thread, such as a
 * block request, is found again by the address of what is worked upon.
 */
#ifndef DATACRUMBS_TRACEPOINTS_BPF_H
#define DATACRUMBS_TRACEPOINTS_BPF_H

#include "calls.bpf.h"
#include "processes.bpf.h"

struct dc_tracepoint_arguments {
	__u64 values[DC_MAX_TRACEPOINT_ARGUMENTS];
};

static __always_inline int read_field(struct dc_source *source,
				      struct dc_tracepoint_arguments *arguments, __u64 *result)
{
	__u32 position = source->argument;
	__u32 steps = source->nr_dereferences;
	__u64 value;

	if (position >= DC_MAX_TRACEPOINT_ARGUMENTS)
		return -1;
	value = arguments->values[position];
	for (__u32 i = 0; i < DC_MAX_DEREFERENCES; i++) {
		__u64 address, next = 0;
		__u32 size = 8;

		if (i >= steps)
			break;
		address = value + source->offsets[i];
		if (i + 1 == steps)
			size = source->size & 15;
		if (size > sizeof(next) ||
		    bpf_probe_read_kernel(&next, size, (const void *)address))
			return -1;
		value = next;
	}
	if (source->is_signed && source->size == 4)
		value = (__s64)(__s32)value;
	else if (source->is_signed && source->size == 2)
		value = (__s64)(__s16)value;
	else if (source->is_signed && source->size == 1)
		value = (__s64)(__s8)value;
	*result = value;
	return 0;
}

/* The file of the system call that the current thread is in, if the inode is that file's. */
static __always_inline __u64 file_of_thread(__u64 inode)
{
	struct dc_thread *thread = recorded_thread();

	if (!thread || !thread->system_call || !inode || thread->pending.inode != inode)
		return 0;
	return thread->pending.file;
}

/* Take the values that a tracepoint gives; at_end: those of a span's end. */
__noinline int dc_take_fields(struct dc_pending *pending, struct dc_tracepoint_arguments *arguments,
			      int at_end)
{
	struct dc_function *function;

	if (!pending || !arguments)
		return 0;
	function = function_row(pending->function);
	if (!function)
		return 0;
	for (__u32 i = 0; i < DC_MAX_VALUES; i++) {
		struct dc_source *source = &function->sources[i];
		__u64 value = 0;

		if (i >= function->nr_sources)
			break;
		if (!source->kind || !source->at_end != !at_end ||
		    read_field(source, arguments, &value))
			continue;
		if (source->kind == DC_SOURCE_THREAD_FILE)
			value = file_of_thread(value);
		else if (source->kind == DC_SOURCE_FIELD_FILE)
			value = note_file(pending, NULL, value);
		if (value || source->kind == DC_SOURCE_FIELD)
			set_value(pending, i, value);
	}
	return 0;
}

/* For whom a tracepoint fires: the thread that published the object, else the current one. */
static __always_inline int find_owner(struct dc_tracepoint *point, struct dc_function *function,
				      struct dc_tracepoint_arguments *arguments,
				      struct dc_owner *owner)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u64 object = 0;

	if (point->looks_up && !read_field(&point->owner, arguments, &object)) {
		struct dc_owner *known = bpf_map_lookup_elem(&owners, &object);

		if (known) {
			*owner = *known;
			return 0;
		}
	}
	owner->process = pid_tgid >> 32;
	owner->thread = (__u32)pid_tgid;
	owner->file = 0;
	if (recorded_thread())
		return 0;
	if (dc_include_kernel_threads && (function->flags & DC_FUNCTION_KERNEL_THREADS) &&
	    bpf_get_current_task_btf()->flags & DC_KERNEL_THREAD)
		return 0;
	return -1;
}

/*
 * Somebody who is not recorded begins to use an object, or a thread's number, that may have been a
 * recorded process's before. What we know of it must not make his work that process's.
 */
static __always_inline void forget_object(struct dc_tracepoint *point,
					  struct dc_tracepoint_arguments *arguments,
					  struct dc_span_key *key)
{
	__u64 object = 0;

	if (point->role == DC_TRACEPOINT_BEGIN)
		bpf_map_delete_elem(&spans, key);
	if (point->publishes && !read_field(&point->owner, arguments, &object))
		bpf_map_delete_elem(&owners, &object);
}

static __always_inline int end_span(struct dc_tracepoint *point, struct dc_function *function,
				    struct dc_tracepoint_arguments *arguments,
				    struct dc_span_key *key, __u64 now)
{
	struct dc_span *span = bpf_map_lookup_elem(&spans, key);
	__s64 ret = 0;

	if (!span)
		return 0;
	dc_take_fields(&span->pending, arguments, 1);
	if (point->result.kind)
		read_field(&point->result, arguments, (__u64 *)&ret);
	settle_call(function, &span->pending, (__u64)span->process << 32 | span->thread, now, ret,
		    point->result.kind ? 0 : DC_CALL_NO_RETURN);
	bpf_map_delete_elem(&spans, key);
	return 0;
}

static __always_inline struct dc_new_span *span_buffer(__u32 buffer)
{
	return bpf_map_lookup_elem(&new_spans, &buffer);
}

/* Take memory of this CPU for a span and return its number, or -1. An interrupt may take the next.
 */
__noinline int dc_take_span(void)
{
	for (__u32 buffer = 0; buffer < DC_SCRATCH_BUFFERS; buffer++) {
		struct dc_new_span *taken = span_buffer(buffer);

		if (taken && __sync_val_compare_and_swap(&taken->busy, 0, 1) == 0)
			return buffer;
	}
	return -1;
}

static __always_inline int tracepoint(void *ctx, struct dc_tracepoint_arguments *arguments)
{
	struct dc_span_key key = {};
	struct dc_function *function;
	struct dc_tracepoint *point;
	struct dc_new_span *made;
	struct dc_owner owner;
	__u32 index;
	__u64 now;

	if (!dc_control.recording)
		return 0;
	now = bpf_ktime_get_ns();
	/* raw tracepoints have a cookie since Linux 6.10 (68ca5d4eebb8) */
	index = dc_single_tracepoint != DC_NO_FUNCTION ? dc_single_tracepoint
						       : bpf_get_attach_cookie(ctx);
	point = bpf_map_lookup_elem(&tracepoints, &index);
	if (!point)
		return 0;
	function = function_row(point->function);
	if (!function || function->mode == DC_MODE_OFF)
		return 0;
	key.function = point->function;
	if (point->key_kind == DC_KEY_THREAD)
		key.key = bpf_get_current_pid_tgid();
	else if (point->role != DC_TRACEPOINT_INSTANT &&
		 read_field(&point->key, arguments, &key.key))
		return 0;
	if (point->role == DC_TRACEPOINT_END)
		return end_span(point, function, arguments, &key, now);
	if (find_owner(point, function, arguments, &owner)) {
		forget_object(point, arguments, &key);
		return 0;
	}
	made = span_buffer(dc_take_span());
	count_loss(DC_LOSS_ENTERED);
	if (!made) {
		count_loss(DC_LOSS_SPANS_FULL);
		return 0;
	}
	__builtin_memset(&made->span, 0, sizeof(made->span));
	made->span.process = owner.process;
	made->span.thread = owner.thread;
	made->span.pending.function = point->function;
	made->span.pending.start_ns = now;
	dc_take_fields(&made->span.pending, arguments, 0);
	if (point->publishes) {
		__u64 object = 0;

		if (!read_field(&point->owner, arguments, &object) && object)
			bpf_map_update_elem(&owners, &object, &owner, BPF_ANY);
	}
	if (point->role != DC_TRACEPOINT_BEGIN)
		settle_call(function, &made->span.pending,
			    (__u64)owner.process << 32 | owner.thread, now, 0, DC_CALL_NO_RETURN);
	else if (bpf_map_update_elem(&spans, &key, &made->span, BPF_ANY))
		count_loss(DC_LOSS_SPANS_FULL);
	__sync_val_compare_and_swap(&made->busy, 1, 0);
	return 0;
}

/*
 * A program may only be attached to a tracepoint with at least as many arguments as it reads
 * (bpf_raw_tp_link_attach(), kernel/bpf/syscall.c): hence one for each number.
 */
SEC("raw_tp")
int dc_tracepoint_1(struct bpf_raw_tracepoint_args *ctx)
{
	struct dc_tracepoint_arguments arguments = { { ctx->args[0] } };

	return tracepoint(ctx, &arguments);
}

SEC("raw_tp")
int dc_tracepoint_2(struct bpf_raw_tracepoint_args *ctx)
{
	struct dc_tracepoint_arguments arguments = { { ctx->args[0], ctx->args[1] } };

	return tracepoint(ctx, &arguments);
}

SEC("raw_tp")
int dc_tracepoint_3(struct bpf_raw_tracepoint_args *ctx)
{
	struct dc_tracepoint_arguments arguments = { { ctx->args[0], ctx->args[1], ctx->args[2] } };

	return tracepoint(ctx, &arguments);
}

SEC("raw_tp")
int dc_tracepoint_4(struct bpf_raw_tracepoint_args *ctx)
{
	struct dc_tracepoint_arguments arguments = { { ctx->args[0], ctx->args[1], ctx->args[2],
						       ctx->args[3] } };

	return tracepoint(ctx, &arguments);
}

SEC("raw_tp")
int dc_tracepoint_5(struct bpf_raw_tracepoint_args *ctx)
{
	struct dc_tracepoint_arguments arguments = { { ctx->args[0], ctx->args[1], ctx->args[2],
						       ctx->args[3], ctx->args[4] } };

	return tracepoint(ctx, &arguments);
}

SEC("raw_tp")
int dc_tracepoint_6(struct bpf_raw_tracepoint_args *ctx)
{
	struct dc_tracepoint_arguments arguments = { { ctx->args[0], ctx->args[1], ctx->args[2],
						       ctx->args[3], ctx->args[4], ctx->args[5] } };

	return tracepoint(ctx, &arguments);
}

SEC("raw_tp")
int dc_tracepoint_7(struct bpf_raw_tracepoint_args *ctx)
{
	struct dc_tracepoint_arguments arguments = { { ctx->args[0], ctx->args[1], ctx->args[2],
						       ctx->args[3], ctx->args[4], ctx->args[5],
						       ctx->args[6] } };

	return tracepoint(ctx, &arguments);
}

SEC("raw_tp")
int dc_tracepoint_8(struct bpf_raw_tracepoint_args *ctx)
{
	struct dc_tracepoint_arguments arguments = { { ctx->args[0], ctx->args[1], ctx->args[2],
						       ctx->args[3], ctx->args[4], ctx->args[5],
						       ctx->args[6], ctx->args[7] } };

	return tracepoint(ctx, &arguments);
}

SEC("raw_tp")
int dc_tracepoint_9(struct bpf_raw_tracepoint_args *ctx)
{
	struct dc_tracepoint_arguments arguments = { { ctx->args[0], ctx->args[1], ctx->args[2],
						       ctx->args[3], ctx->args[4], ctx->args[5],
						       ctx->args[6], ctx->args[7], ctx->args[8] } };

	return tracepoint(ctx, &arguments);
}

#endif /* DATACRUMBS_TRACEPOINTS_BPF_H */
