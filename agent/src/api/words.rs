//! The words of the protocol: what JSON, listings and metrics say of states, each an enum.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Declares an enum whose variants are words: the same text in JSON, in listings and in metrics.
/// The first is the default.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $(#[$first_meta:meta])* $first:ident = $first_word:literal, $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $(#[$first_meta])*
            #[default]
            #[serde(rename = $first_word)]
            $first,
            $($(#[$variant_meta])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[Self::$first, $(Self::$variant,)*];

            /// Returns the word.
            pub const fn name(self) -> &'static str {
                match self {
                    Self::$first => $first_word,
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

words! {
    /// Where a local endpoint stands.
    EndpointState {
        /// Some or all of its packets are dropped because something is wrong; the reason says what.
        Closed = "closed",
        /// Its interface is not there yet.
        Waiting = "waiting",
        /// Its policy is in force.
        Enforcing = "enforcing",
    }
}

words! {
    /// Where a translation stands.
    NatState {
        /// It will be in force with the next transaction.
        Pending = "pending",
        /// Packets are translated.
        InForce = "in force",
        /// Something else has its external address, or there is no room for it.
        Conflict = "conflict",
        /// The setting `floatingIPs` says that nothing is translated.
        Disabled = "disabled",
        /// Somebody else translates.
        NotFelids = "not felid's",
    }
}

words! {
    /// The field of an endpoint's record that asks for a translation.
    NatField {
        /// Translated by felid.
        IpNats = "ipNATs",
        /// Translated by AWS.
        AwsElasticIps = "awsElasticIPs",
        /// A host port, translated by the CNI plugin.
        Ports = "ports",
    }
}

words! {
    /// Who translates.
    Translator {
        /// felid's programs.
        Felid = "felid",
        /// The fabric of AWS.
        Aws = "AWS",
        /// The CNI plugin `portmap`.
        Portmap = "portmap",
    }
}

words! {
    /// State of a flow.
    FlowState {
        /// TCP: there is no answer yet. Other protocols: one direction only.
        New = "new",
        /// TCP: answered, and the handshake is not complete.
        Answered = "answered",
        /// TCP: open. Other protocols: both directions were seen.
        Established = "established",
        /// TCP: one side has sent its FIN.
        Closing = "closing",
        /// TCP: both sides have sent their FIN.
        Closed = "closed",
        /// TCP: a RST was seen, and nothing that undoes it.
        Reset = "reset",
        /// Policy has stopped allowing it: its packets are dropped.
        Revoked = "revoked",
    }
}

words! {
    /// The connection table that holds a flow.
    FlowTable {
        /// Unanswered TCP and one-way UDP; the oldest give way.
        HalfOpen = "half_open",
        /// Answered flows, which are never evicted.
        Established = "established",
    }
}

words! {
    /// How the policy of one end judged a flow.
    Judgement {
        /// No policy of a local endpoint was asked.
        None = "none",
        /// Policy is not asked for it: the host to its own workload, for one.
        Exempt = "exempt",
        /// Allowed under an earlier policy; the next packet is judged again.
        Stale = "stale",
        /// Allowed by the policy in force.
        Allowed = "allowed",
    }
}

words! {
    /// How the connection to the datastore stands, in the words of Felix's status.
    ResyncState {
        /// The datastore has not been reached yet, or the connection is lost.
        WaitForDatastore = "wait-for-datastore",
        /// The datastore is read from the start.
        ResyncInProgress = "resync",
        /// Everything that the datastore holds is known.
        InSync = "in-sync",
    }
}

words! {
    /// What can fail and is tried again.
    FailureKind {
        /// No transaction can be planned.
        Plan = "plan",
        /// Policies that have no program.
        Program = "program",
        /// The kernel refuses a transaction.
        Kernel = "kernel",
        /// The second half of a transaction.
        Complete = "complete",
        /// Translations.
        Nat = "nat",
        /// The networks where workloads show their own addresses.
        Cluster = "cluster",
        /// The settings of the programs.
        Settings = "settings",
        /// The programs at interfaces.
        Interface = "interface",
        /// Interfaces that the last run guarded and no record claims: they are closed.
        Unclaimed = "unclaimed",
        /// What others undid of what felid needs.
        Interference = "interference",
        /// Routes, neighbours and sysctls.
        Network = "network",
        /// The stream of events from the host.
        Events = "events",
        /// The sweep of the connection tables.
        Sweep = "sweep",
    }
}

impl FailureKind {
    /// Returns whether the agent is not ready while it fails. What the others concern is closed or
    /// unreachable, never open.
    pub const fn blocks_readiness(self) -> bool {
        !matches!(self, Self::Events | Self::Network | Self::Sweep)
    }
}
