//! IP protocols under Calico's names.

use std::fmt;
use std::str::FromStr;

use crate::Protocol;

const NAMES: [(Protocol, &str); 6] = [
    (Protocol::TCP, "TCP"),
    (Protocol::UDP, "UDP"),
    (Protocol::ICMP, "ICMP"),
    (Protocol::ICMPV6, "ICMPv6"),
    (Protocol::SCTP, "SCTP"),
    (Protocol::UDP_LITE, "UDPLite"),
];

impl Protocol {
    /// ICMP for IPv4, 1.
    pub const ICMP: Protocol = Protocol(1);
    /// TCP, 6.
    pub const TCP: Protocol = Protocol(6);
    /// UDP, 17.
    pub const UDP: Protocol = Protocol(17);
    /// ICMP for IPv6, 58.
    pub const ICMPV6: Protocol = Protocol(58);
    /// SCTP, 132.
    pub const SCTP: Protocol = Protocol(132);
    /// UDP-Lite, 136.
    pub const UDP_LITE: Protocol = Protocol(136);

    /// Returns Calico's name for the protocol, if it has one.
    pub fn name(self) -> Option<&'static str> {
        NAMES
            .iter()
            .find(|(protocol, _)| *protocol == self)
            .map(|(_, name)| *name)
    }

    /// Returns whether rules may match ports of this protocol: TCP, UDP and SCTP.
    pub fn has_ports(self) -> bool {
        matches!(self, Protocol::TCP | Protocol::UDP | Protocol::SCTP)
    }
}

/// The name, or the number in decimal.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => f.pad(&self.0.to_string()),
        }
    }
}

/// The text is neither the name of a protocol nor a number from 1 to 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected TCP, UDP, SCTP, ICMP, ICMPv6, UDPLite (in this case of letters) or a number from 1 to 255")]
pub struct ProtocolError;

impl FromStr for Protocol {
    type Err = ProtocolError;

    /// Names are case-sensitive; numbers are digits only.
    fn from_str(text: &str) -> Result<Self, ProtocolError> {
        if let Some((protocol, _)) = NAMES.iter().find(|(_, name)| *name == text) {
            return Ok(*protocol);
        }
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits && number > 0 => Ok(Protocol(number)),
            _ => Err(ProtocolError),
        }
    }
}
