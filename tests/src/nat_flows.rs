//! Flows that say what they lose, and servers that say who they are.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use felid_lab::Namespace;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};

/// Patience for an answer that must come; a slow machine loses nothing.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a server still writes to somebody unasked.
const WARM: Duration = Duration::from_secs(1);
/// First byte of what nobody has asked for.
const UNASKED: u8 = b'!';

/// Echoes TCP and UDP on a port with the server's letter in front. Those who asked by UDP lately
/// are also written to unasked.
pub fn serve(namespace: &Namespace, port: u16, letter: u8) -> Result<()> {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let socket = namespace.run(|| UdpSocket::bind(any))?.context("bind")?;
    std::thread::spawn(move || {
        let mut asked: VecDeque<(Instant, SocketAddr)> = VecDeque::new();
        let mut buffer = [0; 64];
        buffer[0] = letter;
        while let Ok((length, from)) = socket.recv_from(&mut buffer[1..]) {
            // A peer that went away is its own business.
            let _ = socket.send_to(&buffer[..=length], from);
            while asked.front().is_some_and(|(when, _)| when.elapsed() > WARM) {
                asked.pop_front();
            }
            if let Some((_, earlier)) = asked.get(asked.len() / 2) {
                let _ = socket.send_to(&[UNASKED], earlier);
            }
            asked.push_back((Instant::now(), from));
        }
    });
    let listener = namespace.run(|| TcpListener::bind(any))?.context("listen")?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                buffer[0] = letter;
                let _ = stream.set_nodelay(true);
                while let Ok(length @ 1..) = stream.read(&mut buffer[1..]) {
                    if stream.write_all(&buffer[..=length]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    Ok(())
}

/// A flow of questions with numbers.
#[derive(Debug)]
pub struct Flow {
    socket: Socket,
    number: u64,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Flow {
    /// A UDP flow, or a TCP connection.
    pub fn open(from: &Namespace, to: IpAddr, port: u16, tcp: bool) -> Result<Self> {
        let to = SocketAddr::new(to, port);
        // Two flows of one port to two names of a server would be a collision, and the kernel may
        // well choose one port twice.
        static NEXT: AtomicU16 = AtomicU16::new(5000);
        // (Beyond the port of VXLAN: what a workload sends there is a tunnel.)
        let port = NEXT.fetch_add(1, Ordering::Relaxed).max(5000);
        let any: SocketAddr = if to.is_ipv4() {
            ([0, 0, 0, 0], port).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, port).into()
        };
        let socket = from.run(|| -> Result<Socket> {
            if tcp {
                let stream = connect(any, to)?;
                stream.set_nodelay(true)?;
                return Ok(Socket::Tcp(stream));
            }
            let socket = UdpSocket::bind(any)?;
            socket.connect(to)?;
            Ok(Socket::Udp(socket))
        })?;
        let socket = socket.with_context(|| format!("to {to} from {}", from.name()))?;
        Ok(Self { socket, number: 0 })
    }

    /// A question whose answer must come, from the server with this letter. Nothing is sent twice
    /// (but by TCP itself).
    pub fn ask(&mut self, letter: u8) -> Result<()> {
        self.send();
        match self.answer(PATIENCE)? {
            Some(answered) if answered == letter => Ok(()),
            Some(answered) => bail!("the answer is from {}", char::from(answered)),
            None => bail!("question {} is lost", self.number),
        }
    }

    /// A question. A refusal is not an answer.
    pub fn send(&mut self) {
        self.number += 1;
        let number = self.number.to_be_bytes();
        let _ = match &mut self.socket {
            Socket::Tcp(stream) => stream.write_all(&number),
            Socket::Udp(socket) => {
                // The first call may tell of an error that came for an earlier question.
                let sent = socket.send(&number).or_else(|_| socket.send(&number));
                sent.map(drop)
            }
        };
    }

    /// Who answers the last question, if somebody does in this time.
    pub fn answer(&mut self, patience: Duration) -> Result<Option<u8>> {
        let end = Instant::now() + patience;
        let mut buffer = [0; 64];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let received = match &mut self.socket {
                Socket::Tcp(stream) => {
                    stream.set_read_timeout(Some(left))?;
                    stream.read_exact(&mut buffer[..9]).map(|()| 9)
                }
                Socket::Udp(socket) => {
                    socket.set_read_timeout(Some(left))?;
                    socket.recv(&mut buffer)
                }
            };
            match (received, &self.socket) {
                (Ok(9), _) if buffer[1..9] == self.number.to_be_bytes() => return Ok(Some(buffer[0])),
                // Unasked, or for an earlier question.
                (Ok(1..), _) | (Err(_), Socket::Udp(_)) => {}
                // Nothing more will come.
                (Ok(0) | Err(_), _) => return Ok(None),
            }
        }
    }
}

/// A connection from a port.
fn connect(from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    let family = if to.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let patience = TimeVal::seconds(PATIENCE.as_secs().cast_signed());
    socket::setsockopt(&fd, sockopt::SendTimeout, &patience)?;
    socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
    socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(fd.into())
}

/// Counts what comes to a namespace from the given addresses: those under which nobody here may be
/// answered.
#[derive(Debug)]
pub struct Leaks<'a>(&'a Namespace);

impl<'a> Leaks<'a> {
    /// Begins. `port`: the servers' own.
    pub fn watch(namespace: &'a Namespace, sources: &[&str], port: u16) -> Result<Self> {
        let mut table = String::from("table inet leaks { chain in { type filter hook input priority -300;");
        for source in sources {
            let version = if source.contains(':') { "ip6" } else { "ip" };
            for protocol in ["tcp", "udp"] {
                table += &format!(" {version} saddr {source} {protocol} sport {port} counter;");
            }
        }
        namespace.exec(&["nft", &format!("{table} }}; }}")])?;
        Ok(Self(namespace))
    }

    /// The rules that counted something so far.
    pub fn found(&self) -> Result<Vec<String>> {
        let text = self.0.exec(&["nft", "list", "table", "inet", "leaks"])?;
        let counters = text.lines().map(str::trim).filter(|line| line.contains("counter"));
        ensure!(counters.clone().count() > 0, "no counters");
        Ok(counters
            .filter(|line| !line.contains("packets 0 "))
            .map(str::to_owned)
            .collect())
    }
}
