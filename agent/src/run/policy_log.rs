//! What Log rules tell: a line in the log for each rule and packet.
//!
//! The kernel's records name rules by number. [`Tables`] knows what the numbers mean: the pipeline
//! says which programs and endpoints come and go, and those that went are remembered for a while,
//! since records about them may still be on their way.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use felid_common::{LOG_INGRESS, LogRecord, VERDICT_ALLOW, protocol};
use felid_compile::program::{Program, table_id};
use felid_compile::transaction::{EndpointChange, ProgramId, Transaction};
use felid_dataplane::kernel::LogReader;
use felid_model::Protocol;

use super::server::{Stop, stopped};

/// How many rule tables and endpoints are remembered after they went.
const REMEMBERED: usize = 256;

/// How often the ring buffer is looked at: it holds more than the kernel writes meanwhile.
const PERIOD: Duration = Duration::from_millis(200);

/// What a Log rule is called.
type Rules = BTreeMap<u32, String>;

/// Names for what records speak of.
#[derive(Debug, Default)]
pub struct Tables {
    /// By [`table_id`]: number of programs that have it, and its Log rules.
    tables: BTreeMap<u32, (usize, Rules)>,
    programs: BTreeMap<ProgramId, u32>,
    /// By endpoint id.
    endpoints: BTreeMap<u32, Arc<str>>,
    old_tables: VecDeque<u32>,
    old_endpoints: VecDeque<u32>,
}

impl Tables {
    /// A transaction is in force.
    pub fn learn(&mut self, transaction: &Transaction) {
        for (id, program) in &transaction.new_programs {
            self.add(*id, program);
        }
        for (id, change) in &transaction.endpoints {
            match change {
                EndpointChange::Set(plan) => {
                    self.endpoints.insert(id.id, plan.endpoint.key.to_string().into());
                }
                EndpointChange::Gone { .. } => self.old_endpoints.push_back(id.id),
            }
        }
        for id in &transaction.old_programs {
            let Some(table) = self.programs.remove(id) else {
                continue;
            };
            if let Some((users, _)) = self.tables.get_mut(&table) {
                *users = users.saturating_sub(1);
            }
            self.old_tables.push_back(table);
        }
        while self.old_endpoints.len() > REMEMBERED {
            // Ids are never used twice.
            if let Some(id) = self.old_endpoints.pop_front() {
                self.endpoints.remove(&id);
            }
        }
        while self.old_tables.len() > REMEMBERED {
            let unused = |table: &u32| self.tables.get(table).is_some_and(|(users, _)| *users == 0);
            if let Some(table) = self.old_tables.pop_front().filter(unused) {
                self.tables.remove(&table);
            }
        }
    }

    fn add(&mut self, id: ProgramId, program: &Program) {
        if !program.rules.iter().any(|rule| rule.logs) {
            return;
        }
        let table = table_id(&program.rules);
        self.programs.insert(id, table);
        let (users, rules) = self.tables.entry(table).or_default();
        *users += 1;
        if rules.is_empty() {
            let logs = program.rules.iter().zip(0..).filter(|(rule, _)| rule.logs);
            rules.extend(logs.map(|(rule, number)| {
                let key = rule.key.as_ref().map(ToString::to_string).unwrap_or_default();
                (number, format!("{key} rule {}", rule.index.unwrap_or_default()))
            }));
        }
    }

    /// What an endpoint is called.
    pub fn endpoint(&self, id: u32) -> String {
        match self.endpoints.get(&id) {
            Some(key) => key.to_string(),
            None => format!("endpoint {id}"),
        }
    }

    /// The lines of a record.
    pub fn lines(&self, record: &LogRecord) -> Vec<String> {
        let id = record.endpoint & !LOG_INGRESS;
        let direction = if record.endpoint & LOG_INGRESS == 0 {
            "egress"
        } else {
            "ingress"
        };
        let endpoint = self.endpoint(id);
        let verdict = if record.verdict == VERDICT_ALLOW {
            "allow"
        } else {
            "deny"
        };
        let packet = packet(record);
        let rules = self.tables.get(&record.program).map(|(_, rules)| rules);
        let told = record.rules.iter().take(record.count as usize);
        let mut lines: Vec<String> = told
            .map(|number| {
                let rule = rules.and_then(|rules| rules.get(number)).cloned();
                let rule = rule.unwrap_or_else(|| format!("an earlier policy's rule (number {number})"));
                format!("policy log: {rule}: {direction} of {endpoint}: {packet}: {verdict}")
            })
            .collect();
        let more = (record.count as usize).saturating_sub(record.rules.len());
        if let Some(last) = lines.last_mut().filter(|_| more > 0) {
            let _ = write!(last, "; and {more} more Log rules");
        }
        if record.missed > 0 {
            lines.push(format!(
                "policy log: {} packets before that were not told: too many at once",
                record.missed
            ));
        }
        lines
    }
}

