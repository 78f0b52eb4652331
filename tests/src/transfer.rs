//! Much data between namespaces, and whether all of it arrives intact.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use felid_lab::Namespace;

/// No power of two, so that a piece in a wrong place shows.
const PERIOD: usize = 251;
const CHUNK: usize = PERIOD * 512;
const PATIENCE: Duration = Duration::from_secs(20);

/// What is sent, a chunk and a period of it.
fn pattern() -> Vec<u8> {
    (0..CHUNK + PERIOD).map(|n| (n % PERIOD) as u8).collect()
}

fn send(stream: &mut TcpStream, bytes: u64) -> Result<()> {
    let pattern = pattern();
    let mut left = bytes;
    while left > 0 {
        let length = left.min(CHUNK as u64);
        stream.write_all(pattern.get(..length as usize).unwrap_or_default())?;
        left -= length;
    }
    Ok(())
}

fn receive(stream: &mut TcpStream, bytes: u64) -> Result<()> {
    let pattern = pattern();
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    while done < bytes {
        let room = (bytes - done).min(CHUNK as u64) as usize;
        let length = stream
            .read(&mut buffer[..room])
            .with_context(|| format!("after {done} bytes"))?;
        ensure!(length > 0, "the end after {done} bytes");
        let at = (done % PERIOD as u64) as usize;
        ensure!(
            buffer[..length] == pattern[at..at + length],
            "other data after {done} bytes"
        );
        done += length as u64;
    }
    Ok(())
}

fn patient(stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream.set_write_timeout(Some(PATIENCE))?)
}

/// Serves [`transfer`] on a port, both IP versions, for the rest of the test.
pub fn serve(namespace: &Namespace, port: u16) -> Result<()> {
    let listener = namespace
        .run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))?
        .context("listen")?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // The other end sees what goes wrong.
            std::thread::spawn(move || answer(stream));
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream) -> Result<()> {
    patient(&stream)?;
    let mut numbers = [[0; 8]; 2];
    for number in &mut numbers {
        stream.read_exact(number)?;
    }
    let [up, down] = numbers.map(u64::from_be_bytes);
    receive(&mut stream, up)?;
    stream.write_all(b"!")?;
    send(&mut stream, down)
}

/// Sends `up` bytes to a server and then gets `down` bytes from it, by one connection; all of them
/// must be right.
pub fn transfer(from: &Namespace, to: IpAddr, port: u16, up: u64, down: u64) -> Result<()> {
    let talk = || -> Result<()> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(to, port), PATIENCE)?;
        patient(&stream)?;
        stream.write_all(&up.to_be_bytes())?;
        stream.write_all(&down.to_be_bytes())?;
        send(&mut stream, up)?;
        let mut received = [0];
        stream.read_exact(&mut received).context("nothing was acknowledged")?;
        receive(&mut stream, down)
    };
    from.run(talk)?
        .with_context(|| format!("{up} bytes to {to} and {down} back"))
}

/// Packets with a wrong checksum that a namespace has received so far, of every protocol.
pub fn checksum_errors(namespace: &Namespace) -> Result<u64> {
    let (v4, v6) = namespace.run(|| {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
        (read("snmp"), read("snmp6"))
    })?;
    let (v4, v6) = (v4?, v6?);
    let mut sum = 0;
    // Names in one line, numbers in the next.
    let lines: Vec<&str> = v4.lines().collect();
    for pair in lines.as_chunks::<2>().0 {
        for (name, number) in pair[0].split_whitespace().zip(pair[1].split_whitespace()) {
            if name.contains("CsumErrors") {
                sum += number.parse::<u64>()?;
            }
        }
    }
    for line in v6.lines().filter(|line| line.contains("CsumErrors")) {
        sum += line.split_whitespace().nth(1).context("no number")?.parse::<u64>()?;
    }
    Ok(sum)
}
