//! Which records are whose: kinds that felid does not act on, texts that do not parse, other kinds'
//! fields.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use felid_model::{
    Decoded, EndpointToHostAction, Kind, LogSeverity, Resource, Severity, WorkloadSourceSpoofing, decode, documents,
};

fn decoded(text: &str) -> Decoded {
    let mut found = documents(text);
    assert_eq!(found.len(), 1, "{text}");
    decode(&found.remove(0))
}

/// Key of the bad policy, what it selects, its namespaces.
fn closed(text: &str) -> Option<(String, Option<String>, Option<String>)> {
    match decoded(text) {
        Decoded::Bad { bad_policy, issues, .. } => {
            assert!(issues.iter().any(|issue| issue.severity == Severity::Error), "{text}");
            bad_policy.map(|policy| {
                assert!(!policy.reason.is_empty(), "{text}");
                let text = |selector: Option<felid_model::Selector>| selector.map(|s| s.to_string());
                (
                    policy.key.to_string(),
                    text(policy.selector),
                    text(policy.namespace_selector),
                )
            })
        }
        Decoded::NotARecord { .. } => None,
        other => panic!("{text}\n{other:?}"),
    }
}

fn some(
    key: &str,
    selector: Option<&str>,
    namespaces: Option<&str>,
) -> Option<(String, Option<String>, Option<String>)> {
    Some((
        key.to_owned(),
        selector.map(str::to_owned),
        namespaces.map(str::to_owned),
    ))
}

#[test]
fn none_of_felids_business() {
    for (api_version, kind) in [
        ("apps/v1", "Deployment"),
        ("v1", "ConfigMap"),
        ("projectcalico.org/v3", "BGPPeer"),
        ("crd.projectcalico.org/v1", "IPAMBlock"),
        ("networking.k8s.io/v1", "Ingress"),
        ("policy/v1", "PodDisruptionBudget"),
        ("policy/v1beta1", "PodSecurityPolicy"),
        ("kyverno.io/v1", "ClusterPolicy"),
        ("kubeflow.org/v1", "Profile"),
        ("crd.antrea.io/v1beta1", "Tier"),
        ("whereabouts.cni.cncf.io/v1alpha1", "IPPool"),
    ] {
        let text = format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: x}}\n");
        let expected = Decoded::Foreign {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            name: "x".to_owned(),
        };
        assert_eq!(decoded(&text), expected);
    }
    assert_eq!(
        decoded("{apiVersion: v1, kind: Node, metadata: 7}"),
        Decoded::Foreign {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: String::new()
        }
    );
}

#[test]
fn kubernetes_policies_close_what_they_select() {
    let k8s = "projectcalico.org/orchestrator == \"k8s\"";
    let network = |selector: &str| {
        closed(&format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: x, namespace: n}}\nspec:\n  podSelector: {selector}\n  foo: 1\n"
        ))
    };
    let key = "KubernetesNetworkPolicy/n/x";
    assert_eq!(network("{}"), some(key, Some(k8s), None));
    assert_eq!(
        network(
            "{matchLabels: {b: c, a: ''}, matchExpressions: [{key: d, operator: NotIn, values: [e]}, {key: f, operator: DoesNotExist}]}"
        ),
        some(
            key,
            Some(&format!(
                "({k8s} && a == \"\" && b == \"c\" && d not in {{\"e\"}} && !has(f))"
            )),
            None
        )
    );
    for unreadable in [
        "7",
        "{matchLabels: {a: 7}}",
        "{matchExpressions: [{key: a, operator: Like}]}",
        "{foo: {}}",
        "{matchLabels: {\"a == 'x' || b\": c}}",
        "{matchLabels: {a: \"x' || b == 'y\"}}",
    ] {
        assert_eq!(network(unreadable), some(key, None, None), "{unreadable}");
    }
    // A name that is none, in a namespace that is none: anywhere.
    let (key, ..) =
        closed("{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: X, namespace: Y}}").unwrap();
    assert!(key.starts_with("GlobalNetworkPolicy/unnamed-"), "{key}");
    let cluster = |kind: &str, version: &str, subject: &str| {
        closed(&format!(
            "apiVersion: policy.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: x}}\nspec:\n  subject: {subject}\n  foo: 1\n"
        ))
    };
    assert_eq!(
        cluster("AdminNetworkPolicy", "v1alpha1", "{namespaces: {matchLabels: {a: b}}}"),
        some("AdminNetworkPolicy/x", Some(k8s), Some("a == \"b\""))
    );
    assert_eq!(
        cluster(
            "BaselineAdminNetworkPolicy",
            "v1alpha1",
            "{pods: {namespaceSelector: {}, podSelector: {matchLabels: {a: b}}}}"
        ),
        some(
            "BaselineAdminNetworkPolicy/x",
            Some(&format!("({k8s} && a == \"b\")")),
            Some("all()")
        )
    );
    assert_eq!(
        cluster("ClusterNetworkPolicy", "v1alpha2", "{}"),
        some("ClusterNetworkPolicy/x", Some(k8s), None)
    );
    // Versions that are not known are policies all the same.
    for (api_version, kind) in [
        ("policy.networking.k8s.io/v1alpha1", "ClusterNetworkPolicy"),
        ("networking.k8s.io/v2", "NetworkPolicy"),
    ] {
        let text = format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: x}}\n");
        assert!(closed(&text).is_some(), "{text}");
    }
}

