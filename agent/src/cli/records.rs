//! Arguments of the commands that read and write records.

use std::path::PathBuf;

use clap::Args;

pub(super) const GET_EXAMPLES: &str = "\
Kinds, in any case: workloadendpoint(s) wep weps; networkpolicy networkpolicies policy policies pol pols np;
  globalnetworkpolicy globalnetworkpolicies gnp gnps; profile(s) pro pros; tier(s); networkset(s) netsets;
  globalnetworkset(s) gnetsets; felixconfiguration(s) felixconfig felixconfigs;
  and of Kubernetes: pod(s) po; kubernetesnetworkpolicies knp; adminnetworkpolicies anp; baselineadminnetworkpolicies banp;
  clusternetworkpolicies; namespaces ns; serviceaccounts sa; services svc; endpointslices

Examples:
  felid get wep -A -o wide              every workload endpoint, all columns
  felid get np allow-web -n shop -o yaml
  felid get gnp -o name | xargs felid delete
  felid get wep -o custom-columns=NAME,NODE

Exit code 1 if a name is unknown; records that exist are printed all the same.";

pub(super) const WRITE_EXAMPLES: &str = "\
Examples:
  felid apply -f policy.yaml
  felid apply -f records/ --datastore dir:/etc/felid/records
  felid get np allow-web -o yaml | sed s/80/8080/ | felid replace -f -

All documents are checked first; if one is bad, nothing is written and the exit code is 1. A new resource gets a file
KIND.NAMESPACE.NAME.yaml; others are rewritten where they stand, the rest of their file stays as it is.";

pub(super) const DELETE_EXAMPLES: &str = "\
Examples:
  felid delete np allow-web -n shop
  felid delete -f policy.yaml
  felid delete wep --skip-not-exists node1-k8s-web-eth0";

pub(super) const VALIDATE_EXAMPLES: &str = "\
Examples:
  felid validate -f policy.yaml
  felid validate -f records/
  cat *.json | felid validate -f - -o json     one line {\"valid\": ..., \"errors\": [...]} a document, in input order

Exit code 1 if any document is bad.";

pub(super) const CONVERT_EXAMPLES: &str = "\
Pods become WorkloadEndpoints; Namespaces and ServiceAccounts Profiles; NetworkPolicies of Kubernetes, AdminNetworkPolicies,
BaselineAdminNetworkPolicies and ClusterNetworkPolicies become (Global)NetworkPolicies; v1 workloadEndpoints v3 ones. Calico v3
resources stay as they are. The agent reads all of these itself: nothing needs to be converted for it.

Examples:
  felid convert -f policy.yaml
  kubectl get pods,networkpolicies -A -o yaml | felid convert -f - > records.yaml
  cat *.json | felid convert -f - -o json
      one line a document, in input order: {\"resources\": [...]}, {\"none\": true} or {\"error\": ...};
      \"error\" beside \"resources\" where rules were left out or replaced by ones that deny

Exit code 1 if there is an error in any document.";

/// Files to read.
#[derive(Debug, Clone, Default, Args)]
pub struct FileArgs {
    /// File with YAML or JSON documents, a directory of such files (with all below it), or - for
    /// standard input
    #[arg(long = "filename", short = 'f', value_name = "FILE|DIR|-")]
    pub files: Vec<PathBuf>,
    /// Accepted as calicoctl's; directories are always read with all below them
    #[arg(long, short = 'R', hide = true)]
    pub recursive: bool,
    /// Files and directories without any document are no error
    #[arg(long)]
    pub skip_empty: bool,
}

/// Files that were named without `-f`: clap would only say that it expects none.
#[derive(Debug, Clone, Default, Args)]
pub struct StrayArgs {
    /// Refused with a hint
    #[arg(value_name = "FILE", hide = true)]
    pub stray: Vec<PathBuf>,
}

impl StrayArgs {
    /// Says how files are named, if any were named in another way.
    pub fn refuse(&self, command: &str) -> anyhow::Result<()> {
        match self.stray.first() {
            None => Ok(()),
            Some(file) => {
                let file = file.display();
                Err(crate::outcome::usage(format!(
                    "files are named with -f: felid {command} -f {file}"
                )))
            }
        }
    }
}

/// Namespace of names and of documents that name none.
#[derive(Debug, Clone, Default, Args)]
pub struct NamespaceArgs {
    /// Namespace (of names, and of documents that do not say theirs) [default: default]
    #[arg(long, short = 'n', value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

/// Arguments of `get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// Kind or an alias, or KIND/NAME
    #[arg(value_name = "KIND", required_unless_present = "files")]
    pub kind: Option<String>,
    /// Names; none = all
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Files that say which records to show.
    #[command(flatten)]
    pub files: FileArgs,
    /// Namespace.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// Show all namespaces
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Show what there is, and then every change as it happens
    #[arg(long, short = 'w')]
    pub watch: bool,
    /// table (also ps), wide, yaml, json, name, or custom-columns=COLUMN,...
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "table")]
    pub output: String,
}

/// Arguments of `apply` and `replace`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// What all writing commands have.
    #[command(flatten)]
    pub write: WriteArgs,
    /// Files without -f.
    #[command(flatten)]
    pub stray: StrayArgs,
}

/// Arguments of all commands that write records.
#[derive(Debug, Args)]
pub struct WriteArgs {
    /// Files.
    #[command(flatten)]
    pub files: FileArgs,
    /// Namespace.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// text, or json: one line {"resource", "action", "file"} a record
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "text")]
    pub output: String,
}

/// Arguments of `create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// What all writing commands have.
    #[command(flatten)]
    pub write: WriteArgs,
    /// Files without -f.
    #[command(flatten)]
    pub stray: StrayArgs,
    /// Leave records that exist alone instead of failing
    #[arg(long)]
    pub skip_exists: bool,
}

/// Arguments of `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Kind or an alias, or KIND/NAME
    #[arg(value_name = "KIND", required_unless_present = "files")]
    pub kind: Option<String>,
    /// Names
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Do not fail for records that do not exist
    #[arg(long, short = 's')]
    pub skip_not_exists: bool,
    /// What all writing commands have.
    #[command(flatten)]
    pub write: WriteArgs,
}

/// Arguments of `validate`.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Files.
    #[command(flatten)]
    pub files: FileArgs,
    /// Files without -f.
    #[command(flatten)]
    pub stray: StrayArgs,
    /// Namespace of documents that do not say theirs
    #[arg(long, short = 'n', value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// text, or json: one line a document, in input order
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "text")]
    pub output: String,
}

/// Arguments of `convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// Files.
    #[command(flatten)]
    pub files: FileArgs,
    /// Files without -f.
    #[command(flatten)]
    pub stray: StrayArgs,
    /// Namespace of documents that do not say theirs
    #[arg(long, short = 'n', value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// yaml, or json: one line a document, in input order
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "yaml")]
    pub output: String,
}
