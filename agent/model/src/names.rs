//! Names of `WorkloadEndpoint`s: `node-orchestrator-X-endpoint`, where X is the pod (k8s), the containerID (cni), the word
//! `libnetwork`, or else the workload. A `-` inside a part is written `--`; no part begins or ends with one. And names of pods'
//! host-side interfaces.

use sha1::{Digest as _, Sha1};

/// Prefix of workload interfaces unless the configuration says otherwise.
pub const DEFAULT_INTERFACE_PREFIX: &str = "cali";

/// Name of a Kubernetes pod's host-side interface: the prefix and 11 hex digits of the SHA-1 of `namespace.pod`.
pub fn host_interface(prefix: &str, namespace: &str, pod: &str) -> String {
    let digest = Sha1::digest(format!("{namespace}.{pod}"));
    let digits: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}{}", digits.get(..11).unwrap_or_default())
}

/// What a name is made of. Empty = not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identifiers {
    /// `spec.node`
    pub node: String,
    /// `spec.orchestrator`
    pub orchestrator: String,
    /// `spec.endpoint`
    pub endpoint: String,
    /// `spec.workload`
    pub workload: String,
    /// `spec.pod`
    pub pod: String,
    /// `spec.containerID`
    pub container_id: String,
}

/// Why a name cannot be built, matched or parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct NameError {
    /// The identifier at fault, as the spec calls it; `name` for the name itself.
    pub field: &'static str,
    /// Reason.
    pub reason: String,
}

fn error<T>(field: &'static str, reason: &str) -> Result<T, NameError> {
    Err(NameError {
        field,
        reason: reason.to_owned(),
    })
}

impl Identifiers {
    /// The four parts of the name with the fields they come from.
    fn parts(&self) -> [(&'static str, &str); 4] {
        let x = match self.orchestrator.as_str() {
            "k8s" => ("pod", self.pod.as_str()),
            "cni" => ("containerID", self.container_id.as_str()),
            "libnetwork" => ("workload", "libnetwork"),
            _ => ("workload", self.workload.as_str()),
        };
        [
            ("node", &self.node),
            ("orchestrator", &self.orchestrator),
            x,
            ("endpoint", &self.endpoint),
        ]
    }

    /// The name. With `allow_prefix` the first identifier that is missing, other than the node, ends the name with a `-`: the
    /// prefix that the names of all endpoints with these identifiers share (and others may too: see [`Identifiers::matches`]).
    pub fn name(&self, allow_prefix: bool) -> Result<String, NameError> {
        let mut name = String::new();
        for (i, (field, value)) in self.parts().into_iter().enumerate() {
            if value.is_empty() {
                if allow_prefix && i > 0 {
                    name.push('-');
                    return Ok(name);
                }
                return error(field, "is needed for the endpoint's name");
            }
            if value.starts_with('-') || value.ends_with('-') {
                return error(
                    field,
                    "must not begin or end with \"-\": it is part of the endpoint's name",
                );
            }
            if i > 0 {
                name.push('-');
            }
            name.push_str(&value.replace('-', "--"));
        }
        Ok(name)
    }

    /// Whether the name is one of an endpoint with these identifiers; those that are not known may be anything. The node must be
    /// known.
    pub fn matches(&self, name: &str) -> Result<bool, NameError> {
        if self.node.is_empty() {
            return error("node", "is needed to match names");
        }
        let segments = split(name);
        let parts = self.parts();
        // Four parts of at least one byte with three separators; shorter names have an empty part.
        Ok(name.len() >= 7
            && segments.len() == parts.len()
            && parts
                .iter()
                .zip(&segments)
                .all(|((_, value), segment)| value.is_empty() || value == segment))
    }

    /// Takes a name apart: one to four parts.
    pub fn parse(name: &str) -> Result<Identifiers, NameError> {
        if name.is_empty() {
            return error("name", "is empty");
        }
        let mut segments = split(name);
        if segments.len() > 4 {
            return error("name", "has more than four parts");
        }
        let count = segments.len();
        segments.resize(4, String::new());
        let mut segments = segments.into_iter();
        let mut next = || segments.next().unwrap_or_default();
        let (node, orchestrator, x, endpoint) = (next(), next(), next(), next());
        let mut ids = Identifiers {
            node,
            orchestrator,
            endpoint,
            ..Identifiers::default()
        };
        match ids.orchestrator.as_str() {
            "k8s" => ids.pod = x,
            "cni" => ids.container_id = x,
            // The reference reads the third part over the second here.
            "libnetwork" if count > 2 => ids.orchestrator = x,
            "libnetwork" => {}
            _ => ids.workload = x,
        }
        Ok(ids)
    }
}

/// Cuts a name into its parts. From the second byte on, `--` belongs to the part and any other `-` separates.
fn split(name: &str) -> Vec<String> {
    let mut segments = Vec::new();
    let mut current = String::new();
    let mut chars = name.chars().peekable();
    let mut first = true;
    while let Some(c) = chars.next() {
        if c == '-' && !first {
            if chars.next_if_eq(&'-').is_some() {
                current.push_str("--");
            } else {
                segments.push(std::mem::take(&mut current));
            }
        } else {
            current.push(c);
        }
        first = false;
    }
    segments.push(current);
    segments.iter().map(|segment| segment.replace("--", "-")).collect()
}
