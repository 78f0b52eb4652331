//! The pipeline on a pretended kernel: when it programs, what it does about refusals, what it says
//! of itself.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeMap;

use common::fake::start;
use common::records::{SHOP, endpoint, endpoint_key, updates};
use felid_dataplane::Interference;
use felid_dataplane::kernel::InterferenceKind;
use felid_dataplane::net::Event;
use felid_datastore::Update;

#[test]
fn nothing_is_programmed_before_everything_was_read() {
    let agent = start(&[]);
    agent.send(updates(SHOP));
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(agent.kernel().applied.is_empty());
    assert!(
        agent
            .health
            .ready()
            .unwrap_err()
            .contains("has not been read completely")
    );
    assert!(!agent.status().in_sync);
    agent.send(vec![Update::InSync]);
    agent.until("ready", |agent| agent.health.ready().is_ok());
    let status = agent.status();
    assert!(status.ready && status.in_sync && status.programmed);
    assert_eq!((status.node.as_str(), status.epoch), ("node1", 1));
    assert_eq!(
        (
            status.counts.workload_endpoints,
            status.counts.local_endpoints,
            status.counts.enforcing
        ),
        (2, 1, 1)
    );
    assert_eq!(status.last_programming.unwrap().updates, 9);
    let (result, kernel) = agent.stop();
    assert_eq!(result, Ok(()));
    let kernel = kernel.lock().unwrap();
    assert_eq!((kernel.applied.len(), kernel.completed), (1, 1));
}

#[test]
fn what_comes_during_a_grace_period_is_one_switch() {
    let agent = start(&[]);
    agent.send_all(SHOP);
    agent.until("first switch complete", |agent| agent.kernel().completed == 1);
    agent.kernel().hold = true;
    agent.send(updates(&endpoint("a", "10.0.1.1")));
    agent.until("second switch", |agent| agent.kernel().applied.len() == 2);
    for (name, address) in [("b", "10.0.1.2"), ("c", "10.0.1.3"), ("d", "10.0.1.4")] {
        agent.send(updates(&endpoint(name, address)));
    }
    agent.send(vec![Update::Delete(endpoint_key("b"))]);
    agent.until("taken in", |agent| agent.metrics.records.updates.get() == 14);
    assert_eq!(agent.kernel().applied.len(), 2);
    agent.kernel().hold = false;
    agent.until("third switch", |agent| agent.kernel().completed == 3);
    let kernel = agent.kernel();
    assert_eq!(kernel.applied.len(), 3);
    assert_eq!(kernel.endpoints.len(), 4, "web, a, c, d");
}

#[test]
fn an_update_that_changes_nothing_switches_nothing() {
    let agent = start(&[]);
    agent.send_all(SHOP);
    agent.until("complete", |agent| agent.kernel().completed == 1);
    agent.send(updates(SHOP));
    agent.until("taken in", |agent| agent.metrics.records.updates.get() == 18);
    std::thread::sleep(std::time::Duration::from_millis(30));
    assert_eq!(agent.kernel().applied.len(), 1);
}

#[test]
fn what_the_kernel_refuses_is_told_and_tried_again() {
    let agent = start(&[("retry-interval", "300ms")]);
    agent.send_all(SHOP);
    agent.until("complete", |agent| agent.kernel().completed == 1);
    agent.kernel().refuse.push_back(("no memory".to_owned(), false));
    agent.send(updates(&endpoint("a", "10.0.1.1")));
    agent.until("refused", |agent| agent.health.ready().is_err());
    assert_eq!(agent.health.not_ready(), ["kernel: cannot apply: no memory"]);
    let status = agent.status();
    assert!(!status.ready);
    assert_eq!(
        (status.failures[0].what.as_str(), status.failures[0].reason.as_str()),
        ("kernel", "cannot apply: no memory")
    );
    assert_eq!(agent.kernel().endpoints.len(), 1, "what was in force stays");
    agent.until("tried again", |agent| agent.kernel().endpoints.len() == 2);
    agent.until("ready", |agent| agent.health.ready().is_ok());
    assert!(agent.status().failures.is_empty());
    assert!(agent.sample().contains("felid_failures_total{what=\"kernel\"} 1"));
}

