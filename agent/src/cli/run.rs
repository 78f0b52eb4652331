//! Arguments of `felid run`.

use clap::Args;

/// Examples below the help of `run`.
pub(super) const EXAMPLES: &str = "\
Settings come from flags, then FELID_* environment variables (any setting's name in upper case, with or without underscores:
FELID_INTERFACEPREFIX), then --config, then the datastore's FelixConfiguration (node.NAME, then default), then defaults.

Examples:
  felid run --datastore dir:/etc/felid/records
  felid run --node rack1-host1 --log-format json --metrics-listen 127.0.0.1:9091
  felid run --run-dir /tmp/a/run --state-dir /tmp/a/state --bpffs /tmp/a/bpf --metrics-listen :0 --health-listen :0

Exit codes: 0 after SIGTERM or SIGINT; 1 if the agent cannot start or go on; 2 for wrong usage.";

/// A flag by its name, and what was given for it.
type Flag<'a> = (&'static str, Option<&'a String>);

macro_rules! flags {
    ($args:ident, $($name:literal $field:ident),* $(,)?) => { vec![$(($name, $args.$field.as_ref())),*] };
}

/// Arguments of `felid run`; each setting is text until [`crate::config`] parses it.
#[derive(Debug, Default, Args)]
pub struct RunArgs {
    /// Name of this node: endpoints with this spec.node are local [env: FELID_NODE] [default: the
    /// host name, in lower case]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// How the agent is watched: metrics, health and log.
    #[command(flatten)]
    pub operations: OperationsArgs,
    /// What workloads may do, and by which names their interfaces are known.
    #[command(flatten)]
    pub workloads: WorkloadArgs,
    /// External addresses of workloads (`ipNATs`).
    #[command(flatten)]
    pub external: ExternalAddressArgs,
    /// How often the agent looks again by itself.
    #[command(flatten)]
    pub intervals: IntervalArgs,
    /// Enabled or Disabled: whether the agent gives up the system calls that it does not make
    /// [default: Enabled]
    #[arg(long, value_name = "Enabled|Disabled", help_heading = "Behaviour")]
    pub system_call_filter: Option<String>,
    /// The bpf file system may end with the agent, and all policy with it: for tests [default:
    /// false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", help_heading = "Behaviour")]
    pub bpffs_private: Option<String>,
    /// Tunnels that workloads may send.
    #[command(flatten)]
    pub tunnels: TunnelArgs,
    /// The table of connections.
    #[command(flatten)]
    pub conntrack: ConntrackArgs,
    /// How much fits into the tables of the kernel.
    #[command(flatten)]
    pub capacities: CapacityArgs,
}

impl RunArgs {
    /// Returns the flags by their names, all of which are settings.
    pub fn flags(&self) -> Vec<Flag<'_>> {
        let mut all = flags! { self,
            "node" node,
            "bpffs-private" bpffs_private,
            "system-call-filter" system_call_filter,
        };
        all.extend(self.operations.flags());
        all.extend(self.workloads.flags());
        all.extend(self.external.flags());
        all.extend(self.intervals.flags());
        all.extend(self.tunnels.flags());
        all.extend(self.conntrack.flags());
        all.extend(self.capacities.flags());
        all
    }
}

/// How the agent is watched: metrics, health and log.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Operations")]
pub struct OperationsArgs {
    /// Serve /metrics here, or none; port 0 = any free port [env: FELID_METRICS_LISTEN] [default:
    /// :9091]
    #[arg(long, value_name = "[ADDRESS]:PORT|none")]
    pub metrics_listen: Option<String>,
    /// Certificate (PEM) with which /metrics is served by TLS (prometheusMetricsCertFile)
    #[arg(long, value_name = "FILE")]
    pub metrics_cert_file: Option<String>,
    /// Key (PEM) of that certificate (prometheusMetricsKeyFile)
    #[arg(long, value_name = "FILE")]
    pub metrics_key_file: Option<String>,
    /// Authority (PEM) of the certificates that clients of /metrics must have
    /// (prometheusMetricsCAFile)
    #[arg(long, value_name = "FILE")]
    pub metrics_ca_file: Option<String>,
    /// RequireAndVerifyClientCert, VerifyClientCertIfGiven or NoClientCert [default:
    /// RequireAndVerifyClientCert]
    #[arg(long, value_name = "WHAT")]
    pub metrics_client_auth: Option<String>,
    /// Serve /liveness and /readiness here, or none [env: FELID_HEALTH_LISTEN] [default:
    /// localhost:9099]
    #[arg(long, value_name = "[ADDRESS]:PORT|none")]
    pub health_listen: Option<String>,
    /// trace, debug, info, warning, error or fatal (logSeverityScreen) [env: FELID_LOG_LEVEL]
    /// [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// text or json, on standard error [env: FELID_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Policies that get metrics of their own; the others are summed up as policy="other" [default:
    /// 1000]
    #[arg(long, value_name = "N")]
    pub metrics_max_policies: Option<String>,
}

