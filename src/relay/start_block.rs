//! What a relay says of itself when it has started.

use std::fmt;
use std::net::SocketAddr;

use crate::config::AdminAddr;
use crate::control::sockets::SocketFile;
use crate::driver::probe::Choice;
use crate::edge;
use crate::proto::key::NodeKey;

/// Memory that queues may take, out of what the host has.
pub(super) struct Budget {
    pub per_worker: u64,
    pub workers: usize,
}

impl Budget {
    /// An eighth of the memory in all, within bounds that make sense for one core.
    pub fn of_this_host(workers: usize) -> Self {
        const MOST: u64 = 1 << 30;
        const LEAST: u64 = 64 << 20;
        let info = rustix::system::sysinfo();
        #[expect(clippy::useless_conversion, reason = "the width depends on the architecture")]
        let total = u64::from(info.totalram) * u64::from(info.mem_unit);
        Self { per_worker: (total / 8 / workers as u64).clamp(LEAST, MOST), workers }
    }

    pub fn chunks_per_worker(&self) -> usize {
        (self.per_worker as usize) / size_of::<crate::mem::chunk::Chunk>()
    }
}

/// What the operator sees first.
pub(super) struct StartBlock<'a> {
    pub addresses: &'a [SocketAddr],
    pub unix: &'a [SocketFile],
    pub http: &'a [SocketAddr],
    pub admin: &'a [AdminAddr],
    pub stun: &'a [SocketAddr],
    pub stun_any: bool,
    pub tls: bool,
    pub choice: &'a Choice,
    pub edge: &'a edge::Backend,
    pub workers: usize,
    pub edges: usize,
    pub public: &'a NodeKey,
    pub budget: &'a Budget,
    pub max_clients: usize,
}

impl fmt::Display for StartBlock<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "derpring {}", env!("CARGO_PKG_VERSION"))?;
        for address in self.addresses {
            let scheme = if self.tls { "https" } else { "http" };
            writeln!(f, "  listening   {scheme}://{address}/derp")?;
        }
        for file in self.unix {
            let scheme = if self.tls { "https" } else { "http" };
            writeln!(f, "  listening   {scheme} on unix:{}", file.path().display())?;
        }
        for address in self.http {
            writeln!(f, "  plain HTTP  http://{address}/ (captive portal checks, redirects)")?;
        }
        for address in self.admin {
            writeln!(f, "  admin       {address}")?;
        }
        for address in self.stun {
            let clients = if self.stun_any { "any client" } else { "Tailscale's clients" };
            writeln!(f, "  stun        {address} for {clients}")?;
        }
        match self.choice {
            Choice::Uring { incremental: true } => writeln!(f, "  backend     io_uring")?,
            Choice::Uring { incremental: false } => {
                writeln!(f, "  backend     io_uring (this kernel takes a whole buffer per receive)")?;
            }
            Choice::Epoll { why } => writeln!(f, "  backend     epoll: {why}")?,
        }
        if let (edge::Backend::Tokio(why), Choice::Uring { .. }) = (self.edge, self.choice) {
            writeln!(f, "  edge        tokio's own sockets: {why}")?;
        }
        writeln!(f, "  threads     {} workers, {} edges", self.workers, self.edges)?;
        writeln!(f, "  public key  {}", self.public)?;
        let total = self.budget.per_worker * self.budget.workers as u64;
        writeln!(
            f,
            "  memory      queues up to {} MiB in all, {} MiB per worker",
            total >> 20,
            self.budget.per_worker >> 20
        )?;
        write!(f, "  clients     up to {}", self.max_clients)
    }
}
