//! Letting workloads' packets through a host's firewall that forwards nothing by itself.
//!
//! Docker and others set `iptables -P FORWARD DROP`. What a workload may send and get is decided by
//! its policy, before the packet comes to that chain and after it, so that its last word is not
//! wanted for workloads: as Felix does, felid has rules in the chain that accept what comes from
//! workloads' interfaces and what goes to them. They stand where the chain would drop everything
//! that is left: before the first rule that drops or rejects without a condition, else at the end.
//! What others drop under a condition before that, they go on dropping. Where the chain drops
//! nothing by itself, felid adds nothing.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::nftables::{Attributes, NftFamily, Operation, as_text, as_u32, as_u64, attributes, change, find, get, list};
use crate::sys::{Verdict, iptables_forward_policy};

const TABLE: &str = "filter";
const CHAIN: &str = "FORWARD";
/// How the comments of felid's rules begin, by which it knows them again.
const MARK: &str = "felid: ";
/// Number of the hook in netfilter.
const FORWARD: u32 = 2;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
/// Bytes of an interface's name in a register.
const NAME_BYTES: usize = 16;

/// Interfaces by their names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interfaces {
    /// All interfaces whose names begin so.
    Prefix(Arc<str>),
    /// The one interface of this name.
    Name(Arc<str>),
}

/// What came of a look at the host's firewall.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Firewall {
    /// How many rules felid has added.
    pub added: usize,
    /// How many rules of felid's are there.
    pub present: usize,
    /// What drops workloads' packets and cannot be helped, for people.
    pub problems: Vec<String>,
}

/// A rule of the chain, as far as it matters.
struct ForwardRule {
    handle: u64,
    /// The comment, if it is felid's.
    own: Option<String>,
    /// It drops or rejects whatever comes.
    blocks_all: bool,
}

/// Makes felid's rules stand for these interfaces where they are needed, and names what else stands
/// in the way. It fails if the rules of nftables cannot be read or changed.
pub fn let_through(wanted: &BTreeSet<Interfaces>) -> io::Result<Firewall> {
    let mut firewall = Firewall::default();
    for family in [NftFamily::IP, NftFamily::IP6] {
        let (added, present) = follow(family, wanted)?;
        firewall.added += added;
        firewall.present += present;
        if iptables_forward_policy(family == NftFamily::IP6)? == Some(Verdict::Drop) {
            let program = if family == NftFamily::IP6 {
                "ip6tables-legacy"
            } else {
                "iptables-legacy"
            };
            let rules: Vec<String> = wanted
                .iter()
                .map(|interfaces| legacy_rules(program, interfaces))
                .collect();
            firewall.problems.push(format!(
                "the FORWARD chain of {program} drops what it does not accept, and with it packets between workloads and the world: {}",
                rules.join("; ")
            ));
        }
    }
    firewall.problems.extend(others()?);
    Ok(firewall)
}

fn legacy_rules(program: &str, interfaces: &Interfaces) -> String {
    let name = match interfaces {
        Interfaces::Prefix(prefix) => format!("{prefix}+"),
        Interfaces::Name(name) => name.to_string(),
    };
    format!("{program} -A FORWARD -i {name} -j ACCEPT; {program} -A FORWARD -o {name} -j ACCEPT")
}

/// One family. Returns how many rules were added, and how many there are.
fn follow(family: NftFamily, wanted: &BTreeSet<Interfaces>) -> io::Result<(usize, usize)> {
    let names = Attributes::default().text(1, TABLE).text(3, CHAIN);
    let Some(chain) = get(family, Operation::GetChain, names)? else {
        return Ok((0, 0));
    };
    let drops = find(&attributes(&chain), 5).and_then(as_u32) == Some(DROP);
    let names = Attributes::default().text(1, TABLE).text(2, CHAIN);
    let rules: Vec<ForwardRule> = list(family, Operation::GetRules, names)?
        .iter()
        .map(|(_, rule)| read(rule))
        .collect();
    let block = rules.iter().position(|rule| rule.own.is_none() && rule.blocks_all);
    let mut missing: Vec<(String, Attributes)> = Vec::new();
    if drops || block.is_some() {
        missing.extend(wanted.iter().flat_map(expressions));
    }
    let needed = missing.len();
    let mut changes = Vec::new();
    for (place, rule) in rules.iter().enumerate() {
        let Some(own) = &rule.own else { continue };
        let stands = block.is_none_or(|block| place < block);
        match missing
            .iter()
            .position(|(comment, _)| comment == own)
            .filter(|_| stands)
        {
            Some(found) => drop(missing.swap_remove(found)),
            None => changes.push((family, Operation::DeleteRule, place_of(rule.handle))),
        }
    }
    let added = missing.len();
    missing.sort_by(|(one, _), (other, _)| one.cmp(other));
    for (comment, expressions) in missing {
        let rule = Attributes::default()
            .text(1, TABLE)
            .text(2, CHAIN)
            .nested(4, expressions);
        let rule = rule.bytes(7, &comment_data(&comment));
        changes.push(match block.and_then(|block| rules.get(block)) {
            Some(block) => (family, Operation::InsertRule, rule.u64(6, block.handle)),
            None => (family, Operation::AppendRule, rule),
        });
    }
    if !changes.is_empty() {
        change(changes)?;
    }
    Ok((added, needed))
}

