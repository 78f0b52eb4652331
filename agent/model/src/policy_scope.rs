//! Which endpoints a policy may select that cannot be read: by the name of its kind alone, whatever
//! its group is.

/// Where a policy may select endpoints that cannot be read in any form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PolicyScope {
    /// In the namespace that it names, and in `default` if it names none.
    Namespace,
    /// In the namespace that it names, and in all of them if it names none.
    NamespaceIfNamed,
    /// In all namespaces.
    Cluster,
}

/// The scope of a policy of this kind, whatever its group is; `None` if the kind is no policy, or a
/// staged one, which closes nothing.
pub(crate) fn policy_scope(kind: &str) -> Option<PolicyScope> {
    let kind = kind.to_ascii_lowercase();
    if !kind.ends_with("policy") || kind.starts_with("staged") {
        return None;
    }
    let of_cluster = ["global", "cluster", "admin", "baseline"]
        .iter()
        .any(|word| kind.contains(word));
    Some(match kind.as_str() {
        _ if of_cluster => PolicyScope::Cluster,
        "networkpolicy" | "ciliumnetworkpolicy" => PolicyScope::Namespace,
        _ => PolicyScope::NamespaceIfNamed,
    })
}
