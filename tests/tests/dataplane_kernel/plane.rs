//! Both halves: what the host's network tells, and what the kernel half makes of it.

use std::os::fd::AsFd as _;

use felid_compile::planner::Planner;
use felid_dataplane::kernel::{Config, Role};
use felid_dataplane::net::{Event, Net};
use felid_dataplane::{Dataplane, Enforcement as _, HostNetwork as _, Inspection as _, Options, sys};
use felid_lab::Host;
use felid_model::resolved::Delta;

use crate::links::foreign;
use crate::node::{Node, allow, config, endpoint, gone, on_host, set};

const A: &[&str] = &["10.65.0.2", "fd00:65::2"];
const B: &[&str] = &["10.65.0.3", "fd00:65::3"];

/// Runs a test with both halves, in the host's namespace.
pub(crate) fn with_plane<F: Future<Output = ()>>(host: &Host, test: impl FnOnce(Dataplane) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (plane, _) = Dataplane::open(&options(config(host))).await.unwrap();
        test(plane).await;
    });
}

fn options(kernel: Config) -> Options {
    Options {
        kernel,
        route_protocol: 3,
    }
}

/// Acts on events until none comes for a moment.
async fn settle(plane: &mut Dataplane) {
    while let Ok(Some(event)) = tokio::time::timeout(std::time::Duration::from_millis(200), plane.event()).await {
        let handled = plane.handle(event).await;
        assert!(handled.errors.is_empty(), "{:?}", handled.errors);
    }
}

/// Puts endpoints in force.
pub(crate) async fn in_force(plane: &mut Dataplane, delta: &Delta) {
    let mut planner = Planner::new(plane.kernel().planner_options(), plane.kernel().adopt());
    planner.update(delta);
    let transaction = planner.plan().unwrap().unwrap();
    let errors = plane.apply(&transaction).await.unwrap().errors;
    assert!(errors.is_empty(), "{errors:?}");
    plane.complete(&transaction).unwrap();
    settle(plane).await;
}

fn role(plane: &Dataplane, ifindex: u32) -> Option<Role> {
    plane.kernel().roles().get(&ifindex).copied().flatten()
}

#[test]
fn a_stale_word_of_a_link_that_is_gone_detaches_nothing() {
    on_host(|host| {
        let a = host.workload("cali-a", A).unwrap();
        with_plane(host, async |mut plane| {
            assert_eq!(role(&plane, a.ifindex), Some(Role::Closed));
            let handled = plane.handle(Event::LinkGone(a.ifindex)).await;
            assert!(handled.errors.is_empty(), "{:?}", handled.errors);
            assert_eq!(role(&plane, a.ifindex), Some(Role::Closed));
            // An old name is no better.
            let links = Net::open(3).unwrap().0.links().await.unwrap();
            let mut old = links.list.into_iter().find(|link| link.index == a.ifindex).unwrap();
            old.name = "uplink".into();
            let handled = plane.handle(Event::Link(old)).await;
            assert!(handled.errors.is_empty(), "{:?}", handled.errors);
            assert_eq!(role(&plane, a.ifindex), Some(Role::Closed));
            host.namespace().ip("link del cali-a").unwrap();
            settle(&mut plane).await;
            assert_eq!(role(&plane, a.ifindex), None);
        });
    });
}

#[test]
fn a_link_that_is_said_to_be_gone_is_asked_about_until_the_kernel_answers() {
    on_host(|host| {
        let a = host.workload("cali-a", A).unwrap();
        let runtime = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
        };
        let first = runtime();
        let (mut plane, _) = first.block_on(Dataplane::open(&options(config(host)))).unwrap();
        // The connection to the kernel goes with the runtime that drove it.
        drop(first);
        host.namespace().ip("link del cali-a").unwrap();
        runtime().block_on(async {
            let handled = plane.handle(Event::LinkGone(a.ifindex)).await;
            assert_eq!(handled.errors.len(), 1, "{:?}", handled.errors);
            assert_eq!(role(&plane, a.ifindex), Some(Role::Closed));
            let handled = plane.handle(Event::Addresses).await;
            assert!(handled.errors.is_empty(), "{:?}", handled.errors);
            assert_eq!(role(&plane, a.ifindex), None);
        });
    });
}

