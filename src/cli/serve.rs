//! `derpring serve`.

use std::process::ExitCode;

use crate::config::serve::{Flags, load};

pub(super) fn main(flags: &Flags) -> ExitCode {
    match load(flags) {
        Ok(loaded) => super::start(loaded),
        Err(error) => super::fail(error),
    }
}
