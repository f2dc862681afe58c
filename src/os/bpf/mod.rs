//! perfkit's eBPF programs: loading, attaching, and the maps through which they are steered.
//!
//! In: the checked-in object `cpu.bpf.o` (built by `scripts/bpf` from `cpu.bpf.c`), which aya fits to the running kernel.
//! Out: [`Programs`]. Nothing is pinned: when perfkit ends, however it ends, the kernel removes programs and maps.

#![allow(unsafe_code, reason = "bpf(2) to put perf events into a map")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;

use aya::maps::{HashMap, Map, MapData, PerCpuArray};
use aya::programs::{BtfTracePoint, PerfEvent, Program};
use aya::{Btf, Ebpf, EbpfLoader};

use super::perf::Event;
use crate::error::{Error, Kind, Result};

mod shared;

pub use shared::{
    Config, Counters, ENTRY_MARK, LONG_WAIT_NS, MAX_FRAMES, PyFrame, Python, Sample, SampleKind, SwitchIn, Target,
    ThreadTimes, flag,
};

/// aya wants the object aligned as ELF is.
static OBJECT: &[u8] = aya::include_bytes_aligned!("cpu.bpf.o");

/// The loaded programs and their maps.
pub struct Programs {
    ebpf: Ebpf,
    /// The kernel's types, read when a tracing program is attached: five megabytes, which take some 30 ms.
    btf: Option<Btf>,
}

impl std::fmt::Debug for Programs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Programs").finish_non_exhaustive()
    }
}

impl Config {
    /// The part of the configuration that follows from where perfkit runs.
    pub fn of_this_host() -> Self {
        /// Inode of the initial PID namespace (include/linux/proc_ns.h, `PROC_PID_INIT_INO`).
        const INITIAL: u64 = 0xEFFF_FFFC;
        let own = std::fs::metadata("/proc/self/ns/pid").map_or(INITIAL, |m| m.ino());
        // SAFETY: sysconf only returns a number.
        let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1);
        Self {
            own_pid_ns: if own == INITIAL { 0 } else { own as u32 },
            clock_tick_ns: (1_000_000_000 / ticks) as u32,
            switch_budget: 5,
            ..Self::default()
        }
    }
}

/// Entries of the table of threads: many times what the machine has now. The table is read whole ten times a second, and
/// that takes as long as it has room.
fn room_for_threads() -> u32 {
    // "0.20 0.18 0.12 1/80 11206": runnable and existing threads of the machine (proc(5)).
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let threads = text.split(['/', ' ']).nth(4).and_then(|n| n.parse::<u32>().ok()).unwrap_or(u32::MAX);
    threads.saturating_mul(8).clamp(4096, 65_536).next_power_of_two()
}

impl Programs {
    /// Loads the programs; none is attached yet.
    ///
    /// # Errors
    /// `Denied` without CAP_BPF and CAP_PERFMON, `Unsupported` when the kernel lacks BTF or refuses the program.
    pub fn load(config: Config) -> Result<Self> {
        // The loader reads the kernel's types itself.
        std::fs::metadata("/sys/kernel/btf/vmlinux").map_err(no_types)?;
        let mut ebpf = EbpfLoader::new()
            .override_global("config", &config, true)
            .map_max_entries("thread_times", room_for_threads())
            .load(OBJECT)
            .map_err(|e| refusal("the kernel did not take perfkit's eBPF maps", e))?;
        let tick: &mut PerfEvent = program(&mut ebpf, "on_tick")?;
        tick.load().map_err(|e| refusal("the kernel did not take perfkit's sampling program", e))?;
        Ok(Self { ebpf, btf: None })
    }

