//! Where foreign bytes enter perfkit: one function an entry, each takes any bytes and must come back soon, whole, and
//! without much memory. The fuzz targets and the suite's mutation test both call these.

use std::cell::Cell;
use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;

use framehop::ExplicitModuleSectionInfo;
use perfkit::analysis::{Profile, Selection};
use perfkit::load::http::{Answers, Fed, Jar, Url, Wanted, header};
use perfkit::load::jsonpath::JsonPath;
use perfkit::load::locust::{Effect, Input, Limits, Locustfile, Options as Wishes, Response};
use perfkit::load::program::{Choice, compile};
use perfkit::load::scenario::from_text;
use perfkit::load::script::Names;
use perfkit::native::unwind::{ProcessUnwinder, StackCopy};
use perfkit::os::bpf::{Sample, SwitchIn};
use perfkit::os::elf::Elf;
use perfkit::os::memory::{FakeMemory, Fault, LiveMemory, Memory};
use perfkit::os::perf::{Layout as Parts, Record, parse};
use perfkit::python::layout::{Layout, LineTable};
use perfkit::python::lines::Lines;
use perfkit::python::{Code, Runtime, Version, debug_offsets, frames, gil, heap::Heap};
use perfkit::record::Recording;
use perfkit::render::{Format, Options, render};
use perfkit::symbol::{Kernel, Modules, Namer, SearchPaths, demangle};
use perfkit::target::{Cgroup, Mapping, Maps, memory};
use perfkit::units::{Hertz, Nanos};

/// An entry: its name, and what takes the bytes.
pub type Entry = (&'static str, fn(&[u8]));

/// All entries.
pub const ENTRIES: &[Entry] = &[
    ("text", text),
    ("recording", recording),
    ("elf", elf),
    ("unwind", unwind),
    ("python", python),
    ("lines", lines),
    ("rings", rings),
    ("kernel", kernel),
    ("scenario", scenario),
    ("answers", answers),
    ("locustfile", locustfile),
];

/// `/proc/PID/maps`, `smaps`, `status` and `stat`, the cgroup of a process, numbers as typed, and names to demangle.
pub fn text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let maps = Maps::parse(&text);
    for mapping in &maps.0 {
        black_box((maps.at(mapping.start), mapping.is_file()));
    }
    let found = memory::regions(&text);
    black_box((memory::kinds(&found).len(), memory::parts(&found).rss()));
    black_box((memory::Status::parse(&text), memory::Faults::parse(&text), memory::Rollup::parse(&text)));
    black_box(Cgroup::find(std::path::Path::new("/nonexistent"), &text, &text));
    if let Ok(ns) = text.parse::<Nanos>() {
        black_box(ns.to_string());
    }
    if let Ok(rate) = text.parse::<Hertz>() {
        black_box(rate.to_string());
    }
    black_box(demangle(data));
}

/// A scenario file, as TOML and as YAML, to the compiled program.
pub fn scenario(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for file in ["s.toml", "s.yaml"] {
        // Data files are looked for where there are none.
        let Ok(scenario) = from_text(file, &text, std::path::Path::new("/nonexistent")) else { continue };
        let _ = black_box(compile(&scenario, &Choice::default(), &Names::default()));
    }
}

/// A locustfile, from its text through its module to what its users want of the engine.
pub fn locustfile(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(file) = Locustfile::of_source("l.py", std::path::Path::new("/nonexistent"), &text) else { return };
    let bounds = Limits { steps: 50_000, slice: 5_000, ..Limits::default() };
    let wishes = Wishes { host: Some("http://h".into()), limits: bounds, ..Wishes::default() };
    let Ok(mut world) = file.world(&wishes, 1) else { return };
    for class in 0..world.classes().len().min(3) {
        let Ok(mut user) = world.user(class, 1, 0) else { continue };
        let (mut input, mut now) = (Input::Go, 0_u64);
        for step in 0..200_u64 {
            let effect = user.resume(&mut world.machine, input, now, now as i64 / 1000);
            input = if step == 150 { Input::Stop } else { Input::Go };
            match effect {
                Effect::Request(_) => {
                    let body = data.get(..64).unwrap_or(data).to_vec();
                    let answer = Response { status: 200, reason: "OK".into(), body, ..Response::default() };
                    input = Input::Response(Box::new(answer));
                }
                Effect::Sleep(ns) | Effect::Wait(ns) | Effect::Pace(ns) => now = now.saturating_add(ns),
                Effect::Ended => break,
                Effect::Verdict(_) | Effect::Exception(_) | Effect::Yield | Effect::StopRun => {}
            }
        }
    }
    black_box((world.shape(1.0, 1).ok(), world.take_log()));
}

