//! The first rung: a timer on every CPU, and eBPF programs that sample what it hits.
//!
//! In: rate and stack size. Out: records of perf rings. One event a CPU and not one a thread: threads and children need no
//! event of their own, a context switch of the target costs nothing, a thread that lives for a millisecond is as likely to
//! be hit as its share of the time, and a new period reaches everybody. The period is drawn anew several times a second, so
//! that no timer of the target can stay in step with ours.

use std::time::Duration;

use super::pulse::Beat;
use crate::clock::Mono;
use crate::error::{Error, Kind, Result};
use crate::os::bpf::{Config, Counters, Programs};
use crate::os::perf::{Attr, Clockwork, Event, Layout, Record, Ring, Scope, parse};

/// How often the period is drawn anew.
const DITHER_NS: u64 = 250_000_000;
/// Bytes of a CPU's ring with the right to lock them; without (CAP_IPC_LOCK) it is what the kernel grants anybody.
const RING_BYTES: [usize; 4] = [8 << 20, 2 << 20, 512 << 10, 128 << 10];

/// What to sample and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// Ticks a second on each CPU.
    pub(super) rate_hz: f64,
    /// Hardware cycles instead of the timer.
    pub(super) cycles: bool,
    /// Bytes of stack to copy at most.
    pub(super) stack_bytes: u32,
    /// On-CPU samples are wanted.
    pub(super) ticks: bool,
    /// Switches are wanted.
    pub(super) switches: bool,
    /// Children of targets are targets.
    pub(super) follow: bool,
    /// The cost of sampling is measured: a second, bare timer is opened beside the sampling one.
    pub(super) pulse: bool,
}

struct Cpu {
    tick: Option<Event>,
    /// A timer without a program, only where its cost is measured.
    bare: Option<Event>,
    ring: Ring,
    stacks: Event,
    stacks_id: u64,
    plain: Event,
    plain_id: u64,
    wider: Option<(Event, u64)>,
    number: u32,
}

/// Timer events, rings and programs.
pub(super) struct Ticker {
    cpus: Vec<Cpu>,
    pub(super) programs: Programs,
    settings: Settings,
    dithered: Mono,
    random: u64,
    interval: Duration,
}

impl Ticker {
    /// Loads the programs and opens everything, still quiet.
    pub(super) fn open(settings: Settings, now: Mono) -> Result<Self> {
        let config = Config {
            follow_forks: settings.follow.into(),
            off_cpu: settings.switches.into(),
            ..Config::of_this_host()
        };
        let programs = Programs::load(config)?;
        let mut cpus = Vec::new();
        for number in online()? {
            match open_cpu(number, settings, &programs) {
                Ok(cpu) => cpus.push(cpu),
                // A CPU may go offline between the list and here.
                Err(e) if e.kind() == Kind::Gone || e.to_string().contains("offline") => {}
                Err(e) => return Err(e),
            }
        }
        let Some(first) = cpus.first() else {
            return Err(Error::new(Kind::Unsupported, "no CPU could be opened for sampling"));
        };
        // A quarter of a ring between two visits leaves room for a late one.
        let bytes_per_s = settings.rate_hz.max(50.0) * f64::from(settings.stack_bytes + 2048);
        let seconds = (first.ring.capacity() as f64 / 4.0 / bytes_per_s).clamp(0.004, 0.1);
        Ok(Self {
            cpus,
            programs,
            settings,
            dithered: now,
            random: now.0 | 1,
            interval: Duration::from_secs_f64(seconds),
        })
    }

    /// Starts the timers and hooks.
    pub(super) fn start(&mut self, now: Mono) -> Result<()> {
        self.dither(now, true);
        for cpu in &self.cpus {
            // Where windows are measured, the first of them starts the timers.
            let tick = cpu.tick.as_ref().filter(|_| !self.settings.pulse);
            for event in [Some(&cpu.stacks), Some(&cpu.plain), tick].into_iter().flatten() {
                event.enable().map_err(|e| Error::io("cannot start sampling", e))?;
            }
        }
        // Only now: a program that has no ring to write to would count losses.
        if self.settings.follow {
            self.programs.attach_forks()?;
        }
        if self.settings.switches {
            self.programs.attach_switches()?;
        }
        Ok(())
    }