#[test]
fn other_forms_of_calico() {
    let spec = "metadata: {name: x}\nspec: {selector: \"a == 'b'\"}\n";
    let key = |text: &str| closed(text).map(|(key, selector, _)| (key.split('-').next().unwrap().to_owned(), selector));
    let selects = |name: &str| Some((format!("GlobalNetworkPolicy/{name}"), Some("a == \"b\"".to_owned())));
    assert_eq!(key(&format!("apiVersion: v1\nkind: policy\n{spec}")), selects("policy"));
    assert_eq!(
        key(&format!(
            "apiVersion: crd.projectcalico.org/v1\nkind: GlobalNetworkPolicy\n{spec}"
        )),
        selects("GlobalNetworkPolicy")
    );
    for (api_version, kind) in [
        ("projectcalico.org/v3", "HostEndpoint"),
        ("projectcalico.org/v3", "Tiger"),
        ("v1", "workloadEndpoint"),
        ("v1", "profile"),
    ] {
        assert_eq!(
            closed(&format!(
                "apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: x}}\n"
            )),
            None,
            "{kind}"
        );
    }
    // What is only staged closes nothing, however bad it is.
    for kind in [
        "StagedNetworkPolicy",
        "StagedGlobalNetworkPolicy",
        "StagedKubernetesNetworkPolicy",
    ] {
        for rest in ["{x: 1}", "{"] {
            let text = format!("apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: x}}\nspec: {rest}\n");
            assert_eq!(closed(&text), None, "{text}");
        }
    }
    for text in ["7", "just text", "{}", "kind: 7", "kind: Tier", "[1]"] {
        assert_eq!(closed(text), None, "{text}");
    }
}

/// What a policy closes that is read in no form: its scope, without the made-up name, and what it
/// selects there.
fn scope(head: &str, metadata: &str, spec: &str) -> (String, Option<String>, Option<String>) {
    let text = format!("{head}\nmetadata: {{name: x{metadata}}}\nspec: {spec}\n");
    let (key, selector, namespaces) = closed(&text).unwrap_or_else(|| panic!("closes nothing: {text}"));
    let (scope, _) = key.rsplit_once('/').unwrap();
    (scope.to_owned(), selector, namespaces)
}

#[test]
fn policies_of_other_forms_close_their_own_namespace() {
    let prod = ", namespace: prod";
    for head in [
        "apiVersion: crd.projectcalico.org/v1\nkind: NetworkPolicy",
        "apiVersion: networking.k8s.io/v1beta1\nkind: NetworkPolicy",
        "apiVersion: extensions/v1beta2\nkind: NetworkPolicy",
        "kind: NetworkPolicy",
        "apiVersion: projectcalico.org/v3\nkind: networkPolicy",
        "apiVersion: projectcalico.org/v3\nkind: NetwrokPolicy",
        "apiVersion: projectcalico.or/v3\nkind: NetworkPolicy",
        "apiVersion: projectcalico.com/v3\nkind: NetworkPolicy",
        "apiVersion: v3\nkind: NetworkPolicy",
        "apiVersion: v1\nkind: NetworkPolicy",
        "apiVersion: networking.k8s/v1\nkind: NetworkPolicy",
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy",
        "apiVersion: crd.antrea.io/v1beta1\nkind: NetworkPolicy",
    ] {
        assert_eq!(scope(head, prod, "{}").0, "NetworkPolicy/prod", "{head}");
        assert_eq!(
            scope(head, prod, "{selector: \"a == 'b'\"}"),
            ("NetworkPolicy/prod".to_owned(), Some("a == \"b\"".to_owned()), None),
            "{head}"
        );
        // The namespace of a resource that names none, if its kind is certain; one that cannot be
        // read may be any.
        let certain =
            head.ends_with("kind: NetworkPolicy") || head.ends_with("networkPolicy") || head.contains("Cilium");
        let unnamed = if certain {
            "NetworkPolicy/default"
        } else {
            "GlobalNetworkPolicy"
        };
        assert_eq!(scope(head, "", "{}").0, unnamed, "{head}");
        assert_eq!(
            scope(head, ", namespace: [prod]", "{}").0,
            "GlobalNetworkPolicy",
            "{head}"
        );
    }
    // What only one of two like policies says keeps them apart.
    let text = "kind: NetworkPolicy\nmetadata: {name: x, namespace: prod}\nspec: {order: ORDER}\n";
    let key = |order: &str| closed(&text.replace("ORDER", order)).unwrap().0;
    assert_ne!(key("1"), key("2"));
    // Of Kubernetes: the pods that it may select.
    let (_, selector, _) = scope(
        "apiVersion: networking.k8s.io/v1beta1\nkind: NetworkPolicy",
        prod,
        "{podSelector: {matchLabels: {a: b}}}",
    );
    assert!(selector.unwrap().contains("a == \"b\""));
}

