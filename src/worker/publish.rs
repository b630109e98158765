//! What every worker must know before something shows: logins, and takeovers among connections of one key.
//!
//! The notes of one turn are one publication. It is acknowledged when every batch that carried a part of it has come
//! home.

use crate::mem::batch::Note;
use crate::worker::core::Core;

/// Notes that all workers are told together and must acknowledge.
pub(super) struct Publication {
    number: u64,
    /// Marked batches that have not come home.
    waiting: u32,
    /// More notes of this turn may still be added.
    filling: bool,
}

impl Core {
    /// No more notes belong to the publication that was begun before.
    pub(super) fn seal_publication(&mut self) {
        if let Some(last) = self.publications.back_mut() {
            last.filling = false;
        }
    }

    /// The newest publication of which every part was acknowledged, and all before it.
    pub(super) fn completed(&mut self) -> u64 {
        while self.publications.front().is_some_and(|p| p.waiting == 0 && !p.filling) {
            self.publications.pop_front();
        }
        self.publications.front().map_or(self.last_publication, |p| p.number - 1)
    }

    /// Tells every other worker, as part of the publication that this turn's notes make up.
    pub(super) fn publish(&mut self, note: Note) -> u64 {
        if !self.publications.back().is_some_and(|p| p.filling) {
            self.last_publication += 1;
            self.publications.push_back(Publication { number: self.last_publication, waiting: 0, filling: true });
        }
        let marked = self.mailbox.publish(self.last_publication, note);
        if let Some(open) = self.publications.back_mut() {
            open.waiting += marked;
        }
        self.last_publication
    }

    /// The session is sent nothing until every worker has acknowledged the publication.
    pub(super) fn hold(&mut self, slot: u32, publication: u64) {
        let session = &mut self.sessions[slot];
        session.held = publication;
        self.held.push((slot, session.generation));
    }

    /// Lets sessions go on whose publication is acknowledged.
    pub(super) fn release_held(&mut self, completed: u64) {
        let mut held = std::mem::take(&mut self.held);
        held.retain(|(slot, generation)| {
            let session = &mut self.sessions[*slot];
            if session.generation != *generation || session.held == 0 {
                return false;
            }
            if session.held > completed {
                return true;
            }
            session.held = 0;
            self.mark_dirty(*slot);
            false
        });
        self.held = held;
    }

    pub(super) fn acknowledged(&mut self, publication: u64) {
        let found = self.publications.iter_mut().find(|p| p.number == publication);
        debug_assert!(found.is_some(), "a publication stays until it is acknowledged");
        if let Some(publication) = found {
            publication.waiting -= 1;
        }
    }
}