#[test]
fn refused_programs_leave_the_rest_to_be_programmed() {
    let agent = start(&[("retry-interval", "400ms")]);
    agent.send_all(SHOP);
    agent.until("complete", |agent| agent.kernel().completed == 1);
    // The new program of the web endpoint does not load; the new endpoint's share the old one.
    agent.kernel().refuse.push_back(("too complex".to_owned(), true));
    let stricter = SHOP.replace("ports: [80]", "ports: [81]");
    let mut both = updates(&stricter);
    both.extend(updates(&endpoint("a", "10.0.1.1")));
    agent.send(both);
    agent.until("new endpoint in force", |agent| agent.kernel().endpoints.len() == 2);
    agent.until("told", |agent| {
        agent
            .health
            .not_ready()
            .iter()
            .any(|reason| reason.contains("too complex"))
    });
    let problems = agent.status().failures;
    assert!(
        problems
            .iter()
            .any(|failure| failure.what == "program" && failure.reason.contains("too complex")),
        "{problems:?}"
    );
    agent.until("ready after another try", |agent| agent.health.ready().is_ok());
}

#[test]
fn the_second_half_is_repeated_until_it_succeeds() {
    let agent = start(&[]);
    agent.kernel().fail_complete.push_back("interrupted".to_owned());
    agent.send_all(SHOP);
    agent.until("told", |agent| {
        agent.health.not_ready() == ["complete: cannot complete: interrupted"]
    });
    assert_eq!(agent.kernel().applied.len(), 1);
    agent.until("complete", |agent| agent.kernel().completed == 1);
    agent.until("ready", |agent| agent.health.ready().is_ok());
}

#[test]
fn records_change_settings_unless_a_flag_says_otherwise() {
    let record = |name: &str, rest: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: {name}}}\nspec: {{{rest}}}\n"
        )
    };
    let agent = start(&[]);
    agent.send_all(&record(
        "default",
        "defaultEndpointToHostAction: Accept, interfacePrefix: 'tap,cali'",
    ));
    agent.until("followed", |agent| {
        agent.kernel().settings.iter().any(|settings| settings.host_reachable)
    });
    agent.until("prefixes", |agent| agent.kernel().prefixes == [["tap", "cali"]]);
    agent.send(updates(&record("node.node1", "defaultEndpointToHostAction: Drop")));
    agent.until("the node's own record wins", |agent| {
        agent.kernel().settings.last().is_some_and(|s| !s.host_reachable)
    });
    agent.send(updates(&record("node.other", "defaultEndpointToHostAction: Accept")));
    agent.until("taken in", |agent| agent.metrics.records.updates.get() == 3);
    assert_eq!(
        agent.status().settings["defaultEndpointToHostAction"].source,
        "FelixConfiguration/node.node1"
    );
    drop(agent.stop());

    let agent = start(&[("default-endpoint-to-host-action", "Drop")]);
    agent.send_all(&record("default", "defaultEndpointToHostAction: Accept"));
    agent.until("ready", |agent| agent.health.ready().is_ok());
    // Told once, as at every start.
    assert!(agent.kernel().settings.iter().all(|settings| !settings.host_reachable));
}

