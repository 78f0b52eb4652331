//! Exit codes: 2 where the arguments cannot be followed whatever there is, 1 where something that
//! they name is not there or bad.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::{felid, records::SHOP};

#[test]
fn arguments_that_cannot_be_followed_end_with_2_and_failures_with_1() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(dir.path().join("shop.yaml"), SHOP).unwrap();
    std::fs::write(dir.path().join("bad.config"), "vxlanPort: 70000\n").unwrap();
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    let places = [
        ("FELID_DATASTORE", format!("dir:{}", path(""))),
        ("FELID_RUN_DIR", path("run")),
    ];
    let config = format!("--config={}", path("bad.config"));
    let (shop, empty, absent) = (path("shop.yaml"), path("empty"), path("absent"));
    let code = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = felid(arguments);
        command
            .envs(places.iter().map(|(name, value)| (*name, value.as_str())))
            .envs(variables.iter().copied());
        let output = command.stdin(std::process::Stdio::null()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !error.is_empty() || output.status.success(),
            "{arguments:?} says nothing"
        );
        output.status.code()
    };
    let usage: &[&[&str]] = &[
        &[],
        &["fly"],
        &["get"],
        &["get", "bgppeers"],
        &["get", "tiers", "-o", "xml"],
        &["get", "tiers", "-o", "custom-columns=NODE"],
        &["get", "tiers", "-o", "custom-columns="],
        &["get", "tier/a", "np/b"],
        &["get", "tiers", "-f", &shop],
        &["get", "np", "-A", "-n", "shop"],
        &["apply"],
        &["apply", "-f", &shop, "-o", "yaml"],
        &["create"],
        &["replace", "-f"],
        &["delete"],
        &["delete", "np"],
        &["delete", "np", "x", "-f", &shop],
        &["delete", "deployment", "x"],
        &["validate"],
        &["validate", "-f", &shop, "-o", "table"],
        &["status", "-o", "name"],
        &["endpoints", "-o", "text"],
        &["flows", "--port", "70000"],
        &["flows", "--protocol", "tpc"],
        &["flows", "--address", "10.0.0.0/33"],
        &["flows", "--state", "open"],
        &["flows", "--limit", "-1"],
        &["program"],
        &["program", "x", "--direction", "up"],
        &["cleanup", "--interface-prefix", "a-name-that-is-too-long"],
        &["run", "--vxlan-port", "70000"],
        &["run", "--log-level", "loud"],
        &["run", "--bpffs", ""],
        &["get", "tiers", "--datastore", "etcd:x"],
        &["selector", "a = 'b'"],
        &["selector", "a == 'b'", "-l", "a"],
        &["selector", "-l", "a=b"],
        &["selector", "all()", "-o", "yaml"],
        &["name", "a-b-c-d-e"],
        &["name", "--pod", "-p", "--node", "n"],
        &["name", "--endpoint", "e"],
        &["name", "--allow-prefix"],
    ];
    for arguments in usage {
        assert_eq!(code(arguments, &[]), Some(2), "{arguments:?}");
    }
    let failures: &[&[&str]] = &[
        &["get", "tier", "absent"],
        &["get", "tiers", "--datastore", "dir:/nonexistent"],
        &["get", "-f", &absent],
        &["apply", "-f", &empty],
        &["create", "-f", &shop],
        &["delete", "np", "absent"],
        &["validate", "-f", &absent],
        &["validate", "-f", &empty],
        &["status"],
        &["endpoints"],
        &["flows", "--state", "established"],
        &["program", "x"],
        &["get", "tiers", &config],
    ];
    for arguments in failures {
        assert_eq!(code(arguments, &[]), Some(1), "{arguments:?}");
    }
    assert_eq!(code(&["run"], &[("FELID_VXLAN_PORT", "70000")]), Some(2));
    assert_eq!(code(&["get", "tiers"], &[("FELID_CONFIG", &absent)]), Some(1));
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["get", "tiers"],
        &["selector"],
        &["name"],
    ] {
        assert_eq!(code(arguments, &[]), Some(0), "{arguments:?}");
    }
}
