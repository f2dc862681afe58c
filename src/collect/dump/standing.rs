//! Reading a process while it stands still (`--freeze`): all stacks and the GIL of one instant.
//!
//! In: a limit. Out: the same threads as without it, [`Taken::Stopped`](crate::record::dump::Taken::Stopped). Only memory
//! and `/proc` are read meanwhile; frames are named once the process runs again.

use std::time::Duration;

use rustc_hash::FxHashMap;

use super::dumper::{Again, Dumper, Seen};
use super::task;
use crate::error::Result;
use crate::native::asleep::Task;
use crate::os::freeze::Freeze;
use crate::record::dump::Doing;
use crate::units::Nanos;

impl Dumper {
    /// Stops the process and reads its threads; they are named once it runs again. Where it cannot be stopped, that is
    /// remarked, and it is read as it runs.
    pub(super) fn standing(&mut self, limit: Nanos) -> Result<()> {
        let doing = |tid| Some((tid, task::doing(Task { pid: self.pid, tid })?));
        let before: FxHashMap<u32, Doing> = task::tasks(self.pid).into_iter().filter_map(doing).collect();
        match Freeze::start(self.pid, Duration::from_nanos(limit.0)) {
            Ok(freeze) => self.still = Some(freeze),
            Err(e) => {
                let why = match e.raw_os_error() {
                    Some(libc::EPERM) => "no right to trace it, or a debugger does already".to_owned(),
                    _ => e.to_string(),
                };
                self.remarks.push(format!("it was not stopped: {why}"));
                return Ok(());
            }
        }
        if let Some(pythons) = &mut self.pythons {
            pythons.refresh();
            let gils = pythons.interpreters().into_iter().filter_map(|i| pythons.gil(i)).collect();
            self.still_gils = Some(gils);
        }
        let mut read = Vec::new();
        for tid in task::tasks(self.pid) {
            let Some(mut facts) = task::facts(Task { pid: self.pid, tid }) else { continue };
            facts.doing = before.get(&tid).copied().unwrap_or(Doing::Runnable);
            if let Seen::Read(one) = self.look(&facts, Again::IfTorn)? {
                read.push((facts, one));
            }
        }
        let Some(freeze) = self.still.take() else { return Ok(()) };
        let all = freeze.has_all();
        let thawed = freeze.release();
        self.stopped_ns = Some(thawed.stood.as_nanos() as u64);
        if thawed.expired {
            self.remarks.push(format!("it was let go after {limit}, before everything was read"));
        } else if !all {
            self.remarks.push("not all of its threads could be stopped".to_owned());
        }
        for (facts, one) in read {
            self.keep(&facts, *one);
        }
        Ok(())
    }
}
