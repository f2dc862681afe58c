//! Hand-built recordings for the unit tests of analysis and render.

use crate::clock::{Anchor, Mono};
use crate::record::{
    Event, Frame, FrameKey, FrameKind, Inline, Loss, Process, ProcessId, Reading, Recorder, Recording, Sample,
    SampleFlags, StackId, State, Store, Thread, ThreadId,
};

/// A second, ns.
pub(crate) const SECOND: u64 = 1_000_000_000;
/// Flags of a sample of a Python thread that was read whole.
pub(crate) const WHOLE: u32 = SampleFlags::HAS_PYTHON | SampleFlags::PYTHON | SampleFlags::ROOTED;

/// A recording in the making. It begins at second 100 of the clock.
pub(crate) struct Script {
    recorder: Recorder,
    store: Store,
}

impl Script {
    pub(crate) const START: u64 = 100 * SECOND;

    pub(crate) fn new(seconds: u64) -> Self {
        let store = Store::in_memory().unwrap();
        store.set_meta("started_ns", &Self::START.to_string()).unwrap();
        store.set_meta("ended_ns", &(Self::START + seconds * SECOND).to_string()).unwrap();
        store.set_meta("rate_hz", "100").unwrap();
        store.set_meta("sampler", "ebpf").unwrap();
        store.anchor(Anchor { mono: Mono(Self::START), wall_ns: 1_700_000_000_000_000_000, error_ns: 50 }).unwrap();
        Self { recorder: Recorder::new(), store }
    }

    pub(crate) fn process(&self, pid: u32, name: &str) -> ProcessId {
        self.recorder.process(Process {
            pid,
            name: name.into(),
            exe: format!("/usr/bin/{name}"),
            runtime: "CPython 3.11.7".into(),
            ..Process::default()
        })
    }

    pub(crate) fn thread(&self, process: ProcessId, tid: u32, name: &str) -> ThreadId {
        self.recorder.thread(Thread { process, tid, name: name.into() })
    }

    /// A stack from words, outermost first: `py:tick:/app/world.py:88` (and `:80`, the definition's line), `nat:memcpy:/lib/libc.so.6:16`,
    /// `nat::/lib/libz.so:16` (no symbol), `ker:schedule`, `jit:foo`, `[truncated]`, `inl:outer>inner:/bin/a:16`.
    pub(crate) fn stack(&self, frames: &[&'static str]) -> StackId {
        let ids: Vec<_> = frames.iter().map(|text| self.frame(text)).collect();
        self.recorder.stack(&ids)
    }

    fn frame(&self, text: &'static str) -> crate::record::FrameId {
        let Some((kind, rest)) = text.split_once(':').filter(|_| !text.starts_with('[')) else {
            return self.recorder.label(text);
        };
        let parts: Vec<&str> = rest.split(':').collect();
        let at = |i: usize| parts.get(i).copied().unwrap_or_default();
        if kind == "py" {
            return self.recorder.frame(Frame::python(
                at(0).into(),
                at(1).into(),
                at(2).parse().ok(),
                at(3).parse().ok(),
            ));
        }
        let kind = match kind {
            "ker" => FrameKind::Kernel,
            "jit" => FrameKind::Jit,
            _ => FrameKind::Native,
        };
        let address = at(2).parse().unwrap_or_else(|_| text.bytes().map(u64::from).sum());
        let module = || Some(at(1).to_owned()).filter(|m| !m.is_empty());
        let (id, new) = self.recorder.address_frame(FrameKey { kind, space: 0, address }, module);
        if new && !at(0).is_empty() {
            let mut names = at(0).split('>');
            let function = names.next().map(str::to_owned);
            let inlines = names.map(|n| Inline { function: n.into(), file: Some("src/a.rs".into()), line: Some(9) });
            let inlines = inlines.collect();
            let frame = Frame { function, module: module(), address: Some(address), inlines, ..Frame::blank(kind) };
            self.recorder.name_frame(id, frame);
        }
        id
    }

    /// `n` on-CPU samples of 10 ms, one after the other from `ms` after the start.
    pub(crate) fn on_cpu(&self, thread: ThreadId, stack: StackId, ms: u64, n: u64) {
        for i in 0..n {
            self.sample(thread, stack, (ms + 10 * i, 10_000_000), (State::OnCpu, None), WHOLE);
        }
    }

    /// An interval of waiting.
    pub(crate) fn wait(&self, thread: ThreadId, stack: StackId, ms: u64, length_ms: u64, reason: &'static str) {
        self.sample(thread, stack, (ms, length_ms * 1_000_000), (State::OffCpu, Some(reason)), WHOLE);
    }

    pub(crate) fn sample(
        &self,
        thread: ThreadId,
        stack: StackId,
        (ms, weight_ns): (u64, u64),
        (state, reason): (State, Option<&'static str>),
        flags: u32,
    ) {
        let at = Mono(Self::START + ms * 1_000_000);
        let flags = SampleFlags(flags);
        self.recorder.put(Event::Sample(Sample { at, thread, stack, weight_ns, state, reason, flags }));
    }

    pub(crate) fn read(&self, reading: Reading) {
        self.recorder.put(Event::Reading(reading));
    }

    pub(crate) fn lost(&self, ms: u64, source: &'static str, count: u64, why: &str) {
        let at = Mono(Self::START + ms * 1_000_000);
        self.recorder.put(Event::Loss(Loss { from: at, to: at, source, count, why: why.into() }));
    }

    pub(crate) fn done(mut self) -> Recording {
        self.store.flush(&self.recorder).unwrap();
        self.store.recording().unwrap()
    }
}
