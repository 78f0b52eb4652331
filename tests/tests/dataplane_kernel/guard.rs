//! What others do to felid's programs, links, pins and sysctls is noticed, undone and told.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use felid_compile::program::Insn;
use felid_dataplane::kernel::{self, GuardReport, InterferenceKind, Role};
use felid_dataplane::{Config, Kernel, KernelError, sys};
use felid_lab::{Host, Workload};

use crate::node::{Node, allow, config, deny, endpoint, on_host, set};

const A: &[&str] = &["10.65.0.2", "fd00:65::2"];

/// A classifier of somebody else's that lets everything pass by what comes after it (`TC_ACT_OK`).
fn passes_everything() -> OwnedFd {
    let insn = |code| Insn {
        code,
        dst: 0,
        src: 0,
        off: 0,
        imm: 0,
    };
    sys::load_classifier(&[insn(0xb7), insn(0x95)], "observer").unwrap()
}

fn intrude(workload: &Workload, hook: sys::Hook) -> OwnedFd {
    sys::attach_first(passes_everything().as_fd(), workload.ifindex, hook).unwrap()
}

/// Names of the programs at a hook, in the order in which they run.
fn names(workload: &Workload, hook: sys::Hook) -> Vec<String> {
    let all = sys::attached(workload.ifindex, hook).unwrap();
    let name = |program| {
        sys::program_info(sys::program_by_id(program).unwrap().as_fd())
            .unwrap()
            .name
    };
    all.into_iter().map(|(program, _)| name(program)).collect()
}

fn kinds(report: &GuardReport) -> Vec<InterferenceKind> {
    report.repaired.iter().map(|(kind, _)| *kind).collect()
}

fn quiet(report: &GuardReport) -> bool {
    report.repaired.is_empty() && report.problems.is_empty()
}

fn denied(host: &Host) -> (Node, Workload) {
    let a = host.workload("cali-a", A).unwrap();
    host.wire(&a).unwrap();
    let mut node = Node::open(host);
    node.links(&[&a]);
    node.commit(&set([endpoint(&a, deny(), deny())]));
    (node, a)
}

#[test]
fn the_first_place_is_taken_back_at_every_hook() {
    on_host(|host| {
        let (mut node, a) = denied(host);
        assert!(quiet(&node.kernel.guard(Instant::now())));
        for hook in sys::Hook::ALL {
            let before = names(&a, hook);
            let intruder = intrude(&a, hook);
            assert_eq!(names(&a, hook)[0], "observer");
            let report = node.kernel.guard(Instant::now());
            assert_eq!(kinds(&report), [InterferenceKind::Displaced]);
            let told = &report.repaired[0].1;
            assert!(told.contains("observer") && told.contains("cali-a"), "{told}");
            assert_eq!(
                names(&a, hook),
                [before[0].clone(), "observer".to_owned()],
                "once, and first"
            );
            assert!(quiet(&node.kernel.guard(Instant::now())));
            let foreign = &node.kernel.endpoints()[0].foreign;
            assert!(foreign.before.is_empty() && !foreign.after.is_empty(), "{foreign:?}");
            drop(intruder);
        }
        // The links that hold the first place now are pinned: they outlive the agent.
        drop(node);
        let node = Node::open(host);
        assert_eq!(node.role(a.ifindex), Some(Role::Inherited));
        assert!(!a.namespace.pings("169.254.1.1").unwrap());
    });
}

#[test]
fn closed_and_inherited_interfaces_take_the_first_place_back_too() {
    on_host(|host| {
        let (node, a) = denied(host);
        drop(node);
        let b = host.workload("cali-b", &["10.65.0.3"]).unwrap();
        let mut node = Node::open(host);
        node.links(&[&a, &b]);
        assert_eq!(node.role(a.ifindex), Some(Role::Inherited));
        assert_eq!(node.role(b.ifindex), Some(Role::Closed));
        for workload in [&a, &b] {
            for hook in sys::Hook::ALL {
                let before = names(workload, hook);
                let _intruder = intrude(workload, hook);
                assert_eq!(kinds(&node.kernel.guard(Instant::now())), [InterferenceKind::Displaced]);
                assert_eq!(names(workload, hook), [before[0].clone(), "observer".to_owned()]);
            }
        }
    });
}

