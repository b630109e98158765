//! Who is connected, and who sends to whom: every shape of load as connections and links.
//!
//! A link is a sender, a receiver and an order of packets between them. What the engine does with a
//! link depends on its class, not on the shape that it came from.

use serde::Serialize;

use crate::error::{Role, Who};

/// How many of everything, in the whole run.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Shape {
    pub pairs: usize,
    pub fan_in: usize,
    pub fan_out: usize,
    pub all_to_all: usize,
    pub star: usize,
    pub request_reply: usize,
    /// Copies of fan-in, fan-out, all-to-all and star.
    pub groups: usize,
    pub idle: usize,
    pub bulk: usize,
    pub slow: usize,
    pub stalled: usize,
    /// A disco link beside every measured and every bulk link.
    #[serde(skip)]
    pub disco: bool,
}

/// What a link is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Class {
    /// Paced by the plan, and measured.
    Main,
    /// Sent for each packet of another link that arrives, with that one's time: measures the way
    /// there and back.
    Reply,
    /// As much as a wide window allows, checked and counted apart.
    Bulk,
    /// As bulk, to a receiver that reads slowly.
    Slow,
    /// As much as the socket takes, to a receiver that never reads.
    Stalled,
    /// Small packets that a relay takes for disco, by a schedule of their own.
    Disco,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place {
    pub who: Who,
    pub unit: usize,
    /// Which of the relays.
    pub target: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Link {
    /// The same in every part of the layout.
    pub id: u32,
    pub from: usize,
    pub to: usize,
    pub class: Class,
    /// The link of the other direction, by index: of a request its reply's, of a reply its request's.
    pub other: Option<usize>,
}

/// A unit is what cannot be taken apart: the connections of one pair, of one group, one idle client.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Layout {
    pub conns: Vec<Place>,
    pub links: Vec<Link>,
    /// Links of all parts together.
    pub total_links: usize,
    units: usize,
}

impl Shape {
    pub fn layout(&self) -> Layout {
        let mut layout = Layout::default();
        layout.pairs(self.pairs, Role::Sender, Role::Receiver, Class::Main);
        layout.request_reply(self.request_reply);
        for _ in 0..self.groups {
            layout.fan(self.fan_in, true);
            layout.fan(self.fan_out, false);
            layout.all_to_all(self.all_to_all);
            layout.star(self.star);
        }
        layout.pairs(self.bulk, Role::BulkSender, Role::BulkReceiver, Class::Bulk);
        if self.disco {
            layout.disco();
        }
        layout.pairs(self.slow, Role::SlowSender, Role::SlowReceiver, Class::Slow);
        layout.pairs(self.stalled, Role::StalledSender, Role::StalledReceiver, Class::Stalled);
        for _ in 0..self.idle {
            let unit = layout.new_unit();
            layout.conn(Role::Idle, unit);
        }
        layout.total_links = layout.links.len();
        layout
    }
}

impl Layout {
    /// Every `of`-th unit, beginning with `index`.
    pub fn part(&self, index: usize, of: usize) -> Self {
        let mut new_conn = vec![None; self.conns.len()];
        let mut part = Self { total_links: self.total_links, units: self.units, ..Self::default() };
        for (at, place) in self.conns.iter().enumerate().filter(|(_, place)| place.unit % of == index) {
            new_conn[at] = Some(part.conns.len());
            part.conns.push(*place);
        }
        let mut new_link = vec![None; self.links.len()];
        for (at, link) in self.links.iter().enumerate() {
            if let (Some(from), Some(to)) = (new_conn[link.from], new_conn[link.to]) {
                new_link[at] = Some(part.links.len());
                part.links.push(Link { from, to, ..*link });
            }
        }
        for link in &mut part.links {
            link.other = link.other.and_then(|other| new_link[other]);
        }
        part
    }

    /// Spreads the connections over so many relays: all of a unit to one, or, where any relay
    /// reaches every client, those of a unit one after the other.
    pub fn spread(mut self, targets: usize, meshed: bool) -> Self {
        let mut of_unit = vec![0; self.units];
        for place in &mut self.conns {
            place.target = (place.unit + of_unit[place.unit]) % targets;
            of_unit[place.unit] += usize::from(meshed);
        }
        self
    }

    pub fn count(&self, class: Class) -> usize {
        self.links.iter().filter(|link| link.class == class).count()
    }

    /// Units that send: more workers than these would have nothing to do.
    pub fn sending_units(&self) -> usize {
        let mut units: Vec<usize> = self.links.iter().map(|link| self.conns[link.from].unit).collect();
        units.sort_unstable();
        units.dedup();
        units.len()
    }

    fn new_unit(&mut self) -> usize {
        self.units += 1;
        self.units - 1
    }

    fn conn(&mut self, role: Role, unit: usize) -> usize {
        let index = self.conns.iter().rev().find(|place| place.who.role == role).map_or(0, |last| last.who.index + 1);
        self.conns.push(Place { who: Who { role, index }, unit, target: 0 });
        self.conns.len() - 1
    }

    fn link(&mut self, from: usize, to: usize, class: Class) -> usize {
        let id = self.links.len() as u32;
        self.links.push(Link { id, from, to, class, other: None });
        self.links.len() - 1
    }

