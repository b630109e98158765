//! Bugs that are planted in what workers send each other, to show that the invariants would find them.

use derpring::driver::sim::Random;
use derpring::mem::batch::{Batch, Item, Note};
use derpring::proto::key::NodeKey;
use derpring::worker::mailbox::Inbox;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A departure is never told.
    LostPeerGone,
    /// A departure removes the newest connection of its key, whichever it names.
    StaleDeparture,
    /// Two batches of one worker change places.
    ReorderedBatch,
    /// A batch does not come home.
    LeakedBuffer,
    /// A packet carries another source.
    MixedUpKey,
}

impl Bug {
    pub const ALL: [Self; 5] =
        [Self::LostPeerGone, Self::StaleDeparture, Self::ReorderedBatch, Self::LeakedBuffer, Self::MixedUpKey];

    /// Does its damage, now and then, to what lies in the inbox of worker `me`.
    pub fn strike(
        self,
        inbox: &Inbox,
        me: u16,
        random: &mut Random,
        newest: impl Fn(&NodeKey) -> Option<derpring::mem::batch::ConnId>,
    ) {
        let mut chains = Vec::new();
        while let Some(chain) = inbox.pop() {
            chains.push(chain);
        }
        for chain in &mut chains {
            if random.chance(64) {
                self.damage(chain, me, random, &newest);
            }
        }
        for chain in chains {
            assert!(inbox.push(chain).is_ok(), "what was in the inbox fits into it");
        }
    }

    fn damage(
        self,
        chain: &mut Box<Batch>,
        me: u16,
        random: &mut Random,
        newest: &impl Fn(&NodeKey) -> Option<derpring::mem::batch::ConnId>,
    ) {
        match self {
            Self::LostPeerGone => {
                each(chain, me, |b| b.items.retain(|i| !matches!(i, Item::Note(Note::Depart { .. }))));
            }
            Self::StaleDeparture => each(chain, me, |b| {
                for item in &mut b.items {
                    if let Item::Note(Note::Depart { key, conn }) = item {
                        *conn = newest(key).unwrap_or(*conn);
                    }
                }
            }),
            Self::ReorderedBatch => each(chain, me, |b| {
                let packets = b.items.iter().filter(|i| matches!(i, Item::Packet(_))).count();
                if packets > 1 {
                    b.items.reverse();
                }
            }),
            Self::LeakedBuffer => {
                let mut link = &mut chain.next;
                while let Some(batch) = link {
                    if batch.maker == me && batch.publication == 0 {
                        *link = batch.next.take();
                        return;
                    }
                    link = &mut link.as_mut().expect("the loop holds it").next;
                }
            }
            Self::MixedUpKey => each(chain, me, |b| {
                for item in &b.items {
                    if let Item::Packet(parcel) = item {
                        let at = parcel.at as usize + 5 + random.below(32);
                        b.bytes[at] ^= 1;
                        return;
                    }
                }
            }),
        }
    }
}

/// Every batch of the chain that is to be read here.
fn each(chain: &mut Box<Batch>, me: u16, mut f: impl FnMut(&mut Batch)) {
    let mut next = Some(chain);
    while let Some(batch) = next {
        if batch.maker != me {
            f(batch);
        }
        next = batch.next.as_mut();
    }
}
