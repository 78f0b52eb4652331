//! What translations change in the host's network, beside what others have put there.

use std::collections::BTreeSet;
use std::time::Duration;

use felid_compile::nat::{Mapping, Mappings};
use felid_compile::planner::Planner;
use felid_compile::transaction::EndpointId;
use felid_dataplane::{
    AddressTranslation as _, Dataplane, Enforcement as _, HostNetwork as _, Inspection as _, Options,
};
use felid_lab::Host;

use crate::node::{allow, config, endpoint, on_host, set};

const A: &str = "10.65.0.2";
const A6: &str = "fd00:65::2";

fn to_a(external: &[&str], endpoint: EndpointId) -> Mappings {
    let one = |external: &&str| {
        let internal = A.parse().unwrap();
        (external.parse().unwrap(), Mapping { internal, endpoint })
    };
    external.iter().map(one).collect()
}

/// Runs a test with both halves, one endpoint, and an uplink `up0` in 192.0.2.0/24.
fn with_uplink<F: Future<Output = ()>>(host: &Host, test: impl FnOnce(Dataplane, EndpointId) -> F) {
    let here = host.namespace();
    for command in [
        "link add up0 type veth peer name up1",
        "addr add 192.0.2.1/24 dev up0",
        "link set up0 up",
        "link set up1 up",
    ] {
        here.ip(command).unwrap();
    }
    let a = host.workload("cali-a", &[A, A6]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let options = Options {
        kernel: config(host),
        route_protocol: 3,
    };
    runtime.block_on(async {
        let (mut plane, adopted) = Dataplane::open(&options).await.unwrap();
        let mut planner = Planner::new(plane.kernel().planner_options(), adopted);
        planner.set_host_addresses(plane.host_addresses().clone());
        planner.update(&set([endpoint(&a, allow(), allow())]));
        let transaction = planner.plan().unwrap().unwrap();
        let errors = plane.apply(&transaction).await.unwrap().errors;
        assert!(errors.is_empty(), "{errors:?}");
        plane.complete(&transaction).unwrap();
        planner.committed();
        plane.set_announcement(true);
        let id = planner.endpoints().next().unwrap().id;
        test(plane, id).await;
    });
}

async fn set_nats(plane: &mut Dataplane, wanted: &Mappings) {
    let (_, errors) = plane.set_nats(wanted).await.unwrap();
    assert!(errors.is_empty(), "{errors:?}");
}

/// Acts on events until none comes for a moment.
async fn settle(plane: &mut Dataplane) -> Vec<String> {
    let mut errors = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(200), plane.event()).await {
        let handled = plane.handle(event).await;
        errors.extend(handled.errors.iter().map(ToString::to_string));
    }
    errors
}

/// Proxy neighbours, with their protocol.
fn entries(host: &Host) -> BTreeSet<String> {
    let all = host.namespace().ip("-d neigh show proxy").unwrap();
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    all.lines().map(words).collect()
}

fn lines(expected: &[&str]) -> BTreeSet<String> {
    expected.iter().map(|line| (*line).to_owned()).collect()
}

const OURS: &str = "192.0.2.11 dev up0 proxy proto 254";

#[test]
fn proxy_neighbours_of_others_stay_as_they_are() {
    on_host(|host| {
        with_uplink(host, async |mut plane, id| {
            let here = host.namespace();
            here.ip("neigh add proxy 192.0.2.10 dev up0 protocol static").unwrap();
            here.ip("neigh add proxy 192.0.2.12 dev up0").unwrap();
            let theirs = entries(host);
            assert_eq!(theirs.len(), 2);
            let with_ours = theirs.union(&lines(&[OURS])).cloned().collect::<BTreeSet<_>>();
            let external = ["192.0.2.10", "192.0.2.11", "192.0.2.12"];
            set_nats(&mut plane, &to_a(&external, id)).await;
            assert_eq!(entries(host), with_ours);
            assert!(plane.refresh().await.errors.is_empty());
            assert_eq!(entries(host), with_ours);
            set_nats(&mut plane, &Mappings::new()).await;
            assert_eq!(entries(host), theirs);
        });
    });
}

#[test]
fn proxy_neighbours_come_back_with_their_interface() {
    on_host(|host| {
        with_uplink(host, async |mut plane, id| {
            let here = host.namespace();
            here.sysctl("net/ipv4/conf/up0/forwarding", "0").unwrap();
            // Else a link-local address goes and comes with it, which is an event of its own.
            here.sysctl("net/ipv6/conf/up0/disable_ipv6", "1").unwrap();
            assert_eq!(settle(&mut plane).await, Vec::<String>::new());
            set_nats(&mut plane, &to_a(&["192.0.2.11"], id)).await;
            let forwarding = here.exec(&["cat", "/proc/sys/net/ipv4/conf/up0/forwarding"]).unwrap();
            assert_eq!(forwarding.trim(), "1", "without it nobody is answered");
            assert_eq!(settle(&mut plane).await, Vec::<String>::new());
            assert_eq!(entries(host), lines(&[OURS]));
            here.ip("link set up0 down").unwrap();
            assert_eq!(entries(host), lines(&[]), "the kernel drops them");
            here.ip("link set up0 up").unwrap();
            assert_eq!(settle(&mut plane).await, Vec::<String>::new());
            assert_eq!(entries(host), lines(&[OURS]));
        });
    });
}

#[test]
fn routes_of_others_to_external_addresses_stay() {
    on_host(|host| {
        with_uplink(host, async |mut plane, id| {
            let here = host.namespace();
            let internal = A6.parse().unwrap();
            let six = Mapping { internal, endpoint: id };
            here.ip("-6 route add 2001:db8::10 dev up0").unwrap();
            let (_, errors) = plane
                .set_nats(&Mappings::from([("2001:db8::10".parse().unwrap(), six)]))
                .await
                .unwrap();
            assert_eq!(errors.len(), 1, "{errors:?}");
            let theirs = here.ip("-6 route show 2001:db8::10").unwrap();
            assert!(theirs.contains("dev up0") && !theirs.contains("cali-a"), "{theirs}");
            set_nats(&mut plane, &Mappings::new()).await;
            // With the protocol number of felid's own routes.
            here.ip("route add 192.0.2.10 dev up0").unwrap();
            let routes = || here.ip("route show 192.0.2.10").unwrap().trim().to_owned();
            let theirs = routes();
            let ours = || here.ip("route show 192.0.2.11").unwrap();
            let wanted = to_a(&["192.0.2.10", "192.0.2.11"], id);
            let (_, errors) = plane.set_nats(&wanted).await.unwrap();
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert!(
                texts.len() == 1 && texts[0].contains("another route to 192.0.2.10"),
                "{texts:?}"
            );
            assert_eq!(routes(), theirs);
            assert!(ours().contains("via 10.65.0.2 dev cali-a"), "{}", ours());
            assert!(plane.problems().contains_key("cali-a"));
            // It is looked at again with everything else.
            assert!(plane.refresh().await.errors.is_empty());
            assert_eq!(settle(&mut plane).await, texts);
            assert_eq!(routes(), theirs);
            here.ip("route del 192.0.2.10").unwrap();
            assert!(plane.refresh().await.errors.is_empty());
            assert_eq!(settle(&mut plane).await, Vec::<String>::new());
            assert!(routes().contains("via 10.65.0.2 dev cali-a"), "{}", routes());
            assert!(plane.problems().is_empty());
            set_nats(&mut plane, &Mappings::new()).await;
            assert_eq!(routes(), "");
        });
    });
}
