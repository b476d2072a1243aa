// SPDX-License-Identifier: MIT
/*
 * datacrumbs.bpf.c: the programs. All are generic: a function is a number, given by the attach
 * cookie or a table, and what to take from its calls stands in its row of the map "functions".
 *
 * Programs that a run does not use are not loaded. The cost of a program is paid by every caller
 * of what it is attached to: each begins with the test that lets most callers go.
 */
#include "maps.bpf.h"
#include "files.bpf.h"
#include "strings.bpf.h"
#include "processes.bpf.h"
#include "values.bpf.h"
#include "calls.bpf.h"
#include "system_calls.bpf.h"
#include "frames.bpf.h"
#include "sessions.bpf.h"
#include "functions.bpf.h"
#include "tracepoints.bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* The empty functions of libdatacrumbs_client.so: a process asks to be recorded, or not any more.
 */
SEC("uprobe")
int dc_register_start(struct pt_regs *ctx)
{
	stay_on_own_stack();
	register_current();
	return 0;
}

SEC("uprobe")
int dc_register_stop(struct pt_regs *ctx)
{
	stay_on_own_stack();
	unregister_current();
	return 0;
}

/* Children and threads of recorded processes are recorded. */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(dc_fork, struct task_struct *parent, struct task_struct *child)
{
	struct dc_thread *thread = recorded_thread();
	struct dc_thread *mark;

	if (!thread)
		return 0;
	mark = bpf_task_storage_get(&threads, child, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!mark) {
		/* a thread asks its leader */
		if (child->pid == child->tgid)
			note_lost_child(child);
		return 0;
	}
	mark->recorded = 1;
	mark->registration_generation = dc_control.registration_generation;
	if (child->pid == child->tgid) {
		publish_process(child->tgid);
		send_task(child, child->comm, DC_STRING_PROCESS_NAME, parent->tgid);
	}
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(dc_exec, struct task_struct *task, int old_pid, struct linux_binprm *binprm)
{
	struct dc_thread *thread = recorded_thread();
	struct dc_frames *calls;

	if (!thread) {
		if (dc_lost_children)
			dc_adopt_lost_child(1);
		/* one that just came to the owner, such as a login */
		if (dc_all_processes && dc_control.recording && is_owned() &&
		    !has_gained_rights(binprm))
			register_current();
		return 0;
	}
	/* a program that gave up or took on another user's rights is that user's business */
	if (!is_owned() || has_gained_rights(binprm)) {
		unregister_current();
		count_loss(DC_LOSS_REFUSED);
		return 0;
	}
	calls = bpf_task_storage_get(&frames, task, 0, 0);
	if (calls)
		calls->depth = 0;
	send_task(task, task->comm, DC_STRING_PROCESS_NAME, 0);
	return 0;
}

SEC("tp_btf/task_rename")
int BPF_PROG(dc_task_rename, struct task_struct *task, const char *name)
{
	if (!recorded_thread() || task != bpf_get_current_task_btf())
		return 0;
	/* an exec renames as well: dc_exec says so */
	if (task->pid != task->tgid)
		send_task(task, name, DC_STRING_THREAD_NAME, 0);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(dc_exit, struct task_struct *task)
{
	struct dc_thread *thread = recorded_thread();

	if (!thread)
		return 0;
	if (thread->system_call)
		count_loss(DC_LOSS_UNFINISHED);
	if (!task->signal->live.counter) {
		retract_process(task->tgid);
		send_task(task, task->comm, DC_STRING_PROCESS_EXIT, 0);
	}
	return 0;
}
