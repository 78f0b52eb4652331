//! What `deploy/` says agrees with what the binary takes: flags, variables, ports, paths, versions.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Parser;
use felid_agent::cli::{Cli, Command};
use felid_agent::config::{self, DatastoreUrl, Settings};
use felid_model::{Decoded, decode, documents};
use serde_json::Value;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap()
}

fn manifest() -> Vec<Value> {
    let found = documents(&text("deploy/kubernetes/felid.yaml"));
    found.into_iter().map(|document| document.content.unwrap()).collect()
}

fn of_kind(kind: &str) -> Value {
    let mut all = manifest().into_iter().filter(|object| object["kind"] == kind);
    let found = all.next().unwrap();
    assert!(all.next().is_none(), "one {kind}");
    found
}

fn strings(list: &Value) -> Vec<String> {
    let items = list.as_array().unwrap().iter();
    items.map(|item| item.as_str().unwrap().to_owned()).collect()
}

/// Settings of `felid` with these arguments; panics as the binary would refuse them.
fn settings(arguments: &[String]) -> Settings {
    let all = std::iter::once("felid").chain(arguments.iter().map(String::as_str));
    let cli = Cli::try_parse_from(all).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
    let Command::Run(args) = &cli.command else {
        panic!("{arguments:?} does not run the agent");
    };
    let flags = cli.global.flags().into_iter().chain(args.flags());
    config::Static::new(config::from_flags(flags).unwrap(), [], None)
        .unwrap()
        .settings()
}

