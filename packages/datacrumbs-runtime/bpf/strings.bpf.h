/* SPDX-License-Identifier: MIT */
/* strings.bpf.h: captured texts and path arguments; each different one crosses once. */
#ifndef DATACRUMBS_STRINGS_BPF_H
#define DATACRUMBS_STRINGS_BPF_H

#include "files.bpf.h"

#define DC_AT_FDCWD (-100)
#define DC_MAX_TEXT_BYTES (DC_MAX_STRING_BYTES - 8)
#define DC_WORDS_OF_STRING (DC_MAX_STRING_BYTES / 8)

/* The id of a directory that relative paths start from; 0 if the descriptor is none. */
static __always_inline __u64 directory_id(int descriptor)
{
	struct dc_name name_of;

	if (descriptor == DC_AT_FDCWD) {
		__u64 fs = (__u64)READ(bpf_get_current_task_btf(), task_struct, fs);

		if (!fs)
			return 0;
		name_of.dentry = (__u64)READ(fs, fs_struct, pwd.dentry);
		name_of.vfsmount = (__u64)READ(fs, fs_struct, pwd.mnt);
		name_of.inode = (__u64)READ(name_of.dentry, dentry, d_inode);
	} else {
		__u64 file = file_of_descriptor(descriptor);

		if (!file)
			return 0;
		name_of_file(&name_of, file);
	}
	return dc_file_id(&name_of);
}

/*
 * Read a string of the current process (or of the kernel, for kernel functions) and return its id,
 * or 0 if the memory is not there. With a descriptor (not negative, or AT_FDCWD) the string is a
 * path that starts at that directory; an empty one means the descriptor itself (AT_EMPTY_PATH).
 */
__noinline __u64 dc_string_id(__u64 address, int is_path, int descriptor)
{
	__u32 limit = is_path ? DC_MAX_TEXT_BYTES : dc_string_bytes;
	__u64 hash = is_path ? 0x70617468 : 0x74657874;
	struct dc_scratch *to;
	__u32 buffer = 0;
	__u64 directory = 0;
	__u8 seen = 1;
	long length;

	if (is_path && !address)
		return directory_id(descriptor);
	if (!address)
		return 0;
	to = take_scratch(&buffer);
	if (!to)
		return 0;
	if (limit > DC_MAX_TEXT_BYTES)
		limit = DC_MAX_TEXT_BYTES;
	if ((__s64)address < 0)
		length = bpf_probe_read_kernel_str(to->text, limit, (const void *)address);
	else
		length = bpf_probe_read_user_str(to->text, limit, (const void *)address);
	if (length <= 0) {
		release_scratch(to);
		return 0;
	}
	if (is_path && length == 1) {
		release_scratch(to);
		return directory_id(descriptor);
	}
	if (is_path && to->text[0] != '/')
		directory = directory_id(descriptor);
	/* the hash takes whole words: what follows the text in the last one must be defined */
	*(__u64 *)&to->text[length & (DC_MAX_STRING_BYTES - 1)] = 0;
	hash = mix(hash, directory);
	for (__u32 word = 0; word < DC_WORDS_OF_STRING; word++) {
		if (word * 8 >= length)
			break;
		hash = mix(hash, *(__u64 *)&to->text[word * 8]);
	}
	hash = mix(hash, length) | 1;
	if (!bpf_map_lookup_elem(&seen_strings, &hash)) {
		to->string.id = hash;
		to->string.directory = directory;
		to->string.number = 0;
		to->string.kind = is_path ? DC_STRING_PATH : DC_STRING_TEXT;
		to->string.flags = length >= limit ? DC_STRING_CUT : 0;
		if (!send_string(to, length))
			bpf_map_update_elem(&seen_strings, &hash, &seen, BPF_ANY);
	}
	release_scratch(to);
	return hash;
}

#endif /* DATACRUMBS_STRINGS_BPF_H */
