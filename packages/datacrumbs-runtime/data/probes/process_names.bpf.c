// SPDX-License-Identifier: MIT
/*
 * An example of a custom probe: the names that recorded threads give themselves.
 *
 * struct datacrumbs_event and datacrumbs_is_recorded() come from DataCrumbs. What follows the head
 * in an event is declared in process_names.yaml, in the same order and without gaps. Never hand
 * over addresses of the kernel: traces are for users.
 */
struct renamed {
	struct datacrumbs_event head;
	char name[16];
	u64 cgroup;
};

BPF_PERF_OUTPUT(events);

int on_rename(struct bpf_raw_tracepoint_args *ctx)
{
	struct renamed event = {};
	u64 id = bpf_get_current_pid_tgid();

	if (!datacrumbs_is_recorded())
		return 0;
	event.head.start_ns = bpf_ktime_get_ns();
	event.head.process = id >> 32;
	event.head.thread = id;
	event.head.function = 0;
	event.cgroup = bpf_get_current_cgroup_id();
	bpf_probe_read_kernel_str(&event.name, sizeof(event.name), (void *)ctx->args[1]);
	events.perf_submit(ctx, &event, sizeof(event));
	return 0;
}
