//! Waiting until something is enforced, on a pretended kernel: never too early, and told why not.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::time::Duration;

use common::fake::{Running, start};
use common::records::{SHOP, endpoint, endpoint_key, updates};
use felid_agent::api::{Refusal, WaitFor, Waited};
use felid_datastore::Update;
use felid_model::{Kind, ResourceKey};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(100);

fn policy(name: &str) -> ResourceKey {
    ResourceKey::new(Kind::NetworkPolicy, Some("shop"), name)
}

/// An agent with the shop in force.
fn shop() -> Running {
    let agent = start(&[]);
    agent.send_all(SHOP);
    agent.until("complete", |agent| agent.kernel().completed == 1);
    agent
}

impl Running {
    fn waited(&self, what: WaitFor) -> Result<Waited, Refusal> {
        self.wait(what, SHORT).join().unwrap()
    }

    /// Why it is not so.
    fn missing(&self, what: WaitFor) -> String {
        let waited = self.waited(what).unwrap();
        assert!(!waited.done, "{waited:?}");
        waited.reason.unwrap()
    }
}

#[test]
fn a_wait_ends_when_flows_are_revoked_too_and_not_before() {
    let agent = shop();
    for round in 0..20 {
        agent.kernel().hold = true;
        let switches = agent.kernel().applied.len();
        let stricter = SHOP.replace("ports: [80]", &format!("ports: [{}]", 81 + round));
        agent.send(updates(&stricter));
        let waiter = agent.wait(WaitFor::Enforced(policy("web")), LONG);
        agent.until("switched", |agent| agent.kernel().applied.len() == switches + 1);
        std::thread::sleep(Duration::from_millis(20));
        assert!(!waiter.is_finished(), "established flows are not revoked yet");
        let status = agent.status();
        assert!(status.revisions.enforced < status.revisions.seen);
        agent.kernel().hold = false;
        let waited = waiter.join().unwrap().unwrap();
        assert!(waited.done);
        assert_eq!(agent.kernel().completed, switches + 1);
        assert_eq!(waited.endpoints, Some(1));
        let status = agent.status();
        assert_eq!(status.revisions.enforced, status.revisions.seen);
        assert_eq!(waited.enforced_at, status.revisions.enforced_at);
    }
    let metrics = agent.sample();
    assert!(metrics.contains("felid_revision_seen 189\n"), "{metrics}");
    assert!(metrics.contains("felid_revision_enforced 189\n"), "{metrics}");
    assert!(
        metrics.contains("felid_record_enforced_seconds_count 189\n"),
        "{metrics}"
    );
    let endpoint = agent.endpoints().remove(0);
    assert!(endpoint.enforced_at.is_some());
}

#[test]
fn what_the_datastore_holds_is_waited_for_first() {
    let agent = shop();
    agent.kernel().hold_barriers = true;
    let waiter = agent.wait(WaitFor::Enforced(policy("new")), LONG);
    agent.until("asked", |agent| agent.kernel().barriers == [1]);
    agent.send(updates(
        &SHOP.replace("{name: web, namespace: shop}", "{name: new, namespace: shop}"),
    ));
    agent.until("taken in", |agent| agent.kernel().completed == 2);
    assert!(!waiter.is_finished(), "there may be more in the datastore");
    let reason = agent.missing(WaitFor::Enforced(policy("new")));
    assert!(reason.contains("is still being read"), "{reason}");
    agent.send(vec![Update::Barrier(1)]);
    assert!(waiter.join().unwrap().unwrap().done);
}

#[test]
fn what_cannot_be_waited_for_is_said_at_once() {
    let agent = shop();
    let refused = |what| match agent.wait(what, LONG).join().unwrap() {
        Err(Refusal::Unknown(reason) | Refusal::Unmet(reason)) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        refused(WaitFor::Enforced(policy("absent"))),
        "resource does not exist: NetworkPolicy/shop/absent"
    );
    let elsewhere = ResourceKey::new(Kind::WorkloadEndpoint, Some("shop"), "node2-k8s-db-eth0");
    assert_eq!(
        refused(WaitFor::Enforced(elsewhere)),
        "WorkloadEndpoint/shop/node2-k8s-db-eth0 is of node \"node2\", and this is node \"node1\": the agent there enforces it"
    );
}

#[test]
fn what_concerns_nothing_here_is_enforced_here() {
    let agent = shop();
    let other = ResourceKey::new(Kind::NetworkPolicy, Some("default"), "other");
    let waited = agent.waited(WaitFor::Enforced(other)).unwrap();
    assert!(waited.done);
    assert_eq!(waited.endpoints, Some(0));
    let set = ResourceKey::new(Kind::GlobalNetworkSet, None, "office");
    let waited = agent.waited(WaitFor::Enforced(set)).unwrap();
    assert!(waited.done);
    assert_eq!(waited.endpoints, None);
}

