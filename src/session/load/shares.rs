//! Which classes and tasks a scenario has, and how often each is done: Locust's "current ratio", and the class picker's list.
//!
//! In: a plan. Out: shares, 0 to 1, of what is left of the scenario after the choice of classes and tags. They are those that
//! were asked for; a run comes close to them, since users are dealt out in proportion and tasks are drawn by weight.

use super::LoadPlan;
use crate::load::program::Choice;
use crate::load::scenario::{Scenario, Task, UserClass};
use crate::record::load_view::{ClassChoice, ClassShare, TaskShare};

/// All classes of a scenario.
pub fn choices(scenario: &Scenario) -> Vec<ClassChoice> {
    let one = |u: &UserClass| ClassChoice {
        name: u.name.clone(),
        host: u.host.clone().or_else(|| scenario.host.clone()),
        weight: u.weight,
        fixed_count: u.fixed_count,
        tasks: u.tasks.iter().map(|t| t.name.clone()).collect(),
    };
    scenario.users.iter().map(one).collect()
}

/// The shares of classes among `users` users, and of tasks in their classes.
pub fn shares(plan: &LoadPlan, users: u32) -> Vec<ClassShare> {
    let chosen = |u: &&UserClass| plan.choice.classes.is_empty() || plan.choice.classes.contains(&u.name);
    let all: Vec<(&UserClass, Vec<TaskShare>)> = plan
        .scenario
        .users
        .iter()
        .filter(chosen)
        .map(|u| (u, tasks(u, &plan.choice)))
        .filter(|(_, t)| !t.is_empty())
        .collect();
    let fixed: u64 = all.iter().filter_map(|(u, _)| u.fixed_count).map(u64::from).sum();
    let weights: u64 = all.iter().filter(|(u, _)| u.fixed_count.is_none()).map(|(u, _)| u64::from(u.weight)).sum();
    // Before anybody is there, the shares are those of as many users as make them whole.
    let users = if users == 0 { fixed + weights } else { u64::from(users) };
    let weighted = users.saturating_sub(fixed) as f64;
    let mut left = users;
    all.into_iter()
        .map(|(u, tasks)| {
            let count = match u.fixed_count {
                Some(n) => {
                    let here = left.min(u64::from(n));
                    left -= here;
                    here as f64
                }
                None if weights > 0 => weighted * f64::from(u.weight) / weights as f64,
                None => 0.0,
            };
            let ratio = if users > 0 { count / users as f64 } else { 0.0 };
            ClassShare { name: u.name.clone(), ratio, tasks }
        })
        .collect()
}

fn tasks(user: &UserClass, choice: &Choice) -> Vec<TaskShare> {
    let kept: Vec<&Task> = user.tasks.iter().filter(|t| choice.takes(user, t)).collect();
    let weight = |t: &Task| if user.sequence { 1.0 } else { f64::from(t.weight) };
    let sum: f64 = kept.iter().map(|t| weight(t)).sum();
    if sum <= 0.0 {
        return Vec::new();
    }
    kept.iter().map(|t| TaskShare { name: t.name.clone(), ratio: weight(t) / sum, tasks: Vec::new() }).collect()
}
