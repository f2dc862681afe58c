/*
 * perfkit's eBPF programs: a sample at each timer tick that hits a target, and the exact times of its threads at each
 * context switch. They read the target's memory and write nothing but their own maps.
 *
 * Built by scripts/bpf; the object is checked in beside this file.
 */
#include <linux/bpf.h>
#include <linux/bpf_perf_event.h>
#include <linux/types.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "kernel.h"
#include "shared.h"
#include "walk.h"

#define MAX_TARGETS 4096
#define MAX_THREADS 65536
#define WINDOW_NS 100000000ull
#define QUIET_WINDOWS 3 /* up to so many budgets a window every switch has its stack: exact while that is cheap */

const volatile struct config config = {};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_TARGETS);
	__type(key, __u32);
	__type(value, struct target);
} targets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_THREADS);
	__type(key, __u64);
	__type(value, struct thread_state);
} thread_states SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_THREADS);
	__type(key, __u32);
	__type(value, struct thread_times);
} thread_times SEC(".maps");

/* The rings: user space puts one perf event a CPU in each. `stacks` records registers and a copy of the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} stacks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} plain SEC(".maps");

/* [0] for the timer, [1] for switches: a tick may come between them. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

struct pid_search {
	void *numbers;
	__u32 nr;
};

/* The thread's or process's pid as perfkit sees it, 0 when it is not visible there. */
static __always_inline __u32 visible_pid(struct task_struct *task)
{
	struct pid *pid;
	__u32 level, i;

	if (!config.own_pid_ns)
		return task->pid;
	pid = task->thread_pid;
	level = BPF_CORE_READ(pid, level);
	for (i = 0; i < 8; i++) {
		struct upid *at = (void *)pid + bpf_core_field_offset(struct pid, numbers) + i * bpf_core_type_size(struct upid);

		if (i > level)
			break;
		if (BPF_CORE_READ(at, ns, ns.inum) == config.own_pid_ns)
			return BPF_CORE_READ(at, nr);
	}
	return 0;
}

static __always_inline struct target *target_of(struct task_struct *task)
{
	struct task_struct *leader;
	struct target *target;
	__u32 pid;

	if (!config.own_pid_ns) {
		pid = task->tgid;
		target = bpf_map_lookup_elem(&targets, &pid);
		if (!target)
			return 0;
		leader = task->group_leader;
	} else {
		leader = task->group_leader;
		pid = visible_pid(leader);
		target = bpf_map_lookup_elem(&targets, &pid);
		if (!target)
			return 0;
	}
	/* A pid is only half of an identity. */
	if (leader->start_boottime / config.clock_tick_ns != target->start_tick)
		return 0;
	return target;
}

/* Walks the Python frames of the current thread into s->sample. */
static __always_inline void python_frames(struct scratch *s, struct task_struct *task, struct target *target, __u64 now)
{
	__u64 key = (__u64)target->id << 32 | (__u32)task->pid;
	__u64 thread_id = task->thread.fsbase;
	struct thread_state *known = bpf_map_lookup_elem(&thread_states, &key);
	struct thread_state fresh = {};

	if (!known || (!known->tstate && now - known->checked_ns > NEGATIVE_TTL_NS) ||
	    (known->tstate && (known->thread_id != thread_id ||
			       user_word(known->tstate + target->python.ts_thread_id) != thread_id))) {
		fresh.thread_id = thread_id;
		fresh.checked_ns = now;
		fresh.tstate = find_tstate(&target->python, thread_id);
		bpf_map_update_elem(&thread_states, &key, &fresh, BPF_ANY);
		known = bpf_map_lookup_elem(&thread_states, &key);
	}
	if (known && known->tstate)
		walk_python(s, &target->python, known);
}

static __always_inline struct scratch *prepare(__u32 which, struct target *target)
{
	struct scratch *s = bpf_map_lookup_elem(&scratches, &which);

	if (!s)
		return 0;
	s->sample.weight_ns = 0;
	s->sample.runnable_ns = 0;
	s->sample.sequence = 0;
	s->sample.kind = SAMPLE_CPU;
	s->sample.flags = 0;
	s->sample.target = target->id;
	s->sample.state = 0;
	s->sample.share = 256;
	s->sample.frames_len = 0;
	s->sample.argument = 0;
	s->sample.gil_holder = 0;
	s->sample.system_call = 0;
	return s;
}

