//! Packets over the measured time, in slots of a tenth of a second.

use serde::{Deserialize, Serialize};

pub const SLOT_NS: u64 = 100_000_000;
/// A day; a longer run keeps what came first.
const MAX_SLOTS: usize = 864_000;

#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Series {
    slots: Vec<Slot>,
    current: Slot,
    /// End of the current slot; none while nothing is measured.
    end: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    pub sent: u64,
    pub arrived: u64,
}

impl Series {
    pub fn start(&mut self, now: u64) {
        *self = Self { end: Some(now + SLOT_NS), ..Self::default() };
    }

    /// Tells the time; what is counted from here on belongs to it.
    pub fn at(&mut self, now: u64) {
        while let Some(end) = self.end
            && now >= end
        {
            self.close();
            self.end = Some(end + SLOT_NS);
        }
    }

    /// What was measured ends here. The last slot may be a short one.
    pub fn stop(&mut self) {
        if self.end.take().is_some() && self.current != Slot::default() {
            self.close();
        }
    }

    pub fn sent(&mut self, packets: u64) {
        self.current.sent += packets;
    }

    pub fn arrived(&mut self) {
        self.current.arrived += 1;
    }

    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub fn add(&mut self, other: &Self) {
        if self.slots.len() < other.slots.len() {
            self.slots.resize(other.slots.len(), Slot::default());
        }
        for (sum, more) in self.slots.iter_mut().zip(&other.slots) {
            sum.sent += more.sent;
            sum.arrived += more.arrived;
        }
    }

    fn close(&mut self) {
        let slot = std::mem::take(&mut self.current);
        if self.slots.len() < MAX_SLOTS {
            self.slots.push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_by_time_silent_ones_too() {
        let mut series = Series::default();
        series.sent(9);
        series.start(1_000);
        series.sent(2);
        series.at(1_000 + SLOT_NS - 1);
        series.arrived();
        series.at(1_000 + 3 * SLOT_NS);
        series.sent(1);
        series.stop();
        series.sent(5);
        let slot = |sent, arrived| Slot { sent, arrived };
        assert_eq!(series.slots(), [slot(2, 1), slot(0, 0), slot(0, 0), slot(1, 0)]);

        let mut longer = Series { slots: vec![slot(1, 1); 5], ..Series::default() };
        series.add(&longer);
        longer.add(&Series { slots: vec![slot(2, 1)], ..Series::default() });
        assert_eq!(series.slots(), [slot(3, 2), slot(1, 1), slot(1, 1), slot(2, 1), slot(1, 1)]);
        assert_eq!(longer.slots()[0], slot(3, 2));
    }
}