/// What a server sends, in pieces: answers, cookies, a body that a capture looks into, a redirect.
pub fn answers(data: &[u8]) {
    let path = JsonPath::parse("$.a[*].b[-1]").expect("a path");
    let base = Url::parse("http://h/a/b?c").expect("a URL");
    let (mut answers, mut jar) = (Answers::default(), Jar::default());
    for step in [1, 7, data.len().max(1)] {
        answers.expect(Wanted { body: 1 << 16, head: true, no_body: false, events: true });
        for piece in data.chunks(step) {
            match answers.feed(piece) {
                Ok(Fed::More) => {}
                Ok(Fed::Done(used)) => {
                    assert!(used <= piece.len(), "{used} of {}", piece.len());
                    break;
                }
                Err(_) => break,
            }
        }
        let _ = black_box(answers.end());
        jar.take(answers.head(), b"/a/b");
        jar.write(&mut Vec::new(), b"/a/b", false);
        black_box(path.find(answers.body()));
        let location = header(answers.head(), "location").map(String::from_utf8_lossy);
        let _ = black_box(location.map(|l| base.join(&l)));
    }
    black_box(path.find(data));
    black_box(perfkit::record::requests::decode(data));
}

/// A recording, from opening to every rendering.
pub fn recording(data: &[u8]) {
    let mut file = tempfile::Builder::new().suffix(".perfkit").tempfile().expect("a temporary file");
    file.write_all(data).expect("room for it");
    let Ok(recording) = Recording::open(file.path()) else { return };
    for selection in [Selection::cpu(), Selection::wall()] {
        let Ok(profile) = Profile::new(&recording, &selection) else { continue };
        for format in
            [Format::Svg, Format::Folded, Format::Speedscope, Format::Pprof, Format::Pstats, Format::Json, Format::Text]
        {
            let _ = black_box(render(&profile, &Options::default(), format, &mut std::io::sink()));
        }
    }
}

/// An ELF file: its parts, its symbols and its unwind tables.
pub fn elf(data: &[u8]) {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(data).expect("room for it");
    let plain = Elf::new(file);
    let _ = black_box((plain.segments(), plain.symbol("_PyRuntime"), plain.section(".PyRuntime"), plain.build_id()));
    let _ = black_box(plain.section_data(".eh_frame").map(|d| d.map(|d| d.len())));
    let Some((modules, id, mapping)) = module(data) else { return };
    let mut namer = Namer::new(Arc::clone(&modules), SearchPaths { debug_dirs: Vec::new() });
    let mut address = 1_u64;
    while address < 1 << 40 {
        let _ = black_box((namer.name(id, address), namer.name(id, mapping.start + address)));
        address *= 3;
    }
    let _ = black_box((namer.functions(id), namer.trouble(id), modules.unwind_sections(id)));
}