#[test]
fn policies_of_all_namespaces_close_what_they_select() {
    for head in [
        "apiVersion: crd.projectcalico.org/v1\nkind: GlobalNetworkPolicy",
        "apiVersion: projectcalico.or/v3\nkind: GlobalNetworkPolicy",
        "apiVersion: v3\nkind: GlobalNetworkPolicy",
        "kind: GlobalNetworkPolicy",
        "apiVersion: policy.networking.k8s.io/v1alpha9\nkind: AdminNetworkPolicy",
        "apiVersion: policy.networking.k8s/v1alpha1\nkind: BaselineAdminNetworkPolicy",
        "apiVersion: policy.network.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy",
        "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy",
        "apiVersion: crd.antrea.io/v1beta1\nkind: ClusterNetworkPolicy",
    ] {
        let spec = "{selector: \"a == 'b'\", namespaceSelector: \"c == 'd'\"}";
        let expected = (
            "GlobalNetworkPolicy".to_owned(),
            Some("a == \"b\"".to_owned()),
            Some("c == \"d\"".to_owned()),
        );
        assert_eq!(scope(head, "", spec), expected, "{head}");
        // A namespace that it cannot have does not narrow it.
        assert_eq!(scope(head, ", namespace: prod", spec), expected, "{head}");
        assert_eq!(
            scope(head, "", "{}"),
            ("GlobalNetworkPolicy".to_owned(), None, None),
            "{head}"
        );
    }
}

#[test]
fn other_kinds_in_a_mistyped_group_are_errors_that_close_nothing() {
    for head in [
        "apiVersion: projectcalico.or/v3\nkind: StagedNetworkPolicy",
        "apiVersion: v3\nkind: StagedGlobalNetworkPolicy",
        "apiVersion: projectcalico.or/v3\nkind: GlobalNetworkSet",
        "apiVersion: projectcalico.com/v3\nkind: Tier",
        "apiVersion: v3\nkind: Profile",
        "apiVersion: calico.org/v1\nkind: WorkloadEndpoint",
        "apiVersion: projectcalico.org.example/v3\nkind: FelixConfiguration",
        "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice",
    ] {
        assert_eq!(
            closed(&format!("{head}\nmetadata: {{name: x}}\nspec: {{}}\n")),
            None,
            "{head}"
        );
    }
}

#[test]
fn broken_policies_of_other_forms_close_their_own_namespace() {
    for head in [
        "apiVersion: crd.projectcalico.org/v1\nkind: NetworkPolicy",
        "apiVersion: projectcalico.or/v3\nkind: NetworkPolicy",
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy",
        "kind: NetworkPolicy",
    ] {
        let text = format!("{head}\nmetadata:\n  name: x\n  namespace: prod\nspec:\n  a: [\n");
        let (key, ..) = closed(&text).unwrap_or_else(|| panic!("closes nothing: {text}"));
        assert!(key.contains("NetworkPolicy/prod/"), "{key}: {text}");
        let everywhere = closed(&text.replace("  namespace: prod\n", "")).unwrap().0;
        assert!(
            everywhere.starts_with("GlobalNetworkPolicy/") || everywhere.contains("/default/"),
            "{everywhere}"
        );
    }
    for kind in [
        "GlobalNetworkPolicy",
        "AdminNetworkPolicy",
        "CiliumClusterwideNetworkPolicy",
    ] {
        let text = format!("apiVersion: x/v3\nkind: {kind}\nmetadata:\n  name: x\n  namespace: prod\nspec: [\n");
        assert!(closed(&text).unwrap().0.starts_with("GlobalNetworkPolicy/"), "{text}");
    }
}

