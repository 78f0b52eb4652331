//! Names of `WorkloadEndpoint`s: `node-orchestrator-X-endpoint`, where X is the pod (k8s), the
//! containerID (cni), the word `libnetwork`, or else the workload. A `-` inside a part is written
//! `--`; no part begins or ends with one. And names of pods' host-side interfaces.

use sha1::{Digest as _, Sha1};

/// What the names of workloads' interfaces begin with unless the configuration says otherwise.
pub const DEFAULT_INTERFACE_PREFIX: &str = "cali";

/// Returns the name of a Kubernetes pod's host-side interface: the prefix and 11 hexadecimal digits
/// of the SHA-1 of `namespace.pod`, as Calico's CNI plugin names it.
pub fn host_interface(prefix: &str, namespace: &str, pod: &str) -> String {
    let digest = Sha1::digest(format!("{namespace}.{pod}"));
    let digits: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}{}", digits.get(..11).unwrap_or_default())
}

/// What the name of a WorkloadEndpoint is made of; empty where it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identifiers {
    /// The field `spec.node`.
    pub node: String,
    /// The field `spec.orchestrator`.
    pub orchestrator: String,
    /// The field `spec.endpoint`.
    pub endpoint: String,
    /// The field `spec.workload`.
    pub workload: String,
    /// The field `spec.pod`.
    pub pod: String,
    /// The field `spec.containerID`.
    pub container_id: String,
}

/// Why a name cannot be built, matched or parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct NameError {
    /// The identifier at fault, as the spec calls it; `name` for the name itself.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

fn error<T>(field: &'static str, reason: &str) -> Result<T, NameError> {
    Err(NameError {
        field,
        reason: reason.to_owned(),
    })
}

/// Returns why an identifier cannot be part of a name, if so.
fn part_fault(value: &str) -> Option<&'static str> {
    if value.is_empty() {
        Some("is needed for the endpoint's name")
    } else if value.starts_with('-') || value.ends_with('-') {
        Some("must not begin or end with \"-\": it is part of the endpoint's name")
    } else {
        None
    }
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

    /// Builds the name. With `allow_prefix`, the first identifier that is missing (other than the
    /// node) ends the name with a `-`: that is how the names of all endpoints with these
    /// identifiers begin, and of some others too (see [`Identifiers::matches`]). Fails if an
    /// identifier that is needed is missing.
    pub fn name(&self, allow_prefix: bool) -> Result<String, NameError> {
        let mut name = String::new();
        for (i, (field, value)) in self.parts().into_iter().enumerate() {
            if value.is_empty() && allow_prefix && i > 0 {
                name.push('-');
                return Ok(name);
            }
            if let Some(reason) = part_fault(value) {
                return error(field, reason);
            }
            if i > 0 {
                name.push('-');
            }
            name.push_str(&value.replace('-', "--"));
        }
        Ok(name)
    }

    /// Returns everything that keeps the name from being built: identifiers that are missing, and
    /// those that no name can hold. Without an orchestrator any one of pod, workload and container
    /// ID will do, since it is not known which of them the name needs.
    pub fn faults(&self) -> Vec<NameError> {
        let any = [&self.pod, &self.workload, &self.container_id];
        let any = self.orchestrator.is_empty() && any.iter().any(|value| !value.is_empty());
        let parts = self.parts().into_iter().enumerate();
        let parts = parts.filter(|(i, _)| !(any && *i == 2)).map(|(_, part)| part);
        parts
            .filter_map(|(field, value)| part_fault(value).map(|reason| (field, reason)))
            .map(|(field, reason)| NameError {
                field,
                reason: reason.to_owned(),
            })
            .collect()
    }

    /// Returns whether the name is that of an endpoint with these identifiers, where those that are
    /// not known may be anything. Fails if the node is not known or the name is malformed.
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

    /// Takes a name of one to four parts apart. Fails if it has another form.
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

/// Cuts a name into its parts. From the second byte on, `--` belongs to the part and any other `-`
/// separates.
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
