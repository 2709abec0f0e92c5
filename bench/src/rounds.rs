//! The order of a run: systems are brought up once and stay; in each round every test is asked of one system after
//! the other, so that whatever else the machine does meets all of them alike. Each round begins with another system.

use crate::amount::Amount;
use crate::ground::Ground;
use crate::question::{Place, Question};
use crate::results::Results;
use crate::stop;
use crate::system::{self, System, SystemName};
use anyhow::Result;
use std::time::Instant;

/// What is to be measured.
pub struct Plan {
    /// The tests, in their order.
    pub tests: Vec<Question>,
    /// The systems, in their order.
    pub systems: Vec<SystemName>,
    /// How much.
    pub amount: Amount,
    /// When it all began.
    pub start: Instant,
}

impl Plan {
    /// Why nothing more is begun.
    fn is_over(&self) -> Option<String> {
        if stop::told() {
            return Some("the run was stopped before its turn".into());
        }
        let limit = self.amount.time_max?;
        (self.start.elapsed() >= limit).then(|| format!("its turn did not come within {} s", limit.as_secs()))
    }
}

/// A system, or why there is none.
struct Contender {
    name: SystemName,
    system: Result<Box<dyn System>, String>,
}

impl Contender {
    fn prepare(&self, question: Question, plan: &Plan, ground: &Ground) -> Result<()> {
        let Ok(system) = &self.system else {
            return Ok(());
        };
        if plan.is_over().is_some() {
            return Ok(());
        }
        question.prepare(&Place {
            ground,
            amount: &plan.amount,
            name: self.name,
            system: system.as_ref(),
        })
    }
}

/// Brings the systems up, calls `ready` and goes through the rounds. `say` is told what happens.
///
/// # Errors
/// When `ready` fails. A system that does not come up, or a run that fails, is a row that says why.
pub fn run(
    plan: &Plan,
    ground: &Ground,
    ready: impl FnOnce() -> Result<()>,
    mut say: impl FnMut(&str),
) -> Result<Results> {
    let contenders: Vec<Contender> = plan
        .systems
        .iter()
        .filter(|name| plan.tests.iter().any(|question| name.is_asked(*question)))
        .map(|&name| {
            let system = match plan.is_over() {
                Some(why) => Err(why),
                None => system::bring_up(name, ground).map_err(|error| format!("{error:#}")),
            };
            match &system {
                Ok(_) => say(&format!("{} is up", name.name())),
                Err(why) => say(&format!("{} is not up: {why}", name.name())),
            }
            Contender { name, system }
        })
        .collect();
    for contender in &contenders {
        for question in plan
            .tests
            .iter()
            .filter(|question| contender.name.is_asked(**question))
        {
            if let Err(error) = contender.prepare(*question, plan, ground) {
                let (test, name) = (question.name(), contender.name.name());
                say(&format!("{test} {name} is not prepared: {error:#}"));
            }
        }
    }
    ready()?;
    let mut results = Results::default();
    let (last, each): (Vec<_>, Vec<_>) = plan.tests.iter().partition(|question| question.is_last());
    for round in 0..plan.amount.rounds {
        for &question in &each {
            for place in order(contenders.len(), round as usize) {
                let contender = &contenders[place];
                ask(question, contender, plan, ground, &mut results, round, &mut say);
            }
        }
    }
    for question in last {
        for contender in &contenders {
            ask(question, contender, plan, ground, &mut results, 0, &mut say);
        }
    }
    Ok(results)
}

/// Places 0 to `length`, beginning at another one in each round.
fn order(length: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..length).map(move |place| (place + round) % length)
}

fn ask(
    question: Question,
    contender: &Contender,
    plan: &Plan,
    ground: &Ground,
    results: &mut Results,
    round: u32,
    say: &mut impl FnMut(&str),
) {
    let name = contender.name;
    if !name.is_asked(question) {
        return;
    }
    let system = match &contender.system {
        Ok(system) => system.as_ref(),
        Err(why) => return results.fail(question, name, why.clone()),
    };
    if let Some(excuse) = system.excuse(question) {
        return results.fail(question, name, excuse.to_owned());
    }
    if let Some(why) = plan.is_over().filter(|_| !question.is_last()) {
        return results.fail(question, name, why);
    }
    let place = Place {
        ground,
        amount: &plan.amount,
        name,
        system,
    };
    let answer = question
        .ask(&place)
        .and_then(|readings| system.check(ground).map(|()| readings));
    let title = format!("round {} {} {}", round + 1, question.name(), name.name());
    match answer {
        Ok(readings) => {
            let shown: Vec<_> = readings
                .iter()
                .map(|reading| format!("{} {:.1}", reading.metric.name(), reading.value))
                .collect();
            say(&format!("{title}: {}", shown.join(", ")));
            results.add(question, name, &readings);
        }
        Err(error) => {
            say(&format!("{title}: {error:#}"));
            results.fail(question, name, format!("{error:#}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_begins_with_another_system_and_leaves_none_out() {
        assert_eq!(order(3, 0).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(order(3, 1).collect::<Vec<_>>(), [1, 2, 0]);
        assert_eq!(order(3, 5).collect::<Vec<_>>(), [2, 0, 1]);
        assert_eq!(order(0, 2).count(), 0);
    }
}
