/* SPDX-License-Identifier: MIT */
/*
 * processes.bpf.h: which threads are recorded.
 *
 * The mark is in the task storage of the thread group leader; other threads copy it when they are
 * first seen. The kernel frees it with the task: there is no table of processes that could fill up
 * with dead ones.
 */
#ifndef DATACRUMBS_PROCESSES_BPF_H
#define DATACRUMBS_PROCESSES_BPF_H

#include "files.bpf.h"

#define DC_KERNEL_THREAD 0x00200000 /* PF_KTHREAD */
#define DC_CGROUP_LEVELS 16
#define DC_CONTROLLERS 16
#define DC_COMM_BYTES 16

/*
 * Since Linux 6.13 programs may get a stack for each CPU instead of the kernel's. But a program on
 * a function of user space can be preempted by another thread that runs the same one on that CPU,
 * and both would use the same variables. A program with a tail call stays on the kernel's stack;
 * that none is made the verifier sees, and takes it out.
 */
static __always_inline void stay_on_own_stack(void)
{
	if (dc_never)
		asm volatile("call 12" /* bpf_tail_call() */ ::
				     : "r0", "r1", "r2", "r3", "r4", "r5");
}

/* Tell user space what a process or thread is called, and whose child it is. */
static __always_inline void send_task(struct task_struct *task, const char *name, __u16 kind,
				      __u32 parent)
{
	struct dc_scratch *to;
	int buffer;
	long length;

	buffer = dc_take_scratch();
	if (buffer < 0)
		return;
	to = scratch_buffer(buffer);
	if (!to)
		return;
	length = bpf_probe_read_kernel_str(to->text, DC_COMM_BYTES, name);
	to->string.id = 0;
	to->string.directory = 0;
	to->string.number = parent;
	to->string.kind = kind;
	to->string.flags = 0;
	to->string.time_ns = bpf_ktime_get_ns();
	to->string.process = task->tgid;
	to->string.thread = task->pid;
	to->string.uid = (__u32)bpf_get_current_uid_gid();
	to->string.length = length > 0 ? length & (2 * DC_COMM_BYTES - 1) : 0;
	to->string.reserved = 0;
	if (bpf_ringbuf_output(&strings, &to->string, sizeof(to->string) + 2 * DC_COMM_BYTES,
			       BPF_RB_NO_WAKEUP))
		count_loss(DC_LOSS_STRINGS_FULL);
	release_scratch(to);
}

static __always_inline void publish_process(__u32 process)
{
	__u8 recorded = 1;

	if (dc_publish_processes &&
	    bpf_map_update_elem(&recorded_processes, &process, &recorded, BPF_ANY))
		count_loss(DC_LOSS_STATE);
}

static __always_inline void retract_process(__u32 process)
{
	if (dc_publish_processes)
		bpf_map_delete_elem(&recorded_processes, &process);
}

/* The mark of the process that a process is a child of, or NULL if that is not recorded. */
static __always_inline struct dc_thread *mark_of_parent(struct task_struct *leader)
{
	struct task_struct *parent = leader->real_parent;
	struct task_struct *process = parent ? parent->group_leader : NULL;
	struct dc_thread *mark = process ? bpf_task_storage_get(&threads, process, 0, 0) : NULL;

	return mark && mark->recorded ? mark : NULL;
}

/*
 * The kernel has no memory for the mark of a child while it has preempted another program that asks
 * for some on that CPU: its parent knows it then, one at a time.
 */
static __always_inline void note_lost_child(struct task_struct *child)
{
	struct dc_thread *mark = mark_of_parent(child);

	if (!mark || mark->lost_child)
		count_loss(DC_LOSS_STATE);
	if (!mark)
		return;
	mark->lost_child = child->tgid;
	dc_lost_children = 1;
}

/*
 * Mark the current process if it is such a child: as what it was at the fork, so not after an exec,
 * which may give it other rights. Returns whether it is marked now.
 */
__noinline int dc_adopt_lost_child(__u32 has_executed)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct task_struct *leader = task->group_leader;
	struct dc_thread *mark = leader ? mark_of_parent(leader) : NULL;
	struct dc_thread *own;

	if (!mark || mark->lost_child != task->tgid)
		return 0;
	own = has_executed
		      ? NULL
		      : bpf_task_storage_get(&threads, leader, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!own) {
		count_loss(DC_LOSS_STATE);
		if (has_executed)
			mark->lost_child = 0;
		return 0;
	}
	mark->lost_child = 0;
	own->recorded = 1;
	own->registration_generation = dc_control.registration_generation;
	publish_process(task->tgid);
	send_task(leader, leader->comm, DC_STRING_PROCESS_NAME,
		  BPF_CORE_READ(leader, real_parent, tgid));
	return 1;
}

/* First sight of a thread, or registrations have changed: ask the leader. */
static __always_inline struct dc_thread *adopt_thread(struct task_struct *task,
						      struct dc_thread *thread)
{
	struct task_struct *leader = task->group_leader;
	struct dc_thread *mark;

