/* The few kernel structures that perfkit's programs look into. Only the fields used; CO-RE fits them to the running kernel. */
#pragma once

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	unsigned int inum;
};

struct pid_namespace {
	struct ns_common ns;
};

struct upid {
	int nr;
	struct pid_namespace *ns;
};

struct pid {
	unsigned int level;
	struct upid numbers[1];
};

struct thread_struct {
	unsigned long fsbase;
};

struct task_struct {
	int pid;
	int tgid;
	unsigned int flags;
	unsigned int __state;
	__u64 start_boottime;
	struct task_struct *group_leader;
	struct pid *thread_pid;
	struct thread_struct thread;
	unsigned char in_iowait : 1;
};

/* The user registers of a thread in the kernel; the suffix is libbpf's way to say "any definition of pt_regs". */
struct pt_regs___user {
	unsigned long orig_ax;
	unsigned long di;
};

#pragma clang attribute pop
