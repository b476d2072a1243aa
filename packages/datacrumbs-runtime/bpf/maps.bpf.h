/* SPDX-License-Identifier: MIT */
/* maps.bpf.h: settings, maps, and the counters of losses. */
#ifndef DATACRUMBS_MAPS_BPF_H
#define DATACRUMBS_MAPS_BPF_H

#include "kernel_types.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include "event.h"

#define DC_FRAMES 24	     /* nested calls of one thread whose arguments are kept */
#define DC_CACHED_FILES 4    /* descriptors of one thread whose file is remembered */
#define DC_SCRATCH_BUFFERS 4 /* strings under construction on one CPU */
#define DC_ANY_UID 0xffffffff
#define DC_SYSCALL_RENAMES 0x8000 /* in dc_syscall_functions[]: changes names of files */

/* Settings of a run, written before the programs are loaded. */
const volatile __u16 dc_syscall_functions[DC_MAX_SYSTEM_CALLS] = {};
const volatile __u16 dc_aio_functions[DC_AIO_OPCODES] = {}; /* function + 1; 0: not recorded */
const volatile __u32 dc_never = 0;
const volatile __u32 dc_owner_uid = DC_ANY_UID;
const volatile __u64 dc_owner_cgroup = 0;
const volatile __u32 dc_all_processes = 0;     /* of the owner: whoever execs is recorded */
const volatile __u32 dc_publish_processes = 0; /* keep "recorded_processes" for custom probes */
const volatile __u32 dc_owner_hierarchy = 0;   /* of dc_owner_cgroup; 0: the unified one (v2) */
const volatile __u32 dc_string_bytes = 64;
const volatile __u32 dc_include_kernel_threads = 0;
const volatile __u32 dc_single_tracepoint = DC_NO_FUNCTION;
const volatile __u32 dc_single_function = DC_NO_FUNCTION;
const volatile __u32 dc_keep_files = 0; /* tracepoints ask for the files of system calls */
const volatile __u64 dc_base_ns = 0;	/* start of the run: session cookies count from here */

/* What the sums of a function begin with. Not on the stack, which is short. */
const volatile struct dc_profile dc_no_calls = { .min_ns = ~0ULL };

struct dc_control dc_control = {};
__u32 dc_lost_children = 0; /* there may be one: see dc_adopt_lost_child() */

/* Whether those who read the trace may know what the kernel's memory holds. */
static __always_inline int is_roots_run(void)
{
	return !dc_owner_uid || dc_owner_uid == DC_ANY_UID;
}

/* What was known when a call began, and the values that will be written. */
struct dc_pending {
	__u64 start_ns;
	__u64 arguments[DC_MAX_ARGUMENTS];
	__u64 values[DC_MAX_VALUES];
	__u64 appending; /* address of a file opened with O_APPEND, or 0 */
	__u64 inode;	 /* address of the inode of the last file that was looked up */
	__u64 file;	 /* its id */
	__u64 stack_pointer;
	__u32 function;
	__u32 present; /* bit i: values[i] is set */
};

/* A name that was looked up, and what must be unchanged for it to hold. */
struct dc_cached_file {
	__u64 dentry;
	__u64 vfsmount;
	__u64 name_hash;
	__u64 inode;
	__u64 number; /* of the inode: another file may get the memory of one that is gone */
	__u64 rename_generation;
	__u64 id;
};

struct dc_thread {
	__u32 recorded;	   /* user space sets this to 1 to register a process */
	__u32 system_call; /* dc_syscall_functions[] of the call that the thread is in, or 0 */
	__u64 registration_generation;
	__u32 lost_child; /* of a process: a child for whose mark there was no memory, or 0 */
	__u32 reserved;
	struct dc_pending pending;
	struct dc_cached_file files[DC_CACHED_FILES];
	struct dc_cached_file working_directory;
};

struct dc_frames {
	__u32 depth;
	__u32 reserved;
	struct dc_pending frames[DC_FRAMES];
};

#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wgnu-variable-sized-type-not-at-end"
struct dc_scratch {
	__u64 busy;
	struct dc_string string;
	/* one path component more than fits, so that a bounded copy never runs over the end */
	char text[DC_MAX_STRING_BYTES + 256];
};
#pragma clang diagnostic pop

struct dc_span_key {
	__u64 key;
	__u64 function;
};

struct dc_span {
	struct dc_pending pending;
	__u32 process;
	__u32 thread;
};

/* A span under construction: too large for the stack of kernels that give programs one. */
struct dc_new_span {
	__u64 busy;
	struct dc_span span;
};

struct dc_owner {
	__u32 process;
	__u32 thread;
	__u64 file;
};

struct dc_event_ring {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct dc_event_ring);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} strings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct dc_losses);
} losses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct dc_function);
} functions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct dc_tracepoint);
} tracepoints SEC(".maps");

/* Function by place, where many places share one attachment: see places.bpf.h. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, __u32);
} places SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct dc_thread);
} threads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct dc_frames);
} frames SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, __u8);
} seen_strings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct dc_span_key);
	__type(value, struct dc_span);
} spans SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DC_SCRATCH_BUFFERS);
	__type(key, __u32);
	__type(value, struct dc_new_span);
} new_spans SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct dc_owner);
} owners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct dc_profile_key);
	__type(value, struct dc_profile);
} profile SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DC_SCRATCH_BUFFERS);
	__type(key, __u32);
	__type(value, struct dc_scratch);
} scratch SEC(".maps");

/* Recorded processes by tgid, for custom probes: other programs, which cannot ask "threads". */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u8);
} recorded_processes SEC(".maps");

/* These programs can be preempted, and the next one on this CPU counts too: hence atomic. */
static __always_inline void count_loss(enum dc_loss loss)
{
	__u32 zero = 0;
	struct dc_losses *counters = bpf_map_lookup_elem(&losses, &zero);

	if (counters)
		__sync_fetch_and_add(&counters->counts[loss], 1);
}

#endif /* DATACRUMBS_MAPS_BPF_H */
