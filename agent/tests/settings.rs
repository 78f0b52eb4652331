//! Where settings come from, and which place wins.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use felid_agent::config::{self, Announcement, HostAction, Layer, LogLevel, NatOutbound, Static};
use felid_calc::NodeConfiguration;
use felid_model::{Decoded, FelixConfiguration, Resource, WorkloadSourceSpoofing, decode, documents};

fn flags(pairs: &[(&str, &str)]) -> Layer {
    let pairs: Vec<(&str, String)> = pairs.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
    config::from_flags(pairs.iter().map(|(name, text)| (*name, Some(text)))).unwrap()
}

fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect()
}

fn record(name: &str, spec: &str) -> FelixConfiguration {
    let text = format!(
        "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    );
    match decode(&documents(&text)[0]) {
        Decoded::Resource {
            resource: Resource::FelixConfiguration(record),
            ..
        } => (*record).clone(),
        other => panic!("{other:?}"),
    }
}

/// What the calculation says of these records, the strongest first.
fn records<const N: usize>(records: [&FelixConfiguration; N]) -> NodeConfiguration {
    NodeConfiguration {
        records: records.map(|record| Arc::new(record.clone())).into(),
    }
}

#[test]
fn flags_before_environment_before_file_before_records_before_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("felid.yaml");
    std::fs::write(
        &file,
        "logSeverityScreen: Error\ninterfacePrefix: [tap, vm]\ndefaultEndpointToHostAction: Return\nvxlanPort: 1\n",
    )
    .unwrap();
    let node = record("node.n", "{logSeverityScreen: Fatal, interfacePrefix: nodeif}");
    let default = record(
        "default",
        "{logSeverityScreen: Trace, interfacePrefix: def, defaultEndpointToHostAction: Accept}",
    );

    let given = environment(&[
        ("FELID_LOGSEVERITYSCREEN", "Warning"),
        ("FELID_VXLAN_PORT", "2"),
        ("OTHER", "x"),
    ]);
    let all = Static::new(flags(&[("log-level", "debug")]), given, Some(&file)).unwrap();
    let settings = all.with_records(&records([&node, &default]));
    assert_eq!(settings.log_severity_screen, LogLevel::Debug);
    assert_eq!(settings.vxlan_port.0, 2);
    assert_eq!(settings.interface_prefix.0, ["tap", "vm"]);
    assert_eq!(settings.default_endpoint_to_host_action, HostAction::Return);
    assert_eq!(settings.sources["logSeverityScreen"], "--log-level");
    assert_eq!(settings.sources["vxlanPort"], "FELID_VXLAN_PORT");
    assert_eq!(
        settings.sources["interfacePrefix"],
        format!("{}: interfacePrefix", file.display())
    );

    let nothing = Static::new(Layer::default(), [], None).unwrap();
    let settings = nothing.with_records(&records([&node, &default]));
    assert_eq!(settings.log_severity_screen, LogLevel::Fatal);
    assert_eq!(settings.interface_prefix.0, ["nodeif"]);
    assert_eq!(
        settings.default_endpoint_to_host_action,
        HostAction::Accept,
        "what the node's record leaves open"
    );
    assert_eq!(
        settings.sources["defaultEndpointToHostAction"],
        "FelixConfiguration/default"
    );

    let settings = nothing.settings();
    assert_eq!(settings.log_severity_screen, LogLevel::Info);
    assert_eq!(settings.interface_prefix.0, ["cali"]);
    assert_eq!(settings.route_refresh_interval, Duration::from_secs(90));
    assert_eq!(settings.metrics_listen.address(), Some(("", 9091)));
    assert_eq!(settings.health_listen.address(), Some(("localhost", 9099)));
    assert!(settings.sources.is_empty());
}

