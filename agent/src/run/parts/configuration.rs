//! The settings of the running agent: merged in one place, compared with what the kernel was told.

use std::collections::BTreeSet;

use felid_calc::{NodeConfiguration, Output};
use felid_dataplane::kernel;
use felid_dataplane::{AddressTranslation, Enforcement, KernelError};
use ipnet::IpNet;

use crate::api::FailureKind;
use crate::config::{Announcement, NatOutbound, Settings, Static};
use crate::run::failures::Failures;
use crate::run::kernel_settings;

/// Settings: what they are now, and what of them the kernel has.
#[derive(Debug)]
pub(in crate::run) struct Configuration {
    /// Flags, environment and file.
    layers: Static,
    /// The records that hold on this node.
    records: NodeConfiguration,
    /// The networks of all `IPPool` records.
    pools: BTreeSet<IpNet>,
    /// All of them merged.
    settings: Settings,
    /// The settings that the kernel's programs have; `None` = those of a previous run.
    applied: Option<kernel::Settings>,
    /// The networks of the cluster that the kernel has; `None` = those of a previous run.
    applied_cluster: Option<BTreeSet<IpNet>>,
}

/// What has changed with the records, beside what the kernel's programs go by.
#[derive(Debug, Default, Clone, Copy)]
pub(in crate::run) struct Changed {
    pub(in crate::run) log_level: bool,
    pub(in crate::run) interface_prefixes: bool,
    /// What the calculation goes by.
    pub(in crate::run) calculation: bool,
    /// Which translations are in force, or how others learn of external addresses.
    pub(in crate::run) translations: bool,
}

impl Configuration {
    /// Returns the configuration before any record was read.
    pub(in crate::run) fn new(layers: Static) -> Self {
        Self {
            settings: layers.settings(),
            layers,
            records: NodeConfiguration::default(),
            pools: BTreeSet::new(),
            applied: None,
            applied_cluster: None,
        }
    }

    /// Returns the settings that hold now, each with the place it comes from.
    pub(in crate::run) const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes in what the calculation says of records.
    pub(in crate::run) fn follow(&mut self, output: &Output) -> Changed {
        if let Some(pools) = &output.pools {
            self.pools.clone_from(pools);
        }
        let Some(records) = &output.configuration else {
            return Changed::default();
        };
        self.records.clone_from(records);
        let now = self.layers.with_records(&self.records);
        let old = std::mem::replace(&mut self.settings, now);
        let now = &self.settings;
        let interface_prefixes = old.interface_prefix != now.interface_prefix;
        Changed {
            log_level: old.log_severity_screen != now.log_severity_screen,
            interface_prefixes,
            calculation: interface_prefixes || old.workload_source_spoofing != now.workload_source_spoofing,
            translations: old.floating_ips != now.floating_ips
                || old.external_ip_allowed != now.external_ip_allowed
                || old.external_ip_announcement != now.external_ip_announcement,
        }
    }

    /// Tells the kernel what it does not have yet. What fails is reported, and tried again with the
    /// next call.
    pub(in crate::run) fn apply(
        &mut self,
        dataplane: &mut (impl Enforcement + AddressTranslation),
        failures: &mut Failures,
    ) {
        dataplane.set_announcement(self.settings.external_ip_announcement == Announcement::ProxyArp);
        let mut wanted = kernel_settings(&self.settings);
        // The networks where workloads show their own addresses come before the setting that they
        // limit, and go after it. Without them workloads show their own addresses everywhere; all
        // other settings hold.
        let outbound = wanted.nat_outbound;
        if outbound {
            let applied = self.apply_cluster(dataplane);
            wanted.nat_outbound = applied.is_ok();
            report(failures, FailureKind::Cluster, applied);
        }
        if self.applied.as_ref() != Some(&wanted) {
            let applied = dataplane.set_settings(wanted.clone());
            self.applied = applied.is_ok().then_some(wanted);
            report(failures, FailureKind::Settings, applied);
        }
        if !outbound && self.applied.is_some() {
            let applied = self.apply_cluster(dataplane);
            report(failures, FailureKind::Cluster, applied);
        }
    }

    fn apply_cluster(&mut self, dataplane: &mut impl AddressTranslation) -> Result<(), KernelError> {
        let wanted = self.cluster();
        if self.applied_cluster.as_ref() == Some(&wanted) {
            return Ok(());
        }
        self.applied_cluster = None;
        dataplane.set_cluster(&wanted)?;
        self.applied_cluster = Some(wanted);
        Ok(())
    }

    /// The networks where workloads show their own addresses.
    fn cluster(&self) -> BTreeSet<IpNet> {
        match self.settings.ip_nat_outbound {
            NatOutbound::None => BTreeSet::new(),
            NatOutbound::External => {
                let configured = self.settings.ip_nat_cluster_cidrs.0.iter();
                self.pools.iter().chain(configured).copied().collect()
            }
        }
    }
}

fn report(failures: &mut Failures, kind: FailureKind, result: Result<(), KernelError>) {
    match result {
        Ok(()) => failures.clear(kind),
        Err(error) => failures.set(kind, &error),
    }
}
