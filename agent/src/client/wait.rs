//! `felid wait` and `felid wait-ready`.

use std::io::Write;
use std::time::{Duration, Instant};

use felid_model::ResourceKey;
use tokio::runtime::Runtime;

use crate::api::{LONGEST_WAIT, Wait, WaitFor, Waited};
use crate::cli::{GlobalArgs, WaitArgs, WaitReadyArgs};
use crate::config::{self, FromSetting};
use crate::outcome::{Outcome, usage};
use crate::{output, records};

use super::{Client, ClientError};

/// Between two looks whether an agent that went away is back.
const RECONNECT: Duration = Duration::from_millis(20);
/// What a negative timeout stands for, as with kubectl.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// `felid wait`.
pub fn wait(global: &GlobalArgs, args: &WaitArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let json = output::Format::is_json(&args.output)?;
    let end = Instant::now() + timeout(&args.timeout)?;
    let condition = match args.condition.as_str() {
        "enforced" => WaitFor::Enforced,
        "delete" => WaitFor::Deleted,
        other => return Err(usage(format!("unknown condition {other:?}: use enforced or delete"))),
    };
    let keys = records::named(args)?;
    let mut asker = Asker::new(global, false)?;
    let mut outcome = Outcome::Done;
    for key in keys {
        let waited = match asker.until(&condition(key.clone()), end) {
            Ok(waited) => waited,
            Err(ClientError::Refused(reason)) => {
                output::error(&reason);
                outcome = Outcome::Failed;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if json {
            output::json_line(out, &named(&waited, &key))?;
        } else if waited.done {
            writeln!(out, "{} condition met{}", short_name(&key), note(&waited, &key))?;
        }
        // Whoever waits for several things sees each as soon as it is so.
        out.flush()?;
        if !waited.done {
            timed_out(&format!(" on {}", records::describe(&key)), &waited);
            outcome = Outcome::Failed;
        }
    }
    Ok(outcome)
}

/// `felid wait-ready`.
pub fn wait_ready(global: &GlobalArgs, args: &WaitReadyArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let json = output::Format::is_json(&args.output)?;
    let end = Instant::now() + timeout(&args.timeout)?;
    let waited = Asker::new(global, true)?.until(&WaitFor::Ready, end)?;
    if json {
        output::json_line(out, &waited)?;
    } else if waited.done {
        writeln!(out, "ready")?;
    }
    if !waited.done {
        timed_out(" ready", &waited);
        return Ok(Outcome::Failed);
    }
    Ok(Outcome::Done)
}

/// Asks the agent until the time is over, also across restarts of the agent.
struct Asker {
    client: Client,
    runtime: Runtime,
    /// An agent that is not there is waited for: there was one, or one is expected.
    patient: bool,
}

impl Asker {
    fn new(global: &GlobalArgs, patient: bool) -> anyhow::Result<Self> {
        let settings = config::gather(global, [])?.settings();
        Ok(Self {
            client: Client::new(&settings.run_dir),
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
            patient,
        })
    }

    /// Waits until something is so, or the time is over.
    fn until(&mut self, what: &WaitFor, end: Instant) -> Result<Waited, ClientError> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let wait = Wait {
                what: what.clone(),
                timeout: left.min(LONGEST_WAIT),
            };
            let answer: Result<Waited, _> = self.runtime.block_on(self.client.get("/v1/wait", &wait.query()));
            let is_over = end <= Instant::now();
            let reason = match answer {
                Ok(waited) if waited.done || is_over => return Ok(waited),
                Ok(_) => {
                    self.patient = true;
                    continue;
                }
                Err(error @ (ClientError::NoPermission(_) | ClientError::Refused(_))) => return Err(error),
                Err(error @ ClientError::NotRunning(..)) if !self.patient => return Err(error),
                // It is being restarted, or has just been.
                Err(error) => error.to_string(),
            };
            self.patient = true;
            if is_over {
                return Ok(Waited {
                    reason: Some(reason),
                    ..Waited::default()
                });
            }
            std::thread::sleep(RECONNECT);
        }
    }
}

fn timed_out(what: &str, waited: &Waited) {
    let reason = waited.reason.as_deref().unwrap_or("nothing says why");
    output::error(&format!("timed out waiting for the condition{what}: {reason}"));
}

/// Reads a time to wait: negative = a week.
fn timeout(text: &str) -> anyhow::Result<Duration> {
    let positive = text.strip_prefix('-');
    let read = Duration::from_setting(positive.unwrap_or(text));
    let read = read.map_err(|error| usage(format!("--timeout {text:?}: {error}")))?;
    Ok(if positive.is_some() { WEEK } else { read.min(WEEK) })
}

/// `networkpolicy/allow-web`, as kubectl names what it waits for.
fn short_name(key: &ResourceKey) -> String {
    output::printable(&format!("{}/{}", key.kind.as_str().to_lowercase(), key.name))
}

fn note(waited: &Waited, key: &ResourceKey) -> &'static str {
    match waited.endpoints {
        Some(0) if key.kind.is_policy() => " (it selects no endpoint of this node)",
        _ => "",
    }
}

/// The answer with the name of what was waited for, whatever came of it.
fn named(waited: &Waited, key: &ResourceKey) -> Waited {
    Waited {
        kind: Some(key.kind.to_string()),
        namespace: key.namespace.as_deref().map(str::to_owned),
        name: Some(key.name.to_string()),
        ..waited.clone()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_kubectl_reads_them() {
        assert_eq!(timeout("30s").unwrap(), Duration::from_secs(30));
        assert_eq!(timeout("0").unwrap(), Duration::ZERO);
        assert_eq!(timeout("-1s").unwrap(), WEEK);
        assert_eq!(timeout("1000h").unwrap(), WEEK);
        assert!(timeout("soon").is_err() && timeout("--1").is_err());
    }
}
