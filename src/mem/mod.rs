//! Memory that packets lie in: chunks inside one worker, batches between workers.

pub mod batch;
pub mod chunk;
pub mod warm;
