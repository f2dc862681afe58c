//! The event loop of a thread, and the lives of its users. What happens to a request stands in `requests.rs`.

use std::iter::Peekable;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::failure;
use super::oversleep::Oversleep;
use super::user::{State, User};
use super::{Board, Order};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};
use crate::load::attendance::Attendance;
use crate::load::course::{Arrivals, Course, Mix};
use crate::load::script::{Action, Context, Draft, NameId, Names, Phase, Script, Wait};
use crate::load::tally::{Tally, Window, WindowFailure, WindowRow};
use crate::load::wheel::{Timer, Wheel};
use crate::os::epoll::Epoll;

/// Events that the kernel tells at a time.
const EVENTS: usize = 128;
/// Events after which the clock is looked at: what is due must not wait for a whole batch (some µs each).
const EVENTS_BETWEEN: u32 = 8;
/// The length of a window, ns.
pub const WINDOW_NS: u64 = 100_000_000;
/// A user whose connection failed, and who would try again at once, pauses so long, ns.
const BREATH_NS: u64 = 10_000_000;
/// Steps without a request after which a user is interrupted.
const IDLE_STEPS: u32 = 1000;
/// What is read at once, bytes.
const BUFFER: usize = 64 * 1024;

/// Which timer: a wait's, or the one that looks for requests that take too long.
const ALARM_BIT: u64 = 1 << 63;

/// One thread's part of the run.
pub struct Worker<'a, S: Script> {
    pub(super) script: &'a S,
    pub(super) order: &'a Order,
    names: &'a Names,
    known: FxHashMap<Box<[u8]>, NameId>,
    counts: Vec<u64>,
    scratch: Vec<u8>,
    pub(super) epoll: Epoll,
    pub(super) users: Vec<User<S::User>>,
    empty: Vec<u32>,
    /// Open model: users that are free, by class.
    free: Vec<Vec<u32>>,
    /// Users that are in a seat.
    present: u32,
    /// Open model: tasks under way.
    tasks: u32,
    by_number: FxHashMap<u64, u32>,
    wheel: Wheel,
    pub(super) tally: Tally,
    pub(super) rows: Vec<WindowRow>,
    /// Failures that no window has told of and that the tally no longer knows.
    failed: Vec<WindowFailure>,
    pub(super) lag_max: u64,
    pub(super) buffer: Box<[u8]>,
    ended: bool,
    sleep: Oversleep,
    /// Set when a seat came free, so that arrivals which wait for one are looked at.
    pub(super) turn: usize,
    next_number: u64,
}

impl<S: Script> std::fmt::Debug for Worker<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("stripe", &self.order.stripe).finish_non_exhaustive()
    }
}

pub(super) fn now() -> u64 {
    SystemClock.now().0
}

impl<'a, S: Script> Worker<'a, S> {
    /// Ready to run.
    ///
    /// # Errors
    /// `Io` when there is no epoll instance to be had.
    pub fn new(script: &'a S, order: &'a Order, names: &'a Names) -> Result<Self> {
        let epoll = Epoll::new(EVENTS).map_err(|e| Error::io("cannot make an epoll instance", e))?;
        Ok(Self {
            script,
            order,
            names,
            known: FxHashMap::default(),
            counts: vec![0; script.counts()],
            scratch: Vec::new(),
            epoll,
            users: Vec::new(),
            empty: Vec::new(),
            free: vec![Vec::new(); script.classes().len()],
            present: 0,
            tasks: 0,
            by_number: FxHashMap::default(),
            wheel: Wheel::new(order.start),
            tally: Tally::keeping(order.slowest),
            rows: Vec::new(),
            failed: Vec::new(),
            lag_max: 0,
            buffer: vec![0; BUFFER].into(),
            ended: false,
            sleep: Oversleep::default(),
            turn: order.stripe.index as usize,
            next_number: order.stripe.index,
        })
    }