/// A module and a stack: the first eight bytes say where the one ends and the other begins.
pub fn unwind(data: &[u8]) {
    let Some((head, rest)) = data.split_at_checked(8) else { return };
    let cut = word(head) as usize % (rest.len() + 1);
    let (code, stack) = rest.split_at(cut);
    let mut unwinder = ProcessUnwinder::default();
    if let Some((modules, id, mapping)) = module(code)
        && let Some(s) = modules.unwind_sections(id)
    {
        let sections = ExplicitModuleSectionInfo {
            base_svma: s.base_svma,
            text_svma: s.text_svma.clone(),
            stubs_svma: s.plt_svma.clone(),
            got_svma: s.got_svma.clone(),
            eh_frame_svma: s.eh_frame.as_ref().map(|b| b.svma.clone()),
            eh_frame: s.eh_frame.as_ref().map(|b| b.data.clone()),
            eh_frame_hdr_svma: s.eh_frame_hdr.as_ref().map(|b| b.svma.clone()),
            eh_frame_hdr: s.eh_frame_hdr.as_ref().map(|b| b.data.clone()),
            debug_frame: s.debug_frame.clone(),
            ..ExplicitModuleSectionInfo::default()
        };
        let bias = modules.get(id).and_then(|m| m.bias(&mapping)).unwrap_or(0);
        unwinder.add("module".into(), mapping.start..mapping.end, s.base_svma.wrapping_add(bias), sections);
    }
    let mut frames = Vec::new();
    for step in 0..64_u64 {
        // Instruction pointers all over the module, and whatever stands on the stack.
        let ip = CODE_AT + step * (code.len() as u64 / 64).max(1);
        for regs in [[STACK_AT + 16, STACK_AT, ip], [word(stack), STACK_AT, ip], [0, u64::MAX - 64, ip]] {
            black_box(unwinder.unwind(StackCopy { regs, bytes: stack }, &mut frames, |_, _| true));
        }
    }
}

/// A CPython whose memory is these bytes, over and over, wherever one reads.
pub fn python(data: &[u8]) {
    let Some((first, _)) = data.split_first() else { return };
    let memory = Echo { data, left: Cell::new(64 << 20) };
    let address = 0x10_0000;
    let published = debug_offsets::head(&memory, address).ok().flatten();
    let from_cookie = published.and_then(|head| debug_offsets::layout(&memory, address, head).ok());
    let version = Version { major: 3, minor: 8 + first % 6 };
    for layout in [Layout::of(version), from_cookie].into_iter().flatten() {
        let (image, text) = (String::new(), version.to_string());
        let code_type = None;
        let runtime = Runtime { version, text, image, address, code_type, layout, eval: Vec::new(), started: true };
        let _ = black_box(runtime.verify(&memory));
        for thread in frames::walk(&memory, &runtime, 256).unwrap_or_default().threads {
            black_box(gil::of(&memory, &runtime, thread.interpreter_at).ok());
            for frame in thread.frames.iter().take(4) {
                if let Ok(code) = Code::read(Heap::new(&memory, &runtime.layout), frame.code, None) {
                    black_box(code.line(&runtime.layout, frame.instr));
                }
            }
        }
    }
}

/// Line tables in their three formats.
pub fn lines(data: &[u8]) {
    for format in [LineTable::Lnotab, LineTable::Pairs, LineTable::Locations] {
        let lines = Lines::new(format, 1, data.to_vec());
        for lasti in [-1, 0, 2, data.len() as i64, i64::from(u32::MAX), i64::MAX, i64::MIN] {
            black_box(lines.at(lasti));
        }
    }
}

/// Records of a perf ring and what the eBPF programs write into them.
pub fn rings(data: &[u8]) {
    for layout in [Parts::None, Parts::Plain, Parts::Stacks { raw: true }, Parts::Stacks { raw: false }] {
        if let Record::Stack(sample) = parse(data, |_| layout) {
            black_box((sample.kernel().count(), sample.stack.len(), sample.regs));
            program(sample.raw);
        }
    }
    program(data);
}

fn program(raw: &[u8]) {
    if let Some(sample) = Sample::parse(raw) {
        black_box(sample.frames().count());
    }
    black_box(SwitchIn::parse(raw));
}

/// The kernel's list of symbols.
pub fn kernel(data: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(data).expect("room for it");
    let mut kernel = Kernel::at(file.path());
    for address in [0, 1, 0xffff_ffff_8100_0000, u64::MAX] {
        black_box(kernel.name(address));
    }
    black_box(kernel.trouble().map(ToString::to_string));
}

const CODE_AT: u64 = 0x7f00_0000_0000;
const STACK_AT: u64 = 0x7ffd_0000_0000;

/// The bytes as a mapped module. They come in as a vDSO does, which is read from memory: no file system is asked.
fn module(data: &[u8]) -> Option<(Arc<Modules>, perfkit::symbol::ModuleId, Mapping)> {
    let mapping = Mapping {
        start: CODE_AT,
        end: CODE_AT + data.len() as u64,
        executable: true,
        readable: true,
        writable: false,
        offset: 0,
        device: (0, 0),
        inode: 0,
        path: "[vdso]".into(),
        deleted: false,
    };
    let memory = FakeMemory { pieces: vec![(CODE_AT, data.to_vec())] };
    let modules = Arc::new(Modules::new());
    let id = modules.open(std::process::id(), &mapping, &memory)?;
    Some((modules, id, mapping))
}

