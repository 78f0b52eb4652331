//! Records as text, as a user would write them.

use crate::Workload;
use crate::netns::mac_text;

/// A profile `open` that allows everything.
pub const OPEN_PROFILE: &str = "---
apiVersion: projectcalico.org/v3
kind: Profile
metadata: {name: open}
spec:
  ingress: [{action: Allow}]
  egress: [{action: Allow}]
";

/// An endpoint of node `node1`.
#[derive(Clone, Debug)]
pub struct Endpoint<'a> {
    /// Namespace.
    pub namespace: &'a str,
    /// Pod name.
    pub pod: &'a str,
    /// Node.
    pub node: &'a str,
    /// Host-side interface.
    pub interface: &'a str,
    /// Addresses, without mask.
    pub addresses: Vec<String>,
    /// Labels, as a YAML flow mapping without its braces: `app: web, tier: front`.
    pub labels: &'a str,
    /// Profiles.
    pub profiles: &'a [&'a str],
    /// MAC address.
    pub mac: Option<[u8; 6]>,
    /// Named ports: name, protocol, port.
    pub ports: &'a [(&'a str, &'a str, u16)],
    /// 1:1 translations: internal address, external address.
    pub nats: Vec<(String, String)>,
}

impl Default for Endpoint<'_> {
    /// In namespace `default` of `node1`, with the profile `open`.
    fn default() -> Self {
        Self {
            namespace: "default",
            pod: "",
            node: "node1",
            interface: "",
            addresses: Vec::new(),
            labels: "",
            profiles: &["open"],
            mac: None,
            ports: &[],
            nats: Vec::new(),
        }
    }
}

impl<'a> Endpoint<'a> {
    /// The record of a workload of the laboratory, with its real MAC address.
    pub fn of(pod: &'a str, workload: &'a Workload) -> Self {
        Self {
            pod,
            interface: &workload.interface,
            addresses: workload.addresses.iter().map(ToString::to_string).collect(),
            mac: Some(workload.mac),
            ..Self::default()
        }
    }

    /// One YAML document, `---` included. The name is left to the reader: it follows from the
    /// identifiers.
    pub fn yaml(&self) -> String {
        let addresses: Vec<String> = self
            .addresses
            .iter()
            .map(|address| format!("'{address}/{}'", if address.contains(':') { 128 } else { 32 }))
            .collect();
        let mac = self
            .mac
            .map_or_else(String::new, |mac| format!("  mac: '{}'\n", mac_text(mac)));
        let ports: String = self
            .ports
            .iter()
            .map(|(name, protocol, port)| format!("    - {{name: {name}, protocol: {protocol}, port: {port}}}\n"))
            .collect();
        let ports = if ports.is_empty() {
            ports
        } else {
            format!("  ports:\n{ports}")
        };
        let nats: String = self
            .nats
            .iter()
            .map(|(internal, external)| format!("    - {{internalIP: '{internal}', externalIP: '{external}'}}\n"))
            .collect();
        let nats = if nats.is_empty() {
            nats
        } else {
            format!("  ipNATs:\n{nats}")
        };
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata:\n  namespace: {}\n  labels: {{{}}}\nspec:\n  node: {}\n  \
             orchestrator: k8s\n  pod: {}\n  endpoint: eth0\n  interfaceName: {}\n{mac}  ipNetworks: [{}]\n  profiles: [{}]\n{ports}{nats}",
            self.namespace,
            self.labels,
            self.node,
            self.pod,
            self.interface,
            addresses.join(", "),
            self.profiles.join(", "),
        )
    }
}

/// A NetworkPolicy in `namespace` (or a GlobalNetworkPolicy if empty); `spec` is its YAML, indented
/// by two spaces.
pub fn policy(namespace: &str, name: &str, spec: &str) -> String {
    let (kind, namespace) = if namespace.is_empty() {
        ("GlobalNetworkPolicy", String::new())
    } else {
        ("NetworkPolicy", format!(", namespace: {namespace}"))
    };
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: {name}{namespace}}}\nspec:\n{spec}\n"
    )
}