    /// Runs to the end. `told` gets each window; it must not block.
    ///
    /// # Errors
    /// `Io` when epoll fails.
    pub fn run(mut self, board: &Board, mut told: impl FnMut(Window)) -> Result<Tally> {
        // How late sleeps end, at best; without it (the default of 50 µs) they end a little later.
        let _: std::result::Result<_, _> = nix::sys::prctl::set_timerslack(1);
        let order = self.order;
        let with_fixed = matches!(order.course, Course::Closed(_));
        let mix = Mix::new(self.script.classes(), with_fixed);
        let (mut changes, mut arrivals, cap) = match &order.course {
            Course::Closed(level) => (Some(Attendance::new(level.clone(), order.stripe)), None, 0),
            Course::Open { rate, poisson, cap } => {
                let all = Arrivals::new(rate.clone(), *poisson, order.seed, order.stripe);
                // The cap is shared out, at least one for everybody.
                let stripe = order.stripe;
                let share = u64::from(*cap) / stripe.total + u64::from(u64::from(*cap) % stripe.total > stripe.index);
                (None, Some(all.peekable()), (share as u32).max(1))
            }
        };
        let mut end = order.end;
        let mut window = order.start + WINDOW_NS;
        let mut freed = order.start;
        let (mut turned, mut fresh) = (0, 0);
        loop {
            let mut at = now();
            if board.abort.load(Ordering::Relaxed) {
                break;
            }
            if board.finish.load(Ordering::Relaxed) {
                end = end.min(board.finish_at.load(Ordering::Relaxed).max(order.start));
            }
            if let Some(changes) = changes.as_mut().filter(|_| board.turned.load(Ordering::Acquire) > turned) {
                for level in board.turns_after(turned) {
                    changes.turn(level);
                    turned += 1;
                }
            }
            if board.fresh.load(Ordering::Relaxed) > fresh && at >= board.fresh.load(Ordering::Relaxed) {
                fresh = board.fresh.load(Ordering::Relaxed);
                // What failed until now is of the window under way all the same.
                self.failed.extend(self.tally.untold());
                self.tally.begin_anew();
            }
            while let Some(timer) = self.wheel.pop(at) {
                self.fire(timer, at);
            }
            let mut next = window.min(self.wheel.next_due().unwrap_or(u64::MAX));
            if at < end {
                if let Some(changes) = &mut changes {
                    next = next.min(self.births(changes, &mix, at));
                }
                next = next.min(end);
            }
            if let Some(arrivals) = &mut arrivals {
                // What was due before the end is begun, however late.
                let due = self.arrive(arrivals, &mix, cap, end, &mut freed);
                next = next.min(due);
                if at >= end && due == u64::MAX && self.tasks == 0 {
                    self.end_all(at);
                }
            } else if at >= end {
                self.end_all(at);
            }
            if at >= end {
                let last = end.saturating_add(order.patience);
                if self.present == 0 || at >= last {
                    break;
                }
                next = next.min(last);
            }
            at = now();
            if at >= window {
                told(self.window(window));
                window += WINDOW_NS * (1 + (at - window) / WINDOW_NS);
                continue;
            }
            self.poll(next, at)?;
        }
        if let Some(arrivals) = &mut arrivals {
            // A run that is dropped may have no end.
            let end = end.min(now());
            while arrivals.next_if(|(_, due)| order.start + due < end).is_some() {
                self.tally.arrivals_asked += 1;
            }
        }
        self.tally.unfinished = self.users.iter().filter(|u| u.state == State::Busy).count() as u64;
        told(self.window(now()));
        Ok(self.tally)
    }

    /// Waits for events until `next` and deals with them, until something else is due.
    fn poll(&mut self, next: u64, at: u64) -> Result<()> {
        if !self.epoll.has_more() {
            let left = next.saturating_sub(at);
            let sleep = if self.order.spin { left.saturating_sub(self.sleep.margin()) } else { left };
            let found = self.epoll.wait(Some(Duration::from_nanos(sleep)));
            let found = found.map_err(|e| Error::io("cannot wait for connections", e))?;
            if found == 0 && sleep > 0 && self.order.spin {
                self.sleep.ended(now().saturating_sub(at + sleep));
            }
        }
        let mut taken = 0;
        while let Some(ready) = self.epoll.take() {
            let (seat, wire) = (ready.key as u32, (ready.key >> 32) as u32);
            let is_current = self.users.get(seat as usize).is_some_and(|u| u.wire == wire && u.conn.is_some());
            if is_current {
                self.ready(seat, ready);
            }
            taken += 1;
            if taken % EVENTS_BETWEEN == 0 && self.epoll.has_more() && now() >= next {
                break;
            }
        }
        Ok(())
    }