#[test]
fn the_daemon_set_runs_the_agent_as_it_wants_to_be_run() {
    let set = of_kind("DaemonSet");
    let pod = &set["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(container["image"], format!("felid:{}", env!("CARGO_PKG_VERSION")));
    let settings = settings(&strings(&container["args"]));

    for variable in container["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        let (_, unknown) = config::from_environment([(name.to_owned(), "1".to_owned())]).unwrap();
        assert!(unknown.is_empty() && name.starts_with("FELID_"), "{name} is no setting");
    }

    let (metrics_host, metrics_port) = settings.metrics_listen.address().unwrap();
    let annotations = &set["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/port"], metrics_port.to_string());
    assert_eq!(
        (metrics_host, &annotations["prometheus.io/path"]),
        ("", &Value::from("/metrics"))
    );
    let (health_host, health_port) = settings.health_listen.address().unwrap();
    for (probe, path) in [("livenessProbe", "/liveness"), ("readinessProbe", "/readiness")] {
        let get = &container[probe]["httpGet"];
        assert_eq!(
            (&get["port"], &get["path"]),
            (&Value::from(health_port), &Value::from(path))
        );
        assert_eq!(get["host"], health_host, "the probe asks where the agent listens");
    }
    assert_eq!(pod["hostNetwork"], true);
    let context = &container["securityContext"];
    assert_eq!(context["privileged"], Value::Null);
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(strings(&context["capabilities"]["drop"]), ["ALL"]);
    let added: BTreeSet<String> = strings(&context["capabilities"]["add"]).into_iter().collect();
    assert_eq!(added, documented_capabilities(), "docs/rights.md");

    let DatastoreUrl::Directory(records) = &settings.datastore else {
        panic!("the manifest has a directory");
    };
    let mounts = container["volumeMounts"].as_array().unwrap();
    let mounted: BTreeSet<&str> = mounts
        .iter()
        .map(|mount| mount["mountPath"].as_str().unwrap())
        .collect();
    let directories = [records, &settings.state_dir, &settings.run_dir, &settings.bpffs];
    let directories = directories.map(|path| path.to_str().unwrap());
    let beside = ["/host/proc/sys/net", "/sys/kernel/rcu_expedited"];
    assert_eq!(mounted, directories.into_iter().chain(beside).collect());
    let names = |list: &[Value]| -> BTreeSet<String> {
        list.iter()
            .map(|item| item["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(mounts), names(pod["volumes"].as_array().unwrap()));
    let propagated = mounts
        .iter()
        .find(|mount| mount["mountPath"] == settings.bpffs.to_str().unwrap());
    // Anything else is for privileged containers alone.
    assert_eq!(propagated.unwrap()["mountPropagation"], "HostToContainer");

    let selector = &set["spec"]["selector"]["matchLabels"];
    assert_eq!(selector, &set["spec"]["template"]["metadata"]["labels"]);
    for object in manifest() {
        let namespace = match object["kind"].as_str().unwrap() {
            "Namespace" => &object["metadata"]["name"],
            _ => &object["metadata"]["namespace"],
        };
        assert_eq!(namespace, "felid");
    }
}

/// Those that the table of docs/rights.md asks for in any case.
fn documented_capabilities() -> BTreeSet<String> {
    let page = text("docs/rights.md");
    let rows = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `CAP_")?.split_once('`'));
    let always = rows.filter(|(_, rest)| !rest.contains("kept only where"));
    always.map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn the_records_of_the_config_map_are_good() {
    let map = of_kind("ConfigMap");
    for (file, content) in map["data"].as_object().unwrap() {
        for document in documents(content.as_str().unwrap()) {
            match decode(&document) {
                Decoded::Resource { issues, .. } => assert!(issues.is_empty(), "{file}: {issues:?}"),
                other => panic!("{file}: {other:?}"),
            }
        }
    }
    let used = of_kind("DaemonSet")["spec"]["template"]["spec"]["volumes"].clone();
    let used = used
        .as_array()
        .unwrap()
        .iter()
        .find_map(|volume| volume["configMap"]["name"].as_str().map(str::to_owned));
    assert_eq!(used.as_deref(), map["metadata"]["name"].as_str());
}

/// The value of the first `NAME: &str = "VALUE"` of a source file.
fn constant(source: &str, name: &str) -> String {
    let (_, rest) = source.split_once(&format!("const {name}: &str = \"")).unwrap();
    rest.split_once('"').unwrap().0.to_owned()
}

#[test]
fn the_image_is_built_with_the_projects_own_tools() {
    let file = text("deploy/Dockerfile").replace("\\\n", " ");
    let lines: Vec<&str> = file.lines().filter(|line| !line.starts_with('#')).collect();
    let of = |word: &str| -> Vec<&str> {
        lines
            .iter()
            .filter_map(|line| line.strip_prefix(word))
            .map(str::trim)
            .collect()
    };
    let toolchain = text("rust-toolchain.toml");
    let (_, channel) = toolchain.split_once("channel = \"").unwrap();
    let channel = channel.split_once('"').unwrap().0;
    assert_eq!(of("FROM "), [&format!("rust:{channel}-bookworm AS build"), "scratch"]);

    let setup = text("xtask/src/setup.rs");
    let (linker, llvm) = (constant(&setup, "BPF_LINKER"), constant(&setup, "LLVM"));
    let steps = of("RUN ").join("\n");
    for part in [
        format!("llvm-{llvm}-dev"),
        format!("LLVM_PREFIX=/usr/lib/llvm-{llvm} "),
        format!("bpf-linker --version {linker} --locked --no-default-features --features llvm-{llvm}"),
        "rustup component add rust-src".to_owned(),
        "cargo build --release --locked --package felid ".to_owned(),
        "/out/felid".to_owned(),
    ] {
        assert!(steps.contains(&part), "{part} in\n{steps}");
    }
    for copied in of("COPY ").iter().filter(|copy| !copy.starts_with("--from=")) {
        let words: Vec<&str> = copied.split_whitespace().collect();
        for source in &words[..words.len() - 1] {
            assert!(repository().join(source).exists(), "{source}");
        }
    }
    assert!(of("COPY ").contains(&"--from=build /out/felid /usr/bin/felid"));
    assert_eq!(of("ENTRYPOINT "), ["[\"/usr/bin/felid\"]"]);
    let command: Value = serde_json::from_str(of("CMD ")[0]).unwrap();
    settings(&strings(&command));
    let ignored = text(".dockerignore");
    assert!(
        ignored.lines().any(|line| line == "/target"),
        "the image's sources are without what was built"
    );
}

#[test]
fn the_workflow_runs_what_is_there() {
    let found = documents(&text("deploy/ci/workflow.yaml"));
    let steps = found[0].content.as_ref().unwrap()["jobs"]["test"]["steps"].clone();
    let script = steps
        .as_array()
        .unwrap()
        .iter()
        .find_map(|step| step["run"].as_str().map(str::to_owned))
        .unwrap();
    let path = script.split_whitespace().last().unwrap();
    assert!(text(path).contains("cargo xtask test"), "{path}");
}
