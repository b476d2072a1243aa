/* SPDX-License-Identifier: MIT */
/*
 * files.bpf.h: from a descriptor, a directory or a mapping to the file's id; names cross once.
 *
 * The id of a file is a hash over the names of the dentries from the file up to the root of the
 * process. The kernel salts the hash of a name with the address of the parent (full_name_hash()),
 * so the chain tells apart equal names in different directories, hard links have different ids,
 * and a renamed file, or one below a renamed directory, has a new one. Walking the chain for every
 * call would cost more than the rest of the program: a thread remembers the files of its last
 * descriptors, and dc_control.rename_generation tells it when a name may have changed.
 */
#ifndef DATACRUMBS_FILES_BPF_H
#define DATACRUMBS_FILES_BPF_H

#include "maps.bpf.h"

#define DC_MAX_PATH_DEPTH 128
#define DC_MAX_NAME_BYTES 256

#define DC_FILE_TYPE_MASK 0170000
#define DC_FILE_REGULAR 0100000
#define DC_FILE_DIRECTORY 0040000
#define DC_FILE_BLOCK 0060000
#define DC_OPEN_APPEND 02000 /* O_APPEND, the same on all architectures served here */

/* include/uapi/linux/magic.h */
#define DC_MAGIC_PIPE 0x50495045
#define DC_MAGIC_SOCKET 0x534F434B
#define DC_MAGIC_ANONYMOUS 0x09041934

/*
 * Reading through bpf_rdonly_cast() is a plain load; a BPF_CORE_READ is a call per pointer. Came
 * with Linux 6.2 (a35b9af4ec2c, "bpf: Add a kfunc for generic type cast").
 */
extern void *bpf_rdonly_cast(const void *object, __u32 btf_id) __ksym __weak;

#define READ(pointer, type, member)                                                                \
	({                                                                                         \
		/* apart, or our own structures in "pointer" would be relocated as well */         \
		const void *__object = (const void *)(pointer);                                    \
		bpf_rdonly_cast ? ((struct type *)bpf_rdonly_cast(                                 \
					   __object, bpf_core_type_id_kernel(struct type)))        \
					  ->member                                                 \
				: BPF_CORE_READ((struct type *)__object, member);                  \
	})

/*
 * What is looked up: addresses in the kernel. Handed over in memory, because a number that the
 * verifier knows as a pointer is no number to a global function.
 */
struct dc_name {
	__u64 dentry;
	__u64 vfsmount;
	__u64 inode;
};

/* The steps of a walk from a dentry to the root. */
struct dc_walk {
	__u64 dentry;
	__u64 mount; /* struct mount */
	__u64 root_dentry;
	__u64 root_mount;
	__u64 hash;
	__u32 length; /* bytes of names so far, with the NULs */
	__u32 buffer; /* which scratch buffer to copy names to */
	__u32 copy;
	__u32 cut;
};

static __always_inline __u64 mix(__u64 hash, __u64 value)
{
	hash = (hash ^ value) * 0x9E3779B97F4A7C15ULL;
	return hash ^ (hash >> 29);
}

static __always_inline __u64 mount_of(__u64 vfsmount)
{
	return vfsmount - bpf_core_field_offset(struct mount, mnt);
}

static __always_inline struct dc_scratch *scratch_buffer(__u32 buffer)
{
	return bpf_map_lookup_elem(&scratch, &buffer);
}

/*
 * Take a scratch buffer of this CPU and return its number, or -1. Others may hold some: programs
 * are preempted, though not migrated. Global, as are the other parts of what is sent: the verifier
 * looks at each once, and not at their combinations.
 */
__noinline int dc_take_scratch(void)
{
	for (__u32 buffer = 0; buffer < DC_SCRATCH_BUFFERS; buffer++) {
		struct dc_scratch *taken = scratch_buffer(buffer);

		if (taken && __sync_val_compare_and_swap(&taken->busy, 0, 1) == 0)
			return buffer;
	}
	count_loss(DC_LOSS_SCRATCH_BUSY);
	return -1;
}

static __always_inline void release_scratch(struct dc_scratch *taken)
{
	__sync_val_compare_and_swap(&taken->busy, 1, 0);
}