static __always_inline __u64 sample_size(struct scratch *s)
{
	__u64 n = s->sample.frames_len;

	if (n > MAX_FRAMES)
		n = MAX_FRAMES;
	return __builtin_offsetof(struct sample, frames) + n * sizeof(struct py_frame);
}

SEC("perf_event")
int on_tick(struct bpf_perf_event_data *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();
	__u32 zero = 0;
	struct counters *c = bpf_map_lookup_elem(&counters, &zero);
	__u64 now = bpf_ktime_get_ns(), elapsed;
	struct target *target;
	struct scratch *s;

	if (!c)
		return 0;
	elapsed = c->last_tick_ns ? now - c->last_tick_ns : ctx->sample_period;
	/* A tick that is very late (the VM was not run, the CPU was offline) does not stand for all that time. */
	if (elapsed > 3 * ctx->sample_period)
		elapsed = ctx->sample_period;
	c->last_tick_ns = now;
	c->ticks++;
	target = target_of(task);
	if (!target)
		return 0;
	s = prepare(0, target);
	if (!s)
		return 0;
	s->sample.weight_ns = elapsed;
	if (target->python.runtime)
		python_frames(s, task, target, now);
	c->target_ticks++;
	if (bpf_perf_event_output(ctx, &stacks, BPF_F_CURRENT_CPU, &s->sample, sample_size(s)))
		c->lost++;
	c->run_ns += bpf_ktime_get_ns() - now;
	return 0;
}

/* From linux/sched.h */
#define TASK_DEAD 0x80

/*
 * Whether this switch has its stack taken; `share` is what it stands for then. The chance is known before the switch is
 * looked at, so what the stacks stand for is right on average: all up to QUIET_WINDOWS budgets a window, then as many as
 * the window before lets expect, and half as often each time that these run out.
 */
static __always_inline int take_stack(struct thinning *w, __u32 budget)
{
	if (w->stacks >= QUIET_WINDOWS * budget) {
		w->share = (w->share < 256 ? 256 : w->share) * 2;
		w->stacks = QUIET_WINDOWS * budget - (budget + 3) / 4;
	}
	if (w->share > 256 && (__u64)bpf_get_prandom_u32() * w->share >> 32 >= 256)
		return 0;
	w->stacks++;
	return 1;
}

/* Begins a new window when the old one is over; says whether it did. */
static __always_inline int turn_window(struct thinning *w, __u32 budget, __u64 now)
{
	__u64 age = now - w->window_ns;

	if (age <= WINDOW_NS)
		return 0;
	w->share = age < 2 * WINDOW_NS && w->switches > QUIET_WINDOWS * budget ? (__u64)w->switches * 256 / budget : 256;
	w->switches = 0;
	w->stacks = 0;
	w->window_ns = now;
	return 1;
}

/*
 * Each thread has its part of the CPU's budget: one that switches all the time costs another that waits rarely and long
 * none of its stacks. What a crowd of threads lets through is thinned once more.
 */
static __always_inline int is_taken(struct thread_times *t, struct counters *c, __u64 now, __u32 *share)
{
	if (!config.switch_budget) {
		*share = 256;
		return 1;
	}
	if (turn_window(&c->thinning, config.switch_budget, now)) {
		c->quota = c->threads > 1 ? config.switch_budget / c->threads : config.switch_budget;
		c->threads = 0;
	}
	if (!c->quota)
		c->quota = 1;
	if (turn_window(&t->thinning, c->quota, now))
		c->threads++;
	t->thinning.switches++;
	if (!take_stack(&t->thinning, c->quota))
		return 0;
	c->thinning.switches++;
	if (!take_stack(&c->thinning, config.switch_budget))
		return 0;
	*share = (__u64)(t->thinning.share < 256 ? 256 : t->thinning.share)
		 * (c->thinning.share < 256 ? 256 : c->thinning.share) / 256;
	return 1;
}