#[test]
fn what_is_learnt_beside_a_queueing_discipline_is_acted_upon() {
    on_host(|host| {
        let (a, b) = (host.workload("cali-a", A).unwrap(), host.workload("cali-b", B).unwrap());
        with_plane(host, async |mut plane| {
            in_force(
                &mut plane,
                &set([&a, &b].map(|workload| endpoint(workload, allow(), allow()))),
            )
            .await;
            let routes = |interface: &str| {
                let shown = host
                    .namespace()
                    .exec(&["ip", "route", "show", "dev", interface])
                    .unwrap();
                shown.contains(A[0])
            };
            assert!(routes("cali-a"));
            // The event of the new name is not read before that of the queueing discipline leads to
            // the question.
            host.namespace().ip("link set cali-a name cali-c").unwrap();
            let handled = plane.handle(Event::Traffic(a.ifindex)).await;
            assert!(handled.errors.is_empty(), "{:?}", handled.errors);
            settle(&mut plane).await;
            assert!(!routes("cali-c"));
            assert_eq!(role(&plane, a.ifindex), Some(Role::Closed));
        });
    });
}

#[test]
fn an_interface_that_took_the_index_of_another_is_closed() {
    on_host(|host| {
        let a = host.workload("cali-a", A).unwrap();
        with_plane(host, async |mut plane| {
            let index = a.ifindex;
            host.namespace().ip("link del cali-a").unwrap();
            host.namespace()
                .ip(&format!("link add cali-a index {index} type veth peer name other"))
                .unwrap();
            settle(&mut plane).await;
            assert_eq!(role(&plane, index), Some(Role::Closed));
            for hook in sys::Hook::ALL {
                assert_eq!(sys::attached(index, hook).unwrap().len(), 1);
            }
        });
    });
}

#[test]
fn lists_are_whole_while_links_come_and_go() {
    on_host(|host| {
        let fixed: Vec<u32> = (0..40)
            .map(|n| {
                let name = format!("cali{n}");
                host.namespace()
                    .ip(&format!("link add {name} type veth peer name p{n}"))
                    .unwrap();
                host.namespace().ifindex(&name).unwrap()
            })
            .collect();
        with_plane(host, async |mut plane| {
            let batch: String = (0..60)
                .map(|n| format!("link add x{n} type veth peer name y{n}\nlink del x{n}\n"))
                .collect();
            let file = host.directory().join("batch");
            std::fs::write(&file, batch).unwrap();
            let mut child = host
                .namespace()
                .start("ip", |command| {
                    command.arg("-batch").arg(&file);
                })
                .unwrap();
            while child.try_wait().unwrap().is_none() {
                drop(plane.refresh().await);
                for &index in &fixed {
                    assert_eq!(role(&plane, index), Some(Role::Closed));
                }
            }
        });
    });
}

#[test]
fn classifiers_of_others_are_reported_and_end_the_fast_path() {
    on_host(|host| {
        let (a, b) = (host.workload("cali-a", A).unwrap(), host.workload("cali-b", B).unwrap());
        with_plane(host, async |mut plane| {
            in_force(
                &mut plane,
                &set([&a, &b].map(|workload| endpoint(workload, allow(), allow()))),
            )
            .await;
            let seen = |plane: &Dataplane| {
                let all = plane.kernel().endpoints();
                let state = all.iter().find(|state| state.ifindex == Some(b.ifindex)).unwrap();
                (state.redirectable, state.foreign.filters.to_vec())
            };
            assert_eq!(seen(&plane), (true, Vec::new()));
            let pin = host.bpffs().join("foreign");
            sys::pin(foreign().as_fd(), &pin).unwrap();
            for command in [
                "tc qdisc add dev cali-b clsact".to_owned(),
                format!("tc filter add dev cali-b egress bpf da pinned {}", pin.display()),
            ] {
                host.namespace().exec(&command.split(' ').collect::<Vec<_>>()).unwrap();
            }
            settle(&mut plane).await;
            let (redirectable, filters) = seen(&plane);
            assert!(!redirectable && filters.len() == 1, "{filters:?}");
            assert!(
                filters[0].starts_with("bpf ") && filters[0].ends_with(" (egress)"),
                "{filters:?}"
            );
            assert!((0..10).any(|_| a.namespace.pings(B[0]).unwrap()));
            host.namespace()
                .exec(&["tc", "qdisc", "del", "dev", "cali-b", "clsact"])
                .unwrap();
            settle(&mut plane).await;
            assert_eq!(seen(&plane), (true, Vec::new()));
            // A shaper is seen, too.
            host.namespace()
                .exec(&["tc", "qdisc", "add", "dev", "cali-b", "root", "pfifo"])
                .unwrap();
            settle(&mut plane).await;
            assert!(!seen(&plane).0);
        });
        // And by an agent that starts later.
        drop(Node::open(host));
    });
}

