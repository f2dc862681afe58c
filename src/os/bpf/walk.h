/* The walk over a thread's Python frames, done on the CPU that runs it: what is read cannot change meanwhile. */
#pragma once

#define WALK_BUFFER 256
#define NEGATIVE_TTL_NS 100000000ull /* how long "this thread has no Python state" is believed */

/* Scratch of one program run; too large for the BPF stack. */
struct scratch {
	struct sample sample;
	/* A masked offset may point at the last byte; the eight after it keep the read inside. */
	__u8 frame[WALK_BUFFER + 8];
	__u8 code[WALK_BUFFER + 8];
};

static __always_inline __u64 word(const __u8 *buffer, __u32 offset)
{
	return *(const __u64 *)(buffer + (offset & (WALK_BUFFER - 1)));
}

static __always_inline __u64 user_word(__u64 address)
{
	__u64 value = 0;

	bpf_probe_read_user(&value, sizeof(value), (void *)address);
	return value;
}

struct find {
	const struct python *py;
	__u64 interp, ts, thread_id, found;
};

/* One thread state a step; at the end of an interpreter's list the next interpreter's follows. */
static long find_step(__u32 i, struct find *f)
{
	if (!f->ts) {
		f->interp = user_word(f->interp + f->py->interp_next);
		if (!f->interp)
			return 1;
		f->ts = user_word(f->interp + f->py->threads_head);
		return 0;
	}
	if (user_word(f->ts + f->py->ts_thread_id) == f->thread_id) {
		/*
		 * A thread has several states in sub-interpreters, and up to 3.11 for a moment while it starts another
		 * thread (the new state is made under its starter's id): the one with frames is the one that runs.
		 */
		__u64 frame = user_word(f->ts + f->py->ts_frame);

		if (frame && f->py->frame_source == 1)
			frame = user_word(frame + f->py->cframe_current_frame);
		if (frame || !f->found)
			f->found = f->ts;
		if (frame)
			return 1;
	}
	f->ts = user_word(f->ts + f->py->ts_next);
	return 0;
}

static __always_inline __u64 find_tstate(const struct python *py, __u64 thread_id)
{
	struct find f = { .py = py, .thread_id = thread_id };

	f.interp = user_word(py->runtime + py->interpreters_head);
	if (!f.interp)
		return 0;
	f.ts = user_word(f.interp + py->threads_head);
	bpf_loop(4096, find_step, &f, 0);
	return f.found;
}

struct walk {
	const struct python *py;
	struct scratch *s;
	__u64 frame, cframe;
	__u32 n, flags, leaf;
};

static __always_inline void emit(struct walk *w, __u64 code, __u32 at, __u32 check)
{
	__u32 i = w->n;

	/* clang checks one copy of the index and uses another; this pins it to a register. */
	asm volatile("%0 &= %1" : "+r"(i) : "i"(MAX_FRAMES - 1));
	w->s->sample.frames[i].code = code;
	w->s->sample.frames[i].at = at;
	w->s->sample.frames[i].check = check;
	w->n++;
}

/*
 * 3.11 and 3.12 publish a new CFrame before they fill it: until then its frame is whatever was on the stack, and the
 * caller's CFrame is the last good one. True when there was one to go back to.
 */
static __always_inline int retreat(struct walk *w)
{
	if (!w->leaf || w->py->frame_source != 1)
		return 0;
	w->leaf = 0;
	w->cframe = user_word(w->cframe + w->py->cframe_previous);
	w->frame = w->cframe ? user_word(w->cframe + w->py->cframe_current_frame) : 0;
	return 1;
}

