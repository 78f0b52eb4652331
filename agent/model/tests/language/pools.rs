//! Network sets, profiles, IP pools.

use felid_model::Resource;

use crate::{check, record, resource, warnings};

#[test]
fn network_sets() {
    for kind in ["NetworkSet", "GlobalNetworkSet"] {
        check(
            kind,
            "a",
            &[
                ("nets: [10.0.0.0/8, 10.1.2.3/8, 10.0.0.1, 'fd00::1', 'fd00::1/64']", ""),
                ("nets: [10.0.0.1, 10.0.0.1]", ""),
                ("nets: []", ""),
                ("", ""),
                ("nets: [nope]", "spec.nets[0]"),
                ("nets: [10.0.0.0/33]", "spec.nets[0]"),
                ("nets: 10.0.0.0/8", "spec.nets"),
            ],
        );
    }
}

#[test]
fn profiles() {
    check(
        "Profile",
        "kns.default",
        &[
            (
                "labelsToApply: {pcns.a: b, pcns.projectcalico.org/name: default}, ingress: [{action: Allow}], egress: [{action: Pass}]",
                "",
            ),
            ("labelsToApply: {a: 'b c'}", "spec.labelsToApply.a"),
            ("ingress: [{action: Log}]", ""),
        ],
    );
}

#[test]
fn pools() {
    check(
        "IPPool",
        "a",
        &[
            ("cidr: 10.0.0.0/26", ""),
            ("cidr: 10.0.0.0/10, natOutgoing: true, disableBGPExport: true", ""),
            ("cidr: 'fd00::/122'", ""),
            ("cidr: 10.0.0.0/27, disabled: true", ""),
            ("cidr: 10.0.0.0/27, blockSize: 28", ""),
            (
                "cidr: 10.0.0.0/16, blockSize: 0, ipipMode: Always, vxlanMode: Never",
                "",
            ),
            ("cidr: 10.0.0.0/16, vxlanMode: CrossSubnet, ipipMode: ''", ""),
            ("cidr: 'fd00::/64', vxlanMode: Always", ""),
            (
                "cidr: 10.0.0.0/16, allowedUses: [Workload, Tunnel], assignmentMode: Manual",
                "",
            ),
            (
                "cidr: 10.0.0.0/16, allowedUses: [LoadBalancer], nodeSelector: all()",
                "",
            ),
            ("cidr: 10.0.0.0/16, namespaceSelector: has(a), nodeSelector: has(b)", ""),
            ("", "spec.cidr"),
            ("cidr: 10.0.0.1", "spec.cidr"),
            ("cidr: 10.0.0.1/16", "spec.cidr"),
            ("cidr: 169.254.5.0/24", "spec.cidr"),
            ("cidr: 'fe80::/64'", "spec.cidr"),
            ("cidr: 10.0.0.0/27", "spec.cidr"),
            ("cidr: 10.0.0.0/16, blockSize: 19", "spec.blockSize"),
            ("cidr: 'fd00::/64', blockSize: 26", "spec.blockSize"),
            ("cidr: 10.0.0.0/16, ipipMode: always", "spec.ipipMode"),
            (
                "cidr: 10.0.0.0/16, ipipMode: Always, vxlanMode: Always",
                "spec.vxlanMode",
            ),
            ("cidr: 'fd00::/64', ipipMode: Always", "spec.ipipMode"),
            ("cidr: 10.0.0.0/16, nodeSelector: global()", "spec.nodeSelector"),
            ("cidr: 10.0.0.0/16, namespaceSelector: '('", "spec.namespaceSelector"),
            ("cidr: 10.0.0.0/16, allowedUses: [Other]", "spec.allowedUses[0]"),
            (
                "cidr: 10.0.0.0/16, allowedUses: [LoadBalancer, Tunnel]",
                "spec.allowedUses",
            ),
            (
                "cidr: 10.0.0.0/16, allowedUses: [LoadBalancer], vxlanMode: Always",
                "spec.allowedUses",
            ),
            (
                "cidr: 10.0.0.0/16, allowedUses: [LoadBalancer], disableBGPExport: true",
                "spec.disableBGPExport",
            ),
            (
                "cidr: 10.0.0.0/16, allowedUses: [LoadBalancer], nodeSelector: has(a)",
                "spec.nodeSelector",
            ),
            (
                "cidr: 10.0.0.0/16, allowedUses: [Tunnel], namespaceSelector: has(a)",
                "spec.namespaceSelector",
            ),
            ("cidr: 10.0.0.0/16, assignmentMode: ''", "spec.assignmentMode"),
        ],
    );
    match resource(&record("IPPool", "name: a", "cidr: 10.0.0.0/16")) {
        Resource::IpPool(pool) => assert_eq!(pool.cidr.to_string(), "10.0.0.0/16"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn fields_of_pools_that_felid_does_not_follow_are_warnings() {
    for (spec, expected) in [
        ("cidr: 10.0.0.0/16", ""),
        ("cidr: 10.0.0.0/16, disabled: true", ""),
        (
            "cidr: 10.0.0.0/16, natOutgoing: false, ipipMode: Never, vxlanMode: Never, disableBGPExport: false",
            "",
        ),
        ("cidr: 10.0.0.0/16, natOutgoing: true", "spec.natOutgoing"),
        ("cidr: 10.0.0.0/16, ipipMode: Always", "spec.ipipMode"),
        ("cidr: 10.0.0.0/16, vxlanMode: CrossSubnet", "spec.vxlanMode"),
        ("cidr: 10.0.0.0/16, nodeSelector: all()", "spec.nodeSelector"),
        (
            "cidr: 10.0.0.0/16, blockSize: 28, assignmentMode: Manual",
            "spec.assignmentMode spec.blockSize",
        ),
        (
            "cidr: 10.0.0.0/16, allowedUses: [Workload], disableBGPExport: true",
            "spec.allowedUses spec.disableBGPExport",
        ),
    ] {
        let text = record("IPPool", "name: a", spec);
        resource(&text);
        assert_eq!(warnings(&text), expected, "{spec}");
    }
}
