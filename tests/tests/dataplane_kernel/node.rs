//! A node without an agent: a host, the kernel half, a planner.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use felid_compile::planner::Planner;
use felid_compile::transaction::Transaction;
use felid_dataplane::kernel::{Completed, Role};
use felid_dataplane::{Config, Kernel, LinkState, Peer, sys};
use felid_lab::{Host, Workload};
use felid_model::resolved::{
    Delta, LocalEndpoint, ResolvedAction, ResolvedPolicy, ResolvedRule, ResolvedRules, ResolvedSide, SetId,
};
use felid_model::{Kind, ResourceKey};

/// Runs a test inside the namespace of a host of its own.
pub(crate) fn on_host(test: impl FnOnce(&Host) + Send) {
    let host = Host::new("dpk").unwrap();
    host.namespace().run(|| test(&host)).unwrap();
}

/// The kernel half and a planner that speaks to it.
pub(crate) struct Node {
    pub(crate) kernel: Kernel,
    pub(crate) planner: Planner,
}

/// Small tables: the tests create many.
pub(crate) fn config(host: &Host) -> Config {
    let mut config = Config {
        bpffs: host.bpffs().to_owned(),
        ..Config::default()
    };
    config.capacities.established_v4 = 4096;
    config.capacities.established_v6 = 4096;
    config.capacities.half_open = 65_536;
    config.capacities.peers = 1024;
    config.capacities.nets = 256;
    config.capacities.named_ports = 256;
    config
}

impl Node {
    pub(crate) fn open(host: &Host) -> Self {
        Self::with(&config(host))
    }

    pub(crate) fn with(config: &Config) -> Self {
        let kernel = Kernel::open(config).unwrap();
        let planner = Planner::new(kernel.planner_options(), kernel.adopt());
        Self { kernel, planner }
    }

    /// Plans what changed.
    pub(crate) fn plan(&mut self, delta: &Delta) -> Transaction {
        self.planner.update(delta);
        self.planner.plan().unwrap().expect("something changes")
    }

    /// Carries a change out, from the records to both banks.
    pub(crate) fn commit(&mut self, delta: &Delta) -> Completed {
        let transaction = self.plan(delta);
        let flip = self.kernel.apply(&transaction).unwrap();
        assert!(flip.link_errors.is_empty(), "{:?}", flip.link_errors);
        sys::membarrier().unwrap();
        let completed = self.kernel.complete(&transaction).unwrap();
        self.planner.committed();
        completed
    }

    pub(crate) fn links(&mut self, workloads: &[&Workload]) {
        let errors = self
            .kernel
            .set_links(workloads.iter().map(|workload| state(workload)).collect());
        assert!(errors.is_empty(), "{errors:?}");
    }

    pub(crate) fn role(&self, ifindex: u32) -> Option<Role> {
        self.kernel.roles().get(&ifindex).copied().flatten()
    }

    pub(crate) fn dropped(&self, reason: felid_common::DropReason) -> u64 {
        self.kernel
            .drops()
            .unwrap()
            .into_iter()
            .find(|(drop, _)| *drop == reason)
            .map_or(0, |(_, count)| count)
    }
}

/// What the net half would say of a workload's interface.
pub(crate) fn state(workload: &Workload) -> LinkState {
    LinkState {
        ifindex: workload.ifindex,
        name: workload.interface.as_str().into(),
        mac: Some(felid_lab::netns::HOST_MAC),
        mtu: 1500,
        is_ethernet: true,
        filters: Arc::default(),
        peer: Some(Peer {
            mac: Some(workload.mac),
        }),
    }
}

fn key(kind: Kind, name: &str) -> ResourceKey {
    ResourceKey {
        kind,
        namespace: Some("default".into()),
        name: name.into(),
    }
}

/// Allows every packet.
pub(crate) fn allow() -> ResolvedPolicy {
    rules(vec![rule(ResolvedAction::Allow, ResolvedSide::default())])
}

/// Allows what comes from members of a set.
pub(crate) fn allow_from(set: &str) -> ResolvedPolicy {
    allow_from_any(&[set])
}

/// Allows what comes from members of any of the sets.
pub(crate) fn allow_from_any(sets: &[&str]) -> ResolvedPolicy {
    let from = |set: &&str| {
        let source = ResolvedSide {
            sets: vec![SetId((*set).into())],
            ..ResolvedSide::default()
        };
        rule(ResolvedAction::Allow, source)
    };
    rules(sets.iter().map(from).collect())
}

/// Denies every packet.
pub(crate) fn deny() -> ResolvedPolicy {
    rules(vec![rule(ResolvedAction::Deny, ResolvedSide::default())])
}

fn rules(rules: Vec<ResolvedRule>) -> ResolvedPolicy {
    let profile = ResolvedRules {
        staged: false,
        key: key(Kind::Profile, "p"),
        rules: Arc::new(rules),
    };
    ResolvedPolicy {
        tiers: Vec::new(),
        profiles: vec![profile],
        closed: None,
    }
}

fn rule(action: ResolvedAction, source: ResolvedSide) -> ResolvedRule {
    ResolvedRule {
        source,
        ..ResolvedRule::new(0, action)
    }
}

/// The endpoint of a workload, named after its interface.
pub(crate) fn endpoint(workload: &Workload, egress: ResolvedPolicy, ingress: ResolvedPolicy) -> LocalEndpoint {
    LocalEndpoint {
        allow_spoofed_source_prefixes: Vec::new(),
        ip_nats: Vec::new(),
        aws_elastic_ips: Vec::new(),
        key: key(Kind::WorkloadEndpoint, &workload.interface),
        interface_name: workload.interface.as_str().into(),
        addresses: workload.addresses.clone(),
        mac: None,
        ipv4_gateway: None,
        ipv6_gateway: None,
        ports: Vec::new(),
        profiles: Vec::new(),
        ingress: Arc::new(ingress),
        egress: Arc::new(egress),
    }
}

/// New or changed endpoints.
pub(crate) fn set(endpoints: impl IntoIterator<Item = LocalEndpoint>) -> Delta {
    let endpoints = endpoints
        .into_iter()
        .map(|endpoint| (endpoint.key.clone(), Some(Arc::new(endpoint))))
        .collect();
    Delta {
        endpoints,
        ..Delta::default()
    }
}

/// An endpoint that is gone.
pub(crate) fn gone(workload: &Workload) -> Delta {
    let endpoints = BTreeMap::from([(key(Kind::WorkloadEndpoint, &workload.interface), None)]);
    Delta {
        endpoints,
        ..Delta::default()
    }
}

/// Members of a set.
pub(crate) fn members(set: &str, addresses: &[IpAddr]) -> Delta {
    let sets = Arc::new(BTreeSet::from([SetId(set.into())]));
    let members = addresses
        .iter()
        .map(|address| ((*address).into(), Some(Arc::clone(&sets))))
        .collect();
    Delta {
        members,
        ..Delta::default()
    }
}
