//! Which classes and tasks there are, and how often each is done: Locust's "current ratio", and the class picker's list.
//!
//! In: a plan. Out: shares, 0 to 1, of what is left of the scenario (or the locustfile) after the choice of classes and tags.
//! They are those that were asked for; a run comes close to them, since users are dealt out in proportion and tasks are drawn
//! by weight.

use super::LoadPlan;
use crate::load::locust;
use crate::load::program::Choice;
use crate::load::scenario::{Task, UserClass};
use crate::record::load_view::{ClassChoice, ClassShare, TaskShare};

/// All classes of the plan's scenario or locustfile.
pub fn choices(plan: &LoadPlan) -> Vec<ClassChoice> {
    let scenario = &plan.scenario;
    let written = |u: &UserClass| ClassChoice {
        name: u.name.clone(),
        host: u.host.clone().or_else(|| scenario.host.clone()),
        weight: u.weight,
        fixed_count: u.fixed_count,
        tasks: u.tasks.iter().map(|t| t.name.clone()).collect(),
    };
    let programmed = |u: &locust::UserClass| ClassChoice {
        name: u.name.clone(),
        host: u.host.clone(),
        weight: u.weight as u32,
        fixed_count: u.fixed_count,
        tasks: u.tasks.iter().filter(|(depth, ..)| *depth == 0).map(|(_, name, _)| name.clone()).collect(),
    };
    match &plan.locustfile {
        Some(run) => run.classes.iter().map(programmed).collect(),
        None => scenario.users.iter().map(written).collect(),
    }
}

/// A class as far as its share goes.
struct Sharer {
    name: String,
    weight: f64,
    fixed_count: Option<u32>,
    tasks: Vec<TaskShare>,
}

/// The shares of classes among `users` users, and of tasks in their classes.
pub fn shares(plan: &LoadPlan, users: u32) -> Vec<ClassShare> {
    let chosen = |name: &String| plan.choice.classes.is_empty() || plan.choice.classes.contains(name);
    let mut all: Vec<Sharer> = match &plan.locustfile {
        Some(run) => run.classes.iter().map(of_locustfile).collect(),
        None => plan.scenario.users.iter().map(|u| of_scenario(u, &plan.choice)).collect(),
    };
    all.retain(|s| chosen(&s.name) && !s.tasks.is_empty());
    let fixed: u64 = all.iter().filter_map(|s| s.fixed_count).map(u64::from).sum();
    let weights: f64 = all.iter().filter(|s| s.fixed_count.is_none()).map(|s| s.weight).sum();
    // Before anybody is there, the shares are those of as many users as make them whole.
    let users = if users == 0 { fixed + weights.ceil() as u64 } else { u64::from(users) };
    let weighted = users.saturating_sub(fixed) as f64;
    let mut left = users;
    all.into_iter()
        .map(|s| {
            let count = match s.fixed_count {
                Some(n) => {
                    let here = left.min(u64::from(n));
                    left -= here;
                    here as f64
                }
                None if weights > 0.0 => weighted * s.weight / weights,
                None => 0.0,
            };
            let ratio = if users > 0 { count / users as f64 } else { 0.0 };
            ClassShare { name: s.name, ratio, tasks: s.tasks }
        })
        .collect()
}

fn of_scenario(user: &UserClass, choice: &Choice) -> Sharer {
    let kept: Vec<&Task> = user.tasks.iter().filter(|t| choice.takes(user, t)).collect();
    let weight = |t: &Task| if user.sequence { 1.0 } else { f64::from(t.weight) };
    let sum: f64 = kept.iter().map(|t| weight(t)).sum();
    let share = |t: &&Task| TaskShare { name: t.name.clone(), ratio: weight(t) / sum, tasks: Vec::new() };
    Sharer {
        name: user.name.clone(),
        weight: f64::from(user.weight),
        fixed_count: user.fixed_count,
        tasks: if sum > 0.0 { kept.iter().map(share).collect() } else { Vec::new() },
    }
}

fn of_locustfile(class: &locust::UserClass) -> Sharer {
    let mut rest = class.tasks.as_slice();
    Sharer {
        name: class.name.clone(),
        weight: class.weight,
        fixed_count: class.fixed_count,
        tasks: branch(&mut rest, 0),
    }
}

/// The tasks at `depth` that come next in a list in which a set of tasks is followed by its own, one deeper.
fn branch(rest: &mut &[(usize, String, i64)], depth: usize) -> Vec<TaskShare> {
    let mut tasks = Vec::new();
    while let Some(((at, name, weight), later)) = rest.split_first().filter(|((at, ..), _)| *at >= depth) {
        let _: &usize = at;
        *rest = later;
        let inner = branch(rest, depth + 1);
        tasks.push(TaskShare { name: name.clone(), ratio: *weight as f64, tasks: inner });
    }
    let sum: f64 = tasks.iter().map(|t| t.ratio).sum();
    for task in &mut tasks {
        task.ratio = if sum > 0.0 { task.ratio / sum } else { 0.0 };
    }
    tasks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_of_a_set_are_its_branch() {
        let list = [(0, "talk", 3), (0, "Market", 1), (1, "buy", 2), (1, "sell", 2), (0, "look", 1)];
        let list: Vec<_> = list.map(|(d, n, w)| (d, n.to_owned(), w)).to_vec();
        let tasks = branch(&mut list.as_slice(), 0);
        let told: Vec<_> = tasks.iter().map(|t| (t.name.as_str(), t.ratio, t.tasks.len())).collect();
        assert_eq!(told, [("talk", 0.6, 0), ("Market", 0.2, 2), ("look", 0.2, 0)]);
        assert!((tasks[1].tasks[0].ratio - 0.5).abs() < 1e-9);
    }
}