    /// The program to run at each tick of a perf event.
    pub fn on_tick(&self) -> Result<BorrowedFd<'_>> {
        match self.ebpf.program("on_tick") {
            Some(Program::PerfEvent(p)) => {
                Ok(p.fd().map_err(|e| refusal("the sampling program is not loaded", e))?.as_fd())
            }
            _ => Err(missing("on_tick")),
        }
    }

    /// Watches context switches and wake-ups of the targets.
    pub fn attach_switches(&mut self) -> Result<()> {
        self.attach("on_switch", "sched_switch")?;
        self.attach("on_wakeup", "sched_wakeup")
    }

    /// Makes children of targets targets, from their first instruction.
    pub fn attach_forks(&mut self) -> Result<()> {
        self.attach("on_fork", "sched_process_fork")
    }

    fn attach(&mut self, name: &'static str, tracepoint: &str) -> Result<()> {
        let btf = match self.btf.take() {
            Some(btf) => btf,
            None => Btf::from_sys_fs().map_err(no_types)?,
        };
        let btf = self.btf.insert(btf);
        let p: &mut BtfTracePoint = program(&mut self.ebpf, name)?;
        p.load(tracepoint, btf).map_err(|e| refusal("the kernel did not take a tracing program", e))?;
        p.attach().map_err(|e| refusal("a tracing program could not be attached", e))?;
        Ok(())
    }

    /// Lets the programs on `cpu` write stack records through `stacks` and plain ones through `plain`.
    pub fn set_rings(&self, cpu: u32, stacks: &Event, plain: &Event) -> Result<()> {
        for (name, event) in [("stacks", stacks), ("plain", plain)] {
            let Some(Map::PerfEventArray(map)) = self.ebpf.map(name) else { return Err(missing(name)) };
            put_event(map.fd().as_fd(), cpu, event)
                .map_err(|e| Error::io("cannot give the eBPF program its ring", e))?;
        }
        Ok(())
    }

    fn targets(&mut self) -> Result<HashMap<&mut MapData, u32, Target>> {
        typed(self.ebpf.map_mut("targets"), "targets")
    }

    /// Makes `pid` a target, or says anew what is known of it.
    pub fn set_target(&mut self, pid: u32, target: Target) -> Result<()> {
        self.targets()?.insert(pid, target, 0).map_err(|e| refusal("the table of targets is full", e))
    }

    /// Lets go of `pid`; not being there is fine.
    pub fn remove_target(&mut self, pid: u32) {
        if let Ok(mut map) = self.targets() {
            drop(map.remove(&pid));
        }
    }

    /// The counters of every CPU.
    pub fn counters(&self) -> Vec<Counters> {
        let Some(map) = self.ebpf.map("counters") else { return Vec::new() };
        PerCpuArray::<_, Counters>::try_from(map)
            .and_then(|a| a.get(&0, 0))
            .map_or_else(|_| Vec::new(), |per_cpu| per_cpu.iter().copied().collect())
    }

    /// The exact times of every thread that switched, by thread id.
    pub fn thread_times(&self) -> Vec<(u32, ThreadTimes)> {
        let Some(map) = self.ebpf.map("thread_times") else { return Vec::new() };
        HashMap::<_, u32, ThreadTimes>::try_from(map)
            .map_or_else(|_| Vec::new(), |m| m.iter().filter_map(std::result::Result::ok).collect())
    }

    /// Enters a thread that was asleep or running before switches were watched. `false`: the programs have met it already, and
    /// what they know is newer.
    pub fn set_thread_times(&mut self, tid: u32, times: ThreadTimes) -> Result<bool> {
        const ONLY_NEW: u64 = 1;
        let mut map: HashMap<_, u32, ThreadTimes> = typed(self.ebpf.map_mut("thread_times"), "thread_times")?;
        match map.insert(tid, times, ONLY_NEW) {
            Ok(()) => Ok(true),
            Err(_) if map.get(&tid, 0).is_ok() => Ok(false),
            Err(e) => Err(refusal("the table of threads is full", e)),
        }
    }

    /// The exact times of one thread.
    pub fn thread(&self, tid: u32) -> Option<ThreadTimes> {
        HashMap::<_, u32, ThreadTimes>::try_from(self.ebpf.map("thread_times")?).ok()?.get(&tid, 0).ok()
    }

    /// Takes a thread that ended out of the table, with its times.
    pub fn take_thread(&mut self, tid: u32) -> Option<ThreadTimes> {
        let mut map: HashMap<_, u32, ThreadTimes> = typed(self.ebpf.map_mut("thread_times"), "thread_times").ok()?;
        let times = map.get(&tid, 0).ok()?;
        drop(map.remove(&tid));
        Some(times)
    }
}

fn typed<'a, T: TryFrom<&'a mut Map>>(map: Option<&'a mut Map>, name: &str) -> Result<T> {
    map.and_then(|m| T::try_from(m).ok()).ok_or_else(|| missing(name))
}

fn program<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut T>
where
    &'a mut T: TryFrom<&'a mut Program>,
{
    ebpf.program_mut(name).and_then(|p| <&mut T>::try_from(p).ok()).ok_or_else(|| missing(name))
}

fn no_types(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Kind::Unsupported, "this kernel describes no types (/sys/kernel/btf/vmlinux)").caused_by(cause)
}

fn missing(name: &str) -> Error {
    Error::new(Kind::Bug, format!("the eBPF object has no {name}: rebuild it with scripts/bpf"))
}

/// Why the kernel said no: rights, or a kernel that cannot.
fn refusal(what: &str, e: impl std::error::Error + Send + Sync + 'static) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&e);
    let mut kind = Kind::Unsupported;
    while let Some(c) = cause {
        if let Some(io) = c.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::PermissionDenied
        {
            kind = Kind::Denied;
        }
        cause = c.source();
    }
    let error = Error::new(kind, what).caused_by(e);
    if kind == Kind::Denied {
        error.advise(
            "run as root, or give perfkit CAP_BPF and CAP_PERFMON (and CAP_SYS_PTRACE for other users' processes)",
        )
    } else {
        error
    }
}

/// `bpf(BPF_MAP_UPDATE_ELEM)` of a perf event into a perf event array; aya's own type would open events of its own.
fn put_event(map: BorrowedFd<'_>, cpu: u32, event: &Event) -> io::Result<()> {
    #[repr(C)]
    struct Update {
        map: u32,
        pad: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    const MAP_UPDATE_ELEM: libc::c_int = 2;
    let fd = event.fd().as_raw_fd();
    let update = Update {
        map: map.as_raw_fd() as u32,
        pad: 0,
        key: &raw const cpu as u64,
        value: &raw const fd as u64,
        flags: 0,
    };
    // SAFETY: `update` is the layout of bpf_attr for this command; key and value point to live u32s.
    let done = unsafe { libc::syscall(libc::SYS_bpf, MAP_UPDATE_ELEM, &raw const update, size_of::<Update>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