    /// How long the rings can be left alone.
    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// Draws new periods when it is time to.
    pub(super) fn dither(&mut self, now: Mono, at_once: bool) {
        if self.settings.cycles || (!at_once && now.since(self.dithered) < DITHER_NS) {
            return;
        }
        self.dithered = now;
        for cpu in &self.cpus {
            // xorshift64: any sequence without a period near the target's will do.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let unit = (self.random >> 11) as f64 / (1_u64 << 53) as f64;
            // The frequency, not the period, is spread evenly: so its mean is what was asked for.
            let hz = self.settings.rate_hz * (0.75 + 0.5 * unit);
            if let Some(tick) = &cpu.tick {
                // A CPU that went offline keeps its old period; nothing runs there.
                drop(tick.set_period((1e9 / hz) as u64));
            }
        }
    }

    /// Gives every record that has come to `take`.
    pub(super) fn drain(&mut self, mut take: impl FnMut(&mut Programs, Record<'_>)) {
        let Self { cpus, programs, .. } = self;
        for cpu in cpus {
            let (stacks, plain, wider) = (cpu.stacks_id, cpu.plain_id, cpu.wider.as_ref().map(|w| w.1));
            let layout_of = |id| match id {
                _ if id == stacks || Some(id) == wider => Layout::Stacks { raw: true },
                _ if id == plain => Layout::Plain,
                _ => Layout::None,
            };
            cpu.ring.drain(|bytes| take(programs, parse(bytes, layout_of)));
        }
    }

    /// Copies larger stacks from now on; used when the present size cuts too many.
    pub(super) fn widen(&mut self, stack_bytes: u32) {
        if stack_bytes <= self.settings.stack_bytes {
            return;
        }
        self.settings.stack_bytes = stack_bytes;
        for cpu in &mut self.cpus {
            let attr = stack_attr(stack_bytes, false);
            // Failing leaves the smaller copies: truncation is counted and shown either way.
            let Ok(event) = Event::open(&attr, Scope::Cpu(cpu.number)) else { continue };
            let Ok(id) = event.id() else { continue };
            if event.output_to(&cpu.stacks).is_ok()
                && event.enable().is_ok()
                && self.programs.set_rings(cpu.number, &event, &cpu.plain).is_ok()
            {
                cpu.wider = Some((event, id));
            }
        }
        let bytes_per_s = self.settings.rate_hz.max(50.0) * f64::from(stack_bytes + 2048);
        let capacity = self.cpus.first().map_or(0, |c| c.ring.capacity());
        self.interval = Duration::from_secs_f64((capacity as f64 / 4.0 / bytes_per_s).clamp(0.004, 0.1));
    }

    /// Lets tick what the window says.
    pub(super) fn beat(&self, beat: Beat) -> Result<()> {
        for cpu in &self.cpus {
            for (event, on) in [(&cpu.tick, beat == Beat::Full), (&cpu.bare, beat == Beat::Bare)] {
                let Some(event) = event else { continue };
                let done = if on { event.enable() } else { event.disable() };
                done.map_err(|e| Error::io("cannot switch a timer", e))?;
            }
        }
        Ok(())
    }

    /// Stops the timers; the rings can still be drained.
    pub(super) fn stop(&self) {
        for cpu in &self.cpus {
            for event in
                [cpu.tick.as_ref(), cpu.bare.as_ref(), Some(&cpu.stacks), Some(&cpu.plain)].into_iter().flatten()
            {
                drop(event.disable());
            }
        }
    }

    /// The counters of all CPUs together.
    pub(super) fn counters(&self) -> Counters {
        self.programs.counters().iter().fold(Counters::default(), |mut sum, c| {
            sum.ticks += c.ticks;
            sum.target_ticks += c.target_ticks;
            sum.lost += c.lost;
            sum.run_ns += c.run_ns;
            sum.switches_all += c.switches_all;
            sum.switch_lost += c.switch_lost;
            sum.thinned += c.thinned;
            sum.switch_run_ns += c.switch_run_ns;
            sum
        })
    }
}

fn stack_attr(stack_bytes: u32, side_band: bool) -> Attr {
    Attr {
        clockwork: Clockwork::BpfOutput,
        period: 1,
        layout: Layout::Stacks { raw: true },
        stack_bytes,
        side_band,
        inherit: false,
        threads_only: false,
        wake_each: false,
        exclude_kernel: false,
        enable_on_exec: false,
    }
}

fn open_cpu(number: u32, settings: Settings, programs: &Programs) -> Result<Cpu> {
    let scope = Scope::Cpu(number);
    let event = |attr: &Attr, what: &str| {
        Event::open(attr, scope).map_err(|e| {
            let offline = if e.raw_os_error() == Some(libc::ENODEV) { " (offline)" } else { "" };
            Error::io(format!("cannot open the {what} on CPU {number}{offline}"), e)
        })
    };
    let stack = stack_attr(settings.stack_bytes, true);
    let stacks = event(&stack, "stack event")?;
    let ring = map_ring(&stacks)?;
    let plain = event(&Attr { layout: Layout::Plain, stack_bytes: 0, side_band: false, ..stack }, "switch event")?;
    plain.output_to(&stacks).map_err(|e| Error::io("cannot share a ring", e))?;
    let tick = if settings.ticks {
        let clockwork = if settings.cycles { Clockwork::Cycles } else { Clockwork::CpuClock };
        // Cycles: a guess at 3 GHz; the weight of a sample is measured time in any case.
        let period = if settings.cycles { 3e9 / settings.rate_hz } else { 1e9 / settings.rate_hz };
        let attr =
            Attr { clockwork, period: period as u64, layout: Layout::None, stack_bytes: 0, side_band: false, ..stack };
        let tick = event(&attr, if settings.cycles { "cycle counter" } else { "timer" })?;
        tick.set_bpf(programs.on_tick()?).map_err(|e| Error::io("cannot attach the sampling program", e))?;
        Some(tick)
    } else {
        None
    };
    let bare = if settings.pulse {
        let period = (1e9 / settings.rate_hz) as u64;
        let clockwork = Clockwork::CpuClock;
        let attr = Attr { clockwork, period, layout: Layout::None, stack_bytes: 0, side_band: false, ..stack };
        Some(event(&attr, "bare timer")?)
    } else {
        None
    };
    let ids =
        stacks.id().and_then(|s| Ok((s, plain.id()?))).map_err(|e| Error::io("cannot ask for an event's id", e))?;
    programs.set_rings(number, &stacks, &plain)?;
    Ok(Cpu { tick, bare, ring, stacks, stacks_id: ids.0, plain, plain_id: ids.1, wider: None, number })
}

/// The largest ring that we may lock.
pub(super) fn map_ring(event: &Event) -> Result<Ring> {
    let mut last = None;
    for bytes in RING_BYTES {
        match Ring::map(event, bytes) {
            Ok(ring) => return Ok(ring),
            Err(e) => last = Some(e),
        }
    }
    let e = Error::new(Kind::Denied, "cannot lock a ring for samples")
        .advise("raise it with: sysctl kernel.perf_event_mlock_kb=1024, or add CAP_IPC_LOCK");
    Err(match last {
        Some(cause) => e.caused_by(cause),
        None => e,
    })
}

/// The CPUs that are online.
pub(super) fn online() -> Result<Vec<u32>> {
    const PATH: &str = "/sys/devices/system/cpu/online";
    let text = std::fs::read_to_string(PATH).map_err(|e| Error::io(format!("cannot read {PATH}"), e))?;
    Ok(cpu_list(&text))
}

/// Parses `0-3,7`.
fn cpu_list(text: &str) -> Vec<u32> {
    text.trim()
        .split(',')
        .filter_map(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            Some(from.parse::<u32>().ok()?..=to.parse::<u32>().ok()?)
        })
        .flat_map(|r| r.take(65_536))
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn lists_of_cpus() {
        assert_eq!(super::cpu_list("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(super::cpu_list(""), Vec::<u32>::new());
    }
}
