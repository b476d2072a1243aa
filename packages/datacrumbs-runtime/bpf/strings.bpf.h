/* SPDX-License-Identifier: MIT */
/* strings.bpf.h: captured texts and path arguments; each different one crosses once. */
#ifndef DATACRUMBS_STRINGS_BPF_H
#define DATACRUMBS_STRINGS_BPF_H

#include "files.bpf.h"

#define DC_AT_FDCWD (-100)
#define DC_MAX_TEXT_BYTES (DC_MAX_STRING_BYTES - 8)
#define DC_WORDS_OF_STRING (DC_MAX_STRING_BYTES / 8)

/*
 * The id of a directory that relative paths start from, which the thread remembers; 0 if the
 * descriptor is none.
 */
static __always_inline __u64 directory_id(struct dc_thread *thread, int descriptor)
{
	struct dc_cached_file *cached;
	struct dc_name name_of;

	if (descriptor == DC_AT_FDCWD) {
		__u64 fs = (__u64)READ(bpf_get_current_task_btf(), task_struct, fs);

		if (!fs)
			return 0;
		name_of.dentry = (__u64)READ(fs, fs_struct, pwd.dentry);
		name_of.vfsmount = (__u64)READ(fs, fs_struct, pwd.mnt);
		name_of.inode = (__u64)READ(name_of.dentry, dentry, d_inode);
		cached = &thread->working_directory;
	} else {
		__u64 file = file_of_descriptor(descriptor);

		if (!file)
			return 0;
		name_of_file(&name_of, file);
		cached = remembered_file(thread, descriptor);
	}
	return cached_file_id(cached, &name_of);
}

struct dc_words {
	__u64 hash;
	__u32 buffer;
};

/* In a callback and not in a loop: the verifier would walk all of the longest string's words. */
static long hash_word(__u64 index, struct dc_words *words)
{
	struct dc_scratch *from = scratch_buffer(words->buffer);

	if (!from || index >= DC_WORDS_OF_STRING)
		return 1;
	words->hash = mix(words->hash, *(__u64 *)&from->text[index * 8]);
	return 0;
}

/*
 * Read a string of the current process and return its id, or 0 if the memory is not there. For root
 * it may be one of the kernel, as functions of the kernel have them. Whoever else calls with an
 * address of the kernel chose it himself: system calls and functions take whatever they are given.
 * With a descriptor (not negative, or AT_FDCWD) the string is a path that starts at that directory;
 * an empty one means the descriptor itself (AT_EMPTY_PATH).
 */
__noinline __u64 dc_string_id(struct dc_thread *thread, __u64 address, int is_path, int descriptor)
{
	__u32 limit = is_path ? DC_MAX_TEXT_BYTES : dc_string_bytes;
	__u64 hash = is_path ? 0x70617468 : 0x74657874;
	struct dc_scratch *to;
	struct dc_words words;
	__u64 directory = 0;
	long length;
	int buffer;

	if (!thread)
		return 0;
	if (is_path && !address)
		return directory_id(thread, descriptor);
	if (!address)
		return 0;
	buffer = dc_take_scratch();
	if (buffer < 0)
		return 0;
	to = scratch_buffer(buffer);
	if (!to)
		return 0;
	if (limit > DC_MAX_TEXT_BYTES)
		limit = DC_MAX_TEXT_BYTES;
	if ((__s64)address < 0 && is_roots_run())
		length = bpf_probe_read_kernel_str(to->text, limit, (const void *)address);
	else
		length = bpf_probe_read_user_str(to->text, limit, (const void *)address);
	if (!length) {
		/* what kernels before 6.13 answer for an empty string of user space */
		to->text[0] = 0;
		length = 1;
	}
	if (length < 0) {
		release_scratch(to);
		return 0;
	}
	if (is_path && length == 1) {
		release_scratch(to);
		return directory_id(thread, descriptor);
	}
	if (is_path && to->text[0] != '/')
		directory = directory_id(thread, descriptor);
	/* the hash takes whole words: what follows the text in the last one must be defined */
	*(__u64 *)&to->text[length & (DC_MAX_STRING_BYTES - 1)] = 0;
	words.hash = mix(hash, directory);
	words.buffer = buffer;
	bpf_loop((length + 7) / 8, hash_word, &words, 0);
	hash = mix(words.hash, length) | 1;
	if (!bpf_map_lookup_elem(&seen_strings, &hash)) {
		to->string.id = hash;
		to->string.directory = directory;
		to->string.number = 0;
		to->string.kind = is_path ? DC_STRING_PATH : DC_STRING_TEXT;
		to->string.flags = length >= limit ? DC_STRING_CUT : 0;
		dc_send_string(buffer, length);
	}
	release_scratch(to);
	return hash;
}

#endif /* DATACRUMBS_STRINGS_BPF_H */
