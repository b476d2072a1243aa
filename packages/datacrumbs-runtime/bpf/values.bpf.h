/* SPDX-License-Identifier: MIT */
/* values.bpf.h: the values of a call, taken when it begins and when it ends. */
#ifndef DATACRUMBS_VALUES_BPF_H
#define DATACRUMBS_VALUES_BPF_H

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

/*
 * Whether the values of a call are needed, of those taken when it begins or when it ends (when:
 * DC_FUNCTION_ENTRY_VALUES or DC_FUNCTION_EXIT_VALUES). Sums need few.
 */
static __always_inline int wants_values(struct dc_function *function, __u32 when)
{
	if (!(function->flags & when))
		return 0;
	return function->mode == DC_MODE_TRACE || function->bytes_argument ||
	       function->flags & DC_FUNCTION_FILE_ONLY || dc_keep_files;
}

/* What a call is known to be about before its values are taken. */
static __always_inline void forget_values(struct dc_pending *pending)
{
	pending->present = 0;
	pending->appending = 0;
	pending->inode = 0;
	pending->file = 0;
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
	forget_values(pending);
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
			value = note_file(pending, remembered_file(thread, value), file);
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
			value = dc_string_id(thread, value, 0, 0);
			if (value)
				set_value(pending, i, value);
			break;
		}
	}
	return 0;
}

/* The id of the file of a descriptor that a call returned, or 0. Apart for its stack's sake. */
__noinline __u64 dc_opened_file(struct dc_pending *pending, struct dc_thread *thread,
				__u32 descriptor)
{
	if (!pending || !thread)
		return 0;
	return note_file(pending, remembered_file(thread, descriptor),
			 file_of_descriptor(descriptor));
}

/*
 * Take the values that are known, or readable for sure, only when the call has ended. "thread"
 * remembers files.
 */
__noinline int dc_take_exit_values(struct dc_pending *pending, struct dc_thread *thread, __s64 ret)
{
	struct dc_function *function;

	if (!pending || !thread)
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
			value = ret >= 0 ? dc_opened_file(pending, thread, ret) : 0;
			if (value) {
				set_value(pending, i, value);
				break;
			}
			if (source->argument >= DC_MAX_ARGUMENTS)
				break;
			value = argument(pending, source->argument);
			/* fallthrough */
		case DC_SOURCE_PATH:
			/* chdir(): the path was relative to another directory than now */
			if (source->at_end && !ret)
				value = 0;
			value = dc_string_id(thread, value, 1,
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
			value = dc_string_id(thread, value, 0, 0);
			if (value)
				set_value(pending, i, value);
			else if (is_roots_run() || (__s64)argument(pending, source->argument) > 0)
				/* texts of the kernel are not lost, but not for users */
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

#endif /* DATACRUMBS_VALUES_BPF_H */
