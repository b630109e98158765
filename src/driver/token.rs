//! What a kernel event is about: one encoding, used by both kernel drivers.

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// A socket has something (epoll), or a receive has completed (io_uring).
    Receive = 1,
    /// A socket takes more.
    Writable = 2,
    /// Somebody woke us.
    Wake = 3,
    /// The result does not matter.
    Ignore = 4,
    /// A socket has something to be received by a call (io_uring).
    Readable = 5,
}

/// Operation, slot and the slot's generation in 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub op: Op,
    /// 24 bits, wrapping: an event of a former user of the slot does not match.
    pub generation: u32,
    pub slot: u32,
}

const GENERATION_MASK: u32 = (1 << 24) - 1;

impl Token {
    pub const WAKE: Self = Self { op: Op::Wake, generation: 0, slot: 0 };
    pub const IGNORE: Self = Self { op: Op::Ignore, generation: 0, slot: 0 };

    #[inline]
    pub fn encode(self) -> u64 {
        (self.op as u64) << 56 | u64::from(self.generation & GENERATION_MASK) << 32 | u64::from(self.slot)
    }

    #[inline]
    pub fn decode(raw: u64) -> Self {
        let op = match raw >> 56 {
            1 => Op::Receive,
            2 => Op::Writable,
            3 => Op::Wake,
            5 => Op::Readable,
            _ => Op::Ignore,
        };
        Self { op, generation: (raw >> 32) as u32 & GENERATION_MASK, slot: raw as u32 }
    }

    pub fn next_generation(generation: u32) -> u32 {
        (generation + 1) & GENERATION_MASK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        for op in [Op::Receive, Op::Writable, Op::Wake, Op::Ignore, Op::Readable] {
            let token = Token { op, generation: GENERATION_MASK, slot: u32::MAX };
            assert_eq!(Token::decode(token.encode()), token);
        }
        assert_eq!(Token::next_generation(GENERATION_MASK), 0);
    }
}
