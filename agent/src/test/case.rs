//! The format of policy tests, as users write them: see `docs/policy-tests.md`.

use std::net::IpAddr;

use anyhow::anyhow;
use felid_model::{LabelMap, Protocol, documents};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::entry::usage;

/// One case: a small cluster, and what shall be able to reach what in it.
#[derive(Debug, Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) namespaces: Vec<NamespaceSpec>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) pods: Vec<PodSpec>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) external: Vec<ExternalSpec>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) resources: Vec<Value>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) expect: Vec<Expectation>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) steps: Vec<Step>,
    #[serde(flatten)]
    unknown: serde_json::Map<String, Value>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct NamespaceSpec {
    pub(crate) name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) labels: LabelMap,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodSpec {
    pub(crate) namespace: String,
    pub(crate) name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) labels: LabelMap,
    pub(crate) service_account: Option<String>,
    pub(crate) profiles: Option<Vec<String>>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) ips: Vec<IpAddr>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) ports: Vec<PortSpec>,
    #[serde(flatten)]
    unknown: serde_json::Map<String, Value>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct PortSpec {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) name: String,
    pub(crate) port: u16,
    #[serde(default = "tcp", deserialize_with = "protocol")]
    pub(crate) protocol: Protocol,
}

/// An address that no record knows, somewhere behind the host.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ExternalSpec {
    pub(crate) name: String,
    pub(crate) ips: Vec<IpAddr>,
}

/// What changes next, and what holds then.
#[derive(Debug, Deserialize)]
pub(crate) struct Step {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) delete: Vec<Value>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) apply: Vec<Value>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) expect: Vec<Expectation>,
    #[serde(flatten)]
    unknown: serde_json::Map<String, Value>,
}

/// One probe: the first packet of a new flow, and whether it gets through.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Expectation {
    pub(crate) from: String,
    pub(crate) to: String,
    #[serde(deserialize_with = "protocol")]
    pub(crate) protocol: Protocol,
    pub(crate) port: Option<u16>,
    pub(crate) src_port: Option<u16>,
    pub(crate) icmp_type: Option<u8>,
    pub(crate) icmp_code: Option<u8>,
    #[serde(default)]
    pub(crate) ip: Family,
    pub(crate) allowed: bool,
    #[serde(flatten)]
    unknown: serde_json::Map<String, Value>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Family {
    #[default]
    V4,
    V6,
}

impl Family {
    pub(crate) fn is_of(self, address: &IpAddr) -> bool {
        address.is_ipv4() == (self == Family::V4)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
}

fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn tcp() -> Protocol {
    Protocol::TCP
}

fn protocol<'de, D: Deserializer<'de>>(from: D) -> Result<Protocol, D::Error> {
    let text = match Value::deserialize(from)? {
        Value::String(text) => text,
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    };
    // Kubernetes and users write names in several ways.
    let known = ["TCP", "UDP", "SCTP", "ICMP", "ICMPv6", "UDPLite"];
    let text = known
        .iter()
        .find(|name| name.eq_ignore_ascii_case(&text))
        .map_or(text.as_str(), |name| *name);
    text.parse().map_err(serde::de::Error::custom)
}

impl Case {
    /// Keys that the format does not have: mistyped ones, most likely.
    pub(crate) fn unknown_keys(&self) -> Vec<String> {
        let top = self.unknown.keys().cloned();
        let pods = self.pods.iter().enumerate().flat_map(|(n, pod)| {
            let keys = pod.unknown.keys();
            keys.map(move |key| format!("pods[{n}].{key}"))
        });
        let steps = self.steps.iter().enumerate().flat_map(|(n, step)| {
            let keys = step.unknown.keys();
            keys.map(move |key| format!("steps[{n}].{key}"))
        });
        let expected = |at: String, list: &[Expectation]| {
            let each = list.iter().enumerate().flat_map(|(n, expectation)| {
                let keys = expectation.unknown.keys();
                keys.map(move |key| (n, key.clone())).collect::<Vec<_>>()
            });
            each.map(|(n, key)| format!("{at}expect[{n}].{key}"))
                .collect::<Vec<_>>()
        };
        let mut keys: Vec<String> = top.chain(pods).chain(steps).collect();
        keys.extend(expected(String::new(), &self.expect));
        for (n, step) in self.steps.iter().enumerate() {
            keys.extend(expected(format!("steps[{n}]."), &step.expect));
        }
        keys
    }

