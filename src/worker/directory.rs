//! Each worker's replica of who is connected where, and who has heard of whom.
//!
//! Every worker applies the same notes; the order in which notes of different workers arrive may differ. So what is
//! decided from them must not depend on it: which connection of a key is active is a register in which the later
//! stamp wins, and a departure names its connection.
//!
//! An acquaintance is the fact that a local session was sent something by a peer, and must be told when that peer
//! leaves. Acquaintances are edges between a peer and a session, linked on both sides, so that neither a session that
//! comes and goes nor a peer that comes and goes leaves anything behind.

use std::hash::{BuildHasher, Hasher};

use hashbrown::HashTable;

use crate::limits;
use crate::mem::batch::{ConnId, Join};
use crate::mem::warm::warm;
use crate::proto::key::NodeKey;

const NIL: u32 = u32::MAX;

/// Index of a peer in one worker's directory.
pub type PeerId = u32;

/// One live connection of a peer.
#[derive(Clone, Copy, Debug)]
pub struct Conn {
    pub id: ConnId,
    /// Its first name: it stays when the connection moves to another worker.
    pub born: ConnId,
    /// Of its login, or of the last time that it took over.
    pub stamp: u64,
    pub ip: [u8; 16],
    pub port: u16,
    pub flags: u8,
    /// How often it has taken over by speaking since the newest connection of the key has joined.
    takeovers: u8,
}

#[derive(Debug)]
pub struct Peer {
    pub key: NodeKey,
    /// Changes with every change of this entry, and when the entry is used for another peer: what was looked up
    /// under an older version must be looked up again.
    version: u32,
    /// Almost always one.
    conns: Vec<Conn>,
    active: ConnId,
    acquaintances: u32,
}

/// An edge between a peer and a local session.
#[derive(Clone, Copy, Debug)]
struct Acquaintance {
    peer: PeerId,
    slot: u32,
    prev_of_peer: u32,
    next_of_peer: u32,
    prev_of_slot: u32,
    next_of_slot: u32,
}

pub struct Directory {
    hasher: foldhash::fast::RandomState,
    by_key: HashTable<PeerId>,
    peers: Vec<Peer>,
    free_peers: Vec<PeerId>,
    edges: Vec<Acquaintance>,
    free_edges: Vec<u32>,
    by_pair: HashTable<u32>,
    /// Connections, over all keys.
    conns: usize,
    /// Keys with more than one connection, and their connections.
    dup_keys: usize,
    dup_conns: usize,
}

/// What a join or a departure changed for those who care about keys, not connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key was not here, or now is no longer.
    First,
    /// Other connections share the key.
    Another,
    /// The note named a connection that is not known.
    Nothing,
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            hasher: foldhash::fast::RandomState::default(),
            by_key: HashTable::new(),
            peers: Vec::new(),
            free_peers: Vec::new(),
            edges: Vec::new(),
            free_edges: Vec::new(),
            by_pair: HashTable::new(),
            conns: 0,
            dup_keys: 0,
            dup_conns: 0,
        }
    }
}

impl Directory {
    #[inline]
    pub fn find(&self, key: &NodeKey) -> Option<PeerId> {
        self.by_key.find(self.hash_key(key), |id| self.peers[*id as usize].key == *key).copied()
    }

    #[inline]
    pub fn peer(&self, id: PeerId) -> &Peer {
        &self.peers[id as usize]
    }

    /// Asks for what [`Self::is_current`] reads.
    #[inline]
    pub fn warm(&self, peer: PeerId) {
        if let Some(peer) = self.peers.get(peer as usize) {
            warm(&peer.version);
        }
    }

    /// Whether what was read from `id` under `version` still holds.
    #[inline]
    pub fn is_current(&self, id: PeerId, version: u32) -> bool {
        self.peers[id as usize].version == version
    }

    /// Distinct keys.
    pub fn keys(&self) -> usize {
        self.by_key.len()
    }

    /// Keys with more than one connection, and their connections.
    pub fn duplicates(&self) -> (usize, usize) {
        (self.dup_keys, self.dup_conns)
    }

    pub fn connections(&self) -> usize {
        self.conns
    }