    /// Closed model: lets users come and go that are due; when the next one is, ns of the one clock.
    fn births(&mut self, changes: &mut Attendance, mix: &Mix, at: u64) -> u64 {
        let start = self.order.start;
        while let Some(change) = at.checked_sub(start).and_then(|at| changes.due(at)) {
            if change.comes {
                let due = start + change.at;
                let seat = self.sit(change.user, mix.class(change.user));
                self.by_number.insert(change.user, seat);
                self.begin_life(seat, due);
            } else if let Some(seat) = self.by_number.remove(&change.user) {
                // The number is free from now on, though its last user may be busy for a while.
                self.end_life(seat, at);
            }
        }
        start.saturating_add(changes.next_at())
    }

    /// Open model: begins what is due; when the next one is.
    fn arrive(&mut self, arrivals: &mut Peekable<Arrivals>, mix: &Mix, cap: u32, end: u64, freed: &mut u64) -> u64 {
        let start = self.order.start;
        loop {
            let Some(&(number, due)) = arrivals.peek() else { return u64::MAX };
            let due = start + due;
            if due >= end {
                return u64::MAX;
            }
            let at = now();
            if due > at {
                *freed = at;
                return due;
            }
            if self.tasks >= cap {
                *freed = at;
                // A task that ends wakes us.
                return u64::MAX - 1;
            }
            arrivals.next();
            self.tally.arrivals_asked += 1;
            self.tally.arrivals_made += 1;
            let class = mix.class(number);
            self.tasks += 1;
            self.tally.peak_users = self.tally.peak_users.max(self.tasks);
            let free = self.free.get_mut(class as usize).and_then(Vec::pop);
            let seat = free.unwrap_or_else(|| {
                let number = self.next_number;
                self.next_number += self.order.stripe.total;
                self.sit(number, class)
            });
            let is_new = free.is_none();
            let user = &mut self.users[seat as usize];
            user.arrival = Some((number, due));
            user.ready = if self.tasks == cap { *freed } else { due };
            if is_new {
                self.begin_life(seat, due);
            } else {
                self.begin_arrival(seat);
            }
        }
    }

    /// Gives user `number` a seat.
    fn sit(&mut self, number: u64, class: u16) -> u32 {
        self.present += 1;
        if matches!(self.order.course, Course::Closed(_)) {
            self.tally.peak_users = self.tally.peak_users.max(self.present);
        }
        let player = self.script.join(number, class);
        if let Some(seat) = self.empty.pop() {
            let old = &self.users[seat as usize];
            self.users[seat as usize] = User::new(number, class, player, old.life + 1, old.wire + 1);
            return seat;
        }
        self.users.push(User::new(number, class, player, 0, 0));
        (self.users.len() - 1) as u32
    }

    fn begin_life(&mut self, seat: u32, due: u64) {
        let user = &mut self.users[seat as usize];
        user.phase = Phase::Start;
        user.due = due;
        user.ready = user.ready.max(due);
        user.timed = true;
        user.task_due = due;
        self.script.begin(&mut user.player, Phase::Start, None);
        self.go_on(seat);
    }

    fn begin_arrival(&mut self, seat: u32) {
        let user = &mut self.users[seat as usize];
        let Some((number, due)) = user.arrival.take() else { return };
        user.phase = Phase::Task;
        user.due = due;
        user.ready = user.ready.max(due);
        user.timed = true;
        self.script.begin(&mut user.player, Phase::Task, Some(number));
        self.go_on(seat);
    }

    fn begin_task(&mut self, seat: u32, due: u64, ready: u64) {
        let user = &mut self.users[seat as usize];
        user.phase = Phase::Task;
        (user.task_due, user.due, user.ready, user.timed) = (due, due, ready.max(due), true);
        self.script.begin(&mut user.player, Phase::Task, None);
        self.go_on(seat);
    }

