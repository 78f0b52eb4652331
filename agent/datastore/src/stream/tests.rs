//! A followed stream: what it says, added up.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use felid_model::{Kind, Resource, ResourceKey};
use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;
use tokio::sync::mpsc::error::TryRecvError;

use super::{StreamAddress, StreamSource};
use crate::{Batch, InForce, Origin, Problems, Reading, StartError, Update, start};

const LIMIT: Duration = Duration::from_secs(60);

struct Followed {
    home: TempDir,
    producer: Option<UnixStream>,
    reading: Option<(Reading, Receiver<Batch>)>,
    in_force: BTreeMap<String, Resource>,
    problems: Arc<Problems>,
    published: Vec<Update>,
}

impl Followed {
    fn new() -> Self {
        let mut followed = Self {
            home: tempfile::tempdir().unwrap(),
            producer: None,
            reading: None,
            in_force: BTreeMap::new(),
            problems: Arc::default(),
            published: Vec::new(),
        };
        followed.connect();
        followed
    }

    /// Ends what was there, and begins anew with the same state, on a connection.
    fn connect(&mut self) {
        self.reading = None;
        let (producer, connection) = UnixStream::pair().unwrap();
        let source = StreamSource::connected(OwnedFd::from(connection), "stream:test").unwrap();
        self.follow(source);
        self.producer = Some(producer);
    }

    /// The same on a socket, without a producer.
    fn listen(&mut self) {
        self.reading = None;
        self.producer = None;
        self.follow(StreamSource::open(&StreamAddress::Socket(self.socket())).unwrap());
        self.until("waiting", |followed| followed.is_lost());
    }

    fn socket(&self) -> std::path::PathBuf {
        self.home.path().join("records.sock")
    }

    fn produce(&mut self) {
        self.producer = Some(UnixStream::connect(self.socket()).unwrap());
    }

    fn follow(&mut self, source: StreamSource) {
        self.in_force.clear();
        self.published.clear();
        self.reading = Some(start(source, &self.home.path().join("state")).unwrap());
    }

    fn say(&mut self, lines: &[String]) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.producer.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Says lines and waits until they are in force.
    fn say_all(&mut self, lines: &[String]) {
        self.published.clear();
        self.say(lines);
        self.say(&[in_sync()]);
        self.until("in sync", |followed| followed.published.contains(&Update::InSync));
    }

    fn end(&mut self) {
        self.producer = None;
        self.until("lost", |followed| followed.is_lost());
    }

    fn is_lost(&self) -> bool {
        let connection = self
            .published
            .iter()
            .rfind(|update| matches!(update, Update::Lost(_) | Update::InSync | Update::ResyncBegins));
        matches!(connection, Some(Update::Lost(_)))
    }

    fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = Instant::now() + LIMIT;
        while !condition(self) {
            assert!(
                Instant::now() < end,
                "{what}: {:?}, {}",
                self.in_force.keys(),
                self.wrong()
            );
            match self.reading.as_mut().unwrap().1.try_recv() {
                Ok(batch) => self.take(batch),
                Err(TryRecvError::Empty) => std::thread::sleep(Duration::from_millis(1)),
                Err(TryRecvError::Disconnected) => panic!("{what}: the source has ended"),
            }
        }
    }

    fn take(&mut self, batch: Batch) {
        for update in &batch.updates {
            match update {
                Update::Apply(resource) => {
                    self.in_force.insert(resource.key().to_string(), resource.clone());
                }
                Update::Delete(key) => {
                    assert!(
                        self.in_force.remove(&key.to_string()).is_some(),
                        "{key} was not in force"
                    );
                }
                Update::ResyncBegins | Update::InSync | Update::Lost(_) | Update::Barrier(_) => {}
            }
        }
        self.published.extend(batch.updates);
        self.problems = batch.problems;
    }

    fn order(&self, name: &str) -> Option<f64> {
        match self.in_force.get(&format!("Tier/{name}"))? {
            Resource::Tier(tier) => tier.order,
            _ => None,
        }
    }

    fn wrong(&self) -> String {
        self.problems
            .list()
            .iter()
            .map(|problem| format!("{problem}\n"))
            .collect()
    }

    fn closed(&self) -> Vec<&Resource> {
        let closed = |resource: &&Resource| matches!(resource, Resource::BadPolicy(_));
        self.in_force.values().filter(closed).collect()
    }
}

