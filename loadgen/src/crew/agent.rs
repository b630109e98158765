//! An agent: makes its part of runs that another generator drives.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Parser as _;

use super::local::Threads;
use super::wire::{self, Hello, Order, Run, Stepped, Told};
use super::{Crew, Live, Part, Step};
use crate::cli::{Args, CpuList, Plan};
use crate::engine::setup;
use crate::error::{self, Error, Exit};
use crate::measure::{At, StepResult, hdr};

/// How often the driver hears that we live.
const ALIVE: Duration = Duration::from_millis(500);

/// Serves one driver after the other, until the process is ended.
pub fn serve(addr: &str, cpus: Option<CpuList>) -> Result<(), Error> {
    let failed = |source| Error::AgentListen { addr: addr.into(), source };
    let listener = TcpListener::bind(addr).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    println!("agent on {bound}: whoever connects can make this machine load any host");
    for stream in listener.incoming() {
        let served = stream.and_then(|stream| run(stream, cpus.as_ref()));
        if let Err(err) = served {
            eprintln!("derpring-loadgen: a run ended: {err}");
        }
    }
    Ok(())
}

fn run(mut stream: TcpStream, cpus: Option<&CpuList>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let theirs: Hello = wire::read(&mut stream)?;
    wire::write(&mut stream, &Hello::ours())?;
    if theirs != Hello::ours() {
        return Err(io::Error::other(format!("the driver is version {}, we are another", theirs.version)));
    }
    let Order::Run(run) = wire::read(&mut stream)? else {
        return Err(io::Error::other("the driver did not begin with a run"));
    };
    let replies = Arc::new(Mutex::new(stream.try_clone()?));
    let tell = |told: &Told| wire::write(&mut *replies.lock().unwrap_or_else(PoisonError::into_inner), told);
    let over = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        let alive = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) && tell(&Told::Alive).is_ok() {
                std::thread::park_timeout(ALIVE);
            }
        });
        let result = work(*run, cpus, &stream, &tell);
        over.store(true, Ordering::Relaxed);
        alive.thread().unpark();
        result
    });
    match result {
        Ok(()) => Ok(()),
        Err(err) => {
            let text = error::chain(&err);
            // The driver may be what is gone.
            let _ = tell(&Told::Failed { text: text.clone(), wrong: err.exit() == Exit::Wrong });
            Err(io::Error::other(text))
        }
    }
}

fn work(
    run: Run,
    cpus: Option<&CpuList>,
    stream: &TcpStream,
    tell: &impl Fn(&Told) -> io::Result<()>,
) -> Result<(), Error> {
    let lost = |source| Error::AgentIo { agent: "the driver".into(), source };
    let args = Args::try_parse_from(run.args).map_err(|err| Error::Usage(err.to_string()))?;
    // What names this machine's parts is the agent's own.
    let args = Args { cpus: cpus.cloned(), cpu: None, relay_pid: None, strace: None, ..args };
    let plan = Plan::with(args, &run.given, run.nonce)?;
    setup::process(&plan)?;
    let part = Part { index: run.index, of: run.agents };
    std::thread::scope(|scope| {
        let start = At::now(None, 0)?;
        let mut threads = Threads::start(&plan, part, scope);
        let orders = listen(stream.try_clone().map_err(lost)?, threads.lives());
        let (logins, _) = threads.logged_in()?;
        let own = [start.own, At::now(None, 0)?.own];
        tell(&Told::LoggedIn { logins: hdr::encode(&logins), own }).map_err(lost)?;
        // The end of the orders is the end of the run.
        for order in orders {
            let Order::Step { rate, warmup, duration } = order else {
                return Err(Error::Usage("the driver began a second run on one connection".into()));
            };
            let result = threads.step(Step { begin: threads.begin(), rate, warmup, duration })?;
            let StepResult { totals, stats, at, seconds, busy } = result;
            let stepped = Stepped { totals, stats, seconds, busy, own: at.map(|(from, to)| [from.own, to.own]) };
            tell(&Told::Stepped(Box::new(stepped))).map_err(lost)?;
        }
        Ok(())
    })
}

/// Orders as they come. When the driver goes away, so does the load.
fn listen(mut stream: TcpStream, lives: Vec<Arc<Live>>) -> Receiver<Order> {
    let (give, orders) = channel();
    std::thread::spawn(move || {
        while let Ok(order) = wire::read(&mut stream) {
            if give.send(order).is_err() {
                return;
            }
        }
        lives.iter().for_each(|live| live.stop());
    });
    orders
}