#[test]
fn an_endpoint_is_waited_for_until_its_interface_is_there() {
    let agent = shop();
    agent.send(updates(&endpoint("a", "10.0.1.1")));
    let reason = agent.missing(WaitFor::Enforced(endpoint_key("a")));
    assert!(reason.ends_with("is waiting: interface calia is not there"), "{reason}");
    let waiter = agent.wait(WaitFor::Enforced(endpoint_key("a")), LONG);
    agent.kernel().interfaces.insert("calia".to_owned());
    agent.events.send(felid_dataplane::net::Event::Addresses).unwrap();
    assert_eq!(waiter.join().unwrap().unwrap().endpoints, Some(1));
    for name in ["calia", "a", "shop/a", "10.0.1.1"] {
        let key = ResourceKey::new(Kind::WorkloadEndpoint, Some("shop"), name);
        assert!(agent.waited(WaitFor::Enforced(key)).unwrap().done, "{name}");
    }
}

#[test]
fn what_the_kernel_refuses_is_not_enforced() {
    let agent = shop();
    let refusals = std::iter::repeat_n(("no memory".to_owned(), false), 1000);
    agent.kernel().refuse.extend(refusals);
    agent.send(updates(&SHOP.replace("ports: [80]", "ports: [81]")));
    let waiter = agent.wait(WaitFor::Enforced(policy("web")), LONG);
    let reason = agent.missing(WaitFor::Enforced(policy("web")));
    assert_eq!(reason, "kernel: cannot apply: no memory");
    assert!(!waiter.is_finished());
    agent.kernel().refuse.clear();
    assert!(waiter.join().unwrap().unwrap().done, "it is tried again");
    assert_eq!(agent.kernel().completed, 2);
}

#[test]
fn a_program_that_the_kernel_refuses_keeps_its_policy_from_being_enforced_and_no_other() {
    let agent = start(&[("retry-interval", "60s")]);
    agent.send_all(SHOP);
    agent.until("complete", |agent| agent.kernel().completed == 1);
    agent.kernel().refuse.push_back(("too complex".to_owned(), true));
    agent.send(updates(&SHOP.replace("ports: [80]", "ports: [82]")));
    let reason = agent.missing(WaitFor::Enforced(policy("web")));
    assert!(reason.contains("too complex"), "{reason}");
    let other = ResourceKey::new(Kind::NetworkPolicy, Some("default"), "other");
    assert!(agent.waited(WaitFor::Enforced(other)).unwrap().done);
}

#[test]
fn a_second_half_that_fails_is_waited_for() {
    let agent = shop();
    agent.kernel().fail_complete.push_back("busy".to_owned());
    agent.send(updates(&SHOP.replace("ports: [80]", "ports: [81]")));
    let reason = agent.missing(WaitFor::Enforced(policy("web")));
    assert!(reason.contains("busy"), "{reason}");
    assert!(
        agent
            .wait(WaitFor::Enforced(policy("web")), LONG)
            .join()
            .unwrap()
            .unwrap()
            .done
    );
    assert_eq!(agent.kernel().completed, 2);
}

#[test]
fn a_deletion_is_waited_for() {
    let agent = shop();
    assert_eq!(agent.missing(WaitFor::Deleted(policy("web"))), "it is still there");
    let gone = agent.wait(WaitFor::Deleted(policy("web")), LONG);
    let enforced = agent.wait(WaitFor::Enforced(policy("web")), LONG);
    assert!(enforced.join().unwrap().unwrap().done);
    agent.kernel().hold = true;
    agent.send(vec![Update::Delete(policy("web"))]);
    agent.until("switched", |agent| agent.kernel().applied.len() == 2);
    std::thread::sleep(Duration::from_millis(20));
    assert!(!gone.is_finished());
    let enforced = agent.wait(WaitFor::Enforced(policy("web")), LONG).join().unwrap();
    assert!(matches!(enforced, Err(Refusal::Unknown(_))), "deleted meanwhile");
    agent.kernel().hold = false;
    assert!(gone.join().unwrap().unwrap().done);
    assert!(agent.waited(WaitFor::Deleted(policy("absent"))).unwrap().done);
}

#[test]
fn changes_that_never_end_hold_nobody_up() {
    let agent = shop();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for port in (81..65_000).cycle() {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                agent.send(updates(&SHOP.replace("ports: [80]", &format!("ports: [{port}]"))));
            }
        });
        for _ in 0..20 {
            assert!(
                agent
                    .wait(WaitFor::Enforced(policy("web")), LONG)
                    .join()
                    .unwrap()
                    .unwrap()
                    .done
            );
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn readiness_is_waited_for() {
    let agent = start(&[]);
    let waiter = agent.wait(WaitFor::Ready, LONG);
    let reason = agent.missing(WaitFor::Ready);
    assert!(reason.contains("has not been read completely yet"), "{reason}");
    agent.kernel().hold = true;
    agent.send_all(SHOP);
    agent.until("switched", |agent| agent.health.ready().is_ok());
    std::thread::sleep(Duration::from_millis(20));
    assert!(!waiter.is_finished());
    agent.kernel().hold = false;
    assert!(waiter.join().unwrap().unwrap().done);
}

#[test]
fn whoever_waits_when_the_agent_stops_is_told() {
    let agent = shop();
    agent.kernel().hold_barriers = true;
    let waiter = agent.wait(WaitFor::Enforced(policy("web")), LONG);
    agent.until("asked", |agent| agent.kernel().barriers == [1]);
    assert_eq!(agent.stop().0, Ok(()));
    assert_eq!(
        waiter.join().unwrap(),
        Err(Refusal::Failed("the agent is stopping".to_owned()))
    );
}
