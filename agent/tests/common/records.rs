//! Records for tests.

use felid_datastore::Update;
use felid_model::{Decoded, Kind, Resource, ResourceKey, decode, documents};

/// A directory of records with what often stands beside records, and one record.
pub const BESIDE_RECORDS: [(&str, &str); 7] = [
    (
        "tier.yaml",
        "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: good}\nspec: {order: 5}\n",
    ),
    ("README.md", "# Policies\n\nNote: what stands [here\n"),
    ("kustomization.yaml", "resources:\n- tier.yaml\n"),
    ("docker-compose.yaml", "services:\n  web:\n    image: nginx\n"),
    ("Chart.yaml", "apiVersion: v2\nname: shop\nversion: 1.0.0\n"),
    ("values.yaml", "ingress:\n  enabled: false\n"),
    (
        "template.yaml",
        "{{- if .Values.on }}\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata:\n  name: {{ .Release.Name }}\n{{- end }}\n",
    ),
];

/// A small shop: two endpoints on two nodes, one profile, policies, a tier, sets.
pub const SHOP: &str = r"
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: node1-k8s-web-eth0, namespace: shop, labels: {app: web}}
spec:
  orchestrator: k8s
  node: node1
  pod: web
  endpoint: eth0
  ipNetworks: [10.0.0.1/32, 'fd00::1/128']
  interfaceName: caliweb
  profiles: [kns.shop]
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: node2-k8s-db-eth0, namespace: shop, labels: {app: db}}
spec:
  orchestrator: k8s
  node: node2
  pod: db
  endpoint: eth0
  ipNetworks: [10.0.0.2/32]
  interfaceName: calidb
  profiles: [kns.shop]
---
apiVersion: projectcalico.org/v3
kind: Profile
metadata: {name: kns.shop}
spec:
  ingress: [{action: Allow}]
  egress: [{action: Allow}]
  labelsToApply: {pcns.team: a, pcns.name: shop}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  order: 100
  selector: app == 'web'
  ingress:
  - {action: Allow, protocol: TCP, destination: {ports: [80]}}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: other}
spec: {selector: all()}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: deny}
spec: {tier: security, selector: has(bad), types: [Ingress], ingress: [{action: Deny}]}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: security}
spec: {order: 10}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: audit}
spec: {order: 5}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: office}
spec: {nets: [198.51.100.0/24, 203.0.113.7/32]}
";

/// Decodes good documents.
pub fn resources(text: &str) -> Vec<Resource> {
    let decoded = documents(text).iter().map(decode).collect::<Vec<_>>();
    decoded
        .into_iter()
        .map(|decoded| match decoded {
            Decoded::Resource { resource, .. } => resource,
            other => panic!("not a good record: {other:?}"),
        })
        .collect()
}

/// The same as updates of a datastore.
pub fn updates(text: &str) -> Vec<Update> {
    resources(text).into_iter().map(Update::Apply).collect()
}

/// A local endpoint `node1-k8s-NAME-eth0` in `shop` on interface `caliNAME`.
pub fn endpoint(name: &str, address: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {{name: node1-k8s-{name}-eth0, namespace: shop, labels: {{app: {name}}}}}\n\
         spec: {{orchestrator: k8s, node: node1, pod: {name}, endpoint: eth0, ipNetworks: [{address}/32], interfaceName: cali{name}, profiles: [kns.shop]}}\n"
    )
}

/// Key of such an endpoint.
pub fn endpoint_key(name: &str) -> ResourceKey {
    ResourceKey::new(Kind::WorkloadEndpoint, Some("shop"), &format!("node1-k8s-{name}-eth0"))
}
