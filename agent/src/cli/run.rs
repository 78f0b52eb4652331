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

/// Arguments of `felid run`; each setting is text until [`crate::config`] parses it.
#[derive(Debug, Default, Args)]
pub struct RunArgs {
    /// Name of this node: endpoints with this spec.node are local [env: FELID_NODE] [default: the host name, in lower case]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,

    /// Serve /metrics here, or none; port 0 = any free port [env: FELID_METRICS_LISTEN] [default: :9091]
    #[arg(long, value_name = "[ADDRESS]:PORT|none", help_heading = "Operations")]
    pub metrics_listen: Option<String>,
    /// Serve /liveness and /readiness here, or none [env: FELID_HEALTH_LISTEN] [default: localhost:9099]
    #[arg(long, value_name = "[ADDRESS]:PORT|none", help_heading = "Operations")]
    pub health_listen: Option<String>,
    /// trace, debug, info, warning, error or fatal (logSeverityScreen) [env: FELID_LOG_LEVEL] [default: info]
    #[arg(long, value_name = "LEVEL", help_heading = "Operations")]
    pub log_level: Option<String>,
    /// text or json, on standard error [env: FELID_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT", help_heading = "Operations")]
    pub log_format: Option<String>,
    /// Policies that get metrics of their own; the others are summed up as policy="other" [default: 1000]
    #[arg(long, value_name = "N", help_heading = "Operations")]
    pub metrics_max_policies: Option<String>,

    /// Prefixes of workload interfaces, split at commas [env: FELID_INTERFACE_PREFIX] [default: cali]
    #[arg(long, value_name = "PREFIX,...", help_heading = "Behaviour")]
    pub interface_prefix: Option<String>,
    /// What workloads' packets to the host get once egress policy allows them: Drop, Return or Accept [default: Drop]
    #[arg(long, value_name = "ACTION", help_heading = "Behaviour")]
    pub default_endpoint_to_host_action: Option<String>,
    /// Enabled or Disabled: whether ipNATs of workload endpoints are translated [default: Enabled]
    #[arg(long = "floating-ips", value_name = "Enabled|Disabled", help_heading = "Behaviour")]
    pub floating_ips: Option<String>,
    /// Which address workloads with ipNATs show to the world: None (their own) or External [default: None]
    #[arg(long = "ip-nat-outbound", value_name = "None|External", help_heading = "Behaviour")]
    pub ip_nat_outbound: Option<String>,
    /// Networks where they show their own in any case, beside the IPPool records, split at commas
    #[arg(long = "ip-nat-cluster-cidrs", value_name = "CIDR,...", help_heading = "Behaviour")]
    pub ip_nat_cluster_cidrs: Option<String>,
    /// How neighbours learn of external addresses: None (by routing) or ProxyARP (also for IPv6) [default: None]
    #[arg(
        long = "external-ip-announcement",
        value_name = "None|ProxyARP",
        help_heading = "Behaviour"
    )]
    pub external_ip_announcement: Option<String>,
    /// Seconds between checks of routes and neighbours against what they should be; 0 = on events only [default: 90]
    #[arg(long, value_name = "DURATION", help_heading = "Behaviour")]
    pub route_refresh_interval: Option<String>,
    /// Seconds between checks of interfaces and attached programs; 0 = on events only [default: 90]
    #[arg(long, value_name = "DURATION", help_heading = "Behaviour")]
    pub interface_refresh_interval: Option<String>,
    /// Seconds between rescans of the datastore's directory, beside inotify [default: 10]
    #[arg(long, value_name = "DURATION", help_heading = "Behaviour")]
    pub rescan_interval: Option<String>,
    /// Seconds until something that failed is tried again without a change [default: 5]
    #[arg(long, value_name = "DURATION", help_heading = "Behaviour")]
    pub retry_interval: Option<String>,
    /// UDP port of the cluster's VXLAN [default: 4789]
    #[arg(long, value_name = "PORT", help_heading = "Behaviour")]
    pub vxlan_port: Option<String>,
    /// Let workloads send VXLAN to that port [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", help_heading = "Behaviour")]
    pub allow_vxlan_packets_from_workloads: Option<String>,
    /// Let workloads send IP-in-IP [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", help_heading = "Behaviour")]
    pub allow_ipip_packets_from_workloads: Option<String>,

    /// Timeouts, as tcpSynSent=20s,tcpEstablished=1h,tcpFinsSeen=30s,tcpResetSeen=40s,udpTimeout=60s,icmpTimeout=5s,genericTimeout=10m
    #[arg(long, value_name = "NAME=DURATION,...", help_heading = "Connection tracking")]
    pub conntrack_timeouts: Option<String>,
    /// Established IPv4 flows that fit [default: 262144]
    #[arg(long, value_name = "N", help_heading = "Connection tracking")]
    pub conntrack_established_size: Option<String>,
    /// Established IPv6 flows that fit [default: 131072]
    #[arg(long, value_name = "N", help_heading = "Connection tracking")]
    pub conntrack_established_size_v6: Option<String>,
    /// Half-open flows that fit, each address family; the least recently used give way [default: 65536]
    #[arg(long, value_name = "N", help_heading = "Connection tracking")]
    pub conntrack_half_open_size: Option<String>,
    /// Seconds between sweeps for expired flows [default: 10]
    #[arg(long, value_name = "DURATION", help_heading = "Connection tracking")]
    pub conntrack_sweep_interval: Option<String>,
    /// Addresses with memberships that fit, each address family [default: 65536]
    #[arg(long, value_name = "N", help_heading = "Capacities")]
    pub max_peers: Option<String>,
    /// Prefixes that fit, each address family [default: 16384]
    #[arg(long, value_name = "N", help_heading = "Capacities")]
    pub max_nets: Option<String>,
    /// Named ports (address, protocol, port) that fit [default: 65536]
    #[arg(long, value_name = "N", help_heading = "Capacities")]
    pub max_named_ports: Option<String>,
    /// Distinct memberships that fit [default: 12288]
    #[arg(long, value_name = "N", help_heading = "Capacities")]
    pub max_classes: Option<String>,
    /// Active selectors, long net lists and named ports that fit, a multiple of 64 [default: 12288]
    #[arg(long, value_name = "N", help_heading = "Capacities")]
    pub max_sets: Option<String>,
}

