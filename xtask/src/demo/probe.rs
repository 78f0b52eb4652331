//! Real connections: the servers, the probes, and the table of who reaches whom.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::shop::Shop;

/// A denied connection is a dropped SYN; it is sent again after a second. Twice that is patience
/// enough.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Echoes on a port, both families, until killed.
pub(crate) fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).with_context(|| format!("listen on {port}"))?;
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                if buffer
                    .get(..length)
                    .is_none_or(|bytes| stream.write_all(bytes).is_err())
                {
                    break;
                }
            }
        });
    }
    Ok(())
}

/// Connects, and asks for an echo.
pub(super) fn connects(address: IpAddr, port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&SocketAddr::new(address, port), PATIENCE) else {
        return false;
    };
    let mut answer = [0; 5];
    stream.set_read_timeout(Some(PATIENCE)).is_ok()
        && stream.write_all(b"felid").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && &answer == b"felid"
}

/// Who reaches whom: (from, to) -> one answer for each address.
pub(super) struct Matrix {
    sources: Vec<&'static str>,
    destinations: Vec<(&'static str, u16)>,
    cells: BTreeMap<(&'static str, &'static str), Vec<(IpAddr, bool)>>,
}

impl Matrix {
    /// Tries every pair, all at once.
    pub(super) fn measure(shop: &Shop) -> Result<Self> {
        let destinations = shop.destinations();
        let mut cells = BTreeMap::new();
        std::thread::scope(|scope| -> Result<()> {
            let mut probes = Vec::new();
            for (from, namespace) in shop.sources() {
                for (to, addresses, port) in &destinations {
                    for address in addresses.iter().copied().filter(|_| from != *to) {
                        probes.push(scope.spawn(move || {
                            namespace
                                .run(|| connects(address, *port))
                                .map(|answer| (from, *to, address, answer))
                        }));
                    }
                }
            }
            for probe in probes {
                let (from, to, address, answer) = probe.join().map_err(|_| anyhow::anyhow!("a probe panicked"))??;
                cells.entry((from, to)).or_insert_with(Vec::new).push((address, answer));
            }
            Ok(())
        })?;
        Ok(Self {
            sources: shop.sources().into_iter().map(|(name, _)| name).collect(),
            destinations: destinations.into_iter().map(|(name, _, port)| (name, port)).collect(),
            cells,
        })
    }

    /// Prints the table; cells that differ from `earlier` are marked.
    pub(super) fn print(&self, earlier: Option<&Self>) {
        print!("  {:<12}", "from \\ to");
        for (to, port) in &self.destinations {
            print!("{:<15}", format!("{to}:{port}"));
        }
        println!();
        for from in &self.sources {
            print!("  {from:<12}");
            for (to, _) in &self.destinations {
                let cell = self.cell(from, to);
                let changed = earlier.is_some_and(|earlier| earlier.cell(from, to) != cell);
                print!("{:<15}", format!("{cell}{}", if changed { " *" } else { "" }));
            }
            println!();
        }
    }

    fn cell(&self, from: &str, to: &str) -> String {
        let Some(answers) = self.cells.get(&(from, to)) else {
            return "-".into();
        };
        let open = answers.iter().filter(|(_, answer)| *answer).count();
        if open == answers.len() {
            "yes".into()
        } else if open == 0 {
            "no".into()
        } else {
            let family = |v4: bool| {
                answers
                    .iter()
                    .any(|(address, answer)| address.is_ipv4() == v4 && *answer)
            };
            if family(true) { "v4 only" } else { "v6 only" }.into()
        }
    }

    /// Fails unless exactly these pairs connect, over both families.
    pub(super) fn check(&self, expected: &[(&str, &str)]) -> Result<()> {
        for ((from, to), answers) in &self.cells {
            let wanted = expected.contains(&(from, to));
            for (address, answer) in answers {
                ensure!(
                    *answer == wanted,
                    "{from} -> {to} ({address}) {}, but the records say otherwise",
                    if *answer { "connects" } else { "does not connect" }
                );
            }
        }
        Ok(())
    }
}
