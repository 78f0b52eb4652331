//! `cargo xtask demo`: the shop of `examples/` in namespaces of its own, with the real agent and real connections.

mod probe;
mod shop;
mod stream;

pub(crate) use probe::serve;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::command::{build_agent, need_root, root};
use crate::setup;
use felid_lab::{Host, Namespace};
use probe::Matrix;
use shop::Shop;
use stream::Stream;

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
    let mut agent = Agent::start(&felid, host, &records)?;
    agent.wait_until_ready(host)?;
    println!(
        "The agent enforces {} records below {}",
        count(&records)?,
        shown(&examples.join("shop"))
    );

    println!("\nWho reaches whom (each cell: a connection over IPv4 and one over IPv6, made and answered or not)\n");
    let before = Matrix::measure(&shop)?;
    before.print(None);

    println!("\nTwo connections stay open: frontend -> api, and api -> database. Then the policy `api` is edited:");
    println!("  felid apply -f {}", shown(&examples.join("shop-edits/api.yaml")));
    let revoked = Stream::open(&shop, "frontend", "api")?;
    let untouched = Stream::open(&shop, "api", "database")?;
    std::thread::sleep(Duration::from_millis(300));
    let applied = apply(&felid, host, &records, &examples.join("shop-edits/api.yaml"))?;
    std::thread::sleep(Duration::from_millis(700));
    let revoked = revoked.finish()?;
    let untouched = untouched.finish()?;
    println!("  frontend -> api:      {}", revoked.told(applied));
    println!("  api -> database:      {}", untouched.told(applied));

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
        let cleaned = felid_command(&felid, host)
            .arg("cleanup")
            .output()
            .context("felid cleanup")?;
        ensure!(
            cleaned.status.success(),
            "felid cleanup: {}",
            String::from_utf8_lossy(&cleaned.stderr)
        );
        drop(shop);
        println!("\nCleaned up. `cargo xtask demo --keep` leaves it running and says what to try.");
    }
    Ok(())
}

/// Ends what an earlier `--keep` left: agents and servers in its namespaces, the namespaces, bpffs mounts, directories.
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

/// A running agent.
struct Agent {
    child: Option<Child>,
    log: std::path::PathBuf,
}

impl Agent {
    fn start(felid: &Path, host: &Host, records: &Path) -> Result<Self> {
        let log = host.directory().join("agent.log");
        let errors = std::fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let dirs = host.directory();
        let child = host.namespace().start(&felid.to_string_lossy(), |command| {
            command
                .arg("run")
                .args(["--node", "node1"])
                .arg("--datastore")
                .arg(format!("dir:{}", records.display()))
                .arg("--state-dir")
                .arg(dirs.join("state"))
                .arg("--run-dir")
                .arg(dirs.join("run"))
                .arg("--bpffs")
                .arg(host.bpffs())
                .stdout(Stdio::null())
                .stderr(errors);
        })?;
        Ok(Self {
            child: Some(child),
            log,
        })
    }

    fn wait_until_ready(&mut self, host: &Host) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(20);
        let mut last = String::new();
        while Instant::now() < end {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                bail!(
                    "the agent ended ({status}):\n{}",
                    std::fs::read_to_string(&self.log).unwrap_or_default()
                );
            }
            match host.namespace().run(readiness)? {
                Ok(answer) if answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 204") => return Ok(()),
                Ok(answer) => last = answer,
                Err(error) => last = error.to_string(),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!(
            "the agent is not ready after 20 s: {last}\n{}",
            std::fs::read_to_string(&self.log).unwrap_or_default()
        )
    }

    fn stop(mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).context("stop the agent")?;
            child.wait()?;
        }
        Ok(())
    }

    fn leave(mut self) {
        self.child = None;
    }
}

impl Drop for Agent {
    /// After a failure in between; `stop` and `leave` have taken the child.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn readiness() -> Result<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect("127.0.0.1:9099")?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET /readiness HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
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