impl OperationsArgs {
    fn flags(&self) -> Vec<Flag<'_>> {
        flags! { self,
            "metrics-listen" metrics_listen,
            "metrics-cert-file" metrics_cert_file,
            "metrics-key-file" metrics_key_file,
            "metrics-ca-file" metrics_ca_file,
            "metrics-client-auth" metrics_client_auth,
            "health-listen" health_listen,
            "log-level" log_level,
            "log-format" log_format,
            "metrics-max-policies" metrics_max_policies,
        }
    }
}

/// What workloads may do, and by which names their interfaces are known.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Behaviour")]
pub struct WorkloadArgs {
    /// Prefixes of workload interfaces, split at commas [env: FELID_INTERFACE_PREFIX] [default:
    /// cali]
    #[arg(long, value_name = "PREFIX,...")]
    pub interface_prefix: Option<String>,
    /// What workloads' packets to the host get once egress policy allows them: Drop, Return or
    /// Accept [default: Drop]
    #[arg(long, value_name = "ACTION")]
    pub default_endpoint_to_host_action: Option<String>,
    /// Enabled or Disabled: whether ipNATs of workload endpoints are translated [default: Enabled]
    #[arg(long = "floating-ips", value_name = "Enabled|Disabled")]
    pub floating_ips: Option<String>,
    /// Any or Disabled: whether workloads may send from the prefixes of allowSpoofedSourcePrefixes
    /// [default: Disabled]
    #[arg(long, value_name = "Any|Disabled")]
    pub workload_source_spoofing: Option<String>,
}

impl WorkloadArgs {
    fn flags(&self) -> Vec<Flag<'_>> {
        flags! { self,
            "interface-prefix" interface_prefix,
            "default-endpoint-to-host-action" default_endpoint_to_host_action,
            "floating-ips" floating_ips,
            "workload-source-spoofing" workload_source_spoofing,
        }
    }
}

/// External addresses of workloads (`ipNATs`).
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Behaviour")]
pub struct ExternalAddressArgs {
    /// Which address workloads with ipNATs show to the world: None (their own) or External
    /// [default: None]
    #[arg(long = "ip-nat-outbound", value_name = "None|External")]
    pub ip_nat_outbound: Option<String>,
    /// Networks where they show their own in any case, beside the IPPool records, split at commas
    #[arg(long = "ip-nat-cluster-cidrs", value_name = "CIDR,...")]
    pub ip_nat_cluster_cidrs: Option<String>,
    /// How neighbours learn of external addresses: None (by routing) or ProxyARP (also for IPv6)
    /// [default: None]
    #[arg(long = "external-ip-announcement", value_name = "None|ProxyARP")]
    pub external_ip_announcement: Option<String>,
    /// Networks that external addresses of workloads may be in; none = any that is not in use by
    /// the host
    #[arg(long, value_name = "CIDR,...")]
    pub external_ip_allowed: Option<String>,
}

impl ExternalAddressArgs {
    fn flags(&self) -> Vec<Flag<'_>> {
        flags! { self,
            "ip-nat-outbound" ip_nat_outbound,
            "ip-nat-cluster-cidrs" ip_nat_cluster_cidrs,
            "external-ip-announcement" external_ip_announcement,
            "external-ip-allowed" external_ip_allowed,
        }
    }
}

/// How often the agent looks again by itself.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Behaviour")]
pub struct IntervalArgs {
    /// Seconds between checks of routes and neighbours against what they should be; 0 = on events
    /// only [default: 90]
    #[arg(long, value_name = "DURATION")]
    pub route_refresh_interval: Option<String>,
    /// Seconds between checks of interfaces and attached programs; 0 = on events only [default: 90]
    #[arg(long, value_name = "DURATION")]
    pub interface_refresh_interval: Option<String>,
    /// Seconds between rescans of the datastore's directory, beside inotify [default: 10]
    #[arg(long, value_name = "DURATION")]
    pub rescan_interval: Option<String>,
    /// Seconds until something that failed is tried again without a change [default: 5]
    #[arg(long, value_name = "DURATION")]
    pub retry_interval: Option<String>,
}

