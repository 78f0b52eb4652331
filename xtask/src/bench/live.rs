//! `cargo xtask bench live`: two workloads behind one host, without policy, with felid, with iptables and with nftables.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use felid_lab::records::{self, Endpoint};
use felid_lab::{Agent, Host, Workload};
use serde_json::{Value, json};

use super::traffic::{PORT, Rates, Server};
use super::{median, spread};

/// Rules of the policy; the last one allows.
pub(super) const RULES: u16 = 100;
const SERVER: [&str; 2] = ["10.65.0.2", "fd00:65::2"];
const CLIENT: [&str; 2] = ["10.65.0.3", "fd00:65::3"];

/// Each round is taken in this many slices: what else the machine does then hits all rivals alike.
const SLICES: usize = 5;

/// Who enforces.
const RIVALS: [&str; 4] = ["unpoliced", "felid", "iptables", "nftables"];

/// A host with a client and a server, under one of the rivals.
struct Lane {
    name: &'static str,
    host: Host,
    server: Workload,
    client: Workload,
    agent: Option<Agent>,
    samples: Vec<Rates>,
}

/// Runs it; figures by name.
pub(super) fn run(felid: &Path, rounds: usize, time: Duration) -> Result<Value> {
    println!(
        "live: workload -> host -> workload, IPv4, {RULES} rules of which the last allows; {rounds} rounds of {time:?} for each"
    );
    println!(
        "figure, taken in {SLICES} slices, the four in turn; ratios: medians of those to unpoliced routing in the same slice"
    );
    println!("requests and connections: both ends on one CPU; throughput: on two, congestion control reno");
    let mut lanes = RIVALS
        .into_iter()
        .map(|name| Lane::new(name, felid))
        .collect::<Result<Vec<_>>>()?;
    for lane in &lanes {
        lane.check_denied()?;
    }
    for slice in 0..=rounds * SLICES {
        // Whoever comes first is another one each time.
        for turn in 0..lanes.len() {
            let count = lanes.len();
            let Some(lane) = lanes.get_mut((slice + turn) % count) else {
                continue;
            };
            let server = Server::start(&lane.server.namespace, SERVER[0].parse()?)?;
            let rates = server.measure(&lane.client.namespace, time / SLICES as u32);
            server.end(&lane.client.namespace);
            let rates = rates.with_context(|| lane.name)?;
            // The first one warms up.
            if slice > 0 {
                lane.samples.push(rates);
            }
        }
    }
    let figure = |lane: &Lane, f: fn(&Rates) -> f64| median(lane.samples.iter().map(f));
    let base = lanes.first().context("no lanes")?.samples.clone();
    // Slice by slice, so that what else the machine does meanwhile hits both alike.
    let ratio = |lane: &Lane, f: fn(&Rates) -> f64| {
        median(lane.samples.iter().zip(&base).map(|(rates, base)| f(rates) / f(base)))
    };
    println!(
        "\n  {:<10} {:>12} {:>7} {:>12} {:>7} {:>10} {:>7}",
        "", "requests/s", "ratio", "conn/s", "ratio", "Gbit/s", "ratio"
    );
    let mut result = serde_json::Map::new();
    for lane in &lanes {
        let (rr, cps, gbps) = (
            figure(lane, |r| r.rr),
            figure(lane, |r| r.cps),
            figure(lane, |r| r.gbps),
        );
        println!(
            "  {:<10} {rr:>12.0} {:>7.2} {cps:>12.0} {:>7.2} {gbps:>10.2} {:>7.2}   spread {:.0}% {:.0}% {:.0}%",
            lane.name,
            ratio(lane, |r| r.rr),
            ratio(lane, |r| r.cps),
            ratio(lane, |r| r.gbps),
            spread(lane.samples.iter().map(|r| r.rr)),
            spread(lane.samples.iter().map(|r| r.cps)),
            spread(lane.samples.iter().map(|r| r.gbps)),
        );
        result.insert(lane.name.into(), json!({"rr": rr, "cps": cps, "gbps": gbps}));
    }
    for lane in lanes {
        if let Some(agent) = lane.agent {
            agent.stop()?;
        }
    }
    Ok(Value::Object(result))
}

