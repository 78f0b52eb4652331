//! What stands beside records in their directory and is none.

use super::{Watched, policy, policy_key, tier};
use crate::{InForce, Severity};
use felid_model::Resource;

/// A template of Helm's, as most charts begin one.
const TEMPLATE: &str = "{{- if .Values.policy.enabled }}\napiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata:\n  \
    name: {{ include \"shop.fullname\" . }}\n  labels:\n    {{- include \"shop.labels\" . | nindent 4 }}\nspec:\n  \
    selector: app == '{{ .Release.Name }}'\n  ingress:\n  - action: Allow\n{{- end }}\n";

/// Its quoted form, which is YAML.
const QUOTED: &str = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata:\n  name: \"{{ .Release.Name }}\"\n\
    spec:\n  selector: \"app == '{{ .Release.Name }}'\"\n  ingress:\n  - action: Allow\n";

const README: &str = "# Policies\n\nNote: what stands here is for [people].\n\n    kind: NetworkPolicy\n";

fn severities(watched: &Watched) -> (usize, usize) {
    let errors = watched.problems.errors().count();
    (errors, watched.problems.list().len() - errors)
}

#[test]
fn strangers_close_nothing_and_are_warnings() {
    let strangers = [
        ("README.md", README),
        (
            "chart/Chart.yaml",
            "apiVersion: v2\nname: shop\nversion: 1.0.0\ntype: application\n",
        ),
        (
            "chart/values.yaml",
            "replicas: 3\nkind: DaemonSet\ningress:\n  enabled: false\n",
        ),
        ("chart/templates/policy.yaml", TEMPLATE),
        ("chart/templates/global.yaml", QUOTED),
        ("chart/templates/_helpers.tpl", "{{- define \"x\" -}}\n{{- end }}\n"),
        ("chart/templates/NOTES.txt", "Thank you: {{ .Release.Name }}\n"),
        ("kustomization.yaml", "resources:\n- a.yaml\nnamePrefix: x-\n"),
        (
            "more/kustomization.yaml",
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n- a.yaml\n",
        ),
        (
            "docker-compose.yaml",
            "version: '3'\nservices:\n  web:\n    image: nginx\n    ports: ['80:80']\n",
        ),
        ("notes.txt", "to do: mend [this\nand that\n"),
        ("list.yaml", "- one\n"),
        ("empty.json", "{}"),
    ];
    let mut files = vec![("tier.yaml", tier("t", 1))];
    files.extend(strangers.map(|(name, text)| (name, text.to_owned())));
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let watched = Watched::with(&files);
    std::fs::write(
        watched.path("picture.png"),
        [0x89, b'P', b'N', b'G', 0, 0xff, 0xfe, b':', 7],
    )
    .unwrap();
    let mut watched = watched;
    watched.until_wrong("picture.png");
    let (errors, warnings) = severities(&watched);
    assert_eq!(errors, 0, "{}", watched.wrong());
    assert!(warnings >= strangers.len(), "each is told: {}", watched.wrong());
    assert_eq!(watched.in_force.len(), 1, "{:?}", watched.in_force.keys());
    let wrong = watched.wrong();
    for (name, _) in strangers {
        assert!(wrong.contains(name), "{name}: {wrong}");
    }
}

#[test]
fn what_may_be_a_policy_closes_what_can_be_read_of_its_scope() {
    let literal = TEMPLATE.replace("  labels:", "  namespace: shop\n  labels:");
    let without_kind = policy("dev", "p", "Allow").replace("kind: NetworkPolicy\n", "");
    let watched = Watched::with(&[("template.yaml", &literal), ("kindless.yaml", &without_kind)]);
    let closed: Vec<Option<String>> = watched
        .in_force
        .values()
        .filter_map(|resource| match resource {
            Resource::BadPolicy(policy) => Some(policy.key.namespace.as_deref().map(str::to_owned)),
            _ => None,
        })
        .collect();
    let mut closed = closed;
    closed.sort();
    assert_eq!(
        closed,
        [Some("dev".to_owned()), Some("shop".to_owned())],
        "{}",
        watched.wrong()
    );
    assert_eq!(severities(&watched).0, 2);
}

#[test]
fn records_that_something_else_took_the_place_of_stay_in_force() {
    for accident in [
        "{\"error\": \"not found\"}",
        "Service Unavailable\n",
        TEMPLATE,
        QUOTED,
        "a: b\n",
    ] {
        let mut watched = Watched::with(&[("a.yaml", &policy("shop", "p", "Allow"))]);
        watched.write("a.yaml", accident);
        watched.until("told", |watched| !watched.problems.is_empty());
        watched.settle();
        assert!(watched.in_force.contains_key(&policy_key("shop", "p")), "{accident}");
        let first = &watched.problems.list()[0];
        assert_eq!(
            (first.severity, &first.in_force),
            (Severity::Error, &InForce::LastGood),
            "{accident}"
        );
        watched.remove("a.yaml");
        watched.until("gone", |watched| watched.in_force.is_empty());
    }
}
