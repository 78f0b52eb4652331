//! The programs that are loaded for an endpoint.

use felid_compile::listing::listing;
use felid_compile::planner::EndpointStatus;
use felid_compile::program::RuleRef;
use felid_compile::transaction::ProgramId;
use felid_dataplane::Inspection;
use felid_model::Direction;

use crate::api::{ProgramLine, ProgramListing, Refusal};
use crate::endpoint_names::EndpointNames;
use crate::run::names::full_name;

use super::View;

impl<D: Inspection> View<'_, D> {
    pub(super) fn programs(&self, name: &str, direction: Option<Direction>) -> Result<Vec<ProgramListing>, Refusal> {
        let all: Vec<EndpointStatus> = self.planner.endpoints().collect();
        let is_meant = |status: &&EndpointStatus| EndpointNames::of_local(&status.endpoint).are_meant_by(name);
        let found: Vec<&EndpointStatus> = all.iter().filter(is_meant).collect();
        let status = match found.as_slice() {
            [] => {
                return Err(Refusal::Unknown(format!(
                    "no local endpoint {name:?} has programs in the kernel"
                )));
            }
            [one] => one,
            several => {
                let names: Vec<String> = several.iter().map(|status| full_name(&status.endpoint.key)).collect();
                return Err(Refusal::Unknown(format!("{name:?} may be {}", names.join(" or "))));
            }
        };
        let directions = direction.map_or_else(|| Direction::BOTH.to_vec(), |direction| vec![direction]);
        let listings = directions.into_iter().map(|direction| {
            let id = program_of(status, direction);
            let users = all.iter().filter(|other| program_of(other, direction) == id);
            let users = users.map(|other| full_name(&other.endpoint.key)).collect();
            self.listing(status, direction, users)
        });
        listings.collect()
    }

    fn listing(
        &self,
        status: &EndpointStatus,
        direction: Direction,
        users: Vec<String>,
    ) -> Result<ProgramListing, Refusal> {
        let id = program_of(status, direction);
        let Some(program) = self.planner.program(id) else {
            let reason = format!("program {} is being replaced; ask again", id.0);
            return Err(Refusal::Failed(reason));
        };
        let lines = listing(program).into_iter().map(|line| ProgramLine {
            chunk: line.chunk,
            index: line.index,
            code: line.code,
            note: line.note,
        });
        Ok(ProgramListing {
            endpoint: full_name(&status.endpoint.key),
            direction,
            program: id.0,
            shared_by: users,
            rules: program.rules.iter().map(rule_text).collect(),
            lines: lines.collect(),
        })
    }
}

fn program_of(status: &EndpointStatus, direction: Direction) -> ProgramId {
    match direction {
        Direction::Ingress => status.ingress,
        Direction::Egress => status.egress,
    }
}

fn rule_text(rule: &RuleRef) -> String {
    let place = match (&rule.key, &rule.tier, rule.index) {
        (Some(key), Some(tier), Some(index)) => format!("{tier}: {key} rule {index}: "),
        (Some(key), None, Some(index)) => format!("{key} rule {index}: "),
        (Some(key), _, None) => format!("{key}: "),
        (None, Some(tier), _) => format!("end of tier {tier}: "),
        (None, None, _) => String::new(),
    };
    format!("{place}{}", rule.text)
}