    /// The rounds of the case: step 0 is its own `expect`.
    pub(crate) fn rounds(&self) -> impl Iterator<Item = (usize, Option<&Step>, &[Expectation])> {
        let first = std::iter::once((0, None, self.expect.as_slice()));
        let steps = self.steps.iter().enumerate();
        first.chain(steps.map(|(n, step)| (n + 1, Some(step), step.expect.as_slice())))
    }
}

/// What a file holds where a case is expected.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The case's name as far as it can be read.
    pub(crate) name: String,
    /// The case, or why it is none.
    pub(crate) case: anyhow::Result<Case>,
}

/// Reads a file of cases: JSON arrays, YAML documents, or both. What is no good case hides no other, but one has to be there.
pub(crate) fn read(name: &str, text: &str) -> anyhow::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut any = false;
    for document in documents(text) {
        let at = format!("{name}:{}", document.line);
        entries.push(match document.content {
            Ok(value) => {
                any |= value.is_object();
                Entry {
                    name: value.get("name").and_then(Value::as_str).unwrap_or_default().to_owned(),
                    case: serde_json::from_value(value).map_err(|error| anyhow!("{at}: {error}")),
                }
            }
            Err(error) => Entry {
                name: String::new(),
                case: Err(anyhow!("{name}: {error}")),
            },
        });
    }
    if any {
        return Ok(entries);
    }
    let first = entries.into_iter().find_map(|entry| entry.case.err());
    Err(usage(match first {
        Some(error) => format!("{error:#}"),
        None => format!("{name}: no cases"),
    }))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::{Case, read};

    fn cases(text: &str) -> Vec<Case> {
        let entries = read("f", text).unwrap();
        entries.into_iter().map(|entry| entry.case.unwrap()).collect()
    }

    #[test]
    fn reads_json_arrays_and_yaml_documents() {
        let json = r#"[{"name": "a", "expect": [{"from": "x/a", "to": "x/b", "protocol": 132, "ip": "v6", "allowed": true}]}, {"name": "b"}]"#;
        let found = cases(json);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].expect[0].protocol.to_string(), "SCTP");
        let yaml = "name: a\nsteps: null\n---\nname: b\npods:\n- {namespace: x, name: a, ips: [10.0.0.1], ports: [{port: 80}]}\n";
        let pod = &cases(yaml)[1].pods[0];
        assert_eq!(pod.ports[0].protocol.to_string(), "TCP");
        assert_eq!(pod.profiles, None);
    }

    #[test]
    fn says_where_a_case_is_wrong() {
        let entries = read("f", "name: one\nexpect:\n- {from: a/b}\n---\nname: two\n---\nx: [\n").unwrap();
        let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["one", "two", ""]);
        let error = entries[0].case.as_ref().unwrap_err();
        assert!(error.to_string().starts_with("f:1: missing field"), "{error:#}");
        assert!(entries[1].case.is_ok() && entries[2].case.is_err());
        for text in ["[{", "", "[1, 2]"] {
            assert!(read("f", text).is_err(), "{text}");
        }
    }

    #[test]
    fn unknown_keys_are_named() {
        let text = "name: one\nexpct: []\nsteps:\n- expect:\n  - {from: a/b, to: a/c, protocol: tcp, prt: 80, allowed: true}\n";
        let cases = cases(text);
        assert_eq!(cases[0].unknown_keys(), ["expct", "steps[0].expect[0].prt"]);
    }
}