static long walk_step(__u32 i, struct walk *w)
{
	const struct python *py = w->py;
	__u8 *frame = w->s->frame, *code_bytes = w->s->code;
	__u64 previous, code, instr;
	__u32 size = py->frame_size, check;

	if (!w->frame)
		return !retreat(w);
	if (w->n >= MAX_FRAMES - 2) {
		w->flags |= PY_TRUNCATED;
		return 1;
	}
	if (size > WALK_BUFFER)
		size = WALK_BUFFER;
	if (bpf_probe_read_user(frame, size, (void *)w->frame)) {
		if (retreat(w))
			return 0;
		w->flags |= PY_LOST;
		return 1;
	}
	previous = word(frame, py->frame_previous);
	code = word(frame, py->frame_code) & ~7ull; /* 3.14 tags the reference */
	if (py->entry_rule == 3 && frame[py->frame_owner & (WALK_BUFFER - 1)] >= 3) {
		/* >= 3.12: the entry frame is a local variable of the eval function, so its address marks the C frame. */
		emit(w, w->frame, ENTRY_MARK, 0);
		w->frame = previous;
		return 0;
	}
	size = py->code_size;
	if (size > WALK_BUFFER)
		size = WALK_BUFFER;
	check = 0;
	if (bpf_probe_read_user(code_bytes, size, (void *)code) == 0) {
		if (py->code_type && word(code_bytes, 8) != py->code_type) {
			if (retreat(w))
				return 0;
			w->frame = previous; /* 3.13: None and other things may stand where the code should */
			return 0;
		}
		check = (__u32)word(code_bytes, py->code_firstlineno) * 31 +
			(__u32)(word(code_bytes, py->code_name) >> 4) * 17 +
			(__u32)(word(code_bytes, py->code_linetable) >> 4);
		check |= 1;
	} else {
		if (retreat(w))
			return 0;
		w->flags |= PY_LOST;
	}
	w->leaf = 0;
	instr = word(frame, py->frame_instr);
	if (py->frame_source == 0)
		emit(w, code, (__u32)instr & 0x7fffffff, check);
	else
		emit(w, code, (__u32)(instr - code) & 0x7fffffff, check);
	if (py->entry_rule == 1 || (py->entry_rule == 2 && frame[py->frame_is_entry & (WALK_BUFFER - 1)])) {
		__u64 outer = w->cframe ? user_word(w->cframe + py->cframe_previous) : 0;

		/* The outermost CFrame of 3.10 belongs to the thread state and to no call. */
		if (py->entry_rule == 2 || outer)
			emit(w, w->cframe, ENTRY_MARK, 0);
		w->cframe = outer;
	}
	w->frame = previous;
	return 0;
}

/* The thread state that holds the GIL which `tstate` needs; 0 when nobody does or it is not known. */
static __always_inline __u64 gil_holder(const struct python *py, __u64 tstate)
{
	__u64 at;

	if (py->gil_rule == 1)
		return user_word(py->runtime + py->gil_holder);
	if (py->gil_rule < 2)
		return 0;
	at = user_word(tstate + py->ts_interp);
	if (py->gil_rule == 3)
		at = user_word(at + py->gil_pointer);
	return (__u32)user_word(at + py->gil_locked) == 1 ? user_word(at + py->gil_holder) : 0;
}

/* Fills s->sample's Python part for the current thread, whose thread pointer is `thread_id`. */
static __always_inline void walk_python(struct scratch *s, const struct python *py, struct thread_state *known)
{
	struct walk w = { .py = py, .s = s, .leaf = 1 };

	w.frame = user_word(known->tstate + py->ts_frame);
	w.flags = HAS_TSTATE;
	if (py->frame_source == 1) {
		w.cframe = w.frame;
		w.frame = w.cframe ? user_word(w.cframe + py->cframe_current_frame) : 0;
	} else if (py->entry_rule == 1) {
		w.cframe = user_word(known->tstate + py->ts_cframe);
	}
	s->sample.gil_holder = gil_holder(py, known->tstate);
	if (s->sample.gil_holder == known->tstate)
		w.flags |= HOLDS_GIL;
	bpf_loop(MAX_FRAMES, walk_step, &w, 0);
	/* 3.10: a call that has its CFrame already and no frame yet. User space pairs from the root then. */
	if (py->entry_rule == 1 && !w.frame && w.cframe && user_word(w.cframe + py->cframe_previous))
		emit(&w, w.cframe, ENTRY_MARK, 0);
	s->sample.flags |= w.flags;
	s->sample.frames_len = w.n;
}
