//! The relay's workers on a simulated network: random clients, random faults, and invariants that must hold whatever
//! happens. Every failure prints its seed; `DERPRING_SIM_SEED=n` runs that one alone, `DERPRING_SIM_SEEDS=n` sets how
//! many are run.

mod bugs;
mod client;
mod scenes;
mod world;

use bugs::Bug;
use world::{Plan, World};

/// Seeds in an ordinary run; CI runs ten thousand.
const SEEDS: u64 = 1_000;

fn seeds() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    match number("DERPRING_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("DERPRING_SIM_SEEDS").unwrap_or(SEEDS),
    }
}

/// What a seed says is wrong, if anything.
fn run(seed: u64, plan: Plan) -> Result<world::Tally, String> {
    World::new(seed, plan).run()
}

#[test]
fn invariants_hold_under_every_fault() {
    let mut all = world::Tally::default();
    for seed in seeds() {
        match run(seed, Plan::everything()) {
            Ok(tally) => all.add(&tally),
            Err(what) => panic!("seed {seed}: {what}"),
        }
    }
    // A bed in which nothing happens finds nothing.
    println!("{all:?}");
    all.assert_everything_happened();
}

/// Nobody who was told of a peer is told that it is gone while it is there: logins and departures only, no other
/// fault to hide behind.
#[test]
fn departures_are_never_told_of_peers_that_are_here() {
    for seed in seeds() {
        if let Err(what) = run(seed, Plan::churn()) {
            panic!("seed {seed}: {what}");
        }
    }
}

/// The same while everybody moves between workers all the time.
#[test]
fn sessions_move_and_nobody_notices() {
    let mut moves = 0;
    for seed in seeds() {
        match run(seed, Plan::nomads()) {
            Ok(tally) => moves += tally.moves(),
            Err(what) => panic!("seed {seed}: {what}"),
        }
    }
    println!("{moves} moves");
    assert!(moves > 0 || seeds().count() < 10);
}

/// The bed itself is tested by bugs planted between the workers: each must be found soon.
#[test]
fn planted_bugs_are_found() {
    for bug in Bug::ALL {
        let found = (0..1_000).find_map(|seed| run(seed, Plan::with(bug)).err().map(|what| (seed, what)));
        match found {
            Some((seed, what)) => println!("{bug:?}: found by seed {seed}: {what}"),
            None => panic!("{bug:?} was not found within 1000 seeds"),
        }
    }
}