#[test]
fn texts_that_do_not_parse() {
    let broken = "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata:\n  labels:\n    name: y\n  name: x # the name\n  namespace: \"n\"\nspec:\n  ingress:\n  - action: Allow\n   bad: indent\n";
    let Decoded::Bad {
        kind,
        key,
        issues,
        bad_policy,
    } = decoded(broken)
    else {
        panic!("bad")
    };
    assert_eq!(
        (kind, key.unwrap().to_string()),
        (Some(Kind::NetworkPolicy), "NetworkPolicy/n/x".to_owned())
    );
    assert_eq!((issues[0].line, issues[0].field.as_str()), (Some(11), ""));
    assert_eq!(
        bad_policy.map(|policy| policy.key.to_string()).unwrap(),
        "NetworkPolicy/n/x"
    );
    assert_eq!(closed(broken), some("NetworkPolicy/n/x", None, None));
    assert_eq!(closed(&broken.replace("NetworkPolicy", "Tier")), None);
    // JSON on one line and on several.
    let json = r#"{"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "x"}, "spec": {"selector": "all()}}"#;
    assert_eq!(closed(json), some("GlobalNetworkPolicy/x", None, None));
    let pretty = r#"{
  "apiVersion": "projectcalico.org/v3",
  "kind": "GlobalNetworkPolicy",
  "metadata": {
    "name": "x"
  },
  "spec": {"selector": "all()}
}"#;
    assert_eq!(closed(pretty), some("GlobalNetworkPolicy/x", None, None));
    // A line `---` is missing: nobody knows whose the name is.
    let two = "kind: Tier\nmetadata: {name: a}\nkind: NetworkPolicy\nmetadata: {name: b}\n";
    let Decoded::Bad {
        kind: None,
        key: None,
        bad_policy: Some(_),
        ..
    } = decoded(two)
    else {
        panic!("no key")
    };
    // Policies in the text of other records are none.
    assert_eq!(
        closed("kind: ConfigMap\nmetadata: {name: a}\ndata:\n  kind: NetworkPolicy\n bad: x\n"),
        None
    );
    // Policies of others, policies in lists: everything is closed.
    for text in [
        broken.replace("projectcalico.org/v3", "networking.k8s.io/v1"),
        format!("kind: List\nitems:\n- {}", broken.replace('\n', "\n  ")),
        "kind: NetworkPolicy\nmetadata: {name: x\n".to_owned(),
        "kind: NetworkPolicy\nspec: [\n".to_owned(),
    ] {
        let (key, selector, _) = closed(&text).unwrap();
        assert_eq!(selector, None);
        assert!(key.contains("NetworkPolicy"), "{key}");
    }
}

