//! Load between two namespaces: request/response rate, connections per second, throughput.
//!
//! Requests and connections: the ends take turns anyway, so both are kept on one CPU; on two, what
//! is measured is how long the machine takes to wake a CPU up (tens of microseconds in a virtual
//! machine, several times the way of a packet). Throughput: both work at once, on a CPU each, with
//! a congestion control that sends what the window allows; BBR paces by timers, and a shorter way
//! need not show in it at all.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use felid_lab::Namespace;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;

/// The port that the policies' last rule allows.
pub(super) const PORT: u16 = 8099;
/// Bytes of one write of the throughput test.
const BULK: usize = 256 * 1024;

/// What a server does with a connection; the client's first byte says which.
const ECHO: u8 = b'e';
const SINK: u8 = b's';
const CLOSE: u8 = b'c';

/// One measurement.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rates {
    /// Request/response transactions a second, one byte each way, one connection.
    pub(super) rr: f64,
    /// Connections a second: made, closed by the server, one after the other.
    pub(super) cps: f64,
    /// Gigabits a second, one connection.
    pub(super) gbps: f64,
}

/// Two CPUs that this process may use; the same one twice where there is only one.
#[derive(Clone, Copy)]
struct Cpus {
    first: usize,
    second: usize,
}

impl Cpus {
    fn of_process() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let mut numbers = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
        let first = numbers.next().context("no CPU to run on")?;
        let second = numbers.next().unwrap_or(first);
        Ok(Self { first, second })
    }
}

/// Keeps the calling thread on a CPU.
fn stay_on(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// A server in a namespace; ends with the value.
pub(super) struct Server {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    /// What clients ask for.
    address: SocketAddr,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    /// On an address of the namespace, which clients reach by another one or the same.
    pub(super) fn start(namespace: &Namespace, own: IpAddr, reached_by: IpAddr) -> Result<Self> {
        let own = SocketAddr::new(own, PORT);
        let listener = namespace.run(|| TcpListener::bind(own))?.context("listen")?;
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicU64::new(0));
        let (stopped, counter) = (stop.clone(), received.clone());
        let cpus = Cpus::of_process()?;
        let thread = std::thread::spawn(move || {
            // A server that is not where it should be shows in the figures' spread; there is nobody
            // to tell.
            let _ = stay_on(cpus.first);
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let counter = counter.clone();
                answer(stream, counter, cpus);
            }
        });
        Ok(Self {
            stop,
            received,
            address: SocketAddr::new(reached_by, PORT),
            thread: Some(thread),
        })
    }

    /// Ends the server; called from the namespace that reaches it.
    pub(super) fn end(mut self, from: &Namespace) {
        self.stop.store(true, Ordering::Relaxed);
        // A last connection wakes it up.
        let address = self.address;
        if from
            .run(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)))
            .is_ok_and(|r| r.is_ok())
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }

    /// Measures from another namespace; `time` for each of the three.
    pub(super) fn measure(&self, from: &Namespace, time: Duration) -> Result<Rates> {
        let address = self.address;
        let cpus = Cpus::of_process()?;
        let rr = from.run(|| {
            stay_on(cpus.first)?;
            request_response(address, time)
        })??;
        let cps = from.run(|| {
            stay_on(cpus.first)?;
            connections(address, time)
        })??;
        let before = self.received.load(Ordering::Relaxed);
        let seconds = from.run(|| {
            stay_on(cpus.first)?;
            bulk(address, time)
        })??;
        let bytes = self.received.load(Ordering::Relaxed) - before;
        Ok(Rates {
            rr,
            cps,
            gbps: bytes as f64 * 8.0 / seconds / 1e9,
        })
    }
}

/// Serves one connection: short ones on this thread, so that making threads is not what is
/// measured.
fn answer(mut stream: TcpStream, received: Arc<AtomicU64>, cpus: Cpus) {
    let mut kind = [0];
    if stream.set_nodelay(true).is_err() || stream.read_exact(&mut kind).is_err() {
        return;
    }
    match kind[0] {
        CLOSE => {}
        ECHO => {
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            });
        }
        _ => {
            std::thread::spawn(move || {
                let _ = stay_on(cpus.second);
                let mut buffer = vec![0; BULK];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    received.fetch_add(length as u64, Ordering::Relaxed);
                }
            });
        }
    }
}

fn connect(address: SocketAddr, kind: u8) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3)).context("connect")?;
    stream.set_nodelay(true)?;
    stream.write_all(&[kind])?;
    Ok(stream)
}

fn request_response(address: SocketAddr, time: Duration) -> Result<f64> {
    let mut stream = connect(address, ECHO)?;
    let start = Instant::now();
    let mut count = 0_u64;
    let mut byte = [0];
    while start.elapsed() < time {
        for _ in 0..64 {
            stream.write_all(&[1])?;
            stream.read_exact(&mut byte)?;
            count += 1;
        }
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

fn connections(address: SocketAddr, time: Duration) -> Result<f64> {
    let start = Instant::now();
    let mut count = 0_u64;
    let mut byte = [0];
    while start.elapsed() < time {
        let mut stream = connect(address, CLOSE)?;
        // The server closes first: its end holds the TIME_WAIT, and the client's ports are free
        // again at once.
        if stream.read(&mut byte)? == 0 {
            count += 1;
        }
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// Sends for `time`; seconds until everything was handed over.
fn bulk(address: SocketAddr, time: Duration) -> Result<f64> {
    let mut stream = connect(address, SINK)?;
    setsockopt(&stream, sockopt::TcpCongestion, &OsString::from("reno"))?;
    let data = vec![0x5a; BULK];
    let start = Instant::now();
    while start.elapsed() < time {
        stream.write_all(&data)?;
    }
    Ok(start.elapsed().as_secs_f64())
}
