//! Waiting until something is enforced.

use std::time::Duration;

use felid_model::{Kind, ResourceKey};
use serde::{Deserialize, Serialize};

use super::Refusal;

/// The longest time that the agent holds one request; whoever wants to wait longer asks again.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitFor {
    /// The agent is ready.
    Ready,
    /// The version of a record that stands in the datastore at the time of the request, or a later
    /// one, is enforced in the kernel.
    Enforced(ResourceKey),
    /// The record is gone, and it is enforced that it is.
    Deleted(ResourceKey),
}

impl WaitFor {
    /// Returns the record that is waited for, if it is one.
    pub const fn key(&self) -> Option<&ResourceKey> {
        match self {
            Self::Ready => None,
            Self::Enforced(key) | Self::Deleted(key) => Some(key),
        }
    }
}

/// A request to be told when something is so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// What is waited for.
    pub what: WaitFor,
    /// How long at most; no longer than [`LONGEST_WAIT`].
    pub timeout: Duration,
}

impl Wait {
    /// Returns the request as parameters.
    pub fn query(&self) -> Vec<(&'static str, String)> {
        let condition = match &self.what {
            WaitFor::Ready => "ready",
            WaitFor::Enforced(_) => "enforced",
            WaitFor::Deleted(_) => "delete",
        };
        let mut query = vec![
            ("for", condition.to_owned()),
            ("timeoutMs", self.timeout.as_millis().to_string()),
        ];
        if let Some(key) = self.what.key() {
            query.push(("kind", key.kind.to_string()));
            query.extend(
                key.namespace
                    .iter()
                    .map(|namespace| ("namespace", namespace.to_string())),
            );
            query.push(("name", key.name.to_string()));
        }
        query
    }

    /// Reads the parameters of a request.
    pub fn from_query<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Refusal> {
        let (mut condition, mut kind, mut namespace, mut name, mut timeout) = ("enforced", None, None, None, 0);
        for (parameter, value) in pairs {
            let bad =
                |what: &str| Refusal::Unknown(format!("invalid value {value:?} of parameter {parameter:?}: {what}"));
            match parameter {
                "for" => condition = value,
                "kind" => kind = Some(Kind::from_alias(value).ok_or_else(|| bad("expected a kind"))?),
                "namespace" => namespace = Some(value),
                "name" => name = Some(value),
                "timeoutMs" => timeout = value.parse().map_err(|_| bad("expected a number of milliseconds"))?,
                _ => return Err(Refusal::Unknown(format!("unknown parameter {parameter:?}"))),
            }
        }
        let missing = |what: &str| Refusal::Unknown(format!("missing parameter {what:?}"));
        let key = || {
            let kind = kind.ok_or_else(|| missing("kind"))?;
            Ok(ResourceKey::new(kind, namespace, name.ok_or_else(|| missing("name"))?))
        };
        let what = match condition {
            "ready" => WaitFor::Ready,
            "enforced" => WaitFor::Enforced(key()?),
            "delete" => WaitFor::Deleted(key()?),
            _ => {
                let text = "expected enforced, delete or ready";
                return Err(Refusal::Unknown(format!(
                    "invalid value {condition:?} of parameter \"for\": {text}"
                )));
            }
        };
        let timeout = Duration::from_millis(timeout).min(LONGEST_WAIT);
        Ok(Self { what, timeout })
    }
}

/// How the wait ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Waited {
    /// Whether it is so; otherwise the time is over.
    pub done: bool,
    /// Kind of the record that was waited for, if it was one.
    pub kind: Option<String>,
    /// Its namespace, if it has one.
    pub namespace: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// The revision of its last change: its number among all changes of records that this run of
    /// the agent has seen.
    pub revision: Option<u64>,
    /// Since when that is enforced, RFC 3339.
    pub enforced_at: Option<String>,
    /// Endpoints of this node that a policy, a profile or an endpoint's record applies to.
    pub endpoints: Option<usize>,
    /// What is still missing.
    pub reason: Option<String>,
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn read(wait: &Wait) -> Wait {
        let query = wait.query();
        Wait::from_query(query.iter().map(|(name, value)| (*name, value.as_str()))).unwrap()
    }

    #[test]
    fn requests_are_read_as_they_are_written() {
        let key = |namespace| ResourceKey::new(Kind::NetworkPolicy, namespace, "a/b c");
        let timeout = Duration::from_millis(1500);
        for what in [
            WaitFor::Ready,
            WaitFor::Enforced(key(Some("shop"))),
            WaitFor::Deleted(key(Some("shop"))),
        ] {
            let wait = Wait { what, timeout };
            assert_eq!(read(&wait), wait);
        }
        for kind in Kind::ALL {
            let what = WaitFor::Enforced(ResourceKey::new(kind, Some("n"), "x"));
            let wait = Wait { what, timeout };
            assert_eq!(read(&wait), wait, "{kind}");
        }
    }

    #[test]
    fn nobody_is_held_for_longer_than_the_limit() {
        let wait = Wait {
            what: WaitFor::Ready,
            timeout: Duration::from_secs(86_400),
        };
        assert_eq!(read(&wait).timeout, LONGEST_WAIT);
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        for (query, reason) in [
            (vec![("for", "fun")], "expected enforced, delete or ready"),
            (vec![("for", "delete")], "missing parameter \"kind\""),
            (vec![("kind", "np")], "missing parameter \"name\""),
            (vec![("kind", "cat"), ("name", "x")], "expected a kind"),
            (vec![("timeoutMs", "-1")], "expected a number of milliseconds"),
            (vec![("color", "red")], "unknown parameter \"color\""),
        ] {
            let refusal = Wait::from_query(query.iter().copied()).unwrap_err();
            assert!(refusal.to_string().contains(reason), "{refusal}");
        }
    }
}
