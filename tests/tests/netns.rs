//! The helpers themselves: a host, two workloads, packets between them.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use felid_tests::{Host, packet};

#[test]
fn workloads_reach_each_other_through_the_host() {
    let host = Host::new("dpt").unwrap();
    let a = host.workload("cali-a", &["10.65.0.2", "fd00:65::2"]).unwrap();
    let b = host.workload("cali-b", &["10.65.0.3", "fd00:65::3"]).unwrap();
    // The proxy ARP of the kernel wants some default route before it answers for 169.254.1.1.
    host.namespace().ip("route add default dev lo").unwrap();
    host.wire(&a).unwrap();
    host.wire(&b).unwrap();
    assert!(a.namespace.pings("10.65.0.3").unwrap());
    assert!(a.namespace.pings("fd00:65::3").unwrap());
    assert!(!a.namespace.pings("10.65.0.99").unwrap());
}

#[test]
fn frames_pass_a_pair_unchanged() {
    let host = Host::new("dpt").unwrap();
    let workload = host.workload("cali-a", &["10.65.0.2"]).unwrap();
    let outside = host.namespace().packets("cali-a").unwrap();
    let inside = workload.namespace.packets("eth0").unwrap();
    let mac = workload.namespace.run(|| packet::mac_of("eth0")).unwrap().unwrap();
    assert_eq!(mac, workload.mac);
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([0x88, 0xb5]);
    frame.extend([7; 50]);
    inside.send(&frame).unwrap();
    let is_ours = |seen: &[u8]| seen.get(12..14) == Some(&[0x88, 0xb5][..]);
    assert_eq!(
        outside.receive(Duration::from_secs(2), is_ours).unwrap().unwrap(),
        frame
    );
    assert_eq!(
        inside.receive(Duration::from_millis(50), is_ours).unwrap(),
        None,
        "own frames are not received"
    );
}