#[test]
fn parts_of_a_setting_come_from_different_places() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("felix.yaml");
    let text = "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec:\n  prometheusMetricsPort: 19091\n  \
                healthEnabled: false\n  bpfConntrackTimeouts: {tcpSynSent: 5s, udpTimeout: 2m}\n  routeRefreshInterval: 1h30m\n";
    std::fs::write(&file, text).unwrap();
    let given = environment(&[("FELID_PROMETHEUSMETRICSHOST", "127.0.0.1")]);
    let settings = Static::new(flags(&[("conntrack-timeouts", "udpTimeout=90")]), given, Some(&file))
        .unwrap()
        .settings();
    assert_eq!(settings.metrics_listen.address(), Some(("127.0.0.1", 19091)));
    assert_eq!(settings.health_listen.address(), None);
    assert_eq!(settings.conntrack_timeouts.udp, Some(Duration::from_secs(90)));
    assert_eq!(settings.conntrack_timeouts.tcp_syn_sent, Some(Duration::from_secs(5)));
    assert_eq!(settings.conntrack_timeouts.icmp, Some(Duration::from_secs(5)));
    assert_eq!(settings.route_refresh_interval, Duration::from_secs(5400));
    let settings = Static::new(
        flags(&[("metrics-listen", "none"), ("health-listen", "[::1]:1")]),
        [],
        None,
    )
    .unwrap()
    .settings();
    assert_eq!(
        (settings.metrics_listen.address(), settings.health_listen.address()),
        (None, Some(("::1", 1)))
    );
}

/// As in a record: a file that was written for Felix can be taken as it is.
#[test]
fn settings_that_only_felix_has_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("felid.yaml");
    let spec = "bpfEnabled: true, wireguardMTU: 1440, vxlanPort: 4790";
    let record = format!(
        "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: x}}\nspec: {{{spec}}}\n"
    );
    for text in [format!("{{{spec}}}"), record] {
        std::fs::write(&file, &text).unwrap();
        let config = Static::new(Layer::default(), [], Some(&file)).unwrap();
        assert_eq!(config.settings().vxlan_port.0, 4790, "{text}");
        let place = file.display();
        let told = ["bpfEnabled", "wireguardMTU"]
            .map(|name| format!("{place}: {name}: has no effect: felid does not have this setting of Felix"));
        assert_eq!(config.not_followed, told, "{text}");
    }
}

#[test]
fn what_cannot_be_followed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("felid.yaml");
    for text in [
        "wireguardEnable: true",
        "vxlanPort: 70000",
        "- a",
        "vxlanPort: 1\nvxlanPort: 2",
        "kind: Tier",
        "interfacePrefix: null",
        "a: [b",
    ] {
        std::fs::write(&file, text).unwrap();
        let error = Static::new(Layer::default(), [], Some(&file)).unwrap_err().to_string();
        assert!(error.starts_with(&file.display().to_string()), "{text}: {error}");
    }
    assert!(Static::new(Layer::default(), [], Some(&dir.path().join("none"))).is_err());
    for (flag, text) in [
        ("datastore", "/records"),
        ("datastore", "dir:"),
        ("node", "a b"),
        ("log-level", "loud"),
        ("metrics-listen", "host"),
        ("interface-prefix", "cali,"),
        ("interface-prefix", "a-name-that-is-too-long"),
        ("default-endpoint-to-host-action", "Open"),
        ("conntrack-timeouts", "udp=5s"),
        ("conntrack-timeouts", "udpTimeout=0"),
        ("rescan-interval", "soon"),
        ("rescan-interval", "-5s"),
        ("max-sets", "0"),
        ("allow-ipip-packets-from-workloads", "maybe"),
    ] {
        let text = text.to_owned();
        let error = config::from_flags([(flag, Some(&text))]).unwrap_err();
        assert_eq!(error.place, format!("--{flag}"));
    }
}

#[test]
fn environment_variables_that_are_no_settings_are_reported_not_refused() {
    let given = environment(&[("FELID_COLOUR", "red"), ("FELID_NODE", "n1"), ("FELID_CONFIG", "")]);
    let (_, unknown) = config::from_environment(given).unwrap();
    assert_eq!(unknown, ["FELID_COLOUR"]);
    let twice = environment(&[("FELID_VXLANPORT", "1"), ("FELID_VXLAN_PORT", "2")]);
    assert!(
        config::from_environment(twice)
            .unwrap_err()
            .reason
            .contains("says otherwise")
    );
}

#[test]
fn durations_read_and_print_as_gos() {
    let read = |text: &str| {
        Static::new(flags(&[("retry-interval", text)]), [], None)
            .unwrap()
            .settings()
            .retry_interval
    };
    for (text, expected) in [
        ("90", 90.0),
        ("1h2m3s", 3723.0),
        ("500ms", 0.5),
        ("1.5s", 1.5),
        ("0", 0.0),
    ] {
        assert_eq!(read(text), Duration::from_secs_f64(expected), "{text}");
    }
    let print = |seconds: f64| config::format_duration(Duration::from_secs_f64(seconds));
    assert_eq!(
        [90.0, 3600.0, 5400.0, 3723.0, 0.5, 120.0].map(print),
        ["1m30s", "1h", "1h30m", "1h2m3s", "0.5s", "2m"]
    );
}

