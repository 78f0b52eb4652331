//! The pipeline on a pretended kernel: when it programs, what it does about refusals, what it says of itself.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::fake::start;
use common::records::{SHOP, endpoint, endpoint_key, updates};
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
    agent.until("taken in", |agent| agent.metrics.updates.get() == 14);
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
    agent.until("taken in", |agent| agent.metrics.updates.get() == 18);
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
    assert_eq!(agent.health.not_ready(), ["kernel: no memory"]);
    let status = agent.status();
    assert!(!status.ready);
    assert_eq!(
        (status.failures[0].what.as_str(), status.failures[0].reason.as_str()),
        ("kernel", "no memory")
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
    agent.until("told", |agent| agent.health.not_ready() == ["complete: interrupted"]);
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
    agent.until("taken in", |agent| agent.metrics.updates.get() == 3);
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
        .map(|endpoint| (endpoint.name.as_str(), endpoint.state.as_str()))
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
        .insert("caliweb".to_owned(), vec!["no route".to_owned()]);
    agent.events.send(felid_dataplane::net::Event::Addresses).unwrap();
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