impl Lane {
    fn new(name: &'static str, felid: &Path) -> Result<Self> {
        let host = Host::new(&format!("felid-bench-{name}"))?;
        let server = host.workload("calibench0", &SERVER)?;
        let client = host.workload("calibench1", &CLIENT)?;
        // The kernel's proxy ARP does not answer for 169.254.1.1 on a host without a default route: the gateway is known to all alike.
        for workload in [&server, &client] {
            let mac = felid_lab::netns::mac_text(felid_lab::netns::HOST_MAC);
            let gateway = felid_lab::netns::GATEWAY_V4;
            workload
                .namespace
                .ip(&format!("neigh replace {gateway} lladdr {mac} dev eth0 nud permanent"))?;
        }
        let mut agent = None;
        match name {
            "felid" => agent = Some(Agent::start(felid, &host, &records(&server, &client))?),
            _ => {
                host.wire(&server)?;
                host.wire(&client)?;
            }
        }
        match name {
            "iptables" => script(&host, &iptables())?,
            "nftables" => {
                let rules = host.directory().join("rules.nft");
                std::fs::write(&rules, nftables())?;
                host.namespace().exec(&["nft", "-f", &rules.to_string_lossy()])?;
            }
            _ => {}
        }
        Ok(Self {
            name,
            host,
            server,
            client,
            agent,
            samples: Vec::new(),
        })
    }

    /// Policy is really in force: a port that no rule names is refused, but for the unpoliced lane.
    fn check_denied(&self) -> Result<()> {
        let address: std::net::IpAddr = SERVER[0].parse()?;
        let other = std::net::SocketAddr::new(address, PORT + 1);
        let _listening = self.server.namespace.run(|| std::net::TcpListener::bind(other))??;
        let connected = self
            .client
            .namespace
            .run(|| std::net::TcpStream::connect_timeout(&other, Duration::from_millis(500)).is_ok())?;
        ensure!(
            connected == (self.name == "unpoliced"),
            "{}: the policy is not what is measured",
            self.name
        );
        let _ = &self.host;
        Ok(())
    }
}

/// Port of rule n; the last one's is the servers'.
fn port(rule: u16) -> u16 {
    if rule + 1 == RULES { PORT } else { 20_000 + rule }
}

/// The policy as records: each rule with its own selector and port.
fn records(server: &Workload, client: &Workload) -> String {
    let labels: Vec<String> = (0..RULES)
        .map(|rule| format!("group{rule}: '{}'", if rule + 1 == RULES { "yes" } else { "no" }))
        .collect();
    let mut spec = String::from("  selector: app == 'server'\n  types: [Ingress]\n  ingress:\n");
    for rule in 0..RULES {
        spec += &format!(
            "    - action: Allow\n      protocol: TCP\n      source: {{selector: group{rule} == 'yes'}}\n      destination: {{ports: [{}]}}\n",
            port(rule)
        );
    }
    let server = Endpoint {
        labels: "app: server",
        ..Endpoint::of("server", server)
    };
    let client = Endpoint {
        labels: &labels.join(", "),
        ..Endpoint::of("client", client)
    };
    [
        records::OPEN_PROFILE,
        &records::policy("default", "server", &spec),
        &server.yaml(),
        &client.yaml(),
    ]
    .concat()
}

/// The same by iptables: established flows first, then one rule with a set for each of felid's.
fn iptables() -> String {
    let mut script = String::from("set -e\niptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n");
    for rule in 0..RULES {
        script += &format!("ipset create group{rule} hash:ip\n");
        let member = if rule + 1 == RULES { CLIENT[0] } else { "192.0.2.1" };
        script += &format!("ipset add group{rule} {member}\n");
        script += &format!(
            "iptables -A FORWARD -o calibench0 -p tcp --dport {} -m set --match-set group{rule} src -j ACCEPT\n",
            port(rule)
        );
    }
    script += "iptables -A FORWARD -o calibench0 -j DROP\n";
    script
}

/// The same by nftables.
fn nftables() -> String {
    let mut sets = String::new();
    let mut rules = String::new();
    for rule in 0..RULES {
        let member = if rule + 1 == RULES { CLIENT[0] } else { "192.0.2.1" };
        sets += &format!("  set group{rule} {{ type ipv4_addr; elements = {{ {member} }} }}\n");
        rules += &format!(
            "    oifname \"calibench0\" tcp dport {} ip saddr @group{rule} accept\n",
            port(rule)
        );
    }
    format!(
        "table inet bench {{\n{sets}  chain forward {{\n    type filter hook forward priority filter; policy accept;\n    ct state \
         established,related accept\n{rules}    oifname \"calibench0\" drop\n  }}\n}}\n"
    )
}

fn script(host: &Host, text: &str) -> Result<()> {
    host.namespace().exec(&["sh", "-c", text]).map(drop)
}
