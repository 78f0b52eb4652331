//! Real sockets in namespaces.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result};
use felid_lab::Namespace;

/// A denied connection is a dropped SYN, sent again after a second; the second one decides.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Echoes TCP connections to a port, both families, for the rest of the test.
pub fn serve_tcp(namespace: &Namespace, port: u16) -> Result<()> {
    let listener = namespace
        .run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))?
        .context("listen")?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = vec![0; 65536];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    Ok(())
}

/// Echoes UDP datagrams to a port, both families, for the rest of the test.
pub fn serve_udp(namespace: &Namespace, port: u16) -> Result<()> {
    serve_udp_at(namespace, (Ipv6Addr::UNSPECIFIED, port).into())
}

/// The same on one address, from which it answers whatever the routes say.
pub fn serve_udp_at(namespace: &Namespace, address: SocketAddr) -> Result<()> {
    let socket = namespace.run(|| UdpSocket::bind(address))?.context("bind")?;
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            // A peer that went away is its own business.
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
    Ok(())
}

/// Whether a TCP connection is made and answered.
pub fn tcp(from: &Namespace, to: IpAddr, port: u16) -> Result<bool> {
    from.run(|| tcp_here(SocketAddr::new(to, port)).is_ok())
}

/// An open connection; the socket stays in the namespace it was made in.
pub fn tcp_open(from: &Namespace, to: IpAddr, port: u16) -> Result<TcpStream> {
    from.run(|| tcp_here(SocketAddr::new(to, port)))?
}

fn tcp_here(to: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    echo(&mut stream)?;
    Ok(stream)
}

/// One question and its answer on an open connection.
pub fn echo(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"question")?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer)?;
    anyhow::ensure!(&answer == b"question", "another answer");
    Ok(())
}

/// Whether a UDP datagram of `size` bytes is answered.
pub fn udp(from: &Namespace, to: IpAddr, port: u16, size: usize) -> Result<bool> {
    let here = move || -> Result<bool> {
        let any: SocketAddr = if to.is_ipv4() {
            ([0, 0, 0, 0], 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        socket.connect((to, port))?;
        let data = vec![0x5a; size];
        let mut buffer = vec![0; 65536];
        // Once more: the first datagram may be lost to neighbour discovery.
        for _ in 0..2 {
            // A refusal by ICMP shows up here or at the receive.
            if socket.send(&data).is_ok()
                && let Ok(length) = socket.recv(&mut buffer)
            {
                return Ok(buffer.get(..length) == Some(&data));
            }
        }
        Ok(false)
    };
    from.run(here)?
}
