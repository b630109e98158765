//! `/healthz` and `/readyz`.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::roster::{Workers, ask};
use super::state::Phase;

/// Whether every worker still turns: it answers a question, or has turned while it was asked. While the relay stops,
/// workers end one by one, and nobody is to kill it for that.
///
/// # Errors
/// Which ones are stuck.
pub(super) async fn alive(workers: &Arc<dyn Workers>, phase: Phase) -> Result<(), String> {
    if phase.is_stopping() {
        return Ok(());
    }
    let mut asked = JoinSet::new();
    for worker in 0..workers.stats().len() {
        let workers = workers.clone();
        asked.spawn(async move {
            let turns = || workers.stats()[worker].turns.get();
            let before = turns();
            // Behind the last slot: there is nobody to tell of.
            let answered = ask(&*workers, worker, u32::MAX, Vec::new()).await.is_some();
            (worker, answered || turns() != before)
        });
    }
    let mut stuck = Vec::new();
    while let Some(answered) = asked.join_next().await {
        match answered {
            Ok((_, true)) => {}
            Ok((worker, false)) => stuck.push(worker),
            Err(_) => return Err("a check failed".to_owned()),
        }
    }
    stuck.sort_unstable();
    if stuck.is_empty() { Ok(()) } else { Err(format!("workers that have not turned for a second: {stuck:?}")) }
}

/// Whether clients should be sent here.
///
/// # Errors
/// Why not.
pub(super) fn ready(phase: Phase) -> Result<(), &'static str> {
    if phase.is_stopping() { Err("stopping: clients are told to go elsewhere") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::super::roster::tests::{Crowd, run};
    use super::*;

    #[test]
    fn a_worker_that_neither_answers_nor_turns_is_stuck() {
        let crowd = Crowd::new(vec![Some(Vec::new()), None, None]);
        let stats = crowd.stats[2].clone();
        let workers: Arc<dyn Workers> = crowd;
        let checked = run(async {
            let turning = async {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                stats.turns.add(1);
            };
            let (checked, ()) = (
                tokio::spawn({
                    let workers = workers.clone();
                    async move { alive(&workers, Phase::Running).await }
                }),
                turning.await,
            );
            checked.await.unwrap()
        });
        assert_eq!(checked.unwrap_err(), "workers that have not turned for a second: [1]");
        assert_eq!(run(alive(&workers, Phase::Stopping)), Ok(()));
    }

    #[test]
    fn who_stops_is_not_ready() {
        assert_eq!(ready(Phase::Running), Ok(()));
        assert!(ready(Phase::Stopping).is_err() && ready(Phase::Over).is_err());
    }
}