#[test]
fn a_fight_for_the_first_place_is_told_and_becomes_slower() {
    on_host(|host| {
        let (mut node, a) = denied(host);
        let hook = sys::Hook::FromWorkload;
        let (start, mut intruders) = (Instant::now(), Vec::new());
        let problem = loop {
            intruders.push(intrude(&a, hook));
            let report = node.kernel.guard(start);
            if let Some(problems) = report.problems.get("cali-a") {
                break problems[0].clone();
            }
            assert_eq!(kinds(&report), [InterferenceKind::Displaced]);
            assert!(intruders.len() < 16, "felid never gives way");
        };
        assert!(
            problem.contains("may") || problem.contains("could let packets pass"),
            "{problem}"
        );
        assert_eq!(names(&a, hook)[0], "observer");
        // It is tried again when its time has come.
        let report = node.kernel.guard(start + Duration::from_secs(61));
        assert!(report.problems.is_empty(), "{report:?}");
        assert_ne!(names(&a, hook)[0], "observer");
    });
}

#[test]
fn a_detached_program_is_attached_again() {
    on_host(|host| {
        let (mut node, a) = denied(host);
        for hook in sys::Hook::ALL {
            let before = names(&a, hook);
            let (_, link) = sys::attached(a.ifindex, hook).unwrap()[0];
            sys::detach_link(sys::link_by_id(link).unwrap().as_fd()).unwrap();
            assert_eq!(names(&a, hook), Vec::<String>::new());
            assert_eq!(kinds(&node.kernel.guard(Instant::now())), [InterferenceKind::Detached]);
            assert_eq!(names(&a, hook), before);
            assert!(quiet(&node.kernel.guard(Instant::now())));
        }
    });
}

fn pins(host: &Host) -> PathBuf {
    let versions = fs::read_dir(host.bpffs().join("felid")).unwrap();
    versions.map(|version| version.unwrap().path()).next().unwrap()
}

#[test]
fn a_removed_pin_opens_nothing_and_is_made_again() {
    on_host(|host| {
        let (mut node, a) = denied(host);
        let hook = sys::Hook::FromWorkload;
        let before = names(&a, hook);
        let link = pins(host).join(format!("links/{}_from_workload", a.ifindex));
        for pin in [
            link,
            pins(host).join("maps/policies"),
            pins(host).join("maps/fragments_v4"),
        ] {
            fs::remove_file(&pin).unwrap();
            assert_eq!(names(&a, hook), before, "the link is held open");
            assert_eq!(kinds(&node.kernel.guard(Instant::now())), [InterferenceKind::Unpinned]);
            assert!(pin.exists() && quiet(&node.kernel.guard(Instant::now())));
        }
        drop(node);
        assert_eq!(Node::open(host).role(a.ifindex), Some(Role::Inherited));
        assert_eq!(names(&a, hook), before);
    });
}