    /// Every peer that is here.
    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.by_key.iter().map(|id| &self.peers[*id as usize])
    }

    /// A connection has logged in; it is active until another one of the key speaks.
    pub fn join(&mut self, join: &Join) -> (PeerId, Change) {
        let conn = Conn {
            id: join.conn,
            born: join.conn,
            stamp: join.stamp,
            ip: join.ip,
            port: join.port,
            flags: join.flags,
            takeovers: 0,
        };
        self.conns += 1;
        if let Some(id) = self.find(&join.key) {
            let peer = &mut self.peers[id as usize];
            debug_assert!(peer.conns.iter().all(|c| c.id != conn.id), "a connection joins once");
            // What an old connection still had on its way is no contest: it must take over again from the new one.
            peer.conns.iter_mut().for_each(|c| c.takeovers = 0);
            peer.conns.push(conn);
            peer.choose_active();
            let first = peer.conns.len() == 2;
            self.dup_keys += usize::from(first);
            self.dup_conns += if first { 2 } else { 1 };
            return (id, Change::Another);
        }
        let id = match self.free_peers.pop() {
            Some(id) => id,
            None => {
                self.peers.push(Peer::vacant());
                (self.peers.len() - 1) as PeerId
            }
        };
        let peer = &mut self.peers[id as usize];
        peer.key = join.key;
        // Almost always one: room for four, as a vector would have, is most of an entry.
        peer.conns.reserve_exact(1);
        peer.conns.push(conn);
        peer.choose_active();
        let hasher = &self.hasher;
        let peers = &self.peers;
        let hash = |key: &NodeKey| hash_key(hasher, key);
        self.by_key.insert_unique(hash(&join.key), id, |id| hash(&peers[*id as usize].key));
        (id, Change::First)
    }

    /// The first name of a connection.
    pub fn born(&self, key: &NodeKey, conn: ConnId) -> ConnId {
        let conns = self.find(key).map(|id| &self.peers[id as usize].conns);
        conns.and_then(|conns| conns.iter().find(|c| c.id == conn)).map_or(conn, |c| c.born)
    }

    /// A connection has ended. On [`Change::First`] the peer is about to go: [`Self::next_acquaintance`] gives those
    /// who must hear of it, then [`Self::forget`] removes it.
    pub fn depart(&mut self, key: &NodeKey, conn: ConnId) -> (PeerId, Change) {
        let Some(id) = self.find(key) else {
            return (NIL, Change::Nothing);
        };
        let peer = &mut self.peers[id as usize];
        let Some(at) = peer.conns.iter().position(|c| c.id == conn) else {
            return (id, Change::Nothing);
        };
        peer.conns.remove(at);
        self.conns -= 1;
        if peer.conns.is_empty() {
            peer.version = peer.version.wrapping_add(1);
            return (id, Change::First);
        }
        peer.choose_active();
        let last = peer.conns.len() == 1;
        self.dup_keys -= usize::from(last);
        self.dup_conns -= if last { 2 } else { 1 };
        (id, Change::Another)
    }

    /// A connection goes on under another name. `None`: it is not known.
    pub fn rename(&mut self, key: &NodeKey, from: ConnId, to: ConnId) -> Option<PeerId> {
        let id = self.find(key)?;
        let peer = &mut self.peers[id as usize];
        peer.conns.iter_mut().find(|c| c.id == from)?.id = to;
        peer.choose_active();
        Some(id)
    }

    /// A connection that shares its key has spoken. `true`: the active one has changed.
    pub fn activate(&mut self, key: &NodeKey, conn: ConnId, stamp: u64) -> Option<PeerId> {
        let id = self.find(key)?;
        let peer = &mut self.peers[id as usize];
        let entry = peer.conns.iter_mut().find(|c| c.id == conn)?;
        if stamp <= entry.stamp {
            return None;
        }
        entry.stamp = stamp;
        let before = peer.active;
        peer.choose_active();
        if peer.active == before {
            return None;
        }
        if let Some(entry) = peer.conns.iter_mut().find(|c| c.id == conn) {
            entry.takeovers = entry.takeovers.saturating_add(1);
        }
        Some(id)
    }

    /// Notes that the session in `slot` has heard of `peer`; `false`: it had before.
    pub fn introduce(&mut self, peer: PeerId, slot: u32, sessions: &mut impl AcquaintanceHeads) -> bool {
        let hash = self.hash_pair(peer, slot);
        let known = |edge: &u32| {
            let edge = &self.edges[*edge as usize];
            edge.peer == peer && edge.slot == slot
        };
        if self.by_pair.find(hash, known).is_some() || self.by_pair.len() >= limits::ACQUAINTANCES_MAX {
            return false;
        }
        let head_of_peer = self.peers[peer as usize].acquaintances;
        let head_of_slot = *sessions.head(slot);
        let edge = Acquaintance {
            peer,
            slot,
            prev_of_peer: NIL,
            next_of_peer: head_of_peer,
            prev_of_slot: NIL,
            next_of_slot: head_of_slot,
        };
        let at = match self.free_edges.pop() {
            Some(at) => {
                self.edges[at as usize] = edge;
                at
            }
            None => {
                self.edges.push(edge);
                (self.edges.len() - 1) as u32
            }
        };
        if head_of_peer != NIL {
            self.edges[head_of_peer as usize].prev_of_peer = at;
        }
        if head_of_slot != NIL {
            self.edges[head_of_slot as usize].prev_of_slot = at;
        }
        self.peers[peer as usize].acquaintances = at;
        *sessions.head(slot) = at;
        let hasher = &self.hasher;
        let edges = &self.edges;
        self.by_pair.insert_unique(hash, at, |e| {
            let e = &edges[*e as usize];
            hash_pair(hasher, e.peer, e.slot)
        });
        true
    }

    /// Takes one session that has heard of `peer` off its list.
    pub fn next_acquaintance(&mut self, peer: PeerId, sessions: &mut impl AcquaintanceHeads) -> Option<u32> {
        let at = self.peers[peer as usize].acquaintances;
        if at == NIL {
            return None;
        }
        let slot = self.edges[at as usize].slot;
        self.unlink(at, sessions);
        Some(slot)
    }

    /// Whom the session in `slot` has heard of: each peer once for each of its connections, by first name.
    pub fn heard_by(&self, slot: u32, sessions: &mut impl AcquaintanceHeads) -> Vec<(NodeKey, ConnId)> {
        let mut heard = Vec::new();
        let mut at = *sessions.head(slot);
        while at != NIL {
            let edge = &self.edges[at as usize];
            let peer = self.peer(edge.peer);
            heard.extend(peer.conns.iter().map(|conn| (peer.key, conn.born)));
            at = edge.next_of_slot;
        }
        heard
    }

    /// The session in `slot` is gone: nobody needs to tell it anything.
    pub fn forget_session(&mut self, slot: u32, sessions: &mut impl AcquaintanceHeads) {
        loop {
            let at = *sessions.head(slot);
            if at == NIL {
                return;
            }
            self.unlink(at, sessions);
        }
    }

    /// Removes a peer whose last connection has departed.
    pub fn forget(&mut self, id: PeerId) {
        let peer = &mut self.peers[id as usize];
        debug_assert!(peer.conns.is_empty() && peer.acquaintances == NIL);
        peer.version = peer.version.wrapping_add(1);
        let key = peer.key;
        let hash = self.hash_key(&key);
        if let Ok(entry) = self.by_key.find_entry(hash, |other| *other == id) {
            entry.remove();
        }
        self.free_peers.push(id);
    }

    /// Acquaintances, over all peers.
    pub fn acquaintances(&self) -> usize {
        self.by_pair.len()
    }

    fn unlink(&mut self, at: u32, sessions: &mut impl AcquaintanceHeads) {
        let edge = self.edges[at as usize];
        let hash = self.hash_pair(edge.peer, edge.slot);
        if let Ok(entry) = self.by_pair.find_entry(hash, |e| *e == at) {
            entry.remove();
        }
        match edge.prev_of_peer {
            NIL => self.peers[edge.peer as usize].acquaintances = edge.next_of_peer,
            prev => self.edges[prev as usize].next_of_peer = edge.next_of_peer,
        }
        if edge.next_of_peer != NIL {
            self.edges[edge.next_of_peer as usize].prev_of_peer = edge.prev_of_peer;
        }
        match edge.prev_of_slot {
            NIL => *sessions.head(edge.slot) = edge.next_of_slot,
            prev => self.edges[prev as usize].next_of_slot = edge.next_of_slot,
        }
        if edge.next_of_slot != NIL {
            self.edges[edge.next_of_slot as usize].prev_of_slot = edge.prev_of_slot;
        }
        self.free_edges.push(at);
    }

    #[inline]
    fn hash_key(&self, key: &NodeKey) -> u64 {
        hash_key(&self.hasher, key)
    }

    fn hash_pair(&self, peer: PeerId, slot: u32) -> u64 {
        hash_pair(&self.hasher, peer, slot)
    }
}