#[test]
fn endpoints_say_where_they_stand() {
    let agent = start(&[]);
    let waiting = endpoint("late", "10.0.1.1");
    let closed = endpoint("shut", "10.0.1.2");
    let nowhere = "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: odd, namespace: shop}\n\
                   spec: {selector: \"app == 'shut'\", tier: nowhere}\n";
    agent.kernel().interfaces.insert("calishut".to_owned());
    agent.send_all(&format!("{SHOP}---\n{waiting}---\n{closed}---\n{nowhere}"));
    agent.until("programmed", |agent| agent.kernel().completed > 0);
    let endpoints = agent.endpoints();
    let states: Vec<_> = endpoints
        .iter()
        .map(|endpoint| (endpoint.name.as_str(), endpoint.state.name()))
        .collect();
    let expected = [
        ("node1-k8s-late-eth0", "waiting"),
        ("node1-k8s-shut-eth0", "closed"),
        ("node1-k8s-web-eth0", "enforcing"),
    ];
    assert_eq!(states, expected);
    let reason = |index: usize| endpoints[index].reason.clone().unwrap_or_default();
    assert_eq!(reason(0), "interface calilate is not there");
    assert!(reason(1).contains("nowhere"), "{}", reason(1));
    let web = &endpoints[2];
    assert_eq!(web.addresses, ["10.0.0.1", "fd00::1"]);
    assert_eq!(
        web.ingress.as_ref().unwrap().policies,
        ["default: NetworkPolicy/shop/web", "Profile/kns.shop"]
    );
    let text = agent.sample();
    for line in [
        "felid_endpoints{state=\"closed\"} 1",
        "felid_endpoints{state=\"waiting\"} 1",
        "felix_active_local_endpoints 3",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn unreachable_is_not_unready() {
    let agent = start(&[("retry-interval", "20ms")]);
    agent
        .kernel()
        .network
        .insert("caliweb".into(), vec!["no route".to_owned()]);
    agent.events.send(Event::Addresses).unwrap();
    agent.send_all(SHOP);
    agent.until("ready", |agent| agent.health.ready().is_ok());
    agent.until("looked at again", |agent| agent.kernel().refreshed > 0);
    assert_eq!(agent.status().failures[0].what, "network (caliweb)");
    agent.kernel().network.clear();
    agent.until("no longer", |agent| agent.status().failures.is_empty());
}

#[test]
fn the_end_of_the_datastore_is_an_error() {
    let mut agent = start(&[]);
    agent.batches = tokio::sync::mpsc::channel(1).0;
    // It ends by itself, so that the process can: nobody would tell it of changes any more.
    assert!(agent.ended().unwrap_err().contains("reader has ended"));
}

#[test]
fn the_connection_to_the_datastore_shows_in_status_and_metric() {
    let agent = start(&[]);
    let state = |agent: &common::fake::Running| agent.status().resync.unwrap();
    let metric = |agent: &common::fake::Running, line: &str| agent.sample().lines().any(|other| other == line);
    assert_eq!(state(&agent).state.name(), "wait-for-datastore");
    assert!(metric(&agent, "felix_resync_state 1"));
    agent.send(vec![Update::ResyncBegins]);
    agent.until("resync", |agent| state(agent).state.name() == "resync");
    assert!(metric(&agent, "felix_resync_state 2"));
    agent.send_all(SHOP);
    agent.until("ready", |agent| agent.health.ready().is_ok());
    assert_eq!(state(&agent).state.name(), "in-sync");
    assert!(metric(&agent, "felix_resync_state 3"));

    agent.send(vec![Update::Lost("the producer has ended".into())]);
    agent.until("lost", |agent| state(agent).state.name() == "wait-for-datastore");
    assert_eq!(state(&agent).reason.as_deref(), Some("the producer has ended"));
    assert!(metric(&agent, "felix_resync_state 1"));
    // What was last read is in force, and is enforced for interfaces that come and go.
    assert!(agent.health.ready().is_ok() && agent.status().in_sync);

    agent.send(vec![Update::ResyncBegins]);
    agent.until("resync", |agent| state(agent).state.name() == "resync");
    assert_eq!(state(&agent).reason, None);
    assert!(metric(&agent, "felix_resyncs_started 2"));
    agent.send(vec![Update::InSync]);
    agent.until("in sync", |agent| state(agent).state.name() == "in-sync");
}

#[test]
fn what_others_undo_is_told_and_what_does_not_stand_makes_the_agent_unready() {
    let agent = start(&[("retry-interval", "20ms")]);
    agent.send_all(SHOP);
    agent.until("ready", |agent| agent.status().ready);
    let lost = "the program observer (7) ran before felid's";
    agent.kernel().interference = Interference {
        repaired: BTreeMap::from([(InterferenceKind::Displaced, 3)]),
        problems: BTreeMap::from([("cali1".into(), vec![lost.to_owned()])]),
    };
    agent.events.send(Event::Guard).unwrap();
    agent.until("not ready", |agent| !agent.status().ready);
    let status = agent.status();
    assert!(
        status.not_ready.iter().any(|reason| reason.contains(lost)),
        "{:?}",
        status.not_ready
    );
    assert!(
        status.notices.iter().any(|notice| notice.contains("displaced")),
        "{:?}",
        status.notices
    );
    assert!(
        agent
            .sample()
            .contains("felid_interference_total{kind=\"displaced\"} 3")
    );
    agent.kernel().interference.problems.clear();
    agent.events.send(Event::Guard).unwrap();
    agent.until("ready again", |agent| agent.status().ready);
}

#[test]
fn what_is_wrong_between_records_is_told_everywhere() {
    let agent = start(&[]);
    agent.send_all(SHOP);
    agent.until("ready", |agent| agent.health.ready().is_ok());
    assert!(agent.sample().contains("felid_record_problems{severity=\"error\"} 0"));
    agent.kernel().interfaces.insert("calisame".to_owned());
    let nowhere = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: lost}\n\
                   spec: {selector: \"app == 'web'\", tier: nowhere}\n";
    let same_interface = endpoint("zz", "10.0.1.9").replace("calizz", "caliweb");
    let same_address = endpoint("same", "10.0.0.1");
    let no_profile = endpoint("bare", "10.0.1.8").replace("kns.shop", "kns.gone");
    let cases = [
        (
            nowhere.to_owned(),
            "tier \"nowhere\" does not exist",
            "node1-k8s-web-eth0",
        ),
        (same_interface, "interface caliweb belongs to", "node1-k8s-zz-eth0"),
        (same_address, "address 10.0.0.1 belongs to", ""),
        (no_profile, "profile \"kns.gone\" does not exist", "node1-k8s-bare-eth0"),
    ];
    for (text, reason, concerned) in cases {
        let records = updates(&text);
        agent.send(records.clone());
        agent.until(reason, |agent| {
            agent.health.not_ready().iter().any(|told| told.contains(reason))
        });
        assert!(
            agent.sample().contains("felid_record_problems{severity=\"error\"} 1"),
            "{reason}"
        );
        let problems = agent.status().problems;
        assert!(
            problems.iter().any(|problem| problem.reason.contains(reason)),
            "{problems:?}"
        );
        let why = agent.endpoints().into_iter().find(|known| known.name == concerned);
        if let Some(why) = why {
            let told = why.reason.unwrap_or_default();
            assert!(told.contains(reason) || told.contains("nowhere"), "{concerned}: {told}");
        } else {
            assert_eq!(concerned, "", "{concerned} is not told of");
        }
        let gone = records.into_iter().map(|update| match update {
            Update::Apply(resource) => Update::Delete(resource.key().clone()),
            other => other,
        });
        agent.send(gone.collect());
        agent.until("ready again", |agent| agent.health.ready().is_ok());
        assert!(
            agent.sample().contains("felid_record_problems{severity=\"error\"} 0"),
            "{reason}"
        );
    }
    // A staged policy is only judged: a warning, and ready.
    agent.send(updates(
        &nowhere.replace("GlobalNetworkPolicy", "StagedGlobalNetworkPolicy"),
    ));
    agent.until("told", |agent| {
        agent.sample().contains("felid_record_problems{severity=\"warning\"} 1")
    });
    assert!(agent.health.ready().is_ok());
}

#[test]
fn a_node_that_no_record_names_is_told_with_those_that_they_name() {
    let agent = start(&[("node", "NODE9")]);
    agent.send_all(SHOP);
    agent.until("ready", |agent| agent.health.ready().is_ok());
    let status = agent.status();
    assert_eq!(status.node, "node9", "in lower case, as Felix takes it");
    let named = |agent: &common::fake::Running| {
        let notices = agent.status().notices;
        notices
            .iter()
            .any(|notice| notice.contains("\"node9\"") && notice.contains("node1"))
    };
    assert!(named(&agent), "{:?}", status.notices);
    agent.kernel().unclaimed.insert("tap1".into());
    agent.events.send(Event::Addresses).unwrap();
    agent.until("told", |agent| {
        let reasons = agent.health.not_ready();
        reasons
            .iter()
            .any(|reason| reason.starts_with("unclaimed") && reason.contains("stays closed"))
    });
    assert_eq!(agent.status().failures[0].what, "unclaimed (tap1)");
    agent.kernel().unclaimed.clear();
    agent.send(updates(
        &endpoint("own", "10.0.1.1")
            .replace("node: node1", "node: node9")
            .replace("node1-k8s", "node9-k8s"),
    ));
    agent.until("one of its own", |agent| !named(agent));
    agent.events.send(Event::Addresses).unwrap();
    agent.until("ready again", |agent| agent.health.ready().is_ok());
}

#[test]
fn text_from_outside_is_escaped_wherever_it_is_told() {
    let agent = start(&[("retry-interval", "60s")]);
    agent.send_all(SHOP);
    agent.until("ready", |agent| agent.health.ready().is_ok());
    let forged = "no memory\n\u{1b}[2Jready".to_owned();
    agent.kernel().refuse.push_back((forged, false));
    agent.send(updates(&endpoint("a", "10.0.1.1")));
    agent.until("told", |agent| !agent.status().failures.is_empty());
    let status = agent.status();
    assert!(!status.not_ready.is_empty());
    let told = status
        .not_ready
        .iter()
        .chain(status.failures.iter().map(|failure| &failure.reason));
    for text in told {
        assert!(!text.contains(char::is_control), "{text:?}");
        assert!(text.contains("\\n\\u{1b}[2Jready"), "{text:?}");
    }
}

#[test]
fn servers_that_end_with_the_agent_are_no_failure() {
    for _ in 0..100 {
        let agent = start(&[]);
        assert_eq!(agent.stop_with_servers(), Ok(()));
    }
}
