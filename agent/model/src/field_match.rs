//! Conditions of a rule on fields of the packet.
//!
//! A rule's networks, selectors and ports become sets and trees on their way to the kernel. These
//! conditions do not: `calc` and the compiler hand them on as one value, and only the specification
//! and the code generator look inside. So a new field is added here, in the decoder, in those two
//! places and in the generator of test cases; CONTRIBUTING.md walks through it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Conditions on fields of a packet other than its addresses, protocol and ports. All of them must
/// hold; an absent condition always holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct FieldMatch {
    /// The packet is one of these ICMP or ICMPv6 messages. A packet of another protocol does not
    /// match.
    pub icmp: Option<IcmpMatch>,
    /// The packet is none of these ICMP or ICMPv6 messages. A packet of another protocol matches.
    pub not_icmp: Option<IcmpMatch>,
}

impl FieldMatch {
    /// Returns whether there is no condition at all.
    pub fn is_empty(&self) -> bool {
        *self == FieldMatch::default()
    }

    /// Returns whether a packet of TCP, UDP or SCTP still has to be asked. It is no ICMP message,
    /// so the conditions on ICMP are decided for it by its protocol.
    pub fn concern_ports(&self) -> bool {
        let mut others = *self;
        others.icmp = None;
        others.not_icmp = None;
        !others.is_empty()
    }
}

/// Prints each condition behind a space, such as ` icmp type 8`; nothing if there is none.
impl fmt::Display for FieldMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (word, icmp) in [("icmp", self.icmp), ("not icmp", self.not_icmp)] {
            if let Some(icmp) = icmp {
                write!(f, " {word} {icmp}")?;
            }
        }
        Ok(())
    }
}

/// ICMP or ICMPv6 messages, by type and code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IcmpMatch {
    /// The type; `None` means any.
    pub icmp_type: Option<u8>,
    /// The code; `None` means any. There is only a code where there is a type.
    pub code: Option<u8>,
}

/// Prints `type 8`, `type 3 code 1` or `any`.
impl fmt::Display for IcmpMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.icmp_type, self.code) {
            (Some(icmp_type), Some(code)) => write!(f, "type {icmp_type} code {code}"),
            (Some(icmp_type), None) => write!(f, "type {icmp_type}"),
            (None, _) => f.write_str("any"),
        }
    }
}
