//! `felid cleanup`: everything the agent put into the kernel goes.

use std::io::Write;

use anyhow::Context;
use felid_dataplane::cleanup as remove;

use crate::cli::{CleanupArgs, GlobalArgs};
use crate::config;
use crate::outcome::Outcome;
use crate::output::{Format, Progress, json_line};
use crate::run::ROUTE_PROTOCOL;
use crate::run::lock::RunLock;

/// Removes links, programs, maps and pins, and the routes and static neighbours of workload
/// interfaces. Idempotent.
pub fn cleanup(global: &GlobalArgs, args: &CleanupArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let json = Format::is_json(&args.output)?;
    let settings = config::gather(global, [("interface-prefix", args.interface_prefix.as_ref())])?.settings();
    // A run directory that nobody made has no agent; another agent is refused here, or by its lock
    // on the bpffs.
    let lock = if settings.run_dir.exists() {
        Some(RunLock::take(&settings.run_dir)?)
    } else {
        None
    };
    let progress = Progress::spinner("removing programs, maps and routes");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let errors = runtime
        .block_on(remove(
            &settings.bpffs,
            &settings.interface_prefix.0,
            ROUTE_PROTOCOL,
            &mut |what| progress.say(what),
        ))
        .with_context(|| format!("cannot clean up below {}", settings.bpffs.display()))?;
    progress.finish();
    if lock.is_some() {
        // A killed agent leaves its socket behind; that there is none is as good.
        let _ = std::fs::remove_file(settings.run_dir.join(crate::api::SOCKET));
    }
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    if json {
        json_line(out, &serde_json::json!({"clean": errors.is_empty(), "errors": errors}))?;
    } else {
        for error in &errors {
            crate::output::error(error);
        }
        writeln!(
            out,
            "felid's programs, maps and routes are gone; interfaces of workloads are open"
        )?;
    }
    Ok(if errors.is_empty() {
        Outcome::Done
    } else {
        Outcome::Failed
    })
}