	mark = leader ? bpf_task_storage_get(&threads, leader, 0, 0) : NULL;
	if (leader && !mark && dc_lost_children && dc_adopt_lost_child(0))
		mark = bpf_task_storage_get(&threads, leader, 0, 0);
	if (!mark || !mark->recorded) {
		if (thread)
			thread->recorded = 0;
		return NULL;
	}
	if (!thread) {
		thread = bpf_task_storage_get(&threads, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
		if (!thread) {
			count_loss(DC_LOSS_STATE);
			return NULL;
		}
	}
	thread->recorded = 1;
	thread->registration_generation = dc_control.registration_generation;
	return thread;
}

/* The state of the current thread if it is recorded, else NULL. */
static __always_inline struct dc_thread *recorded_thread(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct dc_thread *thread;

	if (!dc_control.recording)
		return NULL;
	thread = bpf_task_storage_get(&threads, task, 0, 0);
	if (thread && thread->registration_generation == dc_control.registration_generation)
		return thread->recorded ? thread : NULL;
	return adopt_thread(task, thread);
}

/* The controller state of a task in a hierarchy of the old kind (v1). */
static __always_inline struct cgroup_subsys_state *state_in(struct css_set *set, int hierarchy)
{
	struct cgroup_subsys_state *state;

	for (int i = 0; i < DC_CONTROLLERS; i++) {
		if (i * sizeof(state) >= bpf_core_field_size(set->subsys))
			break;
		bpf_probe_read_kernel(&state, sizeof(state), &set->subsys[i]);
		if (BPF_CORE_READ(state, cgroup, root, hierarchy_id) == hierarchy)
			return state;
	}
	return NULL;
}

static __noinline int dc_is_in_old_cgroup(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct cgroup_subsys_state *state;

	state = state_in(BPF_CORE_READ(task, cgroups), dc_owner_hierarchy);
	for (int level = 0; level < DC_CGROUP_LEVELS && state; level++) {
		if (BPF_CORE_READ(state, cgroup, kn, id) == dc_owner_cgroup)
			return 1;
		state = BPF_CORE_READ(state, parent);
	}
	return 0;
}

static __always_inline int is_in_owner_cgroup(void)
{
	if (!dc_owner_cgroup)
		return 1;
	if (dc_owner_hierarchy)
		return dc_is_in_old_cgroup();
	for (int level = 0; level < DC_CGROUP_LEVELS; level++) {
		__u64 id = bpf_get_current_ancestor_cgroup_id(level);

		if (id == dc_owner_cgroup)
			return 1;
		if (!id)
			break;
	}
	return 0;
}

#define DC_DUMPABLE_MASK 3 /* MMF_DUMPABLE_MASK, include/linux/mm_types.h */
#define DC_DUMPABLE 1	   /* SUID_DUMP_USER */

/*
 * Whether its user may look into a process, as ptrace(2) sees it: not if it has, or had, more
 * rights than he (setuid, setgid, capabilities of a file), or runs a program that he cannot read.
 */
static __always_inline int is_open_to_its_user(struct task_struct *task)
{
	struct mm_struct *mm = BPF_CORE_READ(task, mm);
	unsigned long flags = 0;

	if (bpf_core_field_exists(mm->flags))
		flags = BPF_CORE_READ(mm, flags);
	else
		bpf_core_read(&flags, sizeof(flags), &((struct mm_struct___bitmap *)mm)->flags);
	return BPF_CORE_READ(task, cred, gid.val) == BPF_CORE_READ(task, cred, egid.val) &&
	       (flags & DC_DUMPABLE_MASK) == DC_DUMPABLE;
}

/*
 * Whether the current process may be recorded by this run. What a program does with rights that its
 * user does not have is not for his eyes.
 */
static __always_inline int is_owned(void)
{
	__u32 uid = (__u32)bpf_get_current_uid_gid();
	struct task_struct *task = bpf_get_current_task_btf();

	if (dc_owner_uid != DC_ANY_UID &&
	    (uid != dc_owner_uid || BPF_CORE_READ(task, cred, euid.val) != uid))
		return 0;
	return (is_roots_run() || is_open_to_its_user(task)) && is_in_owner_cgroup();
}

/* Whether an exec gave the current process more rights, even if all may look into such ones. */
static __always_inline int has_gained_rights(struct linux_binprm *binprm)
{
	return !is_roots_run() && BPF_CORE_READ_BITFIELD_PROBED(binprm, secureexec);
}

static __always_inline void register_current(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct task_struct *leader = task->group_leader;
	struct dc_thread *mark;

	if (!is_owned()) {
		count_loss(DC_LOSS_REFUSED);
		return;
	}
	mark = bpf_task_storage_get(&threads, leader, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!mark) {
		count_loss(DC_LOSS_STATE);
		return;
	}
	if (mark->recorded)
		return;
	mark->recorded = 1;
	publish_process(task->tgid);
	/* threads that were seen before must look again */
	__sync_fetch_and_add(&dc_control.registration_generation, 1);
	send_task(task, task->comm, DC_STRING_PROCESS_NAME, 0);
}

static __always_inline void unregister_current(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct task_struct *leader = task->group_leader;
	struct dc_thread *mark;

	mark = bpf_task_storage_get(&threads, leader, 0, 0);
	if (!mark || !mark->recorded)
		return;
	mark->recorded = 0;
	retract_process(task->tgid);
	__sync_fetch_and_add(&dc_control.registration_generation, 1);
}

#endif /* DATACRUMBS_PROCESSES_BPF_H */