    /// The user is to end: at once where it waits for its next task, else when its request (or its task) is over.
    fn end_life(&mut self, seat: u32, at: u64) {
        let patience = if self.order.finishes_tasks { self.order.patience } else { 0 };
        let user = &mut self.users[seat as usize];
        if user.last.is_some() || user.state == State::Gone {
            return;
        }
        let last = at.saturating_add(patience);
        user.last = Some(last);
        match user.state {
            State::BeforeStep if patience > 0 && last < user.wake => self.sleep(seat, State::BeforeStep, last),
            State::BeforeStep if patience > 0 => {}
            State::BeforeTask | State::BeforeStep | State::Free => self.stop_life(seat, at),
            State::Busy | State::Gone => {}
        }
    }

    fn stop_life(&mut self, seat: u32, at: u64) {
        let user = &mut self.users[seat as usize];
        user.wake = 0;
        user.phase = Phase::Stop;
        (user.due, user.ready, user.timed) = (at, at, false);
        self.script.begin(&mut user.player, Phase::Stop, None);
        self.go_on(seat);
    }

    fn leave(&mut self, seat: u32) {
        let open = matches!(self.order.course, Course::Open { .. });
        let user = &mut self.users[seat as usize];
        if open && (user.phase == Phase::Task || user.arrival.is_some()) {
            self.tasks = self.tasks.saturating_sub(1);
        }
        user.state = State::Gone;
        user.conn = None;
        user.draft = Draft::default();
        user.life += 1;
        user.wire += 1;
        let number = user.number;
        // Unless the number has gone to another one.
        if self.by_number.get(&number) == Some(&seat) {
            self.by_number.remove(&number);
        }
        self.present -= 1;
        self.empty.push(seat);
    }

    fn end_all(&mut self, at: u64) {
        if self.ended {
            return;
        }
        self.ended = true;
        for seat in 0..self.users.len() as u32 {
            self.end_life(seat, at);
        }
    }

    /// Asks the script what comes next, and does it.
    pub(super) fn go_on(&mut self, seat: u32) {
        for _ in 0..IDLE_STEPS {
            let user = &mut self.users[seat as usize];
            if user.last.is_some_and(|last| user.phase != Phase::Stop && now() >= last) {
                return self.stop_life(seat, now());
            }
            let mut cx = Context {
                stripe: self.order.stripe,
                counts: &mut self.counts,
                names: self.names,
                known: &mut self.known,
                scratch: &mut self.scratch,
                now: user.due,
                wall_offset_ns: self.order.wall_offset_ns,
            };
            match self.script.next(&mut user.player, &mut user.draft, &mut cx) {
                Action::Send => return self.send(seat),
                Action::Refuse => {
                    let why = std::mem::take(&mut user.draft.refusal);
                    return self.refuse(seat, failure::of("request", why));
                }
                Action::Pause(0) => {}
                Action::Pause(ns) => {
                    let last = user.last.filter(|_| user.phase != Phase::Stop).unwrap_or(u64::MAX);
                    let wake = now().saturating_add(ns).min(last);
                    return self.sleep(seat, State::BeforeStep, wake);
                }
                Action::Leave => return self.leave(seat),
                Action::Done(wait) => match user.phase {
                    Phase::Stop => return self.leave(seat),
                    _ if user.last.is_some() => return self.stop_life(seat, now()),
                    phase => {
                        if self.over(seat, phase, wait) {
                            return;
                        }
                    }
                },
            }
        }
        // A task that sends nothing and never waits must not keep the others waiting.
        self.sleep(seat, State::BeforeStep, now() + 1_000_000);
    }

