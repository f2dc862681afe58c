//! A locustfile's `LoadTestShape`: asked once a second how many users there are to be.
//!
//! In: the file. Out: wishes over a channel, which [`Drive::listen`] carries out. The shape lives on a thread of its own, since
//! what the evaluator makes belongs to one thread; it ends with the drive. Limits: the classes that a shape may name beside
//! users and rate are not looked at.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Drive;
use crate::clock::{Clock, Mono, SystemClock};
use crate::error::{Error, Result};
use crate::load::journal::Journal;
use crate::load::locust::Locustfile;
use crate::load::locust::play::Cast;

/// How often a shape is asked, as in Locust.
const TICK: Duration = Duration::from_secs(1);

/// Users and users a second; `None` for the end of the run.
type Wish = Option<(u32, f64)>;

/// A shape that is asked.
#[derive(Debug)]
pub(super) struct Shape {
    wishes: Receiver<Wish>,
    users: Arc<AtomicU32>,
    last: Wish,
    /// Dropped to end the thread.
    over: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Shape {
    /// Begins to ask the file's shape; `start` is when the run begins, ns of the one clock.
    ///
    /// # Errors
    /// `Io` when there is no thread to be had.
    pub(super) fn begin(file: Arc<Locustfile>, cast: Arc<Cast>, journal: Arc<Journal>, start: u64) -> Result<Self> {
        let (wish, wishes) = channel();
        let (over, is_over) = channel();
        let users = Arc::new(AtomicU32::new(0));
        let now = Arc::clone(&users);
        let work = move || {
            let ask = || -> Result<()> {
                let mut world = cast.world(&file)?;
                loop {
                    let run_time_s = SystemClock.now().since(Mono(start)) as f64 / 1e9;
                    let wanted = world.shape(run_time_s, now.load(Ordering::Relaxed));
                    let wanted = wanted.unwrap_or_else(|e| {
                        let traceback = e.traceback_of(file.name());
                        journal.raised(e.message, traceback);
                        None
                    });
                    world.take_log().iter().for_each(|line| journal.say(line));
                    // Whoever listened may have gone.
                    let is_last = wish.send(wanted).is_err() || wanted.is_none();
                    if is_last || is_over.recv_timeout(TICK) != Err(RecvTimeoutError::Timeout) {
                        return Ok(());
                    }
                }
            };
            if let Err(e) = ask() {
                journal.say(&format!("the shape cannot be asked: {e:#}"));
                journal.end_run();
            }
        };
        let thread = std::thread::Builder::new().name("perfkit-shape".into()).spawn(work);
        let thread = thread.map_err(|e| Error::io("cannot start the thread that asks the shape", e))?;
        Ok(Self { wishes, users, last: None, over: Some(over), thread: Some(thread) })
    }
}

impl Drop for Shape {
    fn drop(&mut self) {
        self.over = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Drive {
    /// Does what the shape wants, if there is one.
    pub(super) fn take_shape(&mut self) {
        let Some(shape) = &mut self.shape else { return };
        shape.users.store(self.live.users, Ordering::Relaxed);
        let Some(wish) = shape.wishes.try_iter().last() else { return };
        if wish == shape.last && wish.is_some() {
            return;
        }
        shape.last = wish;
        match wish {
            None => self.stop(),
            Some(_) if self.board.finish.load(Ordering::SeqCst) => {}
            Some((users, rate)) => {
                if let Err(e) = self.set_users(users, rate) {
                    self.journal.say(&format!("the shape wants {users} users, {rate} a second: {e}"));
                }
            }
        }
    }
}
