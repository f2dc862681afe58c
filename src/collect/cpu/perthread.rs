//! Timers on the threads of processes, for users who may not watch a whole CPU.
//!
//! In: process ids, a rate. Out: records of one ring a CPU. An event that is inherited and has a ring must be bound to a CPU
//! (perf_event_open(2)), so each thread that exists has one a CPU, all writing into that CPU's ring; threads born later
//! inherit. Invariants: a thread with timers of its own counts by those alone, whatever it inherited, so nobody counts
//! twice; a sample's weight is the period of the timer that fired. The timers follow the thread's own CPU time, each with a
//! random period of its own, drawn anew some time after it fired (a new period starts the interval anew, so that drawing it
//! at any other moment would keep threads that use little CPU from ever being hit).

use std::cell::Cell;
use std::collections::hash_map::Entry;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustc_hash::FxHashMap;

use super::ticker::{map_ring, online};
use crate::clock::Mono;
use crate::error::{Error, Kind, Result};
use crate::os::perf::{Attr, Clockwork, Event, Layout, Record, Ring, Scope, parse};

/// A timer that fired gets a new period when its present one is this old.
const REDRAW_NS: u64 = 1_000_000_000;
/// Bytes of stack copied, at least and at most.
const STACK_BYTES: (f64, f64) = (8192.0, 49152.0);
/// The longest the rings wait for us, at the worst: their room is shared out for that.
const LATE: f64 = 0.025;
/// Rounds of listing threads until none is new.
const ROUNDS: usize = 50;

/// What to sample and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// Samples a second of each thread's CPU time.
    pub(super) rate_hz: f64,
    /// Hardware cycles instead of the timer.
    pub(super) cycles: bool,
    /// Children too, not threads alone.
    pub(super) follow: bool,
}

struct Cpu {
    number: u32,
    /// Owns the ring; says nothing itself. Bound to a thread of ours, so that it outlives every target.
    owner: Event,
    ring: Ring,
}

struct Timer {
    event: Event,
    period: u64,
    drawn: Mono,
    fired: bool,
}

/// The timers of all threads and the rings they write into.
pub(super) struct PerThread {
    cpus: Vec<Cpu>,
    timers: FxHashMap<u64, Timer>,
    /// The thread of each timer, by the timer's id.
    owners: FxHashMap<u64, u32>,
    /// Threads with timers of their own, and their process.
    own: FxHashMap<u32, u32>,
    settings: Settings,
    attr: Attr,
    running: bool,
    random: u64,
    /// Threads that could not be given timers.
    pub(super) refused: u64,
    /// Times the kernel slowed a timer down.
    pub(super) throttled: u64,
}

impl PerThread {
    /// Opens the rings; no thread has a timer yet.
    ///
    /// # Errors
    /// `Denied` when perf events or rings are not to be had.
    pub(super) fn open(settings: Settings, now: Mono) -> Result<Self> {
        raise_file_limit();
        let mut cpus = Vec::new();
        for number in online()? {
            let owner = Event::open(&ring_attr(), Scope::ThreadOnCpu(std::process::id(), number));
            let owner = match owner {
                Ok(owner) => owner,
                Err(e) if e.raw_os_error() == Some(libc::ENODEV) => continue,
                Err(e) => return Err(Error::io("cannot open a perf event", e)),
            };
            let ring = map_ring(&owner)?;
            cpus.push(Cpu { number, owner, ring });
        }
        let Some(first) = cpus.first() else {
            return Err(Error::new(Kind::Unsupported, "no CPU could be opened for sampling"));
        };
        let room = first.ring.capacity() as f64 / 2.0 / (settings.rate_hz * LATE).max(2.0);
        let stack_bytes = room.clamp(STACK_BYTES.0, STACK_BYTES.1) as u32 & !4095;
        let attr = Attr {
            clockwork: if settings.cycles { Clockwork::Cycles } else { Clockwork::CpuClock },
            period: 0,
            layout: Layout::Stacks { raw: false },
            stack_bytes,
            side_band: true,
            inherit: true,
            threads_only: !settings.follow,
            wake_each: true,
            exclude_kernel: false,
            enable_on_exec: false,
        };
        Ok(Self {
            cpus,
            timers: FxHashMap::default(),
            owners: FxHashMap::default(),
            own: FxHashMap::default(),
            settings,
            attr,
            running: false,
            random: now.0 | 1,
            refused: 0,
            throttled: 0,
        })
    }

    /// Whether time in the kernel goes unsampled, for want of the right.
    pub(super) fn excludes_kernel(&self) -> bool {
        self.attr.exclude_kernel
    }

    /// Gives every thread of `pid` timers of its own. Returns how many threads have some now.
    ///
    /// # Errors
    /// `Denied` with the errno when not even one thread could be given any; `Gone` when the process is.
    pub(super) fn add_process(&mut self, pid: u32, now: Mono) -> Result<usize> {
        let mut last = None;
        for _ in 0..ROUNDS {
            let mut new = false;
            for tid in threads_of(pid) {
                if self.own.contains_key(&tid) {
                    continue;
                }
                match self.add_thread(pid, tid, now) {
                    Ok(()) => new = true,
                    // Ended between the list and here.
                    Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                    Err(e) => {
                        self.refused += 1;
                        last = Some(e);
                    }
                }
            }
            if !new {
                break;
            }
        }
        let count = self.own.values().filter(|p| **p == pid).count();
        match last {
            _ if count > 0 => Ok(count),
            Some(e) => Err(Error::io(format!("cannot open a perf event on process {pid}"), e)),
            None => Err(Error::new(Kind::Gone, format!("process {pid} has ended"))),
        }
    }

