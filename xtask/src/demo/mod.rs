//! `cargo xtask demo`: the shop of `examples/` in namespaces of its own, with the real agent and
//! real connections.

mod probe;
mod shop;
mod stream;

pub(crate) use probe::serve;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::command::{build_agent, need_root, root};
use crate::setup;
use felid_lab::{Agent, Host, Namespace};
use probe::Matrix;
use shop::Shop;
use stream::{Stream, StreamSummary};

/// Prefix of the namespaces' names.
const PREFIX: &str = "felid-demo";

/// Runs the demonstration; `keep` leaves everything up and says what to try.
pub(crate) fn run(keep: bool) -> Result<()> {
    need_root("cargo xtask demo")?;
    setup::build_tools()?;
    setup::host_tools()?;
    let felid = build_agent()?;
    let examples = root().join("examples");

    println!("\nA host and six workloads, in network namespaces of their own");
    let shop = Shop::new(PREFIX, &examples.join("shop"))?;
    let host = shop.host();
    let records = host.directory().join("records");
    copy(&examples.join("shop"), &records)?;
    let agent = Agent::start_on(&felid, host, &records)?;
    println!(
        "The agent enforces {} records below {}",
        count(&records)?,
        shown(&examples.join("shop"))
    );

    println!("\nWho reaches whom (each cell: a connection over IPv4 and one over IPv6, made and answered or not)\n");
    let before = Matrix::measure(&shop)?;
    before.print(None);

    let [revoked, untouched] = edit_policy(&shop, &felid, &records, &examples)?;

    println!("\nWho reaches whom now (* = changed)\n");
    let after = Matrix::measure(&shop)?;
    after.print(Some(&before));

    before.check(&shop::expected(false))?;
    after.check(&shop::expected(true))?;
    ensure!(
        !revoked.alive(),
        "the connection that the policy revoked is still alive"
    );
    ensure!(untouched.alive(), "a connection that no policy revoked was cut");

    if keep {
        told_to_try(&felid, host, &shop);
        agent.leave();
        shop.leave();
    } else {
        agent.stop()?;
        clean_up(&felid, host)?;
        drop(shop);
        println!("\nCleaned up. `cargo xtask demo --keep` leaves it running and says what to try.");
    }
    Ok(())
}

/// Edits a policy while two connections are open. Returns what became of the one that the edit
/// revokes, and of the one that it does not concern.
fn edit_policy(shop: &Shop, felid: &Path, records: &Path, examples: &Path) -> Result<[StreamSummary; 2]> {
    let edit = examples.join("shop-edits/api.yaml");
    println!("\nTwo connections stay open: frontend -> api, and api -> database. Then the policy `api` is edited:");
    println!("  felid apply -f {}", shown(&edit));
    let revoked = Stream::open(shop, "frontend", "api")?;
    let untouched = Stream::open(shop, "api", "database")?;
    std::thread::sleep(Duration::from_millis(300));
    let applied = apply(felid, shop.host(), records, &edit)?;
    std::thread::sleep(Duration::from_millis(700));
    let revoked = revoked.finish()?;
    let untouched = untouched.finish()?;
    println!("  frontend -> api:      {}", revoked.told(applied));
    println!("  api -> database:      {}", untouched.told(applied));
    Ok([revoked, untouched])
}

fn clean_up(felid: &Path, host: &Host) -> Result<()> {
    let cleaned = felid_command(felid, host)
        .arg("cleanup")
        .output()
        .context("felid cleanup")?;
    ensure!(
        cleaned.status.success(),
        "felid cleanup: {}",
        String::from_utf8_lossy(&cleaned.stderr)
    );
    Ok(())
}

/// Ends what an earlier `--keep` left: agents and servers in its namespaces, the namespaces, bpffs
/// mounts, directories.
pub(crate) fn down() -> Result<()> {
    need_root("cargo xtask demo --down")?;
    let mut ended = 0;
    for name in Namespace::named(PREFIX)? {
        for pid in Namespace::processes(&name)? {
            // A process that ended meanwhile is no failure.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
        Namespace::delete(&name)?;
        ended += 1;
    }
    Host::remove_leftovers(PREFIX)?;
    println!("{ended} namespaces removed");
    Ok(())
}

fn told_to_try(felid: &Path, host: &Host, shop: &Shop) {
    let name = host.namespace().name();
    let dirs = host.directory();
    let on_host = format!("ip netns exec {name}");
    let felid = format!("{} --run-dir {}", felid.display(), dirs.join("run").display());
    println!("\nEverything stays up. Try:");
    for command in ["status", "endpoints", "flows", "program shop/node1-k8s-api-eth0"] {
        println!("  {on_host} {felid} {command}");
    }
    println!(
        "  {on_host} {} get policies -A --datastore dir:{}",
        felid,
        dirs.join("records").display()
    );
    println!("  {on_host} cat {}/agent.log", dirs.display());
    if let Some(frontend) = shop.workload("frontend") {
        println!("  ip netns exec {} ping -c1 10.65.0.20", frontend.namespace.name());
    }
    println!(
        "Edit the records below {} and look again.",
        dirs.join("records").display()
    );
    println!("`cargo xtask demo --down` removes it all.");
}

/// `felid` with the directories of the demonstration's agent.
fn felid_command(felid: &Path, host: &Host) -> Command {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", host.namespace().name()])
        .arg(felid)
        .arg("--run-dir")
        .arg(host.directory().join("run"))
        .arg("--bpffs")
        .arg(host.bpffs());
    command
}

/// Applies an edited record as a user would; the instant just before.
fn apply(felid: &Path, host: &Host, records: &Path, file: &Path) -> Result<Instant> {
    let at = Instant::now();
    let output = felid_command(felid, host)
        .arg("apply")
        .arg("--datastore")
        .arg(format!("dir:{}", records.display()))
        .arg("-f")
        .arg(file)
        .output()
        .context("felid apply")?;
    ensure!(
        output.status.success(),
        "felid apply: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(at)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Documents in a tree of YAML files.
fn count(directory: &Path) -> Result<usize> {
    let mut documents = 0;
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        documents += if path.is_dir() {
            count(&path)?
        } else {
            std::fs::read_to_string(&path)?
                .lines()
                .filter(|line| line.starts_with("kind:"))
                .count()
        };
    }
    Ok(documents)
}

/// A path below the checkout as a user would type it.
fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