impl IntervalArgs {
    fn flags(&self) -> Vec<Flag<'_>> {
        flags! { self,
            "route-refresh-interval" route_refresh_interval,
            "interface-refresh-interval" interface_refresh_interval,
            "rescan-interval" rescan_interval,
            "retry-interval" retry_interval,
        }
    }
}

/// Tunnels that workloads may send.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Behaviour")]
pub struct TunnelArgs {
    /// UDP port of the cluster's VXLAN [default: 4789]
    #[arg(long, value_name = "PORT")]
    pub vxlan_port: Option<String>,
    /// Let workloads send VXLAN to that port [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub allow_vxlan_packets_from_workloads: Option<String>,
    /// Let workloads send IP-in-IP [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub allow_ipip_packets_from_workloads: Option<String>,
}

impl TunnelArgs {
    fn flags(&self) -> Vec<Flag<'_>> {
        flags! { self,
            "vxlan-port" vxlan_port,
            "allow-vxlan-packets-from-workloads" allow_vxlan_packets_from_workloads,
            "allow-ipip-packets-from-workloads" allow_ipip_packets_from_workloads,
        }
    }
}

/// The table of connections.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Connection tracking")]
pub struct ConntrackArgs {
    /// Timeouts, as
    /// tcpSynSent=20s,tcpEstablished=2h4m,tcpFinsSeen=30s,tcpResetSeen=40s,udpTimeout=60s,udpAnswered=10s,icmpTimeout=5s,genericTimeout=10m
    #[arg(long, value_name = "NAME=DURATION,...")]
    pub conntrack_timeouts: Option<String>,
    /// Established IPv4 flows that fit [default: 262144]
    #[arg(long, value_name = "N")]
    pub conntrack_established_size: Option<String>,
    /// Established IPv6 flows that fit [default: 131072]
    #[arg(long, value_name = "N")]
    pub conntrack_established_size_v6: Option<String>,
    /// Half-open flows that fit, each address family, in equal shares for all endpoints [default:
    /// 131072]
    #[arg(long, value_name = "N")]
    pub conntrack_half_open_size: Option<String>,
    /// Established flows of one address family that an endpoint may have; 0 = its share of the
    /// table and what the common pool gives [default: 0]
    #[arg(long, value_name = "N")]
    pub max_flows_per_endpoint: Option<String>,
    /// Seconds between sweeps for expired flows [default: 10]
    #[arg(long, value_name = "DURATION")]
    pub conntrack_sweep_interval: Option<String>,
}

impl ConntrackArgs {
    fn flags(&self) -> Vec<Flag<'_>> {
        flags! { self,
            "conntrack-timeouts" conntrack_timeouts,
            "conntrack-established-size" conntrack_established_size,
            "conntrack-established-size-v6" conntrack_established_size_v6,
            "conntrack-half-open-size" conntrack_half_open_size,
            "max-flows-per-endpoint" max_flows_per_endpoint,
            "conntrack-sweep-interval" conntrack_sweep_interval,
        }
    }
}

/// How much fits into the tables of the kernel.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Capacities")]
pub struct CapacityArgs {
    /// Addresses with memberships that fit, each address family [default: 262144]
    #[arg(long, value_name = "N")]
    pub max_peers: Option<String>,
    /// Prefixes that fit, each address family [default: 65536]
    #[arg(long, value_name = "N")]
    pub max_nets: Option<String>,
    /// Named ports (address, protocol, port) that fit [default: 65536]
    #[arg(long, value_name = "N")]
    pub max_named_ports: Option<String>,
    /// Distinct memberships that fit [default: 12288]
    #[arg(long, value_name = "N")]
    pub max_classes: Option<String>,
    /// Active selectors, long net lists and named ports that fit, a multiple of 64 [default: 12288]
    #[arg(long, value_name = "N")]
    pub max_sets: Option<String>,
}

impl CapacityArgs {
    fn flags(&self) -> Vec<Flag<'_>> {
        flags! { self,
            "max-peers" max_peers,
            "max-nets" max_nets,
            "max-named-ports" max_named_ports,
            "max-classes" max_classes,
            "max-sets" max_sets,
        }
    }
}