    fn add_thread(&mut self, pid: u32, tid: u32, now: Mono) -> io::Result<()> {
        let mut opened = Vec::new();
        for i in 0..self.cpus.len() {
            let period = self.draw();
            let Some(cpu) = self.cpus.get(i) else { break };
            let event = match open_fitting(&mut self.attr, period, Scope::ThreadOnCpu(tid, cpu.number)) {
                Ok(event) => event,
                Err(e) if e.raw_os_error() == Some(libc::ENODEV) => continue,
                Err(e) => return Err(e),
            };
            event.output_to(&cpu.owner)?;
            opened.push((event.id()?, Timer { event, period, drawn: now, fired: false }));
        }
        for (id, timer) in opened {
            if self.running {
                timer.event.enable()?;
            }
            self.owners.insert(id, tid);
            self.timers.insert(id, timer);
        }
        self.own.insert(tid, pid);
        Ok(())
    }

    /// A period round the asked one: the frequency, not the period, is spread evenly, so that its mean is what was asked.
    fn draw(&mut self) -> u64 {
        // xorshift64: any sequence without a period near the target's will do.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let unit = (self.random >> 11) as f64 / (1_u64 << 53) as f64;
        let units_a_second = if self.settings.cycles { CYCLES_HZ } else { 1e9 };
        (units_a_second / (self.settings.rate_hz * (0.75 + 0.5 * unit))) as u64
    }

    /// Starts the timers.
    pub(super) fn start(&mut self) -> Result<()> {
        self.running = true;
        for timer in self.timers.values() {
            timer.event.enable().map_err(|e| Error::io("cannot start sampling", e))?;
        }
        Ok(())
    }

    /// Stops the timers; the rings can still be drained.
    pub(super) fn stop(&mut self) {
        self.running = false;
        for timer in self.timers.values() {
            drop(timer.event.disable());
        }
    }

    /// Waits until a sample comes, at most for `limit`.
    pub(super) fn wait(&self, limit: Duration) {
        let mut fds: Vec<_> = self.cpus.iter().map(|c| PollFd::new(c.owner.fd().as_fd(), PollFlags::POLLIN)).collect();
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO);
        // A signal ends the wait early, which is as good.
        let _ = poll(&mut fds, limit);
    }

    /// Gives every record that has come to `take`, samples with the time they stand for in ns.
    pub(super) fn drain(&mut self, now: Mono, mut take: impl FnMut(Record<'_>, u64)) {
        let Self { cpus, timers, owners, own, settings, throttled, .. } = self;
        let ns = if settings.cycles { 1e9 / CYCLES_HZ } else { 1.0 };
        for cpu in cpus {
            cpu.ring.drain(|bytes| {
                let id = Cell::new(0);
                let record = parse(bytes, |from| {
                    id.set(from);
                    Layout::Stacks { raw: false }
                });
                match &record {
                    Record::Stack(sample) => {
                        let owner = owners.get(&id.get()).copied().unwrap_or(0);
                        if owner != sample.tid && own.contains_key(&sample.tid) {
                            return;
                        }
                        let period = match timers.entry(id.get()) {
                            Entry::Occupied(mut timer) if owner == sample.tid => {
                                timer.get_mut().fired = true;
                                timer.get().period
                            }
                            _ => sample.period,
                        };
                        take(record, (period as f64 * ns) as u64);
                    }
                    Record::Throttle => *throttled += 1,
                    _ => take(record, 0),
                }
            });
        }
        self.redraw(now);
    }

    fn redraw(&mut self, now: Mono) {
        let due = |t: &Timer| t.fired && now.since(t.drawn) >= REDRAW_NS;
        let ids: Vec<u64> = self.timers.iter().filter(|(_, t)| due(t)).map(|(id, _)| *id).collect();
        for id in ids {
            let period = self.draw();
            if let Some(timer) = self.timers.get_mut(&id) {
                timer.fired = false;
                timer.drawn = now;
                if timer.event.set_period(period).is_ok() {
                    timer.period = period;
                }
            }
        }
    }
}

/// A guess at a processor's clock, for `cycles`.
const CYCLES_HZ: f64 = 3e9;

fn ring_attr() -> Attr {
    Attr {
        clockwork: Clockwork::Dummy,
        period: 1,
        layout: Layout::Stacks { raw: false },
        stack_bytes: 0,
        side_band: false,
        inherit: false,
        threads_only: false,
        wake_each: false,
        exclude_kernel: true,
        enable_on_exec: false,
    }
}

/// Opens an event; what this user or this kernel cannot have is left out, from then on.
fn open_fitting(attr: &mut Attr, period: u64, scope: Scope) -> io::Result<Event> {
    let mut error = None;
    for _ in 0..3 {
        match Event::open(&Attr { period, ..*attr }, scope) {
            Ok(event) => return Ok(event),
            Err(e) => {
                match e.raw_os_error() {
                    Some(libc::EACCES | libc::EPERM) if !attr.exclude_kernel => attr.exclude_kernel = true,
                    Some(libc::EINVAL) if attr.threads_only => attr.threads_only = false,
                    _ => return Err(e),
                }
                error = Some(e);
            }
        }
    }
    Err(error.unwrap_or_else(|| io::Error::other("not tried")))
}

/// The threads of a process at this moment; none when it is gone.
pub(super) fn threads_of(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task"));
    entries.into_iter().flatten().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

/// A descriptor a thread and CPU: the soft limit of 1024 is soon reached.
fn raise_file_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Failing leaves the old limit; a thread without a timer is counted.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
