/* SPDX-License-Identifier: MIT */
/*
 * kernel_types.h: the members of kernel structures that the programs read.
 *
 * Only names matter: libbpf relocates every access to where the running kernel has the member
 * (CO-RE). A member that some kernels lack is asked for with bpf_core_field_exists().
 */
#ifndef DATACRUMBS_KERNEL_TYPES_H
#define DATACRUMBS_KERNEL_TYPES_H

#include <linux/types.h>
#include <linux/bpf.h>

/* bpf_tracing.h: take the kernel's names of the registers, not those of user space. */
#define __VMLINUX_H__

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip;
	unsigned long cs, flags, sp, ss;
};
struct thread_info {
	__u32 status;
};
#elif defined(__TARGET_ARCH_arm64)
struct user_pt_regs {
	__u64 regs[31];
	__u64 sp;
	__u64 pc;
	__u64 pstate;
};
struct pt_regs {
	struct user_pt_regs user_regs;
	__u64 regs[31];
	__u64 sp;
	__u64 orig_x0;
	int syscallno;
};
struct thread_info {
	unsigned long flags;
};
#else
#error "this architecture is not supported yet"
#endif

struct qstr {
	__u64 hash_len;
	const unsigned char *name;
};

struct super_block {
	unsigned long s_magic;
};

struct inode {
	__u16 i_mode;
	unsigned long i_ino;
	__u32 i_generation;
	struct super_block *i_sb;
};

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
};

struct vfsmount {
	struct dentry *mnt_root;
};

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct file {
	struct path f_path;
	struct inode *f_inode;
	unsigned int f_flags;
	long long f_pos;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct fs_struct {
	struct path root;
	struct path pwd;
};

struct vm_area_struct {
	struct file *vm_file;
};

typedef struct {
	int counter;
} atomic_t;

struct signal_struct {
	atomic_t live;
};

typedef struct {
	__u32 val;
} kuid_t;

typedef struct {
	__u32 val;
} kgid_t;

struct cred {
	kuid_t uid;
	kgid_t gid;
	kuid_t euid;
	kgid_t egid;
};

struct kernfs_node {
	__u64 id;
};

struct cgroup_root {
	int hierarchy_id;
};

struct cgroup {
	struct kernfs_node *kn;
	struct cgroup_root *root;
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};

struct css_set {
	struct cgroup_subsys_state *subsys[16]; /* as many as the kernel has controllers */
};

struct mm_struct {
	unsigned long flags;
};

typedef struct {
	unsigned long __mm_flags[1];
} mm_flags_t;

/* since Linux 6.18 */
struct mm_struct___bitmap {
	mm_flags_t flags;
};

struct task_struct {
	struct thread_info thread_info;
	struct mm_struct *mm;
	unsigned int flags;
	int pid;
	int tgid;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	const struct cred *cred;
	char comm[16];
	struct fs_struct *fs;
	struct files_struct *files;
	struct signal_struct *signal;
	struct css_set *cgroups;
};

struct linux_binprm {
	struct file *file;
	unsigned int secureexec : 1;
};

#pragma clang attribute pop

#endif /* DATACRUMBS_KERNEL_TYPES_H */