#[test]
fn settings_of_external_addresses() {
    let default = Static::new(Layer::default(), [], None).unwrap().settings();
    assert!(default.floating_ips);
    assert_eq!(default.ip_nat_outbound, NatOutbound::None);
    assert_eq!(default.external_ip_announcement, Announcement::None);
    let given = environment(&[
        ("FELID_FLOATING_IPS", "disabled"),
        ("FELID_IPNATOUTBOUND", "external"),
        ("FELID_IPNATCLUSTERCIDRS", "10.0.0.1/8, fd00::/8"),
        ("FELID_EXTERNALIPANNOUNCEMENT", "ProxyARP"),
    ]);
    let config = Static::new(Layer::default(), given, None).unwrap();
    let settings = config.with_records(&records([&record("default", "{floatingIPs: Enabled}")]));
    assert!(!settings.floating_ips, "the environment comes first");
    assert_eq!(settings.ip_nat_outbound, NatOutbound::External);
    assert_eq!(settings.external_ip_announcement, Announcement::ProxyArp);
    let cidrs: Vec<String> = settings
        .ip_nat_cluster_cidrs
        .0
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(cidrs, ["10.0.0.0/8", "fd00::/8"]);
    let config = Static::new(Layer::default(), [], None).unwrap();
    // Calico's default; a flag is stronger than any record.
    let spoofing = |config: &Static, spec: &str| {
        let settings = config.with_records(&records([&record("default", spec)]));
        settings.workload_source_spoofing
    };
    assert_eq!(spoofing(&config, "{}"), WorkloadSourceSpoofing::Disabled);
    assert_eq!(
        spoofing(&config, "{workloadSourceSpoofing: any}"),
        WorkloadSourceSpoofing::Any
    );
    let given = flags(&[("workload-source-spoofing", "Disabled")]);
    let flagged = Static::new(given, [], None).unwrap();
    assert_eq!(
        spoofing(&flagged, "{workloadSourceSpoofing: Any}"),
        WorkloadSourceSpoofing::Disabled
    );
    let disabled = config.with_records(&records([
        &record("node.a", "{floatingIPs: Disabled}"),
        &record("default", "{floatingIPs: Enabled}"),
    ]));
    assert!(!disabled.floating_ips);
    for (name, value) in [
        ("FELID_FLOATINGIPS", "maybe"),
        ("FELID_IPNATOUTBOUND", "Internal"),
        ("FELID_IPNATCLUSTERCIDRS", "10.0.0.0"),
        ("FELID_EXTERNALIPANNOUNCEMENT", "BGP"),
    ] {
        assert!(
            Static::new(Layer::default(), environment(&[(name, value)]), None).is_err(),
            "{name}={value}"
        );
    }
}

#[test]
fn a_record_may_hold_every_setting() {
    for name in config::names() {
        let text = format!(
            "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: default}}\nspec: {{{name}: 1}}\n"
        );
        let decoded = decode(&documents(&text)[0]);
        let unknown = decoded.issues().iter().any(|issue| issue.reason == "unknown field");
        assert!(!unknown, "{name}: {:?}", decoded.issues());
    }
}

#[test]
fn felids_own_settings_are_followed_from_records() {
    let config = Static::new(Layer::default(), [], None).unwrap();
    let spec = "{externalIPAnnouncement: proxyarp, externalIPAllowed: [203.0.113.0/24], ipNATOutbound: External, ipNATClusterCIDRs: '10.0.0.1/8, fd00::/8'}";
    let settings = config.with_records(&records([&record("default", spec)]));
    assert_eq!(settings.external_ip_announcement, Announcement::ProxyArp);
    assert_eq!(settings.ip_nat_outbound, NatOutbound::External);
    let texts = |nets: &[ipnet::IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(texts(&settings.external_ip_allowed.0), ["203.0.113.0/24"]);
    assert_eq!(texts(&settings.ip_nat_cluster_cidrs.0), ["10.0.0.0/8", "fd00::/8"]);
    for bad in [
        "{externalIPAllowed: [x]}",
        "{ipNATOutbound: Both}",
        "{externalIPAnnouncement: BGP}",
    ] {
        let text = format!(
            "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: default}}\nspec: {bad}\n"
        );
        assert!(decode(&documents(&text)[0]).has_errors(), "{bad}");
    }
}
