//! Both halves against what others do to the host: sysctls, firewall, routes, the other ends of
//! pairs.

use felid_compile::nat::HostUse;
use felid_dataplane::kernel::InterferenceKind;
use felid_dataplane::{Dataplane, HostNetwork as _, Inspection as _};
use felid_lab::Host;

use crate::node::{allow, endpoint, on_host, set};
use crate::plane::{in_force, with_plane};

const A: &[&str] = &["10.65.0.2", "fd00:65::2"];
const B: &[&str] = &["10.65.0.3", "fd00:65::3"];

/// Acts on events until something holds.
async fn until(plane: &mut Dataplane, what: &str, holds: impl Fn(&Dataplane) -> bool) {
    for _ in 0..200 {
        if holds(plane) {
            return;
        }
        let event = plane.event().await.unwrap();
        drop(plane.handle(event).await);
    }
    panic!("{what}: {:?} {:?}", plane.interference(), plane.problems());
}

fn repaired(plane: &Dataplane, kind: InterferenceKind) -> u64 {
    plane.interference().repaired.get(&kind).copied().unwrap_or_default()
}

fn sysctl(path: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/net/{path}"))
        .unwrap()
        .trim()
        .to_owned()
}

fn run(host: &Host, command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    let output = host.namespace().output(&words).unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn sysctls_that_somebody_changes_are_set_again() {
    on_host(|host| {
        let a = host.workload("cali-a", A).unwrap();
        with_plane(host, async |mut plane| {
            in_force(&mut plane, &set([endpoint(&a, allow(), allow())])).await;
            for (path, wanted, other) in [
                ("ipv4/conf/cali-a/proxy_arp", "1", "0"),
                ("ipv4/conf/cali-a/rp_filter", "1", "2"),
                ("ipv6/conf/cali-a/accept_ra", "0", "2"),
                ("ipv6/conf/cali-a/forwarding", "1", "0"),
                ("ipv4/ip_forward", "1", "0"),
            ] {
                assert_eq!(sysctl(path), wanted);
                let before = repaired(&plane, InterferenceKind::Sysctl);
                std::fs::write(format!("/proc/sys/net/{path}"), other).unwrap();
                let again =
                    |plane: &Dataplane| sysctl(path) == wanted && repaired(plane, InterferenceKind::Sysctl) > before;
                until(&mut plane, path, again).await;
            }
        });
    });
}

#[test]
fn the_host_does_not_look_where_spoofed_sources_lead() {
    on_host(|host| {
        let (a, b) = (host.workload("cali-a", A).unwrap(), host.workload("cali-b", B).unwrap());
        with_plane(host, async |mut plane| {
            let mut spoofs = endpoint(&a, allow(), allow());
            spoofs.allow_spoofed_source_prefixes = vec!["192.0.2.0/24".parse().unwrap()];
            in_force(&mut plane, &set([spoofs, endpoint(&b, allow(), allow())])).await;
            assert_eq!(sysctl("ipv4/conf/cali-a/rp_filter"), "0");
            assert_eq!(sysctl("ipv4/conf/cali-b/rp_filter"), "1");
            std::fs::write("/proc/sys/net/ipv4/conf/cali-a/rp_filter", "1").unwrap();
            until(&mut plane, "loose again", |_| {
                sysctl("ipv4/conf/cali-a/rp_filter") == "0"
            })
            .await;
            // Who may do so no longer is looked at again.
            in_force(&mut plane, &set([endpoint(&a, allow(), allow())])).await;
            assert_eq!(sysctl("ipv4/conf/cali-a/rp_filter"), "1");
        });
    });
}

#[test]
fn a_firewall_that_forwards_nothing_by_itself_lets_workloads_through() {
    on_host(|host| {
        let (a, world) = (host.workload("cali-a", A).unwrap(), host.workload("world", B).unwrap());
        host.wire(&world).unwrap();
        // Nobody answers for the gateway there.
        let gateway = "neigh replace 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent";
        world.namespace.ip(gateway).unwrap();
        let listed = || run(host, "iptables-nft -S FORWARD");
        let own = || {
            listed()
                .lines()
                .filter(|line| line.contains("ACCEPT") && line.contains("cali+"))
                .count()
        };
        run(host, "iptables-nft -P FORWARD DROP");
        run(host, "ip6tables-nft -P FORWARD DROP");
        run(host, "iptables-nft -A FORWARD -d 192.0.2.99 -j DROP");
        with_plane(host, async |mut plane| {
            in_force(&mut plane, &set([endpoint(&a, allow(), allow())])).await;
            until(&mut plane, "rules", |_| own() == 2).await;
            assert!(
                listed().contains("-i cali+ -m comment") || listed().contains("-i cali+"),
                "{}",
                listed()
            );
            for address in B {
                let answered = (0..10).any(|_| a.namespace.pings(address).unwrap());
                let rules = run(host, "iptables-nft -v -n -L FORWARD") + &run(host, "ip route");
                assert!(answered, "{rules} {:?}", plane.kernel().drops().unwrap());
            }
            // Rules of others under a condition stay before felid's.
            assert!(listed().lines().nth(1).unwrap().contains("192.0.2.99"), "{}", listed());
            // Somebody removes them.
            run(host, "iptables-nft -F FORWARD");
            let again = |plane: &Dataplane| own() == 2 && repaired(plane, InterferenceKind::Firewall) == 1;
            until(&mut plane, "rules again", again).await;
            // Somebody rejects everything that comes so far.
            run(host, "iptables-nft -I FORWARD -j REJECT");
            let first = |_: &Dataplane| listed().lines().nth(1).unwrap().contains("cali+");
            until(&mut plane, "rules before it", first).await;
            assert_eq!(own(), 2);
            // Where nothing is dropped, nothing is needed.
            run(host, "iptables-nft -F FORWARD");
            run(host, "iptables-nft -P FORWARD ACCEPT");
            until(&mut plane, "no rules", |_| own() == 0).await;
            run(host, "iptables-nft -P FORWARD DROP");
            until(&mut plane, "rules", |_| own() == 2).await;
            // A chain of somebody's own cannot be helped, and is named.
            run(host, "nft add table inet wall");
            run(
                host,
                "nft add chain inet wall pass { type filter hook forward priority 5 ; policy drop ; }",
            );
            let told = |plane: &Dataplane| {
                plane
                    .problems()
                    .values()
                    .flatten()
                    .any(|problem| problem.contains("inet wall pass"))
            };
            until(&mut plane, "the chain is named", told).await;
            run(host, "nft delete table inet wall");
            until(&mut plane, "it is gone", |plane| !told(plane)).await;
            // So is the policy of the old iptables.
            run(host, "ip6tables-legacy -P FORWARD DROP");
            let told = |plane: &Dataplane| {
                plane
                    .problems()
                    .values()
                    .flatten()
                    .any(|problem| problem.contains("ip6tables-legacy -A"))
            };
            until(&mut plane, "the old iptables is named", told).await;
            run(host, "ip6tables-legacy -P FORWARD ACCEPT");
            until(&mut plane, "it is gone", |plane| !told(plane)).await;
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let cleaned = runtime
            .block_on(felid_dataplane::cleanup(
                host.bpffs(),
                &["cali".to_owned()],
                3,
                &mut |_| {},
            ))
            .unwrap();
        assert!(cleaned.is_empty(), "{cleaned:?}");
        assert_eq!(own(), 0, "{}", listed());
        assert!(!run(host, "ip6tables-nft -S FORWARD").contains("cali"));
    });
}

#[test]
fn a_route_of_others_that_hides_felids_is_told() {
    on_host(|host| {
        let a = host.workload("cali-a", A).unwrap();
        with_plane(host, async |mut plane| {
            in_force(&mut plane, &set([endpoint(&a, allow(), allow())])).await;
            assert!(plane.problems().is_empty(), "{:?}", plane.problems());
            let _other = host.workload("other", B).unwrap();
            host.namespace()
                .ip("-6 route add fd00:65::2/128 dev other metric 5")
                .unwrap();
            let told = |plane: &Dataplane| {
                let problems = plane.problems();
                problems
                    .get("cali-a")
                    .is_some_and(|problems| problems[0].contains("fd00:65::2 of cali-a is not reached"))
            };
            until(&mut plane, "told", told).await;
            host.namespace()
                .ip("-6 route del fd00:65::2/128 dev other metric 5")
                .unwrap();
            until(&mut plane, "over", |plane| plane.problems().is_empty()).await;
            // A rule that leads to another table does the same to IPv4, and shows with the next
            // look at everything.
            host.namespace()
                .ip("route add 10.65.0.2/32 dev other table 77")
                .unwrap();
            host.namespace()
                .ip("rule add pref 100 to 10.65.0.2/32 lookup 77")
                .unwrap();
            drop(plane.refresh().await);
            let told = |plane: &Dataplane| {
                plane
                    .problems()
                    .get("cali-a")
                    .is_some_and(|told| told[0].contains("10.65.0.2"))
            };
            until(&mut plane, "told", told).await;
        });
    });
}

#[test]
fn a_guest_behind_a_bridge_is_not_redirected_to() {
    on_host(|host| {
        let a = host.workload("cali-a", A).unwrap();
        with_plane(host, async |mut plane| {
            let mut record = endpoint(&a, allow(), allow());
            record.mac = None;
            in_force(&mut plane, &set([record])).await;
            let redirectable = |plane: &Dataplane| plane.endpoints()[0].redirectable;
            assert!(redirectable(&plane));
            a.namespace.ip("link add br0 type bridge").unwrap();
            a.namespace.ip("link set eth0 master br0").unwrap();
            until(&mut plane, "by the stack", |plane| !redirectable(plane)).await;
            a.namespace.ip("link set eth0 nomaster").unwrap();
            until(&mut plane, "redirected", redirectable).await;
        });
    });
}

#[test]
fn an_endpoint_outside_the_prefix_is_redirected_to_at_once() {
    on_host(|host| {
        let a = host.workload("veth-a", A).unwrap();
        let mut record = endpoint(&a, allow(), allow());
        record.mac = None;
        with_plane(host, async |mut plane| {
            in_force(&mut plane, &set([record.clone()])).await;
            assert!(plane.endpoints()[0].redirectable);
        });
        // And by the next agent.
        with_plane(host, async |mut plane| {
            in_force(&mut plane, &set([record])).await;
            assert!(plane.endpoints()[0].redirectable);
        });
    });
}

#[test]
fn addresses_that_the_host_needs_are_known() {
    on_host(|host| {
        let a = host.workload("cali-a", A).unwrap();
        let _uplink = host.workload("uplink0", &[]).unwrap();
        host.namespace().ip("addr add 192.0.2.1/24 dev uplink0").unwrap();
        host.namespace().ip("addr add 2001:db8::1/64 dev uplink0").unwrap();
        host.namespace().ip("link set uplink0 up").unwrap();
        host.namespace().ip("route add default via 192.0.2.254").unwrap();
        host.namespace()
            .ip("-6 route add 2001:db8:1::/48 via 2001:db8::fe")
            .unwrap();
        host.namespace()
            .ip("neigh add 192.0.2.7 lladdr 02:00:00:00:00:07 dev uplink0 nud reachable")
            .unwrap();
        host.namespace()
            .ip("neigh add 192.0.2.8 lladdr 02:00:00:00:00:08 dev uplink0 nud stale")
            .unwrap();
        with_plane(host, async |mut plane| {
            in_force(&mut plane, &set([endpoint(&a, allow(), allow())])).await;
            let uses = plane.host_uses();
            let of = |address: &str| uses.get(&address.parse().unwrap()).copied();
            assert_eq!(of("192.0.2.254"), Some(HostUse::NextHop));
            assert_eq!(of("2001:db8::fe"), Some(HostUse::NextHop));
            assert_eq!(of("192.0.2.7"), Some(HostUse::Neighbour));
            assert_eq!(of("192.0.2.8"), None, "it was only heard of");
            assert_eq!(of(A[0]), None, "workloads are not the host's neighbours");
        });
    });
}
