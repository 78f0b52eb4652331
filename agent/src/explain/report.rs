//! The walk for people and for machines.

use std::collections::BTreeMap;
use std::io::Write;

use felid_compile::explain::{RuleResult, RuleTrace, TierEnd, TierTrace, Trace};
use felid_compile::reference::{Mismatch, Packet, Term};
use felid_model::Protocol;
use felid_model::resolved::ResolvedAction;
use serde::Serialize;

use crate::output::printable;
use crate::verdict::{Sender, decided_by, describe, record, refusal};

use super::{Side, Who};

/// What the compiled programs said.
pub(super) enum Compiled {
    Run(bool),
    /// Why not.
    NotRun(String),
}

/// Everything that there is to say.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// Whose records.
    records: String,
    packet: PacketReport,
    allowed: bool,
    /// `KIND/[NAMESPACE/]NAME rule N`, `default-deny`, `unrelated_error` or `host`.
    decided_by: String,
    /// What decided beside policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    beside: Option<&'static str>,
    sides: Vec<SideReport>,
    compiled: CompiledReport,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PacketReport {
    source: String,
    destination: String,
    protocol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp_type: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp_code: Option<u8>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CompiledReport {
    run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SideReport {
    /// `egress` or `ingress`.
    side: &'static str,
    /// The workload's record.
    endpoint: String,
    node: String,
    allowed: bool,
    decided_by: String,
    #[serde(skip)]
    words: String,
    /// Not asked: the host may always reach its workloads.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    exempt: bool,
    tiers: Vec<TierReport>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TierReport {
    /// Absent = the profiles.
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<String>,
    policies: Vec<PolicyReport>,
    /// How the walk left it.
    end: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PolicyReport {
    policy: String,
    staged: bool,
    rules: Vec<RuleReport>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RuleReport {
    /// Position in the record's list, from 0.
    rule: u32,
    action: &'static str,
    text: String,
    /// `matched`, `mismatch`, `not reached`, `never`.
    found: &'static str,
    /// The field that does not match.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'static str>,
    /// Why, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// A packet, and what the policies of its ends say of it.
pub(super) struct Judged<'a> {
    pub(super) packet: &'a Packet,
    /// The sender and the receiver, as far as they are workloads.
    pub(super) sides: [&'a Option<Side>; 2],
    /// The walks over their policies.
    pub(super) traces: [Option<Trace>; 2],
    pub(super) from: &'a Who,
    pub(super) to: &'a Who,
    /// Whether what goes to the host is dropped.
    pub(super) host_closed: bool,
}

impl Judged<'_> {
    fn side_reports(&self) -> Vec<SideReport> {
        let from_host = matches!(self.from, Who::Host);
        let mut reports = Vec::new();
        for ((name, side), trace) in ["egress", "ingress"].into_iter().zip(self.sides).zip(&self.traces) {
            if let Some(side) = side {
                reports.push(side_report(name, side, trace.as_ref(), from_host));
            }
        }
        reports
    }

    /// Whether the packet passes, what decided that, and what has to be known beside it.
    fn decision(&self, reports: &[SideReport]) -> (bool, String, Option<&'static str>) {
        let from_host = matches!(self.from, Who::Host);
        let sender = match self.sides[0] {
            Some(_) => Sender::Workload,
            None if from_host => Sender::Host,
            None => Sender::Outside,
        };
        if let Some(refusal) = refusal(self.packet, sender, matches!(self.to, Who::Host)) {
            return (false, refusal.name.to_owned(), Some(refusal.words));
        }
        let denied = reports.iter().find(|side| !side.allowed && !side.exempt);
        match denied {
            Some(side) => (false, side.decided_by.clone(), None),
            None if matches!(self.to, Who::Host) && self.host_closed => (
                false,
                "default-deny".to_owned(),
                Some("defaultEndpointToHostAction drops what goes to the host"),
            ),
            None if from_host => (
                true,
                "host".to_owned(),
                Some("the host may always reach its own workloads"),
            ),
            None => (
                true,
                reports.last().map(|side| side.decided_by.clone()).unwrap_or_default(),
                None,
            ),
        }
    }
}

impl From<&Packet> for PacketReport {
    fn from(packet: &Packet) -> Self {
        let ports = packet.has_ports() || packet.protocol == Protocol::UDP_LITE;
        let icmp = matches!(packet.protocol, Protocol::ICMP | Protocol::ICMPV6);
        PacketReport {
            source: packet.src.to_string(),
            destination: packet.dst.to_string(),
            protocol: packet.protocol.to_string(),
            source_port: ports.then_some(packet.src_port),
            destination_port: ports.then_some(packet.dst_port),
            icmp_type: icmp.then_some(packet.icmp_type),
            icmp_code: icmp.then_some(packet.icmp_code),
        }
    }
}

impl From<Compiled> for CompiledReport {
    fn from(compiled: Compiled) -> Self {
        match compiled {
            Compiled::Run(allowed) => CompiledReport {
                run: true,
                allowed: Some(allowed),
                reason: None,
            },
            Compiled::NotRun(reason) => CompiledReport {
                run: false,
                allowed: None,
                reason: Some(reason),
            },
        }
    }
}

impl Report {
    /// Returns what there is to say of a packet. `place` says whose records they are.
    pub(super) fn new(place: &str, judged: &Judged<'_>, compiled: Compiled) -> Self {
        let sides = judged.side_reports();
        let (allowed, decided_by, beside) = judged.decision(&sides);
        Self {
            records: place.to_owned(),
            packet: judged.packet.into(),
            allowed,
            decided_by,
            beside,
            sides,
            compiled: compiled.into(),
        }
    }

    /// Prints it for people.
    pub(super) fn show(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let packet = &self.packet;
        let port = |port: Option<u16>| port.map(|port| format!(" port {port}")).unwrap_or_default();
        let icmp = packet
            .icmp_type
            .zip(packet.icmp_code)
            .map(|(kind, code)| format!(" type {kind} code {code}"));
        writeln!(
            out,
            "{} {}{} -> {}{}{}, by {}",
            packet.protocol,
            packet.source,
            port(packet.source_port),
            packet.destination,
            port(packet.destination_port),
            icmp.unwrap_or_default(),
            printable(&self.records)
        )?;
        for side in &self.sides {
            side.show(out)?;
        }
        if let Some(beside) = self.beside {
            writeln!(out, "\n{beside}")?;
        }
        writeln!(
            out,
            "\nverdict: {} by {}",
            verb(self.allowed),
            printable(&self.decided_by)
        )?;
        match (self.compiled.allowed, &self.compiled.reason) {
            (Some(allowed), _) if allowed == self.allowed => {
                writeln!(out, "compiled programs, run on this packet: {}", verb(allowed))
            }
            (Some(allowed), _) => {
                writeln!(
                    out,
                    "compiled programs, run on this packet: {}, AND THE REFERENCE SAYS OTHERWISE: please report this",
                    verb(allowed)
                )
            }
            (None, reason) => writeln!(
                out,
                "compiled programs: not run: {}",
                printable(reason.as_deref().unwrap_or_default())
            ),
        }
    }
}

const fn verb(allowed: bool) -> &'static str {
    if allowed { "allowed" } else { "denied" }
}

fn side_report(name: &'static str, side: &Side, trace: Option<&Trace>, from_host: bool) -> SideReport {
    let texts = side.snapshot.texts();
    // An interface that no endpoint is in force at is closed for the host, too.
    let exempt = from_host && name == "ingress" && trace.is_some();
    let (allowed, decided_by, words) = match trace {
        Some(trace) => (
            trace.decision.allowed,
            decided_by(&trace.decision.by),
            describe(&trace.decision.by),
        ),
        None => (
            false,
            "default-deny".to_owned(),
            "nothing: no endpoint of this record is in force (no address, or its interface is another's)".to_owned(),
        ),
    };
    SideReport {
        side: name,
        endpoint: record(&side.key),
        node: side.snapshot.node.clone(),
        allowed,
        decided_by,
        words,
        exempt,
        tiers: trace
            .iter()
            .flat_map(|trace| &trace.tiers)
            .map(|tier| tier_report(tier, &texts))
            .collect(),
    }
}

fn tier_report(tier: &TierTrace, texts: &BTreeMap<&str, &str>) -> TierReport {
    let policies = tier.policies.iter().map(|policy| {
        let mut rules = Vec::new();
        let mut next = 0;
        for rule in &policy.rules {
            // Rules that felid cannot enforce and that would allow are left out.
            for index in next..rule.index {
                rules.push(RuleReport {
                    rule: index,
                    action: "",
                    text: String::new(),
                    found: "never",
                    field: None,
                    reason: Some(
                        "holds a field that felid does not know or cannot enforce: it never matches".to_owned(),
                    ),
                });
            }
            next = rule.index + 1;
            rules.push(rule_report(rule, texts));
        }
        PolicyReport {
            policy: record(&policy.key),
            staged: policy.staged,
            rules,
        }
    });
    TierReport {
        tier: tier.name.as_ref().map(ToString::to_string),
        policies: policies.collect(),
        end: match tier.end {
            TierEnd::NotReached => "not reached",
            TierEnd::Allowed => "allowed",
            TierEnd::Denied => "denied",
            TierEnd::Passed => "passed on by a rule",
            TierEnd::EndPass => "no rule matched: passed on",
            TierEnd::EndDeny => "no rule matched: denied",
        },
    }
}

fn rule_report(rule: &RuleTrace, texts: &BTreeMap<&str, &str>) -> RuleReport {
    let (found, field, reason) = match &rule.found {
        RuleResult::Matched => ("matched", None, None),
        RuleResult::NotReached => ("not reached", None, None),
        RuleResult::Mismatch { reason, set } => {
            let set = set
                .as_ref()
                .and_then(|set| texts.get(&*set.0))
                .map(|text| format!(": {text}"))
                .unwrap_or_default();
            ("mismatch", Some(field(*reason)), Some(format!("{reason}{set}")))
        }
    };
    // Sets stand in the text by their names; people know them by what they are.
    let words = rule.text.split(' ').map(|word| {
        let bare = word.trim_end_matches(',');
        match texts.get(bare) {
            // Selectors of several terms bring their own parentheses.
            Some(text) if text.starts_with('(') => format!("{text}{}", word.strip_prefix(bare).unwrap_or_default()),
            Some(text) => format!("({text}){}", word.strip_prefix(bare).unwrap_or_default()),
            None => word.to_owned(),
        }
    });
    RuleReport {
        rule: rule.index,
        action: match rule.action {
            ResolvedAction::Allow => "Allow",
            ResolvedAction::Deny => "Deny",
            ResolvedAction::Pass => "Pass",
            ResolvedAction::Log => "Log",
        },
        text: words.collect::<Vec<_>>().join(" "),
        found,
        field,
        reason,
    }
}

/// Where in the rule the reason stands.
fn field(reason: Mismatch) -> &'static str {
    match reason {
        Mismatch::IpVersion => "ipVersion",
        Mismatch::Protocol => "protocol",
        Mismatch::NotProtocol => "notProtocol",
        Mismatch::Field { name, .. } => name,
        Mismatch::Source(term) => match term {
            Term::OtherVersion | Term::Nets => "source.nets",
            Term::NotNets => "source.notNets",
            Term::Set(_) => "source.selector",
            Term::NotSet(_) => "source.notSelector",
            Term::Ports => "source.ports",
            Term::NotPorts => "source.notPorts",
            Term::Service(_) => "source.services",
        },
        Mismatch::Destination(term) => match term {
            Term::OtherVersion | Term::Nets => "destination.nets",
            Term::NotNets => "destination.notNets",
            Term::Set(_) => "destination.selector",
            Term::NotSet(_) => "destination.notSelector",
            Term::Ports => "destination.ports",
            Term::NotPorts => "destination.notPorts",
            Term::Service(_) => "destination.services",
        },
    }
}

impl SideReport {
    fn show(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let asked = if self.exempt { "not asked; it would be " } else { "" };
        let (verb, words) = (verb(self.allowed), printable(&self.words));
        writeln!(
            out,
            "\n{} of {} on {}: {asked}{verb} by {words}",
            self.side,
            printable(&self.endpoint),
            printable(&self.node)
        )?;
        for tier in &self.tiers {
            match &tier.tier {
                Some(name) => writeln!(out, "  tier {}: {}", printable(name), tier.end)?,
                None => writeln!(out, "  profiles: {}", tier.end)?,
            }
            for policy in &tier.policies {
                let staged = if policy.staged {
                    " (staged: judged, never enforced)"
                } else {
                    ""
                };
                writeln!(out, "    {}{staged}", printable(&policy.policy))?;
                for rule in &policy.rules {
                    rule.show(out)?;
                }
                if policy.rules.is_empty() {
                    writeln!(out, "      no rules in this direction")?;
                }
            }
        }
        Ok(())
    }
}

impl RuleReport {
    fn show(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let mark = if self.found == "matched" { "*" } else { " " };
        writeln!(out, "    {mark} rule {}: {}", self.rule, printable(&self.text))?;
        match (&self.reason, self.field) {
            (Some(reason), Some(field)) => writeln!(out, "        no: {field}: {}", printable(reason)),
            (Some(reason), None) => writeln!(out, "        no: {}", printable(reason)),
            (None, _) if self.found == "matched" => writeln!(out, "        MATCHES"),
            (None, _) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use felid_compile::reference::Decided;

    use super::*;

    #[test]
    fn sets_are_told_in_words() {
        let rule = RuleTrace {
            index: 2,
            action: ResolvedAction::Allow,
            text: "Allow TCP from s:x and s:y to ports 80, n:z".to_owned(),
            found: RuleResult::NotReached,
        };
        let texts = BTreeMap::from([("s:x", "a == \"b\""), ("n:z", "TCP port web of all()")]);
        let told = rule_report(&rule, &texts);
        assert_eq!(
            told.text,
            "Allow TCP from (a == \"b\") and s:y to ports 80, (TCP port web of all())"
        );
        assert_eq!(decided_by(&Decided::NoProfile), "default-deny");
    }
}
