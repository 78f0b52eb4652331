//! Why packets are dropped, and what else the programs count.

macro_rules! names {
    ($(#[$top:meta])* $enum:ident { $($(#[$meta:meta])* $name:ident = $text:literal),* $(,)? }) => {
        $(#[$top])*
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $enum { $($(#[$meta])* $name),* }

        impl $enum {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$($enum::$name),*];

            /// Name in metrics and listings.
            pub const fn name(self) -> &'static str {
                match self { $($enum::$name => $text),* }
            }
        }
    };
}

names! {
/// Why a packet was dropped: index into the per-CPU array `drops`.
DropReason {
    /// The egress policy of the source denies the flow.
    EgressPolicy = "egress_policy",
    /// The ingress policy of the destination denies the flow.
    IngressPolicy = "ingress_policy",
    /// No policy program is loaded for the endpoint.
    NoPolicy = "no_policy",
    /// Source address is not the endpoint's own, or a local endpoint's address that did not come
    /// from its interface.
    SpoofedAddress = "spoofed_address",
    /// Source MAC address is not the endpoint's own.
    SpoofedMac = "spoofed_mac",
    /// ARP with a sender that is not the endpoint's own.
    SpoofedArp = "spoofed_arp",
    /// Neighbour discovery that is not the endpoint's to send: addresses, hop limit, router
    /// advertisements, redirects.
    SpoofedNeighbour = "spoofed_neighbour",
    /// `defaultEndpointToHostAction` is Drop.
    EndpointToHost = "endpoint_to_host",
    /// Headers that contradict the packet's length or themselves.
    Malformed = "malformed",
    /// Neither IPv4, IPv6 nor ARP, or a VLAN tag other than that of VLAN 0.
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
    /// A tail call failed, or a table's element was not what it must be.
    Internal = "internal",
    /// The interface has the agent's prefix but no endpoint.
    UnknownInterface = "unknown_interface",
    /// The conntrack tables refused the flow.
    ConntrackFull = "conntrack_full",
    /// Destination of a packet towards a workload is not the endpoint's own address, and the host
    /// did not generate it.
    ForeignDestination = "foreign_destination",
    /// One address and port is in use under its internal and an external address (or under two
    /// external ones) by the same peer and port at once: the flow that was first goes on.
    NatCollision = "nat_collision",
    /// The address translation that the flow began with is gone.
    NatGone = "nat_gone",
    /// A workload talks to its own external address, and its interface is none that can be
    /// redirected to, or the address that it uses has no external one.
    NatHairpin = "nat_hairpin",
    /// The packet leaves a checksum or a segmentation to others that is not that of the transport
    /// header which was judged: storing it would change the packet after the verdict.
    BadOffload = "bad_offload",
    /// Source or destination must never be seen on a link: loopback, "this network", reserved,
    /// multicast as a source, IPv4 mapped into IPv6.
    Martian = "martian",
    /// No program at its interface saw the packet: its sender made the kernel pass them by.
    Unjudged = "unjudged",
    /// The endpoint that the new flow is charged to has its share of the conntrack tables.
    FlowLimit = "flow_limit",
}
}

names! {
/// What else is counted: index into the per-CPU array `events`.
Event {
    /// A flow was entered into the half-open table.
    Created = "created",
    /// A flow moved to the established table.
    Promoted = "promoted",
    /// A flow should have moved, but the established table is full: it stays half-open.
    EstablishedFull = "established_full",
    /// A flow was allowed again by a changed policy.
    Rejudged = "rejudged",
    /// A flow was ended because a changed policy no longer allows it.
    Revoked = "revoked",
    /// An expired or closed flow made room for a new one with the same addresses and ports.
    Reused = "reused",
    /// An ARP request for the gateway was answered.
    ArpAnswered = "arp_answered",
    /// A neighbour solicitation for the gateway was answered.
    NeighbourAnswered = "neighbour_answered",
    /// What Log rules tell of a packet was handed to the agent.
    Logged = "logged",
    /// ... was held back, since there was more than the rate allows.
    LogSuppressed = "log_suppressed",
    /// ... was lost, since the agent did not keep up.
    LogLost = "log_lost",
    /// A DHCP message of a virtual machine was let through to the host.
    DhcpPassed = "dhcp_passed",
    /// An unanswered or closed half-open flow made room for a newer one of the same endpoint.
    Replaced = "replaced",
}
}

/// The number of elements of the array `drops`.
pub const DROP_REASONS: u32 = 32;
const _: () = assert!(DropReason::ALL.len() <= DROP_REASONS as usize);

/// The number of elements of the array `events`.
pub const EVENTS: u32 = 16;
const _: () = assert!(Event::ALL.len() <= EVENTS as usize);