    /// All senders log in before the first receiver does.
    fn pairs(&mut self, count: usize, sender: Role, receiver: Role, class: Class) {
        let first_unit = self.units;
        self.units += count;
        let senders: Vec<usize> = (0..count).map(|i| self.conn(sender, first_unit + i)).collect();
        for (i, from) in senders.into_iter().enumerate() {
            let to = self.conn(receiver, first_unit + i);
            self.link(from, to, class);
        }
    }

    fn request_reply(&mut self, count: usize) {
        let first = self.links.len();
        self.pairs(count, Role::Requester, Role::Responder, Class::Main);
        for request in first..first + count {
            let Link { from, to, .. } = self.links[request];
            let reply = self.link(to, from, Class::Reply);
            self.links[reply].other = Some(request);
            self.links[request].other = Some(reply);
        }
    }

    fn fan(&mut self, count: usize, inwards: bool) {
        if count == 0 {
            return;
        }
        let unit = self.new_unit();
        let hub = self.conn(Role::Hub, unit);
        for _ in 0..count {
            let leaf = self.conn(Role::Leaf, unit);
            let (from, to) = if inwards { (leaf, hub) } else { (hub, leaf) };
            self.link(from, to, Class::Main);
        }
    }

    fn star(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        let unit = self.new_unit();
        let hub = self.conn(Role::Hub, unit);
        for _ in 0..count {
            let leaf = self.conn(Role::Leaf, unit);
            self.link(leaf, hub, Class::Main);
            self.link(hub, leaf, Class::Main);
        }
    }

    fn all_to_all(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        let unit = self.new_unit();
        let clients: Vec<usize> = (0..count).map(|_| self.conn(Role::Client, unit)).collect();
        // By distance, so that neighbours in a schedule are different senders and receivers.
        for distance in 1..count {
            for from in 0..count {
                self.link(clients[from], clients[(from + distance) % count], Class::Main);
            }
        }
    }

    fn disco(&mut self) {
        for at in 0..self.links.len() {
            let Link { from, to, class, .. } = self.links[at];
            if matches!(class, Class::Main | Class::Bulk) {
                self.link(from, to, Class::Disco);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(layout: &Layout) -> Vec<(String, String)> {
        let name = |conn: usize| layout.conns[conn].who.to_string();
        layout.links.iter().map(|link| (name(link.from), name(link.to))).collect()
    }

    #[test]
    fn senders_first_then_receivers_then_idle() {
        let layout = Shape { pairs: 2, idle: 1, ..Shape::default() }.layout();
        let names: Vec<String> = layout.conns.iter().map(|place| place.who.to_string()).collect();
        assert_eq!(names, ["sender 0", "sender 1", "receiver 0", "receiver 1", "idle client 0"]);
        assert_eq!((layout.links[1].from, layout.links[1].to), (1, 3));
    }

    #[test]
    fn relays_take_whole_units_unless_they_are_a_mesh() {
        let ends = |meshed| {
            let layout = Shape { pairs: 4, ..Shape::default() }.layout().spread(2, meshed);
            let target = |conn: usize| layout.conns[conn].target;
            layout.links.iter().map(|link| (target(link.from), target(link.to))).collect::<Vec<_>>()
        };
        assert_eq!(ends(false), [(0, 0), (1, 1), (0, 0), (1, 1)]);
        assert_eq!(ends(true), [(0, 1), (1, 0), (0, 1), (1, 0)]);
    }

    #[test]
    fn links_of_each_shape() {
        let shape = |shape: Shape| Shape { groups: 1, ..shape }.layout();
        assert_eq!(shape(Shape { fan_in: 3, ..Shape::default() }).links.len(), 3);
        assert_eq!(shape(Shape { star: 3, ..Shape::default() }).links.len(), 6);
        let layout = shape(Shape { all_to_all: 4, ..Shape::default() });
        let mut all = ends(&layout);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 12);
        assert!(all.iter().all(|(from, to)| from != to));
        let layout = shape(Shape { fan_out: 2, ..Shape::default() });
        assert_eq!(ends(&layout)[1], ("hub 0".into(), "leaf 1".into()));
    }

    #[test]
    fn parts_are_the_whole_and_hold_together() {
        let shape =
            Shape { pairs: 5, request_reply: 3, star: 2, groups: 2, idle: 4, bulk: 1, disco: true, ..Shape::default() };
        let whole = shape.layout();
        let parts: Vec<Layout> = (0..3).map(|i| whole.part(i, 3)).collect();
        assert_eq!(parts.iter().map(|p| p.conns.len()).sum::<usize>(), whole.conns.len());
        let mut ids: Vec<u32> = parts.iter().flat_map(|p| p.links.iter().map(|link| link.id)).collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..whole.links.len() as u32).collect::<Vec<_>>());
        for part in &parts {
            for (at, link) in part.links.iter().enumerate() {
                let same = whole.links[link.id as usize];
                assert_eq!(part.conns[link.from], whole.conns[same.from]);
                assert_eq!(part.conns[link.to], whole.conns[same.to]);
                assert_eq!(link.other.is_some(), same.other.is_some());
                assert!(link.other.is_none_or(|other| part.links[other].other == Some(at)));
            }
        }
    }
}