fn word(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |b| u64::from_le_bytes(*b))
}

/// Memory in which every address can be read and every pointer leads somewhere: circles, endless chains, huge lengths.
/// It ends (everything faults) after so many bytes: a reader that wants more than that of one process is out of bounds.
struct Echo<'a> {
    data: &'a [u8],
    left: Cell<usize>,
}

impl Memory for Echo<'_> {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        let fault = Fault { at, len: into.len() };
        let left = self.left.get().checked_sub(into.len()).expect("a lying target makes us read without end");
        self.left.set(left);
        // The lowest page is never mapped, and neither is anything above user space.
        if at < 4096 || at >> 47 != 0 {
            return Err(fault);
        }
        for (i, byte) in into.iter_mut().enumerate() {
            let place = (at as usize).wrapping_add(i) % self.data.len();
            *byte = *self.data.get(place).ok_or(fault)?;
        }
        Ok(())
    }
}

/// Something to start from for each entry: true bytes of this machine and of perfkit's own making.
pub fn seeds(entry: &str) -> Vec<Vec<u8>> {
    let own = LiveMemory::new(std::process::id());
    let vdso = Maps::of(std::process::id()).ok().and_then(|maps| {
        let found = maps.0.into_iter().find(|m| m.path == "[vdso]")?;
        own.bytes_at(found.start, (found.end - found.start) as usize, 1 << 20).ok()
    });
    let elf = vdso.unwrap_or_default();
    match entry {
        "text" => vec![
            std::fs::read("/proc/self/maps").unwrap_or_default(),
            std::fs::read("/proc/self/smaps").unwrap_or_default(),
            std::fs::read("/proc/self/status").unwrap_or_default(),
            std::fs::read("/proc/self/stat").unwrap_or_default(),
            b"0::/a/b\n30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n".to_vec(),
            b"1m30s".to_vec(),
            b"_ZN3npc6WorkerIlE3runEl".to_vec(),
            b"_RNvCs4fqI2P2rA04_7mycrate3foo".to_vec(),
        ],
        "recording" => vec![sample_recording()],
        "elf" => vec![elf],
        "unwind" => vec![[&(elf.len() as u64).to_le_bytes()[..], &elf, &[0x41; 512]].concat()],
        "python" => {
            let cookie = [&b"xdebugpy"[..], &0x030d_00f0_u64.to_le_bytes(), &[0; 8], &[8; 800]].concat();
            let pointers: Vec<u8> = (0..256_u64).flat_map(|i| (0x10_0000 + i * 8).to_le_bytes()).collect();
            vec![cookie, pointers, vec![0x10; 2048]]
        }
        "lines" => vec![vec![6, 1, 8, 255, 2, 128, 0x80, 0xf0, 13, 14, 63, 64, 1], (0..=255).collect()],
        "scenario" => vec![
            perfkit::load::scenario::ready("world").unwrap_or_default().into(),
            b"host: http://h\nuser:\n - name: u\n   wait: {between: [1, 2s]}\n   task:\n   - name: t\n     steps:\n     - {get: '/${rand(1,5)}', \
              expect: {status: [2xx], json: {$.a: 1}}, capture: {x: {regex: 'a(b)'}}}\n     - {post: '/${x}', form: {a: '${uuid()}'}}\n"
                .to_vec(),
        ],
        "answers" => vec![
            b"HTTP/1.1 200 OK\r\nContent-Length: 24\r\nSet-Cookie: a=b; Path=/\r\n\r\n{\"a\":[{},{\"b\":[1,\"x\"]}]}".to_vec(),
            b"HTTP/1.1 302 F\r\nLocation: ../x?y#z\r\nTransfer-Encoding: chunked\r\n\r\n5;e\r\ndata:\r\n0\r\nT: v\r\n\r\n".to_vec(),
            b"HTTP/1.1 100 C\r\n\r\nHTTP/1.0 200\r\nConnection: keep-alive\r\n\r\ndata: x\n\n".to_vec(),
        ],
        "locustfile" => vec![
            b"from locust import HttpUser, task, between, LoadTestShape\nimport random, json\nclass U(HttpUser):\n  wait_time = between(1, 2)\n  \
              @task(3)\n  def t(self):\n    with self.client.get(f'/a/{random.randint(1, 9):>3}', name='/a', catch_response=True) as r:\n      \
              if r.status_code != 200 or 'x' in r.text:\n        r.failure('%s %d' % (r.text[:3], 7))\n      try:\n        \
              d = json.loads(r.text)['k']\n      except (ValueError, KeyError) as e:\n        print('no', e, sep='')\n      \
              finally:\n        self.n = [x ** 2 for x in range(9) if x % 2]\n"
                .to_vec(),
            b"from locust import HttpUser, SequentialTaskSet, task, constant_pacing, LoadTestShape, events\nimport re\nclass S(SequentialTaskSet):\n  \
              @task\n  def a(self):\n    self.client.post('/', json={'a': [1, None, 'b' * 3], **{'c': lambda: 1}.copy()} if 0 else {'a': 1})\n  \
              @task\n  def b(self):\n    while True:\n      if re.match(r'(a+)+b', 'a' * 20): break\n      self.interrupt()\nclass U(HttpUser):\n  \
              tasks = {S: 1}\n  wait_time = constant_pacing(1)\nclass L(LoadTestShape):\n  def tick(self):\n    return (1, 2.0) if self.get_run_time() < 5 else None\n"
                .to_vec(),
        ],
        "rings" => vec![record(9, 200), record(10, 120), record(2, 24), vec![0; 96]],
        "kernel" => {
            vec![b"ffffffff81000000 T _text\nffffffff81000100 t do_one [npc]\n0000000000000000 A zero\n".to_vec()]
        }
        _ => Vec::new(),
    }
}

