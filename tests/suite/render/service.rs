//! A recording built by hand of what a small service would show: an asyncio worker with mixed stacks, a thread that waits
//! for locks and the GIL, a child process in Rust with inlined functions, and everything that can be wrong with a sample.

use perfkit::clock::{Anchor, Mono};
use perfkit::record::{
    Event, Frame, FrameId, FrameKey, FrameKind, Inline, Loss, Process, Reading, Recorder, Recording, Sample,
    SampleFlags, StackId, State, Store, Thread, ThreadId,
};

pub const START: u64 = 5_000_000_000_000;
pub const SECOND: u64 = 1_000_000_000;
const WHOLE: u32 = SampleFlags::HAS_PYTHON | SampleFlags::PYTHON | SampleFlags::ROOTED;

struct Builder {
    r: Recorder,
    rng: u64,
}

impl Builder {
    fn py(&self, function: &str, file: &str, line: u32) -> FrameId {
        self.r.frame(Frame::python(function.into(), file.into(), Some(line), Some((line - line % 20).max(1))))
    }

    fn code(&self, kind: FrameKind, function: Option<&str>, module: Option<&str>, address: u64) -> FrameId {
        let module = || module.map(str::to_owned);
        let (id, _) = self.r.address_frame(FrameKey { kind, space: 1, address }, module);
        let function = function.map(str::to_owned);
        self.r.name_frame(id, Frame { function, module: module(), address: Some(address), ..Frame::blank(kind) });
        id
    }

    fn native(&self, function: &str, module: &str, address: u64) -> FrameId {
        self.code(FrameKind::Native, Some(function), Some(module), address)
    }

    fn kernel(&self, function: &str, address: u64) -> FrameId {
        self.code(FrameKind::Kernel, Some(function), None, address)
    }

    /// A number below `n`, the same in every run.
    fn below(&mut self, n: u64) -> u64 {
        self.rng = self.rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.rng >> 33) % n
    }

    fn put(&self, at: u64, thread: ThreadId, stack: StackId, spent: Spent, flags: u32) {
        let (weight_ns, state, reason) = spent;
        let (at, flags) = (Mono(START + at), SampleFlags(flags));
        self.r.put(Event::Sample(Sample { at, thread, stack, weight_ns, state, reason, flags }));
    }
}

