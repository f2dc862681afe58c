//! Who plays: the users of a compiled scenario, or those of a locustfile. Each thread of the engine gets its own script.

use std::sync::Arc;

use super::{LoadPlan, LocustRun, Shape};
use crate::error::Result;
use crate::load::engine::{Board, Order, Worker};
use crate::load::http::Url;
use crate::load::journal::Journal;
use crate::load::locust::Locustfile;
use crate::load::locust::play::{Cast, Play};
use crate::load::program::{Program, compile};
use crate::load::script::{Names, Script};
use crate::load::tally::{Tally, Window};

/// What threads make their scripts of.
#[derive(Debug, Clone)]
pub(super) enum Players {
    /// A scenario's.
    Scenario(Arc<Program>),
    /// A locustfile's.
    Locustfile(Arc<Locustfile>, Arc<Cast>),
}

impl Players {
    /// Those of the plan.
    ///
    /// # Errors
    /// `Usage` for what the scenario or the locustfile gets wrong.
    pub(super) fn of(plan: &LoadPlan, names: &Names) -> Result<Self> {
        let Some(LocustRun { file, classes, .. }) = &plan.locustfile else {
            return Ok(Self::Scenario(Arc::new(compile(&plan.scenario, &plan.choice, names)?)));
        };
        let scenario = &plan.scenario;
        let cast = Cast::of(file, classes, &plan.choice, scenario.seed, Some(scenario.timeout_ns))?;
        Ok(Self::Locustfile(Arc::clone(file), Arc::new(cast)))
    }

    /// The servers, and how many of them (the first ones) must have an address.
    pub(super) fn hosts(&self) -> (&[Url], usize) {
        match self {
            Self::Scenario(program) => (program.hosts(), program.hosts().len()),
            Self::Locustfile(_, cast) => (&cast.hosts, cast.needed),
        }
    }

    /// A locustfile's shape, asked from `start` on (ns of the one clock), where it says how many users there are.
    ///
    /// # Errors
    /// `Io` when there is no thread to be had.
    pub(super) fn shape(&self, plan: &LoadPlan, journal: &Arc<Journal>, start: u64) -> Result<Option<Shape>> {
        match self {
            Self::Locustfile(file, cast) if plan.has_shape() => {
                if plan.users.is_some() || plan.spawn_rate.is_some() {
                    journal.say("the file's LoadTestShape says how many users there are: -u and -r are left aside");
                }
                Shape::begin(Arc::clone(file), Arc::clone(cast), Arc::clone(journal), start).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Runs a thread's part to its end.
    ///
    /// # Errors
    /// `Usage` when a locustfile raises while it is loaded, `Io` when epoll fails.
    pub(super) fn run(
        &self,
        order: &Order,
        names: &Names,
        journal: &Arc<Journal>,
        board: &Board,
        told: impl FnMut(Window),
    ) -> Result<Tally> {
        match self {
            Self::Scenario(program) => Worker::new(&**program, order, names)?.run(board, told),
            Self::Locustfile(file, cast) => {
                let play = Play::new(file, Arc::clone(cast), Arc::clone(journal))?;
                let tally = Worker::new(&play, order, names)?.run(board, told);
                play.end();
                tally
            }
        }
    }
}