/* One step: returns 1 at the root. */
__noinline int dc_walk_step(struct dc_walk *walk)
{
	__u64 dentry, mount, parent;

	if (!walk)
		return 1;
	dentry = walk->dentry;
	mount = walk->mount;
	if (dentry == walk->root_dentry && mount == walk->root_mount)
		return 1;
	if (dentry == (__u64)READ(mount, mount, mnt.mnt_root)) {
		__u64 above = (__u64)READ(mount, mount, mnt_parent);

		if (!above || above == mount)
			return 1;
		walk->dentry = (__u64)READ(mount, mount, mnt_mountpoint);
		walk->mount = above;
		return 0;
	}
	parent = (__u64)READ(dentry, dentry, d_parent);
	if (!parent || parent == dentry)
		return 1;
	if (walk->copy) {
		struct dc_scratch *to = scratch_buffer(walk->buffer);
		__u32 at = walk->length;
		long length;

		if (!to || at >= DC_MAX_STRING_BYTES) {
			walk->cut = 1;
			return 1;
		}
		length = bpf_probe_read_kernel_str(&to->text[at], DC_MAX_NAME_BYTES,
						   (const void *)READ(dentry, dentry, d_name.name));
		if (length <= 0) {
			walk->cut = 1;
			return 1;
		}
		walk->length = at + length;
	}
	walk->hash = mix(walk->hash, READ(dentry, dentry, d_name.hash_len));
	walk->dentry = parent;
	return 0;
}

/* A step is a global function for the verifier's sake: it forgets what it knew of the last one. */
static long walk_step(__u64 index, struct dc_walk *walk)
{
	return dc_walk_step(walk) != 0;
}

static __always_inline void begin_walk(struct dc_walk *walk, __u64 dentry, __u64 mount)
{
	__u64 fs = (__u64)READ(bpf_get_current_task_btf(), task_struct, fs);

	walk->dentry = dentry;
	walk->mount = mount;
	walk->root_dentry = fs ? (__u64)READ(fs, fs_struct, root.dentry) : 0;
	walk->root_mount = fs ? mount_of((__u64)READ(fs, fs_struct, root.mnt)) : 0;
	walk->hash = 0x6461746163727562ULL;
	walk->length = 0;
	walk->copy = 0;
	walk->cut = 0;
}

/* Send what a scratch buffer holds; once only, if it has an id. */
__noinline int dc_send_string(__u32 buffer, __u32 length)
{
	struct dc_scratch *from = scratch_buffer(buffer);
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u8 seen = 1;

	if (!from)
		return -1;
	from->string.time_ns = bpf_ktime_get_ns();
	from->string.process = pid_tgid >> 32;
	from->string.thread = (__u32)pid_tgid;
	from->string.uid = (__u32)bpf_get_current_uid_gid();
	if (length > DC_MAX_STRING_BYTES)
		length = DC_MAX_STRING_BYTES;
	from->string.length = length;
	from->string.reserved = 0;
	if (bpf_ringbuf_output(&strings, &from->string, sizeof(from->string) + length,
			       BPF_RB_NO_WAKEUP)) {
		count_loss(DC_LOSS_STRINGS_FULL);
		return -1;
	}
	/* after it was sent: who finds it here may use the id at once */
	bpf_map_update_elem(&seen_strings, &from->string.id, &seen, BPF_ANY);
	return 0;
}

/* Tell user space the name behind walk->hash. The walk, which found the root, is used again. */
static __always_inline void send_file(struct dc_walk *walk, __u64 dentry, __u64 mount, __u64 inode)
{
	__u64 super_block, magic;
	struct dc_scratch *to;
	int buffer;
	__u32 mode;

	buffer = dc_take_scratch();
	if (buffer < 0)
		return;
	to = scratch_buffer(buffer);
	if (!to)
		return;
	super_block = (__u64)READ(inode, inode, i_sb);
	magic = READ(super_block, super_block, s_magic);
	mode = READ(inode, inode, i_mode);
	to->string.id = walk->hash;
	to->string.directory = 0;
	to->string.number = READ(inode, inode, i_ino);
	to->string.flags = 0;
	walk->dentry = dentry;
	walk->mount = mount;
	walk->length = 0;
	walk->buffer = buffer;
	walk->copy = 1;
	if (magic == DC_MAGIC_PIPE) {
		to->string.kind = DC_STRING_PIPE;
	} else if (magic == DC_MAGIC_SOCKET) {
		to->string.kind = DC_STRING_SOCKET;
	} else if (!mount || magic == DC_MAGIC_ANONYMOUS ||
		   (dentry == (__u64)READ(dentry, dentry, d_parent) &&
		    dentry != (__u64)READ(mount, mount, mnt.mnt_root))) {
		long length =
			bpf_probe_read_kernel_str(to->text, DC_MAX_NAME_BYTES,
						  (const void *)READ(dentry, dentry, d_name.name));

		to->string.kind = DC_STRING_ANONYMOUS;
		walk->length = length > 0 ? length : 0;
	} else {
		to->string.kind = DC_STRING_FILE;
		if ((mode & DC_FILE_TYPE_MASK) == DC_FILE_DIRECTORY)
			to->string.flags |= DC_STRING_DIRECTORY;
		bpf_loop(DC_MAX_PATH_DEPTH, walk_step, walk, 0);
		if (walk->cut)
			to->string.flags |= DC_STRING_CUT;
	}
	dc_send_string(buffer, walk->length);
	release_scratch(to);
}