/// A perf record of a kind, its head in order, its body counting.
fn record(kind: u32, size: u16) -> Vec<u8> {
    let head = [&kind.to_le_bytes()[..], &0_u16.to_le_bytes(), &size.to_le_bytes()].concat();
    head.into_iter().chain((8..size).map(|i| (i % 13) as u8)).collect()
}

/// The bytes of a small recording with every kind of row.
fn sample_recording() -> Vec<u8> {
    use perfkit::clock::Mono;
    use perfkit::record::{
        Event, Frame, FrameKind, Loss, Mark, Process, Recorder, Sample, SampleFlags, State, Store, Thread,
    };
    let home = tempfile::tempdir().expect("a temporary directory");
    let path = home.path().join("seed.perfkit");
    let recorder = Recorder::new();
    let process = recorder.process(Process { pid: 7, name: "npc".into(), ..Process::default() });
    let thread = recorder.thread(Thread { process, tid: 8, name: "worker".into() });
    let frame = |(name, kind): (&str, FrameKind)| {
        recorder.frame(Frame {
            kind,
            function: Some(name.into()),
            file: Some("npc.py".into()),
            line: Some(3),
            first_line: None,
            module: Some("libnpc.so".into()),
            address: Some(0x1000),
            inlines: Vec::new(),
        })
    };
    let frames = [("main", FrameKind::Python), ("think", FrameKind::Native), ("read", FrameKind::Kernel)].map(frame);
    for i in 0..20 {
        let stack = recorder.stack(&frames[..=i % 3]);
        let state = if i % 4 == 0 { State::OffCpu } else { State::OnCpu };
        recorder.put(Event::Sample(Sample {
            at: Mono(1_000 + i as u64 * 1_000_000),
            thread,
            stack,
            weight_ns: 1_000_000,
            state,
            reason: (i % 4 == 0).then_some("futex"),
            flags: SampleFlags(i as u32),
        }));
    }
    recorder.put(Event::Mark(Mark { at: Mono(5), kind: "start", text: "begun".into() }));
    recorder.put(Event::Loss(Loss { from: Mono(6), to: Mono(7), source: "cpu", count: 3, why: "ring full".into() }));
    let mut store = Store::create(&path, false).expect("a recording");
    store.flush(&recorder).expect("a written recording");
    store.close().expect("a closed recording");
    std::fs::read(&path).expect("its bytes")
}