fn in_sync() -> String {
    r#"{"inSync": true}"#.to_owned()
}

fn tier(name: &str, order: &str) -> String {
    format!(
        r#"{{"apply": {{"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {{"name": "{name}", "resourceVersion": "7"}}, "spec": {{"order": {order}}}}}}}"#
    )
}

fn delete(kind: &str, name: &str) -> String {
    format!(
        r#"{{"delete": {{"apiVersion": "projectcalico.org/v3", "kind": "{kind}", "metadata": {{"name": "{name}"}}}}}}"#
    )
}

fn policy(name: &str, action: &str) -> String {
    format!(
        r#"{{"apply": {{"apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy", "metadata": {{"name": "{name}", "namespace": "prod"}}, "spec": {{"selector": "role == 'db'", "ingress": [{{"action": "{action}"}}]}}}}}}"#
    )
}

#[test]
fn records_come_and_go() {
    let mut followed = Followed::new();
    followed.say_all(&[tier("a", "1"), tier("b", "2"), policy("p", "Allow")]);
    assert_eq!(followed.published.first(), Some(&Update::ResyncBegins));
    assert_eq!((followed.order("a"), followed.order("b")), (Some(1.0), Some(2.0)));
    followed.say_all(&[tier("a", "3"), delete("Tier", "b")]);
    assert_eq!((followed.order("a"), followed.order("b")), (Some(3.0), None));
    assert!(followed.in_force.contains_key("NetworkPolicy/prod/p"));
    assert!(followed.problems.is_empty(), "{}", followed.wrong());
    followed.end();
    assert_eq!(followed.in_force.len(), 2, "the end of the input takes nothing away");
}

#[test]
fn a_reconnection_computes_a_difference() {
    let mut followed = Followed::new();
    followed.listen();
    assert_eq!(
        followed.socket().metadata().unwrap().permissions().mode() & 0o777,
        0o600
    );
    followed.produce();
    followed.say_all(&[tier("a", "1"), tier("b", "2"), tier("c", "3")]);
    followed.end();
    followed.produce();
    followed.say_all(&[tier("c", "4"), tier("a", "1")]);
    let key = |name: &str| ResourceKey::new(Kind::Tier, None, name);
    let changes: Vec<&Update> = followed
        .published
        .iter()
        .filter(|update| matches!(update, Update::Apply(_) | Update::Delete(_)))
        .collect();
    assert_eq!(changes.len(), 2, "{changes:?}");
    assert!(changes.contains(&&Update::Delete(key("b"))));
    assert_eq!((followed.order("a"), followed.order("c")), (Some(1.0), Some(4.0)));
    let socket = followed.socket();
    followed.reading = None;
    assert!(!socket.exists());
}

#[test]
fn one_producer_at_a_time() {
    use std::io::Read;
    let mut followed = Followed::new();
    followed.listen();
    followed.produce();
    followed.say_all(&[tier("a", "1")]);
    let mut second = UnixStream::connect(followed.socket()).unwrap();
    assert_eq!(second.read(&mut [0]).unwrap(), 0, "it is turned away");
    followed.say_all(&[tier("a", "2")]);
    assert_eq!(followed.order("a"), Some(2.0));
    let other = StreamSource::open(&StreamAddress::Socket(followed.socket()));
    assert!(matches!(other, Err(StartError::Socket { .. })));
}

