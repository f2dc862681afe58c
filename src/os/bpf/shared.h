/* What the programs and user space tell each other. Mirrored in src/os/bpf/shared.rs; a unit test compares the sizes. */
#pragma once

#define LONG_WAIT_NS 20000000ull /* the end of a wait of so long is told whether or not its start was */
#define MAX_FRAMES 512 /* Python frames and entry marks of one sample; a power of two */
#define ENTRY_MARK 0xffffffffu

/* How user space wants the programs to behave; set once at load. */
struct config {
	__u32 own_pid_ns;     /* inode of perfkit's PID namespace, 0 when it is the initial one */
	__u32 follow_forks;   /* children of a target become targets */
	__u32 clock_tick_ns;  /* length of the tick in which process start times are given */
	__u32 off_cpu;        /* switches are reported too */
	__u32 switch_budget;  /* stacks of switches to take, a CPU and 100 ms */
	__u32 reserved;
};

/* Where things lie in the target's CPython; offsets in bytes. runtime 0: the target has none (yet). */
struct python {
	__u64 runtime;         /* &_PyRuntime */
	__u64 code_type;       /* &PyCode_Type, 0: not known, the type is not checked */
	__u32 frame_source;    /* 0 tstate->frame, 1 tstate->cframe->current_frame, 2 tstate->current_frame */
	__u32 entry_rule;      /* 0 none, 1 each frame has a CFrame, 2 is_entry byte and CFrame, 3 owner == 3 */
	__u32 interpreters_head, interp_next, threads_head;
	__u32 ts_next, ts_interp, ts_thread_id, ts_frame, ts_cframe, cframe_current_frame, cframe_previous;
	__u32 frame_size, frame_previous, frame_code, frame_instr, frame_owner, frame_is_entry;
	__u32 code_size, code_firstlineno, code_name, code_linetable;
	__u32 gil_rule;        /* 0 not known, 1 runtime word holds the holder's tstate, 2 the interpreter's own GIL, 3 through its ceval.gil pointer */
	__u32 gil_holder, gil_locked, gil_pointer;
};

/* A process to sample; the key is its pid as perfkit sees it. */
struct target {
	__u64 start_tick; /* start time in clock ticks: a reused pid has another one */
	__u32 id;         /* user space's number for it; 0 for a child that user space has not met */
	__u32 reserved;
	struct python python;
};

/* Python state of a thread as last found. */
struct thread_state {
	__u64 tstate;     /* 0: the thread had none at `checked_ns` */
	__u64 thread_id;
	__u64 checked_ns;
};

/* A Python frame, or with at == ENTRY_MARK the C-stack address of the eval call that runs the frames before it. */
struct py_frame {
	__u64 code;  /* address of the code object, or of the entry's C structure */
	__u32 at;    /* >= 3.11: instruction pointer minus code address; before: f_lasti as stored */
	__u32 check; /* fingerprint of the code object's contents, 0 when they could not be read */
};

enum sample_kind {
	SAMPLE_CPU = 0,
	SAMPLE_SWITCH_OUT = 1,
	SAMPLE_SWITCH_IN = 2,
};

enum sample_flag {
	HAS_TSTATE = 1,    /* the thread has a Python state */
	HOLDS_GIL = 2,
	PY_LOST = 4,       /* a frame could not be read; those before it stand */
	PY_TRUNCATED = 8,  /* more than MAX_FRAMES */
	IO_WAIT = 16,      /* switched out waiting for a block device */
};

struct sample {
	__u64 weight_ns; /* cpu: time since this CPU's last tick; switch in: time spent off the CPU */
	__u64 runnable_ns; /* switch in: the part of it after the wake-up */
	__u64 sequence;  /* switch out and in: number of the interval */
	__u32 kind;      /* enum sample_kind */
	__u32 flags;     /* enum sample_flag */
	__u32 target;    /* target.id */
	__u32 state;     /* switch out: task state */
	__u32 share;     /* switch out: this stack stands for so many switches, in 1/256, unless the wait gets long */
	__u32 frames_len;
	__u64 argument;  /* switch out: first argument of the system call it waits in */
	__u64 gil_holder; /* switch out: the thread state that holds the GIL, 0: nobody or not known */
	__u32 system_call; /* switch out: its number, ~0 outside of a system call */
	__u32 reserved;
	struct py_frame frames[MAX_FRAMES];
};

/* How many stacks of switches are taken in 100 ms: by a thread, and by a CPU. */
struct thinning {
	__u64 window_ns;     /* start of the present 100 ms */
	__u32 switches;      /* seen in them */
	__u32 stacks;        /* taken since the share was last set */
	__u32 share;         /* each stack stands for so many switches, in 1/256; 0 at first */
	__u32 reserved;
};

/* Exact times of a thread, kept while switches are watched. */
struct thread_times {
	__u64 since_ns;     /* start of the present interval */
	__u64 woken_ns;     /* off the CPU: when it was woken, 0 before */
	__u64 sequence;     /* number of the present off-CPU interval */
	__u64 on_ns, off_ns, runnable_ns;
	__u32 off;          /* it is off the CPU */
	__u32 state;        /* with which task state it left it, 0: preempted */
	__u32 told;         /* user space was told of the start of this interval */
	__u32 target;       /* target.id */
	struct thinning thinning;
};

/* What a CPU counts. */
struct counters {
	__u64 ticks;         /* timer ticks, whoever ran */
	__u64 last_tick_ns;
	__u64 target_ticks;  /* ticks that hit a target */
	__u64 lost;          /* samples that the ring had no room for */
	__u64 run_ns;        /* time spent in the cpu program for targets */
	__u64 switches_all;  /* all switches of targets */
	__u64 switch_lost;   /* switch records that the ring had no room for */
	__u64 switch_run_ns; /* time spent in the switch program for targets */
	__u64 thinned;       /* switches whose stack was not taken */
	struct thinning thinning; /* of the switches that their threads' own thinning let through */
	__u32 threads;       /* threads that switched in the present window */
	__u32 quota;         /* stacks that each may take in it */
};
