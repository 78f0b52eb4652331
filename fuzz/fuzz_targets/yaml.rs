//! Any text: it is split into documents, each of them is decoded, and what comes out is consistent
//! with the text.
#![no_main]

use felid_model::{Decoded, Resource, decode, documents};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut end = 0;
    for document in documents(text) {
        assert!(text.get(document.range.clone()).is_some(), "range within the text");
        assert!(
            document.item.is_some() || document.range.start >= end,
            "documents do not overlap"
        );
        end = document.range.end;
        let decoded = decode(&document);
        // YAML takes a carriage return alone for the end of a line too.
        let lines = text.matches(['\n', '\r']).count() + 1;
        for issue in decoded.issues() {
            assert!(
                issue.line.is_some_and(|line| (1..=lines).contains(&line)),
                "{issue} is on a line of the text"
            );
            let _ = issue.to_string();
        }
        match decoded {
            Decoded::Bad {
                ref key,
                ref bad_policy,
                ..
            } => {
                assert!(decoded.has_errors(), "what is bad has an error");
                if let (Some(key), Some(policy)) = (key, bad_policy) {
                    assert_eq!(*key, policy.key);
                }
            }
            Decoded::Resource { resource, .. } => check(&resource),
            Decoded::Foreign { .. } | Decoded::NotARecord { .. } | Decoded::Empty => {}
        }
    }
});

/// What holds for every resource in force.
fn check(resource: &Resource) {
    let key = resource.key();
    assert!(!key.name.is_empty() && key.kind.is_namespaced() == key.namespace.is_some());
    match resource {
        Resource::WorkloadEndpoint(endpoint) => {
            assert!(!endpoint.node.is_empty() && !endpoint.interface_name.contains('/'));
            assert!(
                endpoint
                    .ip_networks
                    .iter()
                    .all(|net| net.prefix_len() == net.max_prefix_len())
            );
        }
        Resource::Policy(policy) => {
            // Converted policies may be left without any direction.
            let own = policy.key.kind.api_version() == felid_model::API_VERSION;
            assert!(!own || policy.applies_ingress || policy.applies_egress);
            for rule in policy.ingress.iter().chain(&policy.egress) {
                let _ = rule.to_string();
            }
        }
        Resource::NetworkSet(set) => assert!(set.nets.iter().all(|net| *net == net.trunc())),
        Resource::BadPolicy(_) => panic!("decoding never yields a bad policy as a resource"),
        Resource::HostEndpoint(_)
        | Resource::Profile(_)
        | Resource::Tier(_)
        | Resource::FelixConfiguration(_)
        | Resource::IpPool(_)
        | Resource::EndpointSlice(_)
        | Resource::Inert(_) => {}
    }
}
