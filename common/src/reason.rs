//! Why packets are dropped.

macro_rules! reasons {
    ($($(#[$meta:meta])* $name:ident = $text:literal),* $(,)?) => {
        /// Why a packet was dropped: index into the per-CPU array `drops`.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Drop { $($(#[$meta])* $name),* }

        impl Drop {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [Drop] = &[$(Drop::$name),*];

            /// Name in metrics and listings.
            pub const fn name(self) -> &'static str {
                match self { $(Drop::$name => $text),* }
            }
        }
    };
}

reasons! {
    /// The egress policy of the source denies the flow.
    EgressPolicy = "egress_policy",
    /// The ingress policy of the destination denies the flow.
    IngressPolicy = "ingress_policy",
    /// No policy program is loaded for the endpoint.
    NoPolicy = "no_policy",
    /// Source address is not the endpoint's own, or a local endpoint's address that did not come from its interface.
    SpoofedAddress = "spoofed_address",
    /// Source MAC address is not the endpoint's own.
    SpoofedMac = "spoofed_mac",
    /// ARP with a sender that is not the endpoint's own.
    SpoofedArp = "spoofed_arp",
    /// Neighbour discovery that is not the endpoint's to send: addresses, hop limit, router advertisements, redirects.
    SpoofedNeighbour = "spoofed_neighbour",
    /// `defaultEndpointToHostAction` is Drop.
    EndpointToHost = "endpoint_to_host",
    /// Headers that contradict the packet's length or themselves.
    Malformed = "malformed",
    /// Neither IPv4, IPv6 nor ARP, or a VLAN tag.
    UnknownEthertype = "unknown_ethertype",
    /// More IPv6 extension headers than felid follows.
    TooManyHeaders = "too_many_headers",
    /// IPv4 source-route option or IPv6 routing header with segments left.
    SourceRoute = "source_route",
    /// IP-in-IP or VXLAN from a workload.
    Tunnel = "tunnel",
    /// A later fragment of a datagram whose first fragment was not seen.
    UnknownFragment = "unknown_fragment",
    /// A first fragment without the whole L4 header, or a later one that overlaps it.
    BadFragment = "bad_fragment",
    /// An ICMP error about no known flow.
    UnrelatedError = "unrelated_error",
    /// A tail call failed.
    Internal = "internal",
    /// The interface has the agent's prefix but no endpoint.
    UnknownInterface = "unknown_interface",
    /// The conntrack tables refused the flow.
    ConntrackFull = "conntrack_full",
}

/// Size of the array `drops`.
pub const DROP_REASONS: u32 = 32;
const _: () = assert!(Drop::ALL.len() <= DROP_REASONS as usize);