/// Where a session keeps the head of its list of acquaintances.
pub trait AcquaintanceHeads {
    fn head(&mut self, slot: u32) -> &mut u32;
}

/// Head of an empty list.
pub const NO_ACQUAINTANCE: u32 = NIL;

impl Peer {
    fn vacant() -> Self {
        Self { key: NodeKey::ZERO, version: 0, conns: Vec::new(), active: ConnId::new(0, 0, 0), acquaintances: NIL }
    }

    /// Where packets for this key go.
    #[inline]
    pub fn active(&self) -> ConnId {
        self.active
    }

    #[inline]
    pub fn version(&self) -> u32 {
        self.version
    }

    pub fn conns(&self) -> &[Conn] {
        &self.conns
    }

    pub fn is_shared(&self) -> bool {
        self.conns.len() > 1
    }

    /// Whether two connections take turns: one has taken over, lost to another that spoke, and taken over again.
    pub fn is_contested(&self) -> bool {
        self.is_shared() && self.conns.iter().any(|c| c.takeovers >= limits::TAKEOVERS_BEFORE_HEALTH)
    }

    pub fn active_conn(&self) -> Option<&Conn> {
        self.conns.iter().find(|c| c.id == self.active)
    }

    /// Latest stamp first; the larger name breaks a tie the same way on every worker.
    fn choose_active(&mut self) {
        self.version = self.version.wrapping_add(1);
        if let Some(conn) = self.conns.iter().max_by_key(|c| (c.stamp, c.born)) {
            self.active = conn.id;
        }
    }
}

#[inline]
fn hash_key(hasher: &foldhash::fast::RandomState, key: &NodeKey) -> u64 {
    let mut h = hasher.build_hasher();
    h.write(&key.0);
    h.finish()
}

fn hash_pair(hasher: &foldhash::fast::RandomState, peer: PeerId, slot: u32) -> u64 {
    let mut h = hasher.build_hasher();
    h.write_u64(u64::from(peer) << 32 | u64::from(slot));
    h.finish()
}
