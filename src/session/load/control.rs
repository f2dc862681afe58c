//! Changing the users of a run while it goes on: the keys of the terminal, the web UI's form.
//!
//! In: how many users, and how fast. Out: a turn of the course that every thread learns of before it begins, so that all
//! together do at each moment what one thread would. Limits: the closed model only; a change overrules what stages were left.

use super::{Drive, raise_fd_limit};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};
use crate::load::course::Level;

/// From being asked for until a turn begins, ns: every thread looks at the board at least once in 100 ms.
const TURN_NS: u64 = 120_000_000;
/// How fast users come and go that keys ask for, a second, as in Locust.
const KEY_RATE: f64 = 100.0;
/// The most users.
const MOST: u32 = 10_000_000;

impl Drive {
    /// From now on (0.12 s later) the number of users goes to `users`, `rate` a second, and stays there. A user that goes
    /// finishes its request, or its task where `--stop-timeout` gives it time.
    ///
    /// # Errors
    /// `Usage` in the open model, when the run is ending, for a rate that is not above 0, and for more users than files may be
    /// open; the run goes on as it was then.
    pub fn set_users(&mut self, users: u32, rate: f64) -> Result<()> {
        let Some(level) = &self.level else {
            return Err(
                Error::usage("arrivals drive this run, not users").advise("start it with -u instead of --arrivals")
            );
        };
        if !(rate > 0.0 && rate.is_finite()) {
            return Err(Error::usage("users come at a rate above 0 a second"));
        }
        if users > MOST {
            return Err(Error::usage(format!("at most {MOST} users")));
        }
        let at = SystemClock.now().0.max(self.start) + TURN_NS;
        if at >= self.end || self.board.finish.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(Error::usage("the run is ending"));
        }
        raise_fd_limit(u64::from(users), false)?;
        let level = level.turned(at - self.start, f64::from(users), rate, self.end - self.start);
        self.level_from = level.steady_from();
        self.steady = Some(self.start + self.level_from);
        super::mark(self.recorder.as_deref(), at, &format!("load: {users} users"));
        self.board.turn(level.clone());
        self.level = Some(level);
        Ok(())
    }

    /// So many users more, or less (not below 0) than were asked for last; how many that are. As fast as the ramp under way, else
    /// 100 a second.
    ///
    /// # Errors
    /// As [`Drive::set_users`].
    pub fn add_users(&mut self, change: i32) -> Result<u32> {
        let users = self.wanted_users().unwrap_or(0).saturating_add_signed(change).min(MOST);
        let at = SystemClock.now().0.saturating_sub(self.start);
        let ramp = self.level.as_ref().and_then(|l| l.slope_at(at)).filter(|slope| *slope > 0.0);
        self.set_users(users, ramp.unwrap_or(KEY_RATE))?;
        Ok(users)
    }

    /// How many users there are to be when the ramp under way is over; `None` in the open model.
    pub fn wanted_users(&self) -> Option<u32> {
        let at = SystemClock.now().0.saturating_sub(self.start) + TURN_NS;
        self.level.as_ref().map(|l| Level::users_of(l.goal_at(at)) as u32)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::load::program::Choice;
    use crate::load::scenario::{default_targets, from_text};
    use crate::session::load::LoadPlan;

    /// A server that answers each bunch of bytes with 200.
    fn server() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while stream.read(&mut buffer).is_ok_and(|n| n > 0) {
                        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_err() {
                            return;
                        }
                    }
                });
            }
        });
        port
    }

    fn plan(port: u16, arrivals: Option<&str>, stop_timeout_ns: Option<u64>) -> LoadPlan {
        let text = format!(
            "host = \"http://127.0.0.1:{port}\"\n[[user]]\nname = \"u\"\nwait = 0.01\n[[user.task]]\nname = \"t\"\n\
             steps = [{{ get = \"/a\" }}, {{ wait = 0.2 }}, {{ get = \"/b\" }}]\n"
        );
        LoadPlan {
            scenario: from_text("s.toml", &text, std::path::Path::new(".")).unwrap(),
            locustfile: None,
            choice: Choice::default(),
            users: Some(4),
            spawn_rate: arrivals.is_none().then_some(1000.0),
            run_time_ns: None,
            arrivals: arrivals.map(str::to_owned),
            poisson: false,
            threads: Some(3),
            stop_timeout_ns,
            targets: default_targets(),
            judging: crate::session::load::Judging::default(),
            reset_stats: false,
        }
    }

    /// Listens until there are so many users; the run's requests then.
    fn until(drive: &mut Drive, users: u32) -> u64 {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            let live = drive.listen(Duration::from_millis(50));
            if live.users == users && drive.users.iter().all(|u| u.abs_diff(users / 3) <= 1) {
                return live.requests;
            }
            assert!(Instant::now() < limit, "{users} users, but {live:?}");
        }
    }

    #[test]
    fn users_come_and_go_while_the_run_goes_on() {
        let mut drive = Drive::start(plan(server(), None, None), None).unwrap();
        until(&mut drive, 4);
        drive.set_users(40, 200.0).unwrap();
        assert_eq!(drive.wanted_users(), Some(40));
        until(&mut drive, 40);
        drive.set_users(6, 1000.0).unwrap();
        until(&mut drive, 6);
        // Keys that are pressed while the change before is under way count from where it goes.
        assert_eq!(
            (drive.add_users(10).unwrap(), drive.add_users(1).unwrap(), drive.add_users(-10).unwrap()),
            (16, 17, 7)
        );
        until(&mut drive, 7);
        assert_eq!(drive.add_users(-10).unwrap(), 0);
        until(&mut drive, 0);
        drive.set_users(2, 1e6).unwrap();
        until(&mut drive, 2);
        assert!(drive.set_users(1, 0.0).is_err());
        drive.stop();
        assert!(drive.set_users(1, 1.0).unwrap_err().to_string().contains("ending"));
        let report = drive.finish().unwrap().report;
        assert_eq!((report.totals.failures, report.totals.unfinished), (0, 0));
        assert!(report.totals.peak_users >= 40, "{}", report.totals.peak_users);
    }

    #[test]
    fn who_goes_finishes_its_task_if_it_is_given_time() {
        for (stop_timeout_ns, whole) in [(Some(5_000_000_000), true), (None, false)] {
            let mut drive = Drive::start(plan(server(), None, stop_timeout_ns), None).unwrap();
            until(&mut drive, 4);
            drive.set_users(0, 1e6).unwrap();
            until(&mut drive, 0);
            drive.stop();
            let report = drive.finish().unwrap().report;
            let count = |name: &str| report.by_name.iter().find(|e| e.name == name).map_or(0, |e| e.requests);
            assert!(count("/a") >= 4);
            assert_eq!(count("/a") == count("/b"), whole, "{} and {}", count("/a"), count("/b"));
        }
    }

    #[test]
    fn arrivals_have_no_users_to_change() {
        let mut drive = Drive::start(plan(server(), Some("10/s"), None), None).unwrap();
        assert!(drive.set_users(5, 1.0).unwrap_err().to_string().contains("arrivals"));
        assert_eq!(drive.wanted_users(), None);
    }
}