    /// A phase is over; whether the user has nothing more to do for now.
    fn over(&mut self, seat: u32, phase: Phase, wait: Wait) -> bool {
        let at = now();
        let open = matches!(self.order.course, Course::Open { .. });
        let user = &mut self.users[seat as usize];
        if open {
            if phase == Phase::Start {
                self.begin_arrival_in_place(seat);
                return false;
            }
            self.tasks = self.tasks.saturating_sub(1);
            user.state = State::Free;
            let class = user.class as usize;
            if let Some(free) = self.free.get_mut(class) {
                free.push(seat);
            }
            return true;
        }
        let begun = user.task_due;
        let breathless = std::mem::take(&mut user.breathless);
        let due = match (phase, wait) {
            (Phase::Start, _) | (_, Wait::None) => at,
            (_, Wait::Constant(ns) | Wait::Between(ns, _)) => at.saturating_add(ns),
            (_, Wait::Pacing(ns)) => begun.saturating_add(ns),
        };
        if due > at {
            user.task_due = due;
            self.sleep(seat, State::BeforeTask, due);
            return true;
        }
        if breathless {
            // No connection, and no wait: it would go round and round. Failures stay failures, but not a million a second.
            self.sleep(seat, State::BeforeTask, at + BREATH_NS);
            return true;
        }
        user.phase = Phase::Task;
        (user.task_due, user.due, user.ready, user.timed) = (due, due, at, false);
        self.script.begin(&mut user.player, Phase::Task, None);
        false
    }

    /// As [`Self::begin_arrival`], from within [`Self::go_on`].
    fn begin_arrival_in_place(&mut self, seat: u32) {
        let at = now();
        let user = &mut self.users[seat as usize];
        user.phase = Phase::Task;
        let (number, due) = user.arrival.take().unwrap_or((0, at));
        (user.due, user.timed) = (due, user.timed && user.sent == 0);
        user.ready = user.ready.max(due);
        self.script.begin(&mut user.player, Phase::Task, Some(number));
    }

    fn sleep(&mut self, seat: u32, state: State, wake: u64) {
        let user = &mut self.users[seat as usize];
        user.state = state;
        user.wake = wake;
        self.wheel.add(Timer { due: wake, key: u64::from(seat) | u64::from(user.life & 0x7fff_ffff) << 32 });
    }

    /// Goes on after a moment.
    pub(super) fn rest(&mut self, seat: u32) {
        self.sleep(seat, State::BeforeStep, now() + BREATH_NS);
    }

    /// Makes sure that somebody looks when the request has taken too long.
    pub(super) fn watch(&mut self, seat: u32) {
        let user = &mut self.users[seat as usize];
        if user.alarm == 0 || user.deadline < user.alarm {
            user.alarm = user.deadline;
            let key = u64::from(seat) | u64::from(user.life & 0x7fff_ffff) << 32 | ALARM_BIT;
            self.wheel.add(Timer { due: user.deadline, key });
        }
    }

    fn fire(&mut self, timer: Timer, at: u64) {
        let (seat, life) = (timer.key as u32, (timer.key >> 32) as u32 & 0x7fff_ffff);
        let Some(user) = self.users.get_mut(seat as usize) else { return };
        if user.life & 0x7fff_ffff != life {
            return;
        }
        if timer.key & ALARM_BIT != 0 {
            if timer.due != user.alarm {
                return;
            }
            user.alarm = 0;
            if user.state == State::Busy {
                if user.deadline <= at { self.time_out(seat) } else { self.watch(seat) }
            }
            return;
        }
        if timer.due != user.wake {
            return;
        }
        user.wake = 0;
        match user.state {
            State::BeforeTask => self.begin_task(seat, timer.due, timer.due),
            State::BeforeStep => {
                (user.due, user.ready, user.timed) = (timer.due, timer.due, true);
                self.go_on(seat);
            }
            _ => {}
        }
    }

    fn window(&mut self, end: u64) -> Window {
        let rows = self.rows.iter_mut().enumerate().filter(|(_, r)| !r.latencies_us.is_empty());
        let rows = rows.map(|(name, r)| WindowRow { name: name as u32, ..std::mem::take(r) }).collect();
        let users = if matches!(self.order.course, Course::Open { .. }) { self.tasks } else { self.present };
        let lag_max_ns = std::mem::take(&mut self.lag_max);
        let mut failed = std::mem::take(&mut self.failed);
        failed.extend(self.tally.untold());
        Window { worker: self.order.stripe.index, end, users, lag_max_ns, rows, failed }
    }
}