#[test]
fn tiers_sets_profiles() {
    let record = |kind: &str, name: &str, spec: &str| {
        decoded(&format!(
            "apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: {name}, namespace: n}}\nspec: {spec}\n"
        ))
    };
    let errors = |kind: &str, name: &str, spec: &str| {
        let issues = record(kind, name, spec).issues().to_vec();
        let errors = issues.into_iter().filter(|issue| issue.severity == Severity::Error);
        errors.map(|issue| issue.field).collect::<Vec<_>>().join(" ")
    };
    let read = |kind: &str, name: &str, spec: &str| match record(kind, name, spec) {
        Decoded::Resource { resource, .. } => resource,
        other => panic!("{other:?}"),
    };
    for (name, spec, expected) in [
        ("sec", "{order: 10}", ""),
        ("sec", "null", ""),
        ("default", "{order: 1000000}", ""),
        ("default", "{}", "spec.order"),
        ("default", "{order: 1000000, defaultAction: Pass}", "spec.defaultAction"),
        ("kube-admin", "{order: 1000}", "spec.defaultAction"),
        ("kube-baseline", "{order: 1, defaultAction: Pass}", "spec.order"),
        ("a.b", "{}", "metadata.name"),
        ("sec", "{defaultAction: ''}", "spec.defaultAction"),
        ("sec", "{defaultAction: null}", ""),
        (
            "sec",
            "{order: x, defaultAction: Allow, foo: 1}",
            "spec.order spec.defaultAction spec.foo",
        ),
    ] {
        assert_eq!(errors("Tier", name, spec), expected, "{name} {spec}");
    }
    let Resource::Tier(tier) = read("Tier", "t", "{order: 5, defaultAction: Pass}") else {
        panic!("a tier")
    };
    assert_eq!(
        (tier.order, tier.default_pass, tier.key.to_string()),
        (Some(5.0), true, "Tier/t".to_owned())
    );

    let Resource::NetworkSet(set) = read("NetworkSet", "s", "{nets: [10.1.2.3/8, 1.2.3.4, 'fd00::/8']}") else {
        panic!("a set")
    };
    let nets: Vec<_> = set.nets.iter().map(ToString::to_string).collect();
    assert_eq!(nets, ["10.0.0.0/8", "1.2.3.4/32", "fd00::/8"]);
    assert_eq!(set.labels["projectcalico.org/namespace"], "n");
    assert_eq!(
        errors("GlobalNetworkSet", "s", "{nets: [x, 7]}"),
        "spec.nets[1] spec.nets[0]"
    );

    let Resource::Profile(profile) = read(
        "Profile",
        "p",
        "{labelsToApply: {pcns.a: b}, ingress: [{action: Pass}]}",
    ) else {
        panic!("a profile")
    };
    assert_eq!(
        (
            profile.labels_to_apply["pcns.a"].as_str(),
            profile.ingress.len(),
            profile.egress.len()
        ),
        ("b", 1, 0)
    );
    assert_eq!(
        errors("Profile", "p", "{labelsToApply: {a$: b, c: 'd e'}, tags: [x]}"),
        "spec.labelsToApply.a$ spec.labelsToApply.c spec.tags"
    );
}

#[test]
fn felix_configuration() {
    let text = "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: node.a}\nspec:\n  logSeverityScreen: debug\n  interfacePrefix: cali, tap\n  defaultEndpointToHostAction: RETURN\n  reportingInterval: 0s\n";
    let Decoded::Resource {
        resource: Resource::FelixConfiguration(felix),
        issues,
    } = decoded(text)
    else {
        panic!("felix")
    };
    assert_eq!(felix.log_severity_screen, Some(LogSeverity::Debug));
    assert_eq!(
        felix.interface_prefix.as_deref(),
        Some(["cali".to_owned(), "tap".to_owned()].as_slice())
    );
    assert_eq!(
        felix.default_endpoint_to_host_action,
        Some(EndpointToHostAction::Return)
    );
    let told: Vec<_> = issues
        .iter()
        .map(|issue| (issue.field.as_str(), issue.severity))
        .collect();
    assert_eq!(told, [("spec.reportingInterval", Severity::Warning)]);
    let other = |fields: &str| {
        let start = "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: ";
        decoded(&format!("{start}{{{fields}}}\n"))
    };
    // felid's own settings, those of Felix that hold from the start, and those that only Felix has.
    for field in [
        "rescanInterval: 10s",
        "maxNets: 7",
        "vxlanPort: 4790",
        "bpfEnabled: true",
        "wireguardMTU: 1",
    ] {
        let Decoded::Resource { issues, .. } = other(field) else {
            panic!("{field}")
        };
        let warnings: Vec<_> = issues
            .iter()
            .map(|issue| (issue.field.as_str(), issue.severity))
            .collect();
        let name = format!("spec.{}", field.split(':').next().unwrap());
        assert_eq!(warnings, [(name.as_str(), Severity::Warning)]);
    }
    for (text, expected) in [
        ("Any", WorkloadSourceSpoofing::Any),
        ("disabled", WorkloadSourceSpoofing::Disabled),
    ] {
        let Decoded::Resource {
            resource: Resource::FelixConfiguration(felix),
            issues,
        } = other(&format!("workloadSourceSpoofing: {text}"))
        else {
            panic!("{text}")
        };
        assert_eq!((felix.workload_source_spoofing, issues.len()), (Some(expected), 0));
    }
    assert!(other("workloadSourceSpoofing: All").has_errors());
    let bad = text
        .replace("debug", "loud")
        .replace("tap", "")
        .replace("RETURN", "x")
        .replace("reporting", "report");
    let fields: Vec<_> = decoded(&bad).issues().iter().map(|issue| issue.field.clone()).collect();
    assert_eq!(
        fields.join(" "),
        "spec.logSeverityScreen spec.defaultEndpointToHostAction spec.interfacePrefix spec.reportInterval"
    );
}