#[test]
fn what_is_pinned_survives_its_directory_and_its_bpffs() {
    on_host(|host| {
        let (mut node, a) = denied(host);
        let before = names(&a, sys::Hook::FromWorkload);
        let remove: [&dyn Fn(); 3] = [
            &|| fs::remove_dir_all(host.bpffs().join("felid")).unwrap(),
            &|| nix::mount::umount2(host.bpffs(), nix::mount::MntFlags::MNT_DETACH).unwrap(),
            &|| {
                let (none, flags) = (None::<&str>, nix::mount::MsFlags::empty());
                nix::mount::mount(Some("bpffs"), host.bpffs(), Some("bpf"), flags, none).unwrap();
            },
        ];
        for remove in remove {
            remove();
            assert_eq!(kinds(&node.kernel.guard(Instant::now())), [InterferenceKind::Unmounted]);
            assert!(quiet(&node.kernel.guard(Instant::now())));
            // Everything is where the next start looks for it, and nobody else may have it
            // meanwhile.
            assert!(matches!(Kernel::open(&config(host)), Err(KernelError::InUse(_))));
            drop(node);
            node = Node::open(host);
            assert_eq!(node.role(a.ifindex), Some(Role::Inherited));
            assert_eq!(names(&a, sys::Hook::FromWorkload), before);
            node.links(&[&a]);
            node.commit(&set([endpoint(&a, deny(), deny())]));
        }
        nix::mount::umount2(host.bpffs(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
}

/// An earlier run's policy must not go on beside the new one's, wherever its links are pinned.
fn replaced(host: &Host, hide: impl FnOnce(), config: &Config) {
    let a = host.workload("cali-a", A).unwrap();
    let b = host.workload("veth-b", &["10.65.0.3"]).unwrap();
    for workload in [&a, &b] {
        host.wire(workload).unwrap();
    }
    let mut node = Node::open(host);
    node.links(&[&a, &b]);
    node.commit(&set([endpoint(&a, allow(), allow()), endpoint(&b, allow(), allow())]));
    let links: Vec<(u32, u32)> = sys::attached(a.ifindex, sys::Hook::FromWorkload).unwrap();
    drop(node);
    hide();
    let mut node = Node::with(config);
    node.links(&[&a, &b]);
    // Nothing is cut or opened until the first change is in force, outside the prefix neither.
    for workload in [&a, &b] {
        assert_eq!(node.role(workload.ifindex), Some(Role::Inherited));
    }
    assert!((0..10).any(|_| a.namespace.pings("10.65.0.3").unwrap()));
    node.commit(&set([endpoint(&a, deny(), deny())]));
    for hook in sys::Hook::ALL {
        assert_eq!(names(&a, hook).len(), 1, "taken over in place");
        assert_eq!(names(&b, hook), ["closed"], "what nobody claims any more stays closed");
    }
    assert_eq!(
        sys::attached(a.ifindex, sys::Hook::FromWorkload).unwrap()[0].1,
        links[0].1
    );
    assert!(!a.namespace.pings("10.65.0.3").unwrap());
    assert!(quiet(&node.kernel.guard(Instant::now())));
}

#[test]
fn programs_pinned_below_another_version_are_taken_over() {
    on_host(|host| {
        let root = host.bpffs().join("felid");
        let old = root.join("v0");
        let hide = || fs::rename(pins(host), &old).unwrap();
        replaced(host, hide, &config(host));
        assert!(!old.exists(), "what the other version left is removed");
    });
}

#[test]
fn programs_pinned_below_another_bpffs_are_taken_over() {
    on_host(|host| {
        let other = host.directory().join("other");
        let config = Config {
            bpffs: other.clone(),
            bpffs_private: true,
            ..config(host)
        };
        replaced(host, || {}, &config);
        nix::mount::umount2(&other, nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn programs_whose_pins_a_mount_hides_are_taken_over() {
    on_host(|host| {
        let hide = || {
            let (none, flags) = (None::<&str>, nix::mount::MsFlags::empty());
            nix::mount::mount(Some("bpffs"), host.bpffs(), Some("bpf"), flags, none).unwrap();
        };
        replaced(host, hide, &config(host));
        nix::mount::umount2(host.bpffs(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn a_second_program_of_felids_at_a_hook_goes() {
    on_host(|host| {
        let (node, a) = denied(host);
        let hook = sys::Hook::FromWorkload;
        let before = names(&a, hook);
        let embedded = fs::read_dir(pins(host).join("embedded"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let closed = sys::open_pin(&embedded.join("closed")).unwrap();
        let stray = sys::attach_first(closed.as_fd(), a.ifindex, hook).unwrap();
        assert_eq!(names(&a, hook), ["closed".to_owned(), before[0].clone()]);
        drop(node);
        let mut node = Node::open(host);
        node.links(&[&a]);
        assert_eq!(names(&a, hook), before);
        drop(stray);
        assert!(quiet(&node.kernel.guard(Instant::now())));
    });
}

#[test]
fn cleanup_detaches_what_is_pinned_elsewhere() {
    on_host(|host| {
        let (node, a) = denied(host);
        drop(node);
        let elsewhere = host.directory().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let cleaned = runtime.block_on(felid_dataplane::cleanup(
            &elsewhere,
            &["cali".to_owned()],
            3,
            &mut |_| {},
        ));
        assert!(cleaned.unwrap().is_empty());
        for hook in sys::Hook::ALL {
            assert_eq!(names(&a, hook), Vec::<String>::new());
        }
        kernel::cleanup(host.bpffs()).unwrap();
    });
}

#[test]
fn an_interface_without_ethernet_frames_is_closed_and_named() {
    on_host(|host| {
        host.namespace().ip("tuntap add cali-tun mode tun").unwrap();
        host.namespace().ip("link set cali-tun up").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let links = runtime.block_on(async { felid_dataplane::net::Net::open(3).unwrap().0.links().await.unwrap() });
        let tun = links.list.into_iter().find(|link| &*link.name == "cali-tun").unwrap();
        assert!(!tun.is_ethernet);
        let a = host.workload("cali-a", A).unwrap();
        let mut node = Node::open(host);
        let mut at_tun = crate::node::state(&a);
        (at_tun.ifindex, at_tun.name, at_tun.is_ethernet) = (tun.index, tun.name.clone(), false);
        assert!(node.kernel.set_links(vec![at_tun]).is_empty());
        let mut record = endpoint(&a, allow(), allow());
        record.interface_name = tun.name;
        node.commit(&set([record]));
        assert_eq!(node.role(tun.index), Some(Role::Closed));
        assert!(!node.kernel.endpoints()[0].attached);
        let report = node.kernel.guard(Instant::now());
        let problem = &report.problems["cali-tun"][0];
        assert!(problem.contains("Ethernet") && problem.contains("cali-a"), "{problem}");
    });
}

#[test]
fn directories_are_roots_alone_whatever_the_umask_and_whoever_was_first() {
    on_host(|host| {
        let felid = host.bpffs().join("felid");
        fs::set_permissions(host.bpffs(), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::create_dir(&felid).unwrap();
        std::os::unix::fs::chown(&felid, Some(65534), Some(65534)).unwrap();
        let links = pins_of_this_version(host).join("links");
        let node = Node::open(host);
        for directory in [felid.as_path(), links.parent().unwrap(), &links] {
            let metadata = fs::metadata(directory).unwrap();
            assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (0, 0o700), "{directory:?}");
        }
        drop(node);
        // One that an older version made for everybody.
        fs::set_permissions(&links, fs::Permissions::from_mode(0o777)).unwrap();
        drop(Node::open(host));
        assert_eq!(fs::metadata(&links).unwrap().mode() & 0o7777, 0o700);
    });
}

fn pins_of_this_version(host: &Host) -> PathBuf {
    host.bpffs().join(format!("felid/v{}", felid_common::ABI_VERSION))
}

#[test]
fn a_bpffs_that_ends_with_the_agent_is_refused_unless_it_is_meant() {
    on_host(|host| {
        let bpffs = host.directory().join("own");
        let open = |private| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS | nix::sched::CloneFlags::CLONE_FS).unwrap();
            let (none, flags) = (
                None::<&str>,
                nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE,
            );
            nix::mount::mount(none, "/", none, flags, none).unwrap();
            let opened = Kernel::open(&Config {
                bpffs: bpffs.clone(),
                bpffs_private: private,
                ..config(host)
            });
            opened
                .map(|_| nix::sys::statfs::statfs(&bpffs).unwrap().filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC)
        };
        let in_thread = |private| std::thread::scope(|scope| scope.spawn(|| open(private)).join().unwrap());
        let error = in_thread(false).unwrap_err();
        assert!(matches!(error, KernelError::PrivateBpffs(_)), "{error}");
        assert!(error.to_string().contains("--bpffs-private"));
        assert!(in_thread(true).unwrap());
    });
}
