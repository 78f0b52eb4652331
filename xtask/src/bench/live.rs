//! `cargo xtask bench live`: two workloads behind one host, without policy, with felid, with
//! iptables and with nftables; and with each of these three by an external address of the server.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

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

/// By which the client reaches the server where addresses are translated.
const EXTERNAL: &str = "203.0.113.2";

/// Who enforces, whether that one also translates, and beside which lane (by its number here) that
/// is to be seen.
const LANES: [(&str, bool, usize); 7] = [
    ("unpoliced", false, 0),
    ("felid", false, 0),
    ("iptables", false, 0),
    ("nftables", false, 0),
    ("felid", true, 1),
    ("iptables", true, 2),
    ("nftables", true, 3),
];

/// A host with a client and a server, under one of the rivals.
struct Lane {
    name: &'static str,
    translates: bool,
    beside: usize,
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
        "figure, taken in {SLICES} slices, all in turn; ratios: medians of those to unpoliced routing in the same slice; by an external \
         address (NAT): to the same rival without"
    );
    println!("requests and connections: both ends on one CPU; throughput: on two, congestion control reno");
    let mut lanes = LANES
        .into_iter()
        .map(|(name, translates, beside)| Lane::new(name, translates, beside, felid))
        .collect::<Result<Vec<_>>>()?;
    for lane in &lanes {
        lane.check_denied()?;
    }
    measure(&mut lanes, rounds, time)?;
    let result = show(&lanes);
    for lane in lanes {
        if let Some(agent) = lane.agent {
            agent.stop()?;
        }
    }
    Ok(Value::Object(result))
}

/// Takes every lane's samples, slice by slice and the lanes in turn.
fn measure(lanes: &mut [Lane], rounds: usize, time: Duration) -> Result<()> {
    for slice in 0..=rounds * SLICES {
        // Whoever comes first is another one each time.
        for turn in 0..lanes.len() {
            let count = lanes.len();
            let Some(lane) = lanes.get_mut((slice + turn) % count) else {
                continue;
            };
            let server = Server::start(&lane.server.namespace, SERVER[0].parse()?, lane.target()?)?;
            let rates = server.measure(&lane.client.namespace, time / SLICES as u32);
            server.end(&lane.client.namespace);
            let rates = rates.with_context(|| lane.title())?;
            // The first one warms up.
            if slice > 0 {
                lane.samples.push(rates);
            }
        }
    }
    Ok(())
}

/// Prints what the lanes' samples say, and returns the figures by the lanes' names.
fn show(lanes: &[Lane]) -> serde_json::Map<String, Value> {
    let figure = |lane: &Lane, f: fn(&Rates) -> f64| median(lane.samples.iter().map(f));
    let samples: Vec<Vec<Rates>> = lanes.iter().map(|lane| lane.samples.clone()).collect();
    // Slice by slice, so that what else the machine does meanwhile hits both alike.
    let ratio = |lane: &Lane, f: fn(&Rates) -> f64| {
        let base = samples.get(lane.beside).into_iter().flatten();
        median(lane.samples.iter().zip(base).map(|(rates, base)| f(rates) / f(base)))
    };
    println!(
        "\n  {:<12} {:>12} {:>7} {:>12} {:>7} {:>10} {:>7}",
        "", "requests/s", "ratio", "conn/s", "ratio", "Gbit/s", "ratio"
    );
    let mut result = serde_json::Map::new();
    for lane in lanes {
        let (rr, cps, gbps) = (
            figure(lane, |r| r.rr),
            figure(lane, |r| r.cps),
            figure(lane, |r| r.gbps),
        );
        println!(
            "  {:<12} {rr:>12.0} {:>7.2} {cps:>12.0} {:>7.2} {gbps:>10.2} {:>7.2}   spread {:.0}% {:.0}% {:.0}%",
            lane.title(),
            ratio(lane, |r| r.rr),
            ratio(lane, |r| r.cps),
            ratio(lane, |r| r.gbps),
            spread(lane.samples.iter().map(|r| r.rr)),
            spread(lane.samples.iter().map(|r| r.cps)),
            spread(lane.samples.iter().map(|r| r.gbps)),
        );
        let key = lane.title().to_lowercase().replace(' ', "_");
        result.insert(key, json!({"rr": rr, "cps": cps, "gbps": gbps}));
    }
    result
}

