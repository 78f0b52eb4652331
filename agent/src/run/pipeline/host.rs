//! What the pipeline does about the host: following what happens there, and telling how it stands.

use felid_dataplane::{DataplaneDriver, DataplaneError, HostChanges};

use super::Pipeline;
use crate::api::FailureKind;

impl<D: DataplaneDriver> Pipeline<D> {
    /// Follows what happened on the host. `everything`: it was looked at as a whole, so what does
    /// not fail now fails no more.
    pub(super) fn follow_host(&mut self, changes: HostChanges, everything: bool) {
        if changes.host_uses {
            self.translations.mark_dirty();
        }
        if changes.host_addresses {
            self.translations.mark_dirty();
            self.planner.set_host_addresses(self.dataplane.host_addresses());
        }
        let (mut interfaces, mut network) = (Vec::new(), Vec::new());
        let standing = self.dataplane.problems();
        for error in changes.errors {
            let text = error.to_string();
            match error {
                DataplaneError::Kernel(_) => interfaces.push(text),
                // What stands among the dataplane's problems is reported by its interface.
                DataplaneError::Net(_) if standing.values().flatten().any(|known| *known == text) => {}
                DataplaneError::Net(_) => network.push(text),
            }
        }
        for (kind, errors) in [(FailureKind::Interface, interfaces), (FailureKind::Network, network)] {
            if everything || !errors.is_empty() {
                self.reporting.failures.set_list(kind, None, errors);
            }
        }
        self.report_network();
        self.report_interference();
        self.report_unclaimed();
    }

    /// Looks at everything on the host.
    pub(super) async fn refresh(&mut self) {
        let changes = self.dataplane.refresh().await;
        self.follow_host(changes, true);
        self.timers.refreshed(self.configuration.settings());
    }

    /// Reports routes, neighbours and sysctls that cannot be set.
    pub(super) fn report_network(&mut self) {
        let problems = self.dataplane.problems().into_iter();
        let problems = problems.map(|(interface, reasons)| (interface.to_string(), reasons));
        let failures = &mut self.reporting.failures;
        failures.set_places(FailureKind::Network, problems.collect());
    }

    /// Reports what others did to what felid needs, and what does not stand because of it.
    pub(super) fn report_interference(&mut self) {
        let interference = self.dataplane.interference();
        self.reporting
            .metrics()
            .condition
            .set_interference(&interference.repaired);
        let places = interference.problems.into_iter().map(|(interface, problems)| {
            let place = if interface.is_empty() { "host" } else { &*interface };
            (place.to_owned(), problems)
        });
        let failures = &mut self.reporting.failures;
        failures.set_places(FailureKind::Interference, places.collect());
    }

    /// Reports interfaces that the last run guarded and nobody claims now: they stay closed.
    pub(super) fn report_unclaimed(&mut self) {
        if !self.programming.is_programmed() {
            return;
        }
        let unclaimed = self.dataplane.unclaimed().into_iter().map(|interface| {
            let reason = "felid's programs of an earlier run were here, and no endpoint record claims the interface now: it stays \
                          closed until one does, the interface goes, or `felid cleanup` opens it";
            (interface.to_string(), vec![reason.to_owned()])
        });
        let failures = &mut self.reporting.failures;
        failures.set_places(FailureKind::Unclaimed, unclaimed.collect());
    }

    /// Tells the probes how things stand.
    pub(super) fn report_readiness(&mut self) {
        self.timers.note(!self.reporting.failures.is_empty());
        let reasons = self.view().not_ready();
        let endpoints = self.calc.stats().local_endpoints;
        self.reporting.set_readiness(reasons, endpoints, self.dataplane.epoch());
    }
}
