//! The format of policy tests, as users write them: see `docs/policy-tests.md`.

use std::net::IpAddr;

use felid_model::{Document, LabelMap, Protocol, documents};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::outcome::usage;

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
    pub(crate) ip: IpFamily,
    pub(crate) allowed: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum IpFamily {
    #[default]
    V4,
    V6,
}

impl IpFamily {
    pub(crate) fn is_of(self, address: &IpAddr) -> bool {
        address.is_ipv4() == (self == IpFamily::V4)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            IpFamily::V4 => "IPv4",
            IpFamily::V6 => "IPv6",
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
    /// The case, or everything that keeps it from being one, each with file, line and field.
    pub(crate) case: Result<Case, Vec<String>>,
}

/// Reads a file of cases: JSON arrays, YAML documents, or both. What is no good case hides no
/// other, but one has to be there.
pub(crate) fn read(name: &str, text: &str) -> anyhow::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut any = false;
    for document in documents(text) {
        entries.push(match &document.content {
            Ok(value) => {
                any |= value.is_object();
                Entry {
                    name: value.get("name").and_then(Value::as_str).unwrap_or_default().to_owned(),
                    case: decode(&document, value).map_err(|faults| {
                        let line = |fault: &Fault| format!("{name}:{}: {fault}", document.line_of(&fault.field));
                        faults.iter().map(line).collect()
                    }),
                }
            }
            Err(error) => Entry {
                name: String::new(),
                case: Err(vec![format!("{name}: {error}")]),
            },
        });
    }
    if any {
        return Ok(entries);
    }
    let first = entries.into_iter().find_map(|entry| entry.case.err());
    Err(usage(match first {
        Some(errors) => errors.join("; "),
        None => format!("{name}: no cases"),
    }))
}

/// Reads a case and returns it only if every key of it is known and something is expected.
fn decode(document: &Document, value: &Value) -> Result<Case, Vec<Fault>> {
    if !value.is_object() {
        return Err(vec![Fault::new("", Some(value), "expected a mapping, which is a case")]);
    }
    let mut unknown = Vec::new();
    let mut note = |path: serde_ignored::Path<'_>| unknown.push(field_path(&path));
    let decoded = serde_path_to_error::deserialize(serde_ignored::Deserializer::new(value, &mut note));
    let at = |field: &str| value_at(value, field);
    let mut faults: Vec<Fault> = unknown
        .iter()
        .map(|field| Fault::new(field, None, "unknown field"))
        .collect();
    match decoded {
        Ok(case) => {
            let case: Case = case;
            // A mistyped `expect` is told as that already.
            if faults.is_empty() && case.rounds().all(|(.., expect)| expect.is_empty()) {
                let reason = "is missing or empty, here and in every step: the case tests nothing";
                faults.push(Fault::new("expect", None, reason));
            }
            if faults.is_empty() {
                return Ok(case);
            }
        }
        Err(error) => {
            let path = error.path().to_string();
            let path = if path == "." { "" } else { path.as_str() };
            let (key, reason) = in_words(&error.inner().to_string());
            let field = match (path, key) {
                (path, None) => path.to_owned(),
                ("", Some(key)) => key,
                (path, Some(key)) => format!("{path}.{key}"),
            };
            faults.push(Fault::new(&field, at(&field), &reason));
        }
    }
    faults.sort_by_key(|fault| document.line_of(&fault.field));
    Err(faults)
}

/// What is wrong with one field of a case.
#[derive(Debug)]
struct Fault {
    /// Its path: `steps[0].expect[1].port`.
    field: String,
    /// Its value, if it is no mapping and no list.
    value: Option<String>,
    reason: String,
}

impl Fault {
    fn new(field: &str, value: Option<&Value>, reason: &str) -> Self {
        let value = value.and_then(|value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
            other => Some(other.to_string()),
        });
        Self {
            field: field.to_owned(),
            value,
            reason: reason.to_owned(),
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.field)?;
        if let Some(value) = &self.value {
            write!(f, " {value:?}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// The path of a field as [`Document::line_of`] takes it.
fn field_path(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", field_path(parent)),
        Path::Map { parent, key } => match field_path(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => field_path(parent),
    }
}

/// The value at a path.
fn value_at<'a>(root: &'a Value, field: &str) -> Option<&'a Value> {
    let keys = field.split(['.', '[']).filter(|key| !key.is_empty());
    keys.into_iter()
        .try_fold(root, |value, key| match key.strip_suffix(']') {
            Some(index) => value.get(index.parse::<usize>().ok()?),
            None => value.get(key),
        })
}

/// The deserializer's reason in the words of the format; the key, where one is missing.
fn in_words(reason: &str) -> (Option<String>, String) {
    if let Some(key) = reason.strip_prefix("missing field `") {
        return (Some(key.trim_end_matches('`').to_owned()), "is required".to_owned());
    }
    let Some((_, expected)) = reason.rsplit_once(", expected ") else {
        let reason = match reason {
            "invalid IP address syntax" => "expected an IP address",
            other => other,
        };
        return (None, reason.to_owned());
    };
    let expected = match expected {
        "u8" => "a whole number from 0 to 255".to_owned(),
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" => "text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "IP address" => "an IP address".to_owned(),
        other if other.starts_with("struct ") || other == "a map" => "a mapping".to_owned(),
        other => other.replace('`', ""),
    };
    (None, format!("expected {expected}"))
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
        let json = r#"[{"name": "a", "expect": [{"from": "x/a", "to": "x/b", "protocol": 132, "ip": "v6", "allowed": true}]},
            {"name": "b", "steps": [{"expect": [{"from": "x/a", "to": "x/b", "protocol": "icmp", "allowed": true}]}]}]"#;
        let found = cases(json);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].expect[0].protocol.to_string(), "SCTP");
        let expect = "expect: [{from: x/a, to: x/b, protocol: TCP, port: 1, allowed: true}]\n";
        let yaml = format!(
            "name: a\nsteps: null\n{expect}---\nname: b\npods:\n- {{namespace: x, name: a, ips: [10.0.0.1], ports: [{{port: 80}}]}}\n{expect}"
        );
        let pod = &cases(&yaml)[1].pods[0];
        assert_eq!(pod.ports[0].protocol.to_string(), "TCP");
        assert_eq!(pod.profiles, None);
    }

    #[test]
    fn says_where_a_case_is_wrong() {
        let good = "expect: [{from: x/a, to: x/b, protocol: TCP, port: 1, allowed: true}]";
        let text = format!("name: one\nexpect:\n- {{from: a/b}}\n---\nname: two\n{good}\n---\nx: [\n");
        let entries = read("f", &text).unwrap();
        let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["one", "two", ""]);
        let errors = entries[0].case.as_ref().unwrap_err();
        assert_eq!(errors[..], ["f:3: expect[0].to: is required"]);
        assert!(entries[1].case.is_ok() && entries[2].case.is_err());
        for text in ["[{", "", "[1, 2]"] {
            assert!(read("f", text).is_err(), "{text}");
        }
    }

    #[test]
    fn unknown_keys_are_named() {
        let text = "name: one\nexpct: []\nsteps:\n- expect:\n  - {from: a/b, to: a/c, protocol: tcp, prt: 80, allowed: true}\n";
        let errors = read("f", text).unwrap().remove(0).case.unwrap_err();
        assert_eq!(
            errors,
            [
                "f:2: expct: unknown field",
                "f:5: steps[0].expect[0].prt: unknown field"
            ]
        );
    }
}