static __always_inline void leave_cpu(void *ctx, struct task_struct *prev, struct target *target, struct counters *c, __u64 now)
{
	__u32 tid = visible_pid(prev), state = prev->__state, share = 256;
	struct thread_times *t = bpf_map_lookup_elem(&thread_times, &tid), fresh = {};
	struct pt_regs___user *regs;
	struct scratch *s;
	__u64 done;

	if (!t) {
		fresh.since_ns = now;
		bpf_map_update_elem(&thread_times, &tid, &fresh, BPF_NOEXIST);
		t = bpf_map_lookup_elem(&thread_times, &tid);
		if (!t)
			return;
	}
	if (!t->off)
		t->on_ns += now - t->since_ns;
	t->off = 1;
	t->since_ns = now;
	t->state = state;
	t->target = target->id;
	t->sequence++;
	t->told = 0;
	/* Preempted threads are runnable from the start. */
	t->woken_ns = state ? 0 : now;
	if (state & TASK_DEAD)
		return;

	c->switches_all++;
	if (!is_taken(t, c, now, &share)) {
		c->thinned++;
		return;
	}
	s = prepare(1, target);
	if (!s)
		return;
	s->sample.kind = SAMPLE_SWITCH_OUT;
	s->sample.sequence = t->sequence;
	s->sample.state = state;
	s->sample.share = share;
	if (BPF_CORE_READ_BITFIELD_PROBED(prev, in_iowait))
		s->sample.flags |= IO_WAIT;
	regs = (void *)bpf_task_pt_regs(prev);
	s->sample.system_call = BPF_CORE_READ(regs, orig_ax);
	s->sample.argument = BPF_CORE_READ(regs, di);
	if (target->python.runtime)
		python_frames(s, prev, target, now);
	if (bpf_perf_event_output(ctx, &stacks, BPF_F_CURRENT_CPU, &s->sample, sample_size(s)))
		c->switch_lost++;
	else
		t->told = 1;
	/* Our own work was done on the CPU and is no part of the wait: else intervals with a stack were longer than others. */
	done = bpf_ktime_get_ns();
	t->on_ns += done - now;
	t->since_ns = done;
	if (!state)
		t->woken_ns = done;
}

struct switch_in {
	__u64 weight_ns, runnable_ns, sequence;
	__u32 tid, told;
};

static __always_inline void enter_cpu(void *ctx, struct task_struct *next, struct target *target, struct counters *c, __u64 now)
{
	__u32 tid = visible_pid(next);
	struct thread_times *t = bpf_map_lookup_elem(&thread_times, &tid), fresh = {};
	struct switch_in in = {};

	if (!t) {
		fresh.since_ns = now;
		fresh.target = target->id;
		bpf_map_update_elem(&thread_times, &tid, &fresh, BPF_NOEXIST);
		return;
	}
	if (!t->off)
		return;
	in.weight_ns = now > t->since_ns ? now - t->since_ns : 0;
	in.runnable_ns = t->woken_ns && now > t->woken_ns ? now - t->woken_ns : 0;
	if (in.runnable_ns > in.weight_ns)
		in.runnable_ns = in.weight_ns;
	in.sequence = t->sequence;
	in.tid = tid;
	in.told = t->told;
	t->off_ns += in.weight_ns - in.runnable_ns;
	t->runnable_ns += in.runnable_ns;
	t->off = 0;
	t->since_ns = now;
	/* User space looks now and then for waits that it was not told of; it must know the ends of those that it can find. */
	if ((t->told || in.weight_ns >= LONG_WAIT_NS)
	    && bpf_perf_event_output(ctx, &plain, BPF_F_CURRENT_CPU, &in, sizeof(in)))
		c->switch_lost++;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, _Bool preempt, struct task_struct *prev, struct task_struct *next)
{
	__u32 zero = 0;
	struct counters *c = bpf_map_lookup_elem(&counters, &zero);
	__u64 now = bpf_ktime_get_ns();
	struct target *target;
	int ours = 0;

	if (!c)
		return 0;
	target = target_of(prev);
	if (target) {
		leave_cpu(ctx, prev, target, c, now);
		ours = 1;
	}
	target = target_of(next);
	if (target) {
		enter_cpu(ctx, next, target, c, now);
		ours = 1;
	}
	if (ours)
		c->switch_run_ns += bpf_ktime_get_ns() - now;
	return 0;
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(on_wakeup, struct task_struct *task)
{
	struct thread_times *t;
	__u32 tid;

	if (!target_of(task))
		return 0;
	tid = visible_pid(task);
	t = bpf_map_lookup_elem(&thread_times, &tid);
	if (t && t->off && !t->woken_ns)
		t->woken_ns = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
	struct target *from = target_of(parent), to;
	__u32 pid;

	if (!from || child->pid != child->tgid)
		return 0;
	/* A fork shares its parent's memory map, so its Python lies at the same place until it calls exec. */
	bpf_probe_read_kernel(&to, sizeof(to), from);
	to.start_tick = child->start_boottime / config.clock_tick_ns;
	to.id = 0;
	pid = visible_pid(child);
	bpf_map_update_elem(&targets, &pid, &to, BPF_ANY);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
