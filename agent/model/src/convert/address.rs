//! Addresses and networks in the normal form.

use std::net::IpAddr;

use ipnet::IpNet;

/// An address; an IPv4 address in IPv6 form is taken as IPv4.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// A network with its mask, without host bits.
pub(super) fn network(text: &str) -> Option<IpNet> {
    let (base, length) = text.split_once('/')?;
    let base = base.parse::<IpAddr>().ok()?;
    // Networks of IPv4 addresses in IPv6 form would be compared as what they are not.
    if base.to_canonical() != base || length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    IpNet::new(base, length.parse().ok()?).ok().map(|net| net.trunc())
}

/// A network with its mask, or an address.
pub(super) fn network_or_address(text: &str) -> Option<IpNet> {
    if text.contains('/') {
        network(text)
    } else {
        address(text).map(IpNet::from)
    }
}