#[test]
fn tables_of_kube_proxy_are_seen() {
    on_host(|host| {
        let run = |command: &str| host.namespace().exec(&command.split(' ').collect::<Vec<_>>()).unwrap();
        let seen = felid_dataplane::net::kube_proxy;
        assert_eq!(seen(), Vec::<String>::new());
        let tables = || std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").ok();
        let before = tables();
        run("nft add table ip nat");
        run("nft add chain ip nat KUBE-SEP");
        assert_eq!(seen(), Vec::<String>::new());
        assert_eq!(tables(), before, "looking makes no tables");
        run("nft add chain ip nat KUBE-SERVICES");
        assert_eq!(seen(), ["iptables chain KUBE-SERVICES"]);
        run("nft delete table ip nat");
        run("nft add table ip6 kube-proxy");
        assert_eq!(seen(), ["nftables table ip6 kube-proxy"]);
        run("nft delete table ip6 kube-proxy");
        for command in ["iptables-legacy", "ip6tables-legacy"] {
            run(&format!("{command} -t nat -N KUBE-MARK"));
            assert_eq!(seen(), Vec::<String>::new());
            run(&format!("{command} -t nat -N KUBE-SERVICES"));
            assert_eq!(
                seen(),
                [format!("{} chain KUBE-SERVICES", &command[..command.len() - 7])]
            );
            run(&format!("{command} -t nat -X KUBE-SERVICES"));
        }
    });
}

#[test]
fn what_an_earlier_run_guarded_and_nobody_claims_stays_closed_and_is_named() {
    on_host(|host| {
        // Outside the prefix of workloads' interfaces.
        let a = host.workload("tap-a", A).unwrap();
        let claimed = set([endpoint(&a, allow(), allow())]);
        with_plane(host, async |mut plane| {
            in_force(&mut plane, &claimed).await;
            assert!(matches!(role(&plane, a.ifindex), Some(Role::Stub(_))));
            assert!(plane.unclaimed().is_empty());
        });
        // The records of another node: none is of this one. Twice, for the first such run leaves no
        // endpoint to be recognised.
        for _ in 0..2 {
            with_plane(host, async |mut plane| {
                let mut planner = Planner::new(plane.kernel().planner_options(), plane.kernel().adopt());
                if let Some(transaction) = planner.plan().unwrap() {
                    let errors = plane.apply(&transaction).await.unwrap().errors;
                    assert!(errors.is_empty(), "{errors:?}");
                    plane.complete(&transaction).unwrap();
                }
                settle(&mut plane).await;
                for hook in sys::Hook::ALL {
                    assert_eq!(sys::attached(a.ifindex, hook).unwrap().len(), 1, "it is closed");
                }
                assert!(!matches!(role(&plane, a.ifindex), Some(Role::Stub(_))));
                assert_eq!(plane.unclaimed(), ["tap-a".into()].into());
            });
        }
        with_plane(host, async |mut plane| {
            in_force(&mut plane, &claimed).await;
            assert!(matches!(role(&plane, a.ifindex), Some(Role::Stub(_))), "claimed again");
            assert!(plane.unclaimed().is_empty());
            // What goes while the agent looks is let go.
            in_force(&mut plane, &gone(&a)).await;
            assert_eq!(role(&plane, a.ifindex), None);
            assert!(plane.unclaimed().is_empty());
        });
    });
}
