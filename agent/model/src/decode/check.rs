//! Forms of names, labels and addresses.

use std::net::IpAddr;

use ipnet::IpNet;

type Check = Result<(), String>;

fn check(good: bool, reason: &str) -> Check {
    if good { Ok(()) } else { Err(reason.to_owned()) }
}

fn is_lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// One part of a DNS name: lower-case letters, digits, inner `-`. Any length.
fn is_label(text: &str) -> bool {
    let ends = |byte: Option<u8>| byte.is_some_and(is_lower_alphanumeric);
    ends(text.bytes().next())
        && ends(text.bytes().last())
        && text.bytes().all(|byte| is_lower_alphanumeric(byte) || byte == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

/// A lower-case DNS subdomain of up to 253 characters.
pub(super) fn subdomain(text: &str) -> Check {
    check(text.len() <= 253, "longer than 253 characters")?;
    identifier(text)
}

/// A lower-case DNS subdomain of any length: what the identifiers in a spec are.
pub(super) fn identifier(text: &str) -> Check {
    check(
        is_subdomain(text),
        "expected lower-case letters, digits, \"-\" and \".\", each part beginning and ending with a letter or digit",
    )
}

/// A single DNS label of up to 63 characters.
pub(super) fn dns_label(text: &str) -> Check {
    check(text.len() <= 63, "longer than 63 characters")?;
    check(
        is_label(text),
        "expected lower-case letters, digits and inner \"-\", no dots",
    )
}

/// A policy's name: at most one dot, except for the names that stand for converted policies.
pub(super) fn policy_name(text: &str, namespaced: bool) -> Check {
    subdomain(text)?;
    let converted = ["knp.default.", "ossg.default."]
        .iter()
        .any(|prefix| text.starts_with(prefix));
    let few_dots = text.matches('.').count() <= 1;
    check(
        few_dots || (namespaced && converted),
        "the name of a policy has at most one dot",
    )
}

/// Letters of either case, digits, inner `-`.
pub(super) fn container_id(text: &str) -> Check {
    check(
        is_label(&text.to_ascii_lowercase()),
        "expected letters, digits and inner \"-\"",
    )
}

/// The part of label keys and values after the prefix: up to 63 letters, digits, inner `-`, `_`,
/// `.`.
fn is_label_text(text: &str) -> bool {
    let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 63
        && ends(text.bytes().next())
        && ends(text.bytes().last())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// A Kubernetes qualified name: an optional DNS prefix, `/`, and a name of up to 63 characters.
pub(super) fn label_key(text: &str) -> Check {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    check(
        is_label_text(name),
        "the name of a label is 1 to 63 letters, digits and inner \"-\", \"_\", \".\", after at most one \"/\"",
    )?;
    check(
        prefix.is_none_or(|prefix| prefix.len() <= 253 && is_subdomain(prefix)),
        "the prefix of a label is a lower-case DNS name",
    )
}

/// A label's value.
pub(super) fn label_value(text: &str) -> Check {
    check(
        text.is_empty() || is_label_text(text),
        "the value of a label is empty or up to 63 letters, digits and inner \"-\", \"_\", \".\"",
    )
}

/// An annotation's key: a qualified name in any case.
pub(super) fn annotation_key(text: &str) -> Check {
    label_key(&text.to_lowercase())
}

/// An IANA service name: up to 15 lower-case letters and digits, a letter in it, inner single `-`.
pub(super) fn service_name(text: &str) -> Check {
    check(
        text.len() <= 15
            && is_label(text)
            && text.bytes().any(|byte| byte.is_ascii_lowercase())
            && !text.contains("--"),
        "the name of a port is 1 to 15 lower-case letters, digits and single inner \"-\", with a letter in it",
    )
}

/// A port's name as rules can read it; those that the schema allows are [`service_name`]s.
pub(super) fn port_name(text: &str) -> Check {
    let form = (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    check(
        form,
        "expected a port: a number from 1 to 65535, a range such as \"80:90\", or a name",
    )
}

/// A network interface, or `*`.
pub(super) fn interface(text: &str) -> Check {
    let form = (1..=15).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    check(
        form || text == "*",
        "the name of an interface is 1 to 15 letters, digits, \"_\", \".\", \"-\"",
    )
}

/// Whether the kernel lets an interface have this name.
pub(super) fn can_be_interface(text: &str) -> bool {
    !matches!(text, "*" | "." | ".." | "all" | "default")
}

/// What the names of workloads' interfaces begin with.
pub(super) fn interface_prefix(text: &str) -> Check {
    let form = (1..15).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    check(
        form,
        "an interface prefix is 1 to 14 letters, digits, \"_\", \".\", \"-\"; several are separated by commas",
    )
}

/// An address. IPv4 addresses in IPv6 form are refused: they would be compared as what they are
/// not.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => Err("write IPv4 addresses as such".to_owned()),
        Ok(address) => Ok(address),
        Err(_) => Err("expected an IP address".to_owned()),
    }
}

/// A network with its mask, as written.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let Some((base, length)) = text.split_once('/') else {
        return Err("expected a network with its mask, such as 10.0.0.0/8 or 10.0.0.1/32".to_owned());
    };
    let base = address(base)?;
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let length = length.parse::<u8>().ok().filter(|_| digits);
    length
        .and_then(|length| IpNet::new(base, length).ok())
        .ok_or_else(|| match base {
            IpAddr::V4(_) => "expected a mask from /0 to /32".to_owned(),
            IpAddr::V6(_) => "expected a mask from /0 to /128".to_owned(),
        })
}

/// A network with its mask, or a bare address.
pub(super) fn network_or_address(text: &str) -> Result<IpNet, String> {
    if text.contains('/') {
        network(text)
    } else {
        address(text).map(IpNet::from)
    }
}

/// Octets of a MAC address: 6 or 8, two digits each between `:` or `-`, or four digits each between
/// dots.
pub(super) fn mac(text: &str) -> Result<Vec<u8>, String> {
    let error = || "expected a MAC address, such as 00:11:22:aa:bb:cc, 00-11-22-aa-bb-cc or 0011.22aa.bbcc".to_owned();
    let separator = text.chars().find(|c| matches!(c, ':' | '-' | '.')).ok_or_else(error)?;
    let width = if separator == '.' { 4 } else { 2 };
    let mut octets = Vec::new();
    for group in text.split(separator) {
        let digits = group.len() == width && group.bytes().all(|byte| byte.is_ascii_hexdigit());
        let value = u16::from_str_radix(group, 16)
            .ok()
            .filter(|_| digits)
            .ok_or_else(error)?;
        let [high, low] = value.to_be_bytes();
        if width == 4 {
            octets.push(high);
        }
        octets.push(low);
    }
    if matches!(octets.len(), 6 | 8) {
        Ok(octets)
    } else {
        Err(error())
    }
}
