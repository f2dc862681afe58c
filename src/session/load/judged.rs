//! What of a run is looked at while it goes on, and kept to judge it by: rules that end it, slices, the slowest requests.

use super::{Drive, mark};
use crate::clock::Mono;
use crate::load::slowest::SlowRow;
use crate::load::stop_on::StopOn;
use crate::load::tally::{Failure, Tally, Window};
use crate::record::requests::{SlowRequest, kept};
use crate::record::slices::{Cell, Slices};

/// What a run is judged by beside its targets.
#[derive(Debug, Clone, Default)]
pub struct Judging {
    /// Rules that end the run before its time, in place of the scenario's.
    pub stop_on: Vec<StopOn>,
    /// Whether the slowest requests are kept whole, though there is no recording.
    pub slowest: bool,
    /// Whether the run is kept in slices, to be compared.
    pub slices: bool,
}

impl Drive {
    /// Looks whether the run is to end before its time, and keeps what it is compared by.
    pub(super) fn judge(&mut self, window: &Window) {
        if self.stopped.is_none()
            && window.end < self.end
            && let Some(why) = self.watch.take(window, self.start)
        {
            mark(self.recorder.as_deref(), window.end, &format!("load: ended early: {why}"));
            self.stopped = Some(why);
            self.stop();
        }
        if let Some(slices) = &mut self.slices {
            for row in &window.rows {
                let mut cell =
                    Cell { requests: row.latencies_us.len() as u64, failures: row.failures, ..Cell::default() };
                for us in &row.latencies_us {
                    *cell.latencies.entry(kept(*us)).or_default() += 1;
                }
                slices.add(window.end.saturating_sub(self.start), row.name, cell);
            }
        }
    }

    /// The slowest requests, which the recording gets too, and the slices, both complete.
    pub(super) fn kept(
        &mut self,
        tally: &mut Tally,
        names: &[(String, String)],
        ended: u64,
    ) -> (Vec<SlowRequest>, Option<Slices>) {
        let slowest = std::mem::take(&mut tally.slowest);
        let total = tally.names.iter().map(|s| s.requests).sum();
        let slowest: Vec<SlowRequest> = slowest.finish(total).into_iter().map(slow_request).collect();
        if let Some(recorder) = &self.recorder {
            for row in &slowest {
                recorder.slow_request(row.clone());
            }
        }
        let mut slices = self.slices.take();
        if let Some(slices) = &mut slices {
            slices.names = names.to_vec();
            slices.end_at(ended.saturating_sub(self.start));
        }
        (slowest, slices)
    }
}

fn slow_request((row, failure): (SlowRow, Option<Failure>)) -> SlowRequest {
    SlowRequest {
        endpoint: row.name.0,
        due: Mono(row.due),
        sent: Mono(row.sent),
        first: (row.first > 0).then_some(Mono(row.first)),
        end: Mono(row.end),
        status: (row.status > 0).then_some(row.status),
        bytes: row.bytes,
        failure: failure.map(|f| (f.kind.to_owned(), f.message)),
    }
}
