//! Profiles, and what is not converted.

use felid_model::convert::{Conversion, convert};
use serde_json::json;

use super::{failed, good};

#[test]
fn of_namespaces() {
    assert_eq!(
        good(
            json!({"apiVersion": "v1", "kind": "Namespace", "spec": {"finalizers": ["x"]}, "metadata": {"name": "a", "annotations": {"x": "y"},
            "labels": {"team": "x", "projectcalico.org/name": "forged"}}})
        ),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "Profile", "metadata": {"name": "kns.a"}, "spec": {
            "ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}],
            "labelsToApply": {"pcns.projectcalico.org/name": "a", "pcns.team": "x"}}})
    );
    assert_eq!(
        failed(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {}})),
        "metadata.name"
    );
    assert_eq!(
        failed(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "labels": {"x": 1}}})),
        "metadata.labels.x"
    );
}

#[test]
fn of_service_accounts() {
    let account =
        |metadata| good(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata, "secrets": []}));
    assert_eq!(
        account(json!({"name": "a.b", "namespace": "n", "labels": {"x": "y"}})),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "Profile", "metadata": {"name": "ksa.n.a.b"}, "spec": {
            "labelsToApply": {"pcsa.projectcalico.org/name": "a.b", "pcsa.x": "y"}}})
    );
    assert_eq!(account(json!({"name": "a"}))["metadata"]["name"], "ksa.default.a");
}

#[test]
fn what_says_nothing_is_nothing() {
    for (api_version, kind) in [
        ("v1", "Service"),
        ("discovery.k8s.io/v1", "EndpointSlice"),
        ("apps/v1", "Deployment"),
    ] {
        let record = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}});
        assert!(matches!(convert(&record), Conversion::Nothing(_)), "{kind}");
    }
}

#[test]
fn what_may_be_policy_is_never_passed_over() {
    for (api_version, kind) in [
        ("networking.k8s.io/v2", "NetworkPolicy"),
        ("policy.networking.k8s.io/v1alpha1", "ClusterNetworkPolicy"),
        ("policy.networking.k8s.io/v1beta1", "ClusterNetworkPolicy"),
        ("cilium.io/v2", "CiliumNetworkPolicy"),
        ("crd.projectcalico.org/v1", "NetworkPolicy"),
        ("", "NetworkPolicy"),
        ("v1", "policy"),
        ("v1", "profile"),
        ("v1", ""),
    ] {
        failed(json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}}));
    }
    for record in [json!(null), json!([]), json!("x"), json!({})] {
        failed(record);
    }
}

#[test]
fn resources_of_v3_stay_as_they_are() {
    let record =
        json!({"kind": "Tier", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "x"}, "spec": {"what": 1}});
    assert_eq!(good(record.clone()), record);
}