impl RunArgs {
    /// The flags, all of which are settings.
    pub fn flags(&self) -> Vec<(&'static str, Option<&String>)> {
        macro_rules! flags {
            ($($name:literal $field:ident),* $(,)?) => { vec![$(($name, self.$field.as_ref())),*] };
        }
        flags! {
            "node" node,
            "metrics-listen" metrics_listen,
            "health-listen" health_listen,
            "log-level" log_level,
            "log-format" log_format,
            "metrics-max-policies" metrics_max_policies,
            "interface-prefix" interface_prefix,
            "default-endpoint-to-host-action" default_endpoint_to_host_action,
            "floating-ips" floating_ips,
            "ip-nat-outbound" ip_nat_outbound,
            "ip-nat-cluster-cidrs" ip_nat_cluster_cidrs,
            "external-ip-announcement" external_ip_announcement,
            "route-refresh-interval" route_refresh_interval,
            "interface-refresh-interval" interface_refresh_interval,
            "rescan-interval" rescan_interval,
            "retry-interval" retry_interval,
            "vxlan-port" vxlan_port,
            "allow-vxlan-packets-from-workloads" allow_vxlan_packets_from_workloads,
            "allow-ipip-packets-from-workloads" allow_ipip_packets_from_workloads,
            "conntrack-timeouts" conntrack_timeouts,
            "conntrack-established-size" conntrack_established_size,
            "conntrack-established-size-v6" conntrack_established_size_v6,
            "conntrack-half-open-size" conntrack_half_open_size,
            "conntrack-sweep-interval" conntrack_sweep_interval,
            "max-peers" max_peers,
            "max-nets" max_nets,
            "max-named-ports" max_named_ports,
            "max-classes" max_classes,
            "max-sets" max_sets,
        }
    }
}
