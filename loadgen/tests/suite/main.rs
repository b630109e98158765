//! Whole runs of the program.

mod agents;
mod fake_relay;
mod loads;
mod run;
mod runs;
mod stun;
