//! What people do to a relay who mean it no good, or whose machines are slow: nobody else may notice.

#[path = "../relay_support/mod.rs"]
mod relay_support;

mod admission;
mod crowd;
mod descriptors;
mod floods;
mod reconnects;
mod slow;
mod work;
