//! Looking at a run before its end.

use std::sync::Arc;

use super::console::asked;
use super::follow::Follower;
use super::shares::{choices, shares};
use super::{Drive, Driven, LoadPlan};
use crate::clock::{Clock, SystemClock};
use crate::load::report::{Facts, report};
use crate::record::load::{LoadReport, Second};
use crate::record::load_view::{LoadState, LoadView, Rates};

/// What a run looks like inside.
#[derive(Debug)]
pub(super) struct Glance {
    pub report: LoadReport,
    pub rates: Vec<Rates>,
    /// Percentiles of the last ten seconds: of each endpoint, then of all.
    pub recent: Vec<Vec<Option<f64>>>,
}

/// What a run that is over looks like, for the HTML report of a run without a console.
pub fn view_of(plan: &LoadPlan, driven: &Driven) -> LoadView {
    LoadView {
        state: LoadState::Stopped,
        run: 1,
        scenario: plan.scenario.file.clone(),
        asked: asked(plan),
        choices: choices(plan),
        shares: shares(plan, driven.report.totals.peak_users),
        report: driven.report.clone(),
        seconds: Arc::new(driven.seconds.clone()),
        start_wall_s: Some(driven.start_wall_s),
        end_wall_s: Some(driven.start_wall_s + driven.report.totals.duration_s.round() as i64),
        ..LoadView::default()
    }
}

impl Drive {
    /// Keeps a tally by name from now on, so that there is something to look at. To be called before [`Drive::listen`].
    pub(super) fn follow(&mut self) {
        self.follower.get_or_insert_default();
    }

    /// Begins counting anew what [`Drive::follow`] keeps; the run itself, its recording and its own report go on.
    pub(super) fn reset(&mut self) {
        self.journal.reset();
        if self.follower.is_some() {
            let mut fresh = Follower::default();
            fresh.reset(SystemClock.now().0);
            self.follower = Some(fresh);
        }
    }

    /// Whether counting began anew.
    pub(super) fn was_reset(&self) -> bool {
        self.follower.as_ref().is_some_and(|f| f.since().is_some())
    }

    /// Where it is.
    pub(super) fn state(&self) -> LoadState {
        let elapsed = SystemClock.now().0.saturating_sub(self.start);
        if self.board.finish.load(std::sync::atomic::Ordering::SeqCst) || SystemClock.now().0 >= self.end {
            LoadState::Stopping
        } else if elapsed < self.level_from {
            LoadState::Spawning
        } else {
            LoadState::Running
        }
    }

    /// The seconds that are over.
    pub(super) fn seconds(&self) -> &[Second] {
        &self.seconds
    }

    /// The report until now.
    pub(super) fn glance(&self) -> Glance {
        let nothing = Follower::default();
        let follower = self.follower.as_ref().unwrap_or(&nothing);
        let start = follower.since().unwrap_or(self.start);
        let end = SystemClock.now().0.min(self.end);
        let names = self.names.list();
        let facts = Facts {
            names: names.clone(),
            crowded: self.names.is_crowded(),
            start: self.start,
            duration_ns: end.saturating_sub(start),
            open: self.open,
            threads: self.threads.len() as u32,
            seed: self.plan.scenario.seed,
            cpu_ns: None,
        };
        let tally = follower.tally();
        let mut report = report(tally, &facts, &self.plan.targets);
        // What only the end knows.
        (report.totals.arrivals_asked, report.totals.arrivals_made) = (None, None);
        report.exceptions = self.journal.exceptions();
        report.service_ms.mean = follower.mean_service_ms();
        let (by_id, mut rates, mut recent) = (follower.rates(), Vec::new(), Vec::new());
        let ids: rustc_hash::FxHashMap<(&str, &str), usize> =
            names.iter().enumerate().map(|(id, (m, n))| ((m.as_str(), n.as_str()), id)).collect();
        for e in &mut report.by_name {
            let id = ids.get(&(e.method.as_str(), e.name.as_str())).copied();
            e.service_ms.mean = id.and_then(|id| follower.service_ms(id));
            recent.push(id.map_or_else(Vec::new, |id| follower.recent_percentiles(Some(id))));
            rates.push(id.and_then(|id| by_id.get(id)).copied().unwrap_or_default());
        }
        recent.push(follower.recent_percentiles(None));
        Glance { report, rates, recent }
    }

    /// Puts what is known into `view`.
    pub(super) fn describe(&self, view: &mut LoadView) {
        let Glance { report, rates, recent } = self.glance();
        let sum = |f: fn(&Rates) -> f64| rates.iter().map(f).sum();
        view.rate = Rates { requests: sum(|r| r.requests), failures: sum(|r| r.failures) };
        (view.report, view.rates, view.recent) = (report, rates, recent);
        view.state = self.state();
        view.users = self.live.users;
        view.recent_ms = [self.live.p50_ms, self.live.p95_ms, self.live.p99_ms];
        view.lag_max_ms = self.live.lag_max_ms;
    }
}
