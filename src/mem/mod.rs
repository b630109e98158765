//! Memory that packets lie in, chunks inside one worker and batches between workers; and how memory is asked for early.

pub mod batch;
pub mod chunk;
pub mod warm;
