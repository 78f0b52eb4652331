//! Rule lists for the bench of the datapath: they differ in what their rules differ in.

use std::net::IpAddr;
use std::sync::Arc;

use felid_common::protocol;
use felid_model::Protocol;
use felid_model::resolved::{Delta, ResolvedAction, ResolvedRule, ResolvedSide, SetId};
use ipnet::IpNet;

/// What every rule has of its own.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// A selector.
    pub selectors: bool,
    /// A port.
    pub ports: bool,
    /// A network.
    pub nets: bool,
}

/// The shapes of the bench, by name.
pub const SHAPES: [(&str, Shape); 4] = [
    ("selectors", shape(true, false, false)),
    ("ports", shape(false, true, false)),
    ("nets", shape(false, false, true)),
    ("all", shape(true, true, true)),
];

const fn shape(selectors: bool, ports: bool, nets: bool) -> Shape {
    Shape { selectors, ports, nets }
}

/// The n-th selector of the list with so many rules.
fn group(count: u16, n: u16) -> SetId {
    SetId(format!("s:group{n}of{count}").into())
}

/// One member of every selector of lists of these lengths; the client is one of each list's last.
pub fn members(counts: &[u16], client: &[IpAddr], delta: &mut Delta) {
    for n in 0..counts.iter().copied().max().unwrap_or_default() {
        let address: IpAddr = [192, 0, (2 + n / 250) as u8, (n % 250) as u8].into();
        let sets = counts
            .iter()
            .filter(|count| n + 1 < **count)
            .map(|count| group(*count, n));
        delta.members.insert(address.into(), Some(Arc::new(sets.collect())));
    }
    let own = Arc::new(counts.iter().map(|count| group(*count, count - 1)).collect());
    let client = client.iter().map(|address| ((*address).into(), Some(Arc::clone(&own))));
    delta.members.extend(client);
}

/// A list of rules of which only the last allows the client to the port.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// What they differ in.
    pub shape: Shape,
    /// How many.
    pub count: u16,
    /// The client's addresses.
    pub client: &'a [IpAddr],
    /// What the last rule allows.
    pub port: u16,
    /// The first rule denies, so that the list is another.
    pub changed: bool,
}

impl Rules<'_> {
    /// The rules.
    pub fn list(&self) -> Vec<ResolvedRule> {
        (0..self.count).map(|n| self.rule(n)).collect()
    }

    fn rule(&self, n: u16) -> ResolvedRule {
        let last = n + 1 == self.count;
        let mut source = ResolvedSide::default();
        if self.shape.selectors {
            source.sets.push(group(self.count, n));
        }
        if self.shape.nets {
            let other: IpAddr = [100, 64 + (n >> 8) as u8, n as u8, 0].into();
            match last {
                true => source.nets.extend(self.client.iter().copied().map(IpNet::from)),
                false => source.nets.extend(IpNet::new(other, 24)),
            }
        }
        let port = if last { self.port } else { 20_000 + n };
        let action = if self.changed && n == 0 && !last {
            ResolvedAction::Deny
        } else {
            ResolvedAction::Allow
        };
        ResolvedRule {
            protocol: Some(Protocol(protocol::TCP)),
            source,
            destination: ResolvedSide {
                ports: self.shape.ports.then_some((port, port)).into_iter().collect(),
                ..ResolvedSide::default()
            },
            ..ResolvedRule::new(n.into(), action)
        }
    }
}
