//! One table of all settings: names, types, defaults.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use felid_model::WorkloadSourceSpoofing;

use super::value::{
    Announcement, ClientAuth, ConntrackTimeouts, DatastoreUrl, FromSetting, HostAction, Limit, Listen, LogFormat,
    LogLevel, NatOutbound, Nets, NodeName, OptionalPath, PortSetting, Prefixes, Size,
};

/// Declares the settings: `field: type = name, "other names"..., default`.
macro_rules! settings {
    ($($(#[$meta:meta])* $field:ident / $setter:ident : $ty:ty = $name:literal $(| $alias:literal)* => $default:expr;)*) => {
        /// What one place says; `None` = nothing. Each value with its place.
        #[derive(Debug, Clone, Default)]
        pub struct Layer {
            $($field: Option<($ty, String)>,)*
        }

        impl Layer {
            /// Sets what `name` (any case) means to the parsed text. The error says what is wrong
            /// with the text.
            pub fn set(&mut self, name: &str, text: &str, place: &str) -> Result<(), String> {
                $(if [$name, $($alias),*].iter().any(|known: &&str| known.eq_ignore_ascii_case(name)) {
                    self.$field = Some((<$ty as FromSetting>::from_setting(text)?, place.to_owned()));
                    return Ok(());
                })*
                match name.to_ascii_lowercase().as_str() {
                    "prometheusmetricshost" => self.metrics_listen(place, |listen| listen.set_host(text)),
                    "prometheusmetricsport" => self.metrics_listen(place, |listen| listen.set_port(text)),
                    "prometheusmetricsenabled" => self.metrics_listen(place, |listen| listen.set_enabled(text)),
                    "healthhost" => self.health_listen(place, |listen| listen.set_host(text)),
                    "healthport" => self.health_listen(place, |listen| listen.set_port(text)),
                    "healthenabled" => self.health_listen(place, |listen| listen.set_enabled(text)),
                    _ => Err("no such setting".to_owned()),
                }
            }

            $(
                #[doc = concat!("Sets `", $name, "`.")]
                pub fn $setter(&mut self, value: Option<$ty>, place: &str) {
                    if let Some(value) = value {
                        self.$field = Some((value, place.to_owned()));
                    }
                }
            )*
        }

        /// Every setting, and where its value comes from.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Settings {
            $($(#[$meta])* pub $field: $ty,)*
            /// Setting -> the place that decided it, for those that are not defaults.
            pub sources: BTreeMap<&'static str, String>,
        }

        impl Settings {
            /// Per setting, the first layer that says something.
            pub fn resolve<'a>(layers: impl IntoIterator<Item = &'a Layer>) -> Self {
                let mut merged = Layer::default();
                for layer in layers {
                    $(if let Some(weaker) = &layer.$field {
                        match &mut merged.$field {
                            Some((value, _)) => value.fill(&weaker.0),
                            empty => *empty = Some(weaker.clone()),
                        }
                    })*
                }
                let mut sources = BTreeMap::new();
                $(if let Some((_, place)) = &merged.$field {
                    sources.insert($name, place.clone());
                })*
                $(let $field = {
                    let default: $ty = $default;
                    match merged.$field {
                        Some((mut value, _)) => {
                            value.fill(&default);
                            value
                        }
                        None => default,
                    }
                };)*
                Self { $($field,)* sources }
            }
        }

        /// Every name that [`Layer::set`] knows.
        pub fn names() -> impl Iterator<Item = &'static str> {
            [$($name, $($alias,)*)* "prometheusMetricsHost", "prometheusMetricsPort", "prometheusMetricsEnabled", "healthHost",
                "healthPort", "healthEnabled"].into_iter()
        }
    };
}

settings! {
    /// Where records are.
    datastore / set_datastore: DatastoreUrl = "datastore" => DatastoreUrl::Directory(PathBuf::from("/etc/felid/records"));
    /// Name of this node.
    node / set_node: NodeName = "node" | "nodename" | "felixHostname" => NodeName::host();
    /// Directory for accepted versions of records.
    state_dir / set_state_dir: PathBuf = "stateDir" => PathBuf::from("/var/lib/felid");
    /// Directory of socket and lock.
    run_dir / set_run_dir: PathBuf = "runDir" => PathBuf::from("/run/felid");
    /// The bpf file system.
    bpffs / set_bpffs: PathBuf = "bpffs" => PathBuf::from("/sys/fs/bpf");
    /// The bpf file system may end with the agent, and all policy with it.
    bpffs_private / set_bpffs_private: bool = "bpffsPrivate" => false;
    /// Whether the agent gives up the system calls that it does not make.
    system_call_filter / set_system_call_filter: bool = "systemCallFilter" => true;
    /// Where metrics are served.
    metrics_listen / set_metrics_listen: Listen = "metricsListen" => Listen::new("", 9091);
    /// Certificate of the metrics server.
    metrics_cert_file / set_metrics_cert_file: OptionalPath = "prometheusMetricsCertFile" | "metricsCertFile" => OptionalPath::default();
    /// Key of that certificate.
    metrics_key_file / set_metrics_key_file: OptionalPath = "prometheusMetricsKeyFile" | "metricsKeyFile" => OptionalPath::default();
    /// Authority of the certificates of clients of the metrics server.
    metrics_ca_file / set_metrics_ca_file: OptionalPath = "prometheusMetricsCAFile" | "metricsCAFile" => OptionalPath::default();
    /// What the metrics server asks of clients.
    metrics_client_auth / set_metrics_client_auth: ClientAuth = "prometheusMetricsClientAuth" | "metricsClientAuth" => ClientAuth::default();
    /// Where health is served.
    health_listen / set_health_listen: Listen = "healthListen" => Listen::new("localhost", 9099);
    /// Policies with metrics of their own.
    metrics_max_policies / set_metrics_max_policies: Size = "metricsMaxPolicies" => Size(1000);
    /// Log level.
    log_severity_screen / set_log_severity_screen: LogLevel = "logSeverityScreen" | "loglevel" => LogLevel::Info;
    /// Log format.
    log_format / set_log_format: LogFormat = "logFormat" => LogFormat::Text;
    /// Prefixes of workload interfaces.
    interface_prefix / set_interface_prefix: Prefixes = "interfacePrefix" => Prefixes(vec!["cali".to_owned()]);
    /// Workload to host, after egress policy.
    default_endpoint_to_host_action / set_default_endpoint_to_host_action: HostAction = "defaultEndpointToHostAction" => HostAction::Drop;
    /// Whether `ipNATs` are translated.
    floating_ips / set_floating_ips: bool = "floatingIPs" => true;
    /// Whether workloads may send from the prefixes of `allowSpoofedSourcePrefixes`.
    workload_source_spoofing / set_workload_source_spoofing: WorkloadSourceSpoofing = "workloadSourceSpoofing" => WorkloadSourceSpoofing::Disabled;
    /// Which address workloads with external addresses show to the world.
    ip_nat_outbound / set_ip_nat_outbound: NatOutbound = "ipNATOutbound" => NatOutbound::None;
    /// Networks where they show their own in any case, beside `IPPool` records.
    ip_nat_cluster_cidrs / set_ip_nat_cluster_cidrs: Nets = "ipNATClusterCIDRs" => Nets(Vec::new());
    /// Networks that external addresses may be in.
    external_ip_allowed / set_external_ip_allowed: Nets = "externalIPAllowed" => Nets(Vec::new());
    /// How others learn of external addresses.
    external_ip_announcement / set_external_ip_announcement: Announcement = "externalIPAnnouncement" => Announcement::None;
    /// Between checks of routes and neighbours; zero = never.
    route_refresh_interval / set_route_refresh_interval: Duration = "routeRefreshInterval" => Duration::from_secs(90);
    /// Between checks of interfaces and links; zero = never.
    interface_refresh_interval / set_interface_refresh_interval: Duration = "interfaceRefreshInterval" => Duration::from_secs(90);
    /// Between rescans of the directory.
    rescan_interval / set_rescan_interval: Duration = "rescanInterval" => Duration::from_secs(10);
    /// Between attempts at what failed.
    retry_interval / set_retry_interval: Duration = "retryInterval" => Duration::from_secs(5);
    /// UDP port of the cluster's VXLAN.
    vxlan_port / set_vxlan_port: PortSetting = "vxlanPort" => PortSetting(4789);
    /// Workloads may send VXLAN.
    allow_vxlan / set_allow_vxlan: bool = "allowVXLANPacketsFromWorkloads" => false;
    /// Workloads may send IP-in-IP.
    allow_ipip / set_allow_ipip: bool = "allowIPIPPacketsFromWorkloads" => false;
    /// Timeouts of flows.
    conntrack_timeouts / set_conntrack_timeouts: ConntrackTimeouts = "bpfConntrackTimeouts" | "conntrackTimeouts" => ConntrackTimeouts::defaults();
    /// Established IPv4 flows that fit.
    conntrack_established_size / set_conntrack_established_size: Size = "bpfMapSizeConntrack" | "conntrackEstablishedSize" => Size(262_144);
    /// Established IPv6 flows that fit.
    conntrack_established_size_v6 / set_conntrack_established_size_v6: Size = "conntrackEstablishedSizeV6" => Size(131_072);
    /// Half-open flows that fit, each family.
    conntrack_half_open_size / set_conntrack_half_open_size: Size = "conntrackHalfOpenSize" => Size(131_072);
    /// Established flows of one address family that an endpoint may have; 0 = what its share of the
    /// table and the pool give.
    max_flows_per_endpoint / set_max_flows_per_endpoint: Limit = "maxFlowsPerEndpoint" => Limit(0);
    /// Between sweeps.
    conntrack_sweep_interval / set_conntrack_sweep_interval: Duration = "conntrackSweepInterval" => Duration::from_secs(10);
    /// Addresses that fit, each family.
    max_peers / set_max_peers: Size = "bpfMapSizeIPSets" | "maxPeers" => Size(262_144);
    /// Prefixes that fit, each family.
    max_nets / set_max_nets: Size = "maxNets" => Size(1_048_576);
    /// Named ports that fit.
    max_named_ports / set_max_named_ports: Size = "maxNamedPorts" => Size(65_536);
    /// Distinct memberships that fit.
    max_classes / set_max_classes: Size = "maxClasses" => Size(12_288);
    /// Sets that fit.
    max_sets / set_max_sets: Size = "maxSets" => Size(12_288);
}

impl Layer {
    fn metrics_listen(
        &mut self,
        place: &str,
        change: impl FnOnce(&mut Listen) -> Result<(), String>,
    ) -> Result<(), String> {
        let (listen, at) = self
            .metrics_listen
            .get_or_insert_with(|| (Listen::default(), place.to_owned()));
        place.clone_into(at);
        change(listen)
    }

    fn health_listen(
        &mut self,
        place: &str,
        change: impl FnOnce(&mut Listen) -> Result<(), String>,
    ) -> Result<(), String> {
        let (listen, at) = self
            .health_listen
            .get_or_insert_with(|| (Listen::default(), place.to_owned()));
        place.clone_into(at);
        change(listen)
    }
}