/// Removes felid's rules from the host's firewall.
pub fn remove_rules() -> io::Result<()> {
    for family in [NftFamily::IP, NftFamily::IP6] {
        follow(family, &BTreeSet::new())?;
    }
    Ok(())
}

fn place_of(handle: u64) -> Attributes {
    Attributes::default().text(1, TABLE).text(2, CHAIN).u64(3, handle)
}

/// Chains of others that drop what they do not accept: an accepting rule in one chain does not
/// outdo another chain.
fn others() -> io::Result<Vec<String>> {
    let mut problems = Vec::new();
    for (family, chain) in list(NftFamily::ANY, Operation::GetChain, Attributes::default())? {
        let chain = attributes(&chain);
        let hook = find(&chain, 4).map(attributes).and_then(|hook| as_u32(find(&hook, 1)?));
        let drops = find(&chain, 5).and_then(as_u32) == Some(DROP);
        if hook != Some(FORWARD) || !drops || ![NftFamily::IP, NftFamily::IP6, NftFamily::INET].contains(&family) {
            continue;
        }
        let text = |kind| find(&chain, kind).map(as_text).unwrap_or_default();
        let (table, name) = (text(1), text(3));
        if family == NftFamily::INET || table != TABLE || name != CHAIN {
            let (table, name) = (table.escape_debug(), name.escape_debug());
            problems.push(format!(
                "the nftables chain {} {table} {name} drops what it does not accept, and with it packets between workloads and the world: \
                 accept there what comes from workloads' interfaces and goes to them",
                family.name()
            ));
        }
    }
    Ok(problems)
}

fn read(rule: &[u8]) -> ForwardRule {
    let rule = attributes(rule);
    let comment = find(&rule, 7).and_then(comment_of);
    let list = find(&rule, 4).map(attributes).unwrap_or_default();
    let parts = list.iter().map(|(_, part)| attributes(part));
    let (mut is_free, mut blocks) = (true, false);
    for part in parts {
        let name = find(&part, 1).map(as_text).unwrap_or_default();
        let data = find(&part, 2).map(attributes).unwrap_or_default();
        match name.as_str() {
            "counter" | "log" => {}
            "reject" => blocks = true,
            // A target of iptables' own.
            "target" => {
                blocks = find(&data, 1)
                    .map(as_text)
                    .is_some_and(|target| target == "REJECT" || target == "DROP")
            }
            "immediate" => {
                let verdict = find(&data, 2)
                    .map(attributes)
                    .and_then(|value| find(&value, 2))
                    .map(attributes);
                blocks = verdict.and_then(|verdict| as_u32(find(&verdict, 1)?)) == Some(DROP);
            }
            _ => is_free = false,
        }
    }
    ForwardRule {
        handle: find(&rule, 3).and_then(as_u64).unwrap_or_default(),
        own: comment.filter(|comment| comment.starts_with(MARK)),
        blocks_all: is_free && blocks,
    }
}

/// The two rules of some interfaces: their comments, and what they are made of.
fn expressions(interfaces: &Interfaces) -> [(String, Attributes); 2] {
    let (name, shown) = match interfaces {
        Interfaces::Prefix(prefix) => (prefix.as_bytes().to_vec(), format!("{prefix}*")),
        Interfaces::Name(name) => {
            let mut bytes = name.as_bytes().to_vec();
            bytes.resize(NAME_BYTES, 0);
            (bytes, name.to_string())
        }
    };
    // NFT_META_IIFNAME and NFT_META_OIFNAME.
    [(6, "from"), (7, "to")].map(|(key, word)| {
        let compare = Attributes::default().u32(1, 1).u32(2, 0);
        let verdict = Attributes::default().nested(2, Attributes::default().u32(1, ACCEPT));
        let parts = [
            ("meta", Attributes::default().u32(1, 1).u32(2, key)),
            ("cmp", compare.nested(3, Attributes::default().bytes(1, &name))),
            ("counter", Attributes::default().u64(1, 0).u64(2, 0)),
            ("immediate", Attributes::default().u32(1, 0).nested(2, verdict)),
        ];
        let list = parts.into_iter().fold(Attributes::default(), |list, (name, data)| {
            list.nested(1, Attributes::default().text(1, name).nested(2, data))
        });
        (format!("{MARK}{word} {shown}"), list)
    })
}

/// A comment as libnftnl and iptables keep it: type 0, length, text with a zero.
fn comment_data(comment: &str) -> Vec<u8> {
    let mut data = vec![0, u8::try_from(comment.len() + 1).unwrap_or(u8::MAX)];
    data.extend(comment.as_bytes());
    data.push(0);
    data
}

fn comment_of(data: &[u8]) -> Option<String> {
    let (kind, rest) = data.split_first()?;
    let (length, rest) = rest.split_first()?;
    (*kind == 0)
        .then(|| rest.get(..usize::from(*length)).map(as_text))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_read_back() {
        assert_eq!(
            comment_of(&comment_data("felid: from cali*")).as_deref(),
            Some("felid: from cali*")
        );
        for data in [&[][..], &[0], &[1, 2, 65, 0], &[0, 9, 65]] {
            assert_eq!(comment_of(data), None);
        }
    }

    #[test]
    fn what_cannot_be_read_is_nobodys_rule_and_blocks_nothing() {
        for bytes in [&[][..], &[1], &[255; 40]] {
            let rule = read(bytes);
            assert!(rule.own.is_none() && !rule.blocks_all);
        }
    }
}
