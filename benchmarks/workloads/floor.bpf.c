// SPDX-License-Identifier: MIT
/* Programs that do nothing: the least that the kernel charges for being asked. */
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

SEC("tp_btf/sys_enter")
int floor_sys_enter(void *ctx)
{
	return 0;
}

SEC("tp_btf/sys_exit")
int floor_sys_exit(void *ctx)
{
	return 0;
}

SEC("uprobe")
int floor_uprobe_session(void *ctx)
{
	return 0;
}

SEC("uprobe")
int floor_uprobe_entry(void *ctx)
{
	return 0;
}