impl Lane {
    fn new(name: &'static str, translates: bool, beside: usize, felid: &Path) -> Result<Self> {
        let host = Host::new(&format!("felid-bench-{name}"))?;
        let server = host.workload("calibench0", &SERVER)?;
        let client = host.workload("calibench1", &CLIENT)?;
        // The kernel's proxy ARP does not answer for 169.254.1.1 on a host without a default route:
        // the gateway is known to all alike.
        for workload in [&server, &client] {
            let mac = felid_lab::netns::mac_text(felid_lab::netns::HOST_MAC);
            let gateway = felid_lab::netns::GATEWAY_V4;
            workload
                .namespace
                .ip(&format!("neigh replace {gateway} lladdr {mac} dev eth0 nud permanent"))?;
        }
        let mut agent = None;
        match name {
            "felid" => agent = Some(Agent::start(felid, &host, &records(&server, &client, translates))?),
            _ => {
                host.wire(&server)?;
                host.wire(&client)?;
            }
        }
        match name {
            "iptables" => script(&host, &iptables(translates))?,
            "nftables" => {
                let rules = host.directory().join("rules.nft");
                std::fs::write(&rules, nftables(translates))?;
                host.namespace().exec(&["nft", "-f", &rules.to_string_lossy()])?;
            }
            _ => {}
        }
        if name == "felid" && translates {
            // The route is the last thing that the agent does for a translation.
            let end = Instant::now() + Duration::from_secs(20);
            while host.namespace().ip(&format!("route show exact {EXTERNAL}"))?.is_empty() {
                ensure!(Instant::now() < end, "no route to {EXTERNAL}");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(Self {
            name,
            translates,
            beside,
            host,
            server,
            client,
            agent,
            samples: Vec::new(),
        })
    }

    fn title(&self) -> String {
        format!("{}{}", self.name, if self.translates { " NAT" } else { "" })
    }

    /// The address by which the client reaches the server.
    fn target(&self) -> Result<IpAddr> {
        Ok(if self.translates { EXTERNAL } else { SERVER[0] }.parse()?)
    }

    /// Policy is really in force: a port that no rule names is refused, but for the unpoliced lane.
    fn check_denied(&self) -> Result<()> {
        let other = SocketAddr::new(self.target()?, PORT + 1);
        let own = SocketAddr::new(SERVER[0].parse()?, PORT + 1);
        let _listening = self.server.namespace.run(|| std::net::TcpListener::bind(own))??;
        let connected = self
            .client
            .namespace
            .run(|| std::net::TcpStream::connect_timeout(&other, Duration::from_millis(500)).is_ok())?;
        ensure!(
            connected == (self.name == "unpoliced"),
            "{}: the policy is not what is measured",
            self.title()
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
fn records(server: &Workload, client: &Workload, translates: bool) -> String {
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
        nats: translates
            .then(|| (SERVER[0].to_owned(), EXTERNAL.to_owned()))
            .into_iter()
            .collect(),
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
fn iptables(translates: bool) -> String {
    let mut script = String::from("set -e\n");
    if translates {
        // As Felix writes floating IPs.
        script += &format!(
            "iptables -t nat -A PREROUTING -d {EXTERNAL} -j DNAT --to-destination {}\n",
            SERVER[0]
        );
    }
    script += "iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n";
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
fn nftables(translates: bool) -> String {
    let mut sets = String::new();
    let nat = if translates {
        format!(
            "  chain prerouting {{\n    type nat hook prerouting priority dstnat;\n    ip daddr {EXTERNAL} dnat ip to {}\n  }}\n",
            SERVER[0]
        )
    } else {
        String::new()
    };
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
        "table inet bench {{\n{sets}{nat}  chain forward {{\n    type filter hook forward priority filter; policy accept;\n    ct state \
         established,related accept\n{rules}    oifname \"calibench0\" drop\n  }}\n}}\n"
    )
}

fn script(host: &Host, text: &str) -> Result<()> {
    host.namespace().exec(&["sh", "-c", text]).map(drop)
}