/* The id of what a dentry is called now, or 0. Global: verified once, for all callers. */
__noinline __u64 dc_file_id(struct dc_name *name_of)
{
	__u64 dentry, mount, inode, id;
	struct dc_walk walk;

	if (!name_of || !name_of->dentry || !name_of->vfsmount || !name_of->inode)
		return 0;
	dentry = name_of->dentry;
	mount = mount_of(name_of->vfsmount);
	inode = name_of->inode;
	begin_walk(&walk, dentry, mount);
	walk.buffer = 0;
	bpf_loop(DC_MAX_PATH_DEPTH, walk_step, &walk, 0);
	if (walk.dentry == dentry) {
		/* no name in a directory: a pipe, a socket, an anonymous file, or the root itself
		 */
		__u64 name[2] = {};

		bpf_probe_read_kernel_str(name, sizeof(name),
					  (const void *)READ(dentry, dentry, d_name.name));
		walk.hash = mix(mix(walk.hash, READ(inode, inode, i_ino)), dentry);
		walk.hash = mix(mix(walk.hash, name[0]), name[1]);
	}
	id = walk.hash | 1; /* never 0 */
	walk.hash = id;
	if (!bpf_map_lookup_elem(&seen_strings, &id))
		send_file(&walk, dentry, mount, inode);
	return id;
}

/* The same through a thread's memory of what it looked up last. */
static __always_inline __u64 cached_file_id(struct dc_cached_file *cached, struct dc_name *name_of)
{
	__u64 generation = dc_control.rename_generation;
	__u64 name_hash = READ(name_of->dentry, dentry, d_name.hash_len);
	__u64 number = READ(name_of->inode, inode, i_ino) ^
		       (__u64)READ(name_of->inode, inode, i_generation) << 32;

	if (cached->dentry == name_of->dentry && cached->vfsmount == name_of->vfsmount &&
	    cached->inode == name_of->inode && cached->name_hash == name_hash &&
	    cached->number == number && cached->rename_generation == generation)
		return cached->id;
	cached->id = dc_file_id(name_of);
	cached->dentry = name_of->dentry;
	cached->vfsmount = name_of->vfsmount;
	cached->inode = name_of->inode;
	cached->number = number;
	cached->name_hash = name_hash;
	cached->rename_generation = generation;
	return cached->id;
}

/* Where a thread remembers the file of a descriptor. */
static __always_inline struct dc_cached_file *remembered_file(struct dc_thread *thread,
							      __u32 descriptor)
{
	return &thread->files[descriptor & (DC_CACHED_FILES - 1)];
}

static __always_inline void name_of_file(struct dc_name *name_of, __u64 file)
{
	name_of->dentry = (__u64)READ(file, file, f_path.dentry);
	name_of->vfsmount = (__u64)READ(file, file, f_path.mnt);
	name_of->inode = (__u64)READ(file, file, f_inode);
}

/* The address of the file that a descriptor of the current thread stands for, or 0. */
static __always_inline __u64 file_of_descriptor(__u32 descriptor)
{
	__u64 files = (__u64)READ(bpf_get_current_task_btf(), task_struct, files);
	__u64 table, slot;

	if (!files)
		return 0;
	table = (__u64)READ(files, files_struct, fdt);
	if (!table || descriptor >= READ(table, fdtable, max_fds))
		return 0;
	/* a pointer at offset 0 is what both have: the table's slot and struct path */
	slot = (__u64)READ(table, fdtable, fd) + descriptor * sizeof(void *);
	return (__u64)READ(slot, path, mnt);
}

#endif /* DATACRUMBS_FILES_BPF_H */