#[test]
fn a_bad_line_keeps_the_last_good_version() {
    let mut followed = Followed::new();
    followed.say_all(&[tier("a", "1"), policy("p", "Allow")]);
    followed.say_all(&[tier("a", "\"never\""), policy("p", "Alow")]);
    assert_eq!(followed.order("a"), Some(1.0));
    assert!(followed.closed().is_empty());
    let problem = followed
        .problems
        .list()
        .iter()
        .find(|problem| problem.resource.as_deref() == Some("Tier/a"));
    let problem = problem.unwrap();
    assert_eq!(problem.in_force, InForce::LastGood);
    let (key, resource_version) = (Arc::from("Tier/a"), Some(Arc::from("7")));
    assert_eq!(problem.origin, Some(Origin::Object { key, resource_version }));
    // Broken in the middle, as by a producer with a bug.
    let broken = policy("p", "Allow").replace("}]}}", "");
    followed.say_all(&[broken, tier("a", "2")]);
    assert_eq!(followed.order("a"), Some(2.0));
    assert!(followed.closed().is_empty(), "{:?}", followed.closed());
    assert!(
        followed.wrong().contains("NetworkPolicy/prod/p"),
        "{}",
        followed.wrong()
    );
    followed.say_all(&[policy("p", "Deny")]);
    assert!(followed.problems.is_empty(), "{}", followed.wrong());
}

#[test]
fn a_policy_that_is_bad_from_the_start_closes() {
    let mut followed = Followed::new();
    followed.say_all(&[policy("p", "Alow")]);
    assert_eq!(followed.closed().len(), 1);
    assert_eq!(followed.problems.list().first().unwrap().in_force, InForce::Closed);
    followed.say_all(&[delete("GlobalNetworkPolicy", "other")]);
    assert_eq!(followed.closed().len(), 1);
    followed.say_all(&[policy("p", "Allow")]);
    assert!(
        followed.closed().is_empty() && followed.problems.is_empty(),
        "{}",
        followed.wrong()
    );
}