/// `TCP 10.0.0.1:40000 -> 10.0.0.2:80`.
fn packet(record: &LogRecord) -> String {
    let address = |words: [u32; 4]| -> IpAddr {
        if record.ip_version == 4 {
            IpAddr::V4(Ipv4Addr::from(words[0].to_ne_bytes()))
        } else {
            let mut bytes = [0; 16];
            for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
                to.copy_from_slice(&word.to_ne_bytes());
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
    };
    let (src, dst) = (address(record.src), address(record.dst));
    let name = felid_compile::protocol_name(Protocol(record.protocol));
    match record.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP | protocol::UDPLITE => {
            let end = |address: IpAddr, port: u16| std::net::SocketAddr::from((address, port));
            format!("{name} {} -> {}", end(src, record.src_port), end(dst, record.dst_port))
        }
        protocol::ICMP | protocol::ICMPV6 => {
            format!(
                "{name} {src} -> {dst} type {} code {}",
                record.icmp_type, record.icmp_code
            )
        }
        _ => format!("{name} {src} -> {dst}"),
    }
}

/// Writes lines until the agent stops.
pub(super) async fn run(mut reader: LogReader, tables: Arc<Mutex<Tables>>, stop: Stop) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = stopped(stop.clone()) => return,
        }
        while let Some(record) = reader.next_record() {
            let lines = tables.lock().unwrap_or_else(PoisonError::into_inner).lines(&record);
            for line in lines {
                tracing::info!("{line}");
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use felid_compile::program::RuleRef;
    use felid_model::{Kind, ResourceKey};

    fn program(policy: &str) -> Program {
        let rule = |index: u32, logs: bool| RuleRef {
            key: Some(ResourceKey {
                kind: Kind::GlobalNetworkPolicy,
                namespace: None,
                name: policy.into(),
            }),
            tier: Some("default".into()),
            index: Some(index),
            logs,
            text: String::new(),
        };
        Program {
            chunks: Vec::new(),
            rules: vec![rule(0, false), rule(3, true)],
            sets: Default::default(),
            named_port_sets: Default::default(),
        }
    }

    fn record(program: &Program) -> LogRecord {
        LogRecord {
            src: [u32::from_ne_bytes([10, 0, 0, 1]), 0, 0, 0],
            dst: [u32::from_ne_bytes([10, 0, 0, 2]), 0, 0, 0],
            src_port: 40000,
            dst_port: 80,
            protocol: 6,
            ip_version: 4,
            endpoint: 7 | LOG_INGRESS,
            verdict: VERDICT_ALLOW,
            program: table_id(&program.rules),
            count: 1,
            rules: [1, 0, 0, 0],
            ..LogRecord::default()
        }
    }

    #[test]
    fn a_line_names_rule_endpoint_and_packet() {
        let program = program("web");
        let mut tables = Tables::default();
        tables.add(ProgramId(1), &program);
        tables.endpoints.insert(7, "WorkloadEndpoint/default/a".into());
        let line = "policy log: GlobalNetworkPolicy/web rule 3: ingress of WorkloadEndpoint/default/a: \
                    TCP 10.0.0.1:40000 -> 10.0.0.2:80: allow";
        assert_eq!(tables.lines(&record(&program)), [line]);
        let many = LogRecord {
            count: 6,
            missed: 9,
            ..record(&program)
        };
        let lines = tables.lines(&many);
        assert_eq!(lines.len(), 5);
        assert!(lines[3].ends_with("; and 2 more Log rules"), "{lines:?}");
        assert!(lines[4].contains("9 packets"), "{lines:?}");
    }

    #[test]
    fn what_went_is_remembered_for_a_while() {
        let first = program("first");
        let mut tables = Tables::default();
        tables.add(ProgramId(1), &first);
        let gone = |id: u64| Transaction {
            old_programs: vec![ProgramId(id)],
            ..Transaction::default()
        };
        tables.learn(&gone(1));
        assert!(tables.lines(&record(&first)).first().unwrap().contains("first rule 3"));
        for id in 2..1000 {
            tables.add(ProgramId(id), &program(&format!("p{id}")));
            tables.learn(&gone(id));
        }
        assert!(tables.lines(&record(&first)).first().unwrap().contains("earlier"));
        assert!(tables.tables.len() <= REMEMBERED);
    }
}