/// How long, in which state, waiting for what.
type Spent = (u64, State, Option<&'static str>);
/// A sample on a CPU.
const RAN: Spent = (10_000_000, State::OnCpu, None);

const LIBC: &str = "/usr/lib/x86_64-linux-gnu/libc.so.6";
const PYTHON: &str = "/usr/bin/python3.11";
const STD: &str = "/usr/lib/python3.11";
const RUST: &str = "/srv/npc/bin/pathfinder";

/// Ten seconds at 100 Hz, with the waits.
pub fn recording() -> Recording {
    let mut store = Store::in_memory().unwrap();
    for (key, value) in [
        ("started_ns", START.to_string()),
        ("ended_ns", (START + 10 * SECOND).to_string()),
        ("rate_hz", "100".into()),
        ("sampler", "ebpf".into()),
        ("mode", "wall".into()),
    ] {
        store.set_meta(key, &value).unwrap();
    }
    store.anchor(Anchor { mono: Mono(START), wall_ns: 1_760_000_000_000_000_000, error_ns: 40 }).unwrap();
    let mut b = Builder { r: Recorder::new(), rng: 7 };
    fill(&mut b);
    store.flush(&b.r).unwrap();
    store.recording().unwrap()
}

fn fill(b: &mut Builder) {
    let server = b.r.process(Process {
        pid: 4242,
        start_ticks: 100,
        parent: 1,
        name: "npc-server".into(),
        exe: "/usr/bin/python3.11".into(),
        runtime: "CPython 3.11.7".into(),
    });
    let child = b.r.process(Process {
        pid: 4250,
        start_ticks: 120,
        parent: 4242,
        name: "pathfinder".into(),
        exe: RUST.into(),
        runtime: "native".into(),
    });
    let main = b.r.thread(Thread { process: server, tid: 4242, name: "MainThread".into() });
    let saver = b.r.thread(Thread { process: server, tid: 4243, name: "world-saver".into() });
    let path = b.r.thread(Thread { process: child, tid: 4250, name: "pathfinder".into() });

    let start = b.native("_start", PYTHON, 0x1000);
    let runmod = b.py("<module>", "/srv/npc/app/main.py", 41);
    let run = b.py("run", &format!("{STD}/asyncio/runners.py"), 190);
    let forever = b.py("BaseEventLoop.run_forever", &format!("{STD}/asyncio/base_events.py"), 607);
    let once = b.py("BaseEventLoop._run_once", &format!("{STD}/asyncio/base_events.py"), 1922);
    let handle = b.py("Handle._run", &format!("{STD}/asyncio/events.py"), 80);
    let base = [start, runmod, run, forever, once];
    let app = b.py("app.<locals>.endpoint", "/venv/lib/python3.11/site-packages/fastapi/routing.py", 274);
    let interact = b.py("interact", "/srv/npc/app/api/npc.py", 33);
    let tick88 = b.py("World.tick", "/srv/npc/app/world/tick.py", 88);
    let tick91 = b.py("World.tick", "/srv/npc/app/world/tick.py", 91);
    let mood = b.py("Npc.update_mood", "/srv/npc/app/world/npc.py", 17);
    let dumps = b.py("JSONEncoder.encode", &format!("{STD}/json/encoder.py"), 200);
    let c_encode = b.native("encoder_listencode_obj", "/usr/lib/python3.11/lib-dynload/_json.so", 0x2000);
    let memcpy = b.native("__memcpy_avx_unaligned_erms", LIBC, 0x18a0);
    let unknown = b.code(FrameKind::Native, None, Some("/usr/lib/libspeedups.so"), 0x77f0);
    let select = b.py("EpollSelector.select", &format!("{STD}/selectors.py"), 468);
    let epoll = b.native("epoll_wait", LIBC, 0xfe50);
    let sys_epoll = b.kernel("do_epoll_wait", 0xffff_0001);
    let schedule = b.kernel("schedule", 0xffff_0002);
    let send = b.native("__send", LIBC, 0xfa10);
    let tcp = b.kernel("tcp_sendmsg", 0xffff_0003);
    let jit = b.code(FrameKind::Jit, Some("py::hot_loop"), None, 0x7f00_0000);
    let label = b.r.label("[truncated]");
    let eval = b.native("_PyEval_EvalFrameDefault", PYTHON, 0x5000);

    let with = |tail: &[FrameId]| b.r.stack(&[&base[..], tail].concat());
    let hot = [
        (with(&[handle, app, interact, tick88, mood]), 30),
        (with(&[handle, app, interact, tick91, mood, eval]), 12),
        (with(&[handle, app, interact, tick88]), 9),
        (with(&[handle, app, interact, dumps, c_encode, memcpy]), 14),
        (with(&[handle, app, interact, dumps, c_encode]), 10),
        (with(&[handle, app, unknown]), 5),
        (with(&[handle, send, tcp]), 8),
        (with(&[handle, app, interact, tick88, jit]), 4),
        (b.r.stack(&[label, tick88, mood, memcpy]), 3),
        (with(&[select, epoll, sys_epoll]), 5),
    ];
    let idle = with(&[select, epoll, sys_epoll, schedule]);
    for i in 0..1000u64 {
        let at = i * 10_000_000;
        // Four tenths of the time it sleeps in epoll, in stretches of 40 ms.
        if i % 10 >= 6 {
            if i % 10 == 6 {
                b.put(at, main, idle, (38_000_000, State::OffCpu, Some("epoll")), WHOLE);
                b.put(at + 38_000_000, main, idle, (2_000_000, State::Runnable, None), WHOLE);
            }
            continue;
        }
        let mut pick = b.below(100);
        let chosen = hot.iter().find(|(_, share)| {
            let here = pick < *share;
            pick = pick.saturating_sub(*share);
            here
        });
        let (stack, n) = chosen.copied().unwrap_or(hot[0]);
        let flags = match n {
            3 => (WHOLE & !SampleFlags::ROOTED) | SampleFlags::TRUNCATED,
            4 => WHOLE | SampleFlags::UNMERGED | SampleFlags::GIL,
            8 => WHOLE,
            _ => WHOLE | SampleFlags::GIL,
        };
        b.put(at, main, stack, RAN, flags);
    }
    fill_saver(b, saver);
    fill_pathfinder(b, path);
    fill_facts(b);
}

fn fill_saver(b: &mut Builder, saver: ThreadId) {
    let clone = b.native("clone3", LIBC, 0x11_1000);
    let boot = b.py("Thread._bootstrap", &format!("{STD}/threading.py"), 995);
    let save = b.py("World.save", "/srv/npc/app/world/store.py", 52);
    let lock = b.native("pthread_cond_timedwait", LIBC, 0x9_1000);
    let futex = b.kernel("futex_wait_queue", 0xffff_0010);
    let write = b.native("write", LIBC, 0xfb_1000);
    let io = b.kernel("folio_wait_bit", 0xffff_0011);
    let gil = b.r.stack(&[clone, boot, save, lock, futex]);
    let disk = b.r.stack(&[clone, boot, save, write, io]);
    for i in 0..10u64 {
        b.put(i * SECOND, saver, gil, (300_000_000, State::OffCpu, Some("GIL")), WHOLE);
        b.put(i * SECOND + 300_000_000, saver, gil, (500_000_000, State::OffCpu, Some("sleep")), WHOLE);
        b.put(i * SECOND + 800_000_000, saver, disk, (150_000_000, State::OffCpu, Some("disk")), WHOLE);
        let stack = b.r.stack(&[clone, boot, save]);
        for k in 0..5 {
            b.put(i * SECOND + 950_000_000 + k * 10_000_000, saver, stack, RAN, WHOLE);
        }
    }
}

fn fill_pathfinder(b: &mut Builder, path: ThreadId) {
    let main = b.native("std::rt::lang_start", RUST, 0x100);
    let (search, _) = b.r.address_frame(FrameKey { kind: FrameKind::Native, space: 2, address: 0x400 }, || None);
    let inline = |f: &str, line| Inline {
        function: f.into(),
        file: Some("/src/pathfinder/src/grid.rs".into()),
        line: Some(line),
    };
    b.r.name_frame(
        search,
        Frame {
            kind: FrameKind::Native,
            function: Some("pathfinder::search::<[u8; 8]>".into()),
            file: Some("/src/pathfinder/src/search.rs".into()),
            line: Some(120),
            first_line: None,
            module: Some(RUST.into()),
            address: Some(0x400),
            inlines: vec![inline("Grid::neighbours", 44), inline("Grid::at", 12)],
        },
    );
    let stack = b.r.stack(&[main, search]);
    for i in 0..250u64 {
        b.put(i * 40_000_000, path, stack, RAN, SampleFlags::ROOTED);
    }
}

fn fill_facts(b: &mut Builder) {
    for s in 0..=10u64 {
        let at = Mono(START + s * SECOND);
        for (metric, value) in [
            ("self.cpu_ns", 40e6 + 3e6 * s as f64),
            ("self.rss_bytes", 21_000_000.0 + 1000.0 * s as f64),
            ("self.anon_bytes", 9_000_000.0),
            ("bpf.run_ns", 1.2e6 * s as f64),
            ("bpf.runs", 110.0 * s as f64),
        ] {
            b.r.put(Event::Reading(Reading { at, metric, scope: String::new(), value }));
        }
    }
    for (at, source, count, why) in
        [(3, "cpu", 12, "ring full"), (7, "cpu", 4, "throttled"), (8, "off-cpu", 9, "queue full")]
    {
        let (from, to) = (Mono(START + at * SECOND), Mono(START + at * SECOND + 1000));
        b.r.put(Event::Loss(Loss { from, to, source, count, why: why.into() }));
    }
}
