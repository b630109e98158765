//! A start without huge pages.

use rustix::thread::{disable_transparent_huge_pages, transparent_huge_pages_are_disabled};

/// While this lives, new memory comes in small pages. Each thread's first allocation would else clear two MiB that it
/// hardly uses, which takes most of a start where the host has to find the memory first. What the relay takes under
/// load comes in huge pages again, and the kernel makes huge pages of the small ones in its own time. Where somebody
/// has turned them off they stay off.
pub struct SmallPages {
    turned_off: bool,
}

impl SmallPages {
    pub fn begin() -> Self {
        let were_off = transparent_huge_pages_are_disabled().unwrap_or(true);
        Self { turned_off: !were_off && disable_transparent_huge_pages(true).is_ok() }
    }
}

impl Drop for SmallPages {
    fn drop(&mut self) {
        if self.turned_off {
            // It worked the other way round.
            let _ = disable_transparent_huge_pages(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_before_is_restored() {
        let before = transparent_huge_pages_are_disabled().unwrap();
        let outer = SmallPages::begin();
        assert!(transparent_huge_pages_are_disabled().unwrap());
        drop(SmallPages::begin());
        assert!(transparent_huge_pages_are_disabled().unwrap(), "the first one still lives");
        drop(outer);
        assert_eq!(transparent_huge_pages_are_disabled().unwrap(), before);
    }
}