#[test]
fn a_line_that_may_be_a_policy_closes_until_the_next_resync() {
    for line in [
        r#"{"apply": {"kind": "NetworkPolicy", "spec": {"#.to_owned(),
        r#"{"apply": {"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "spec": {}}}"#.to_owned(),
        // The envelope is missing.
        policy("p", "Allow")
            .trim_start_matches(r#"{"apply": "#)
            .trim_end_matches('}')
            .to_owned()
            + "}}",
        // Two things at once.
        policy("p", "Allow").trim_end_matches('}').to_owned() + r#"}}, "inSync": true}"#,
    ] {
        let mut followed = Followed::new();
        followed.listen();
        followed.produce();
        followed.say_all(&[tier("a", "1"), line.clone()]);
        assert_eq!(followed.closed().len(), 1, "{line}: {}", followed.wrong());
        let problem = followed.problems.list().first().unwrap();
        let path = format!("stream:{}", followed.socket().display());
        assert_eq!(problem.file(), Some((path.as_str(), Some(2))), "{line}");
        followed.say_all(&[tier("a", "2")]);
        assert_eq!(followed.closed().len(), 1, "{line}");
        // A producer that comes back closes it until everything is told.
        followed.end();
        followed.produce();
        followed.say(&[tier("a", "3")]);
        followed.until("in force", |followed| followed.order("a") == Some(3.0));
        assert_eq!(followed.closed().len(), 1, "{line}");
        followed.say_all(&[]);
        assert!(
            followed.closed().is_empty() && followed.problems.is_empty(),
            "{line}: {}",
            followed.wrong()
        );
    }
}

#[test]
fn a_line_that_is_no_policy_closes_nothing() {
    for line in [
        "hello",
        "{}",
        "[]",
        "null",
        r#"{"inSync": false}"#,
        r#"{"apply": 1}"#,
        r#"{"delete": {"kind": "NetworkPolicy"}}"#,
        r#"{"delete": {"apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy", "meta"#,
        r#"{"patch": {"kind": "Tier"}}"#,
        r#"{"apply": {"kind": "Tier", "metadata": "#,
    ] {
        let mut followed = Followed::new();
        followed.say_all(&[policy("p", "Allow"), line.to_owned()]);
        assert!(followed.closed().is_empty(), "{line}: {:?}", followed.closed());
        assert_eq!(followed.problems.errors().count(), 1, "{line}: {}", followed.wrong());
        assert!(followed.in_force.contains_key("NetworkPolicy/prod/p"), "{line}");
    }
}

#[test]
fn a_resync_with_a_line_that_may_be_anything_deletes_nothing() {
    let mut followed = Followed::new();
    followed.listen();
    followed.produce();
    followed.say_all(&[tier("a", "1"), policy("p", "Allow")]);
    followed.end();
    followed.produce();
    followed.say_all(&[tier("a", "1"), "{\"apply\": {\"nothing".to_owned()]);
    assert!(followed.in_force.contains_key("NetworkPolicy/prod/p"));
    assert!(
        followed.wrong().contains("did not name 1 resources"),
        "{}",
        followed.wrong()
    );
    followed.say(&[r#"{"resync": true}"#.to_owned()]);
    followed.say_all(&[tier("a", "1")]);
    assert!(!followed.in_force.contains_key("NetworkPolicy/prod/p"));
    assert!(followed.problems.is_empty(), "{}", followed.wrong());
}

#[test]
fn last_good_versions_outlive_the_agent() {
    let mut followed = Followed::new();
    followed.say_all(&[
        tier("a", "1"),
        tier("b", "1"),
        policy("p", "Allow"),
        policy("q", "Alow"),
    ]);
    followed.say_all(&[tier("a", "\"never\"")]);
    followed.listen();
    assert_eq!((followed.order("a"), followed.order("b")), (Some(1.0), Some(1.0)));
    assert_eq!(followed.closed().len(), 1);
    assert!(followed.published.contains(&Update::InSync));
    followed.produce();
    followed.say_all(&[tier("a", "\"never\""), policy("p", "Alow"), policy("q", "Alow")]);
    assert_eq!((followed.order("a"), followed.order("b")), (Some(1.0), None));
    assert_eq!(followed.closed().len(), 1);
    let good = followed.in_force.get("NetworkPolicy/prod/p");
    assert!(matches!(good, Some(Resource::Policy(_))), "{good:?}");
}

#[test]
fn an_end_before_everything_was_told_deletes_nothing() {
    let mut followed = Followed::new();
    followed.listen();
    followed.produce();
    followed.say_all(&[tier("a", "1"), tier("b", "1")]);
    followed.end();
    followed.produce();
    followed.say(&[tier("a", "2")]);
    followed.until("in force", |followed| followed.order("a") == Some(2.0));
    // Ends in the middle of a policy: nothing is closed by that.
    followed
        .producer
        .as_mut()
        .unwrap()
        .write_all(br#"{"apply": {"kind": "NetworkPolicy""#)
        .unwrap();
    followed.end();
    assert_eq!(followed.order("b"), Some(1.0));
    assert!(
        followed.closed().is_empty() && followed.problems.is_empty(),
        "{}",
        followed.wrong()
    );
    let reason = followed.published.iter().rev().find_map(|update| match update {
        Update::Lost(reason) => Some(Arc::clone(reason)),
        _ => None,
    });
    let reason = reason.unwrap();
    assert!(
        reason.contains("before {\"inSync\": true}") && reason.contains("has no end"),
        "{reason}"
    );
}

#[test]
fn lists_and_kinds_of_others() {
    let mut followed = Followed::new();
    let list = r#"{"apply": {"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "a"}, "spec": {"order": 1}}, {"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "b"}, "spec": {"order": 2}}]}}"#;
    let other = r#"{"apply": {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}}}"#;
    followed.say_all(&[list.to_owned(), other.to_owned()]);
    assert_eq!((followed.order("a"), followed.order("b")), (Some(1.0), Some(2.0)));
    assert_eq!(
        (followed.problems.errors().count(), followed.problems.warnings().count()),
        (0, 1)
    );
    followed.say_all(&[
        r#"{"delete": {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}}}"#.to_owned(),
    ]);
    assert!(followed.problems.is_empty(), "{}", followed.wrong());
    // One item of a list goes by itself.
    followed.say_all(&[delete("Tier", "a")]);
    assert_eq!((followed.order("a"), followed.order("b")), (None, Some(2.0)));
}

#[test]
fn an_endpoint_may_leave_its_name_to_its_identifiers() {
    let endpoint = r#"{"apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint", "metadata": {"namespace": "prod"}, "spec": {"node": "n", "orchestrator": "k8s", "pod": "a", "endpoint": "eth0", "interfaceName": "cali1", "ipNetworks": ["10.0.0.1/32"]}}"#;
    let mut followed = Followed::new();
    followed.say_all(&[format!(r#"{{"apply": {endpoint}}}"#)]);
    assert_eq!(
        followed.in_force.keys().collect::<Vec<_>>(),
        ["WorkloadEndpoint/prod/n-k8s-a-eth0"]
    );
    followed.say_all(&[format!(r#"{{"delete": {endpoint}}}"#)]);
    assert!(
        followed.in_force.is_empty() && followed.problems.is_empty(),
        "{}",
        followed.wrong()
    );
}

#[test]
fn lines_that_are_not_understood_are_bounded() {
    let mut followed = Followed::new();
    let mut lines: Vec<String> = (0..1000).map(|number| format!("nonsense {number}")).collect();
    lines.push(r#"{"apply": {"kind": "GlobalNetworkPolicy", "spec": {"#.to_owned());
    followed.say_all(&lines);
    assert!(
        followed.problems.list().len() < 100,
        "{}",
        followed.problems.list().len()
    );
    assert!(followed.wrong().contains("937 more lines"), "{}", followed.wrong());
    assert_eq!(followed.closed().len(), 1);
    followed.say(&[r#"{"resync": true}"#.to_owned()]);
    followed.say_all(&[]);
    assert!(followed.problems.is_empty(), "{}", followed.wrong());
}

#[test]
fn records_can_be_taken_as_they_stand() {
    // Ports without a protocol: no datastore would take it, but it is plain what it means.
    let line = policy(
        "p",
        "Allow\", \"destination\": {\"ports\": [80]}, \"notProtocol\": \"ICMP",
    );
    for literal in [false, true] {
        let (mut producer, connection) = UnixStream::pair().unwrap();
        let source = StreamSource::connected(OwnedFd::from(connection), "stream:test").unwrap();
        let source = if literal { source.taken_literally() } else { source };
        let state = tempfile::tempdir().unwrap();
        let (_reading, mut batches) = start(source, state.path()).unwrap();
        writeln!(producer, "{line}\n{}", in_sync()).unwrap();
        let mut updates = Vec::new();
        while !updates.contains(&Update::InSync) {
            updates.extend(batches.blocking_recv().unwrap().updates);
        }
        let is_policy = |update: &Update| matches!(update, Update::Apply(Resource::Policy(_)));
        assert_eq!(updates.iter().any(is_policy), literal, "{updates:?}");
    }
}

#[test]
fn a_barrier_is_passed_after_what_was_said_before_it() {
    let mut followed = Followed::new();
    followed.say_all(&[]);
    for number in 0..50_u32 {
        followed.say(&[tier("t", &number.to_string())]);
        followed.ask(number.into());
        followed.until_passed(number.into());
        assert_eq!(followed.order("t"), Some(f64::from(number)));
    }
}

#[test]
fn a_barrier_waits_for_a_producer_and_the_end_of_its_resync() {
    let mut followed = Followed::new();
    followed.say_all(&[tier("t", "1")]);
    followed.listen();
    followed.ask(1);
    followed.produce();
    followed.say(&[tier("t", "2")]);
    std::thread::sleep(Duration::from_millis(200));
    followed.until("told", |followed| followed.order("t") == Some(2.0));
    assert!(!followed.published.contains(&Update::Barrier(1)));
    followed.say(&[in_sync()]);
    followed.until_passed(1);
}

impl Followed {
    fn ask(&self, number: u64) {
        self.reading.as_ref().unwrap().0.control().barrier(number);
    }

    fn until_passed(&mut self, number: u64) {
        self.until("the barrier is passed", |followed| {
            followed.published.contains(&Update::Barrier(number))
        });
    }
}
