//! Records that somebody or something damaged: errors, or a record of which every field counts;
//! never a panic, never a field that is silently dropped.
//!
//! A field counts if a value that cannot stand there is noticed there. So every field of every
//! damaged record that is still good is replaced by such a value in turn.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use felid_model::{Decoded, Severity, decode, decode_literal, decode_value, documents};
use serde_json::{Map, Value, json};

/// What may hold anything: it says nothing to felid, or nothing of a known form.
const FREE: [&str; 12] = [
    "status",
    "metadata.generateName",
    "metadata.uid",
    "metadata.resourceVersion",
    "metadata.generation",
    "metadata.creationTimestamp",
    "metadata.deletionTimestamp",
    "metadata.deletionGracePeriodSeconds",
    "metadata.selfLink",
    "metadata.finalizers",
    "metadata.ownerReferences",
    "metadata.managedFields",
];

fn record(kind: &str, metadata: Value, spec: Value) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec})
}

/// Records in which every field of every kind stands.
fn full() -> Vec<Value> {
    let meta = || json!({"name": "a", "labels": {"a/b": "c"}, "annotations": {"d": "e"}});
    let ingress = json!([
        {"action": "Allow", "ipVersion": 4, "protocol": "TCP", "notProtocol": 17, "metadata": {"annotations": {"name": "x"}},
         "source": {"nets": ["10.0.0.0/8"], "notNets": ["10.1.0.0/16"], "selector": "has(a)", "notSelector": "b == 'c'",
                    "namespaceSelector": "global()", "ports": [80, "81:90", "http"], "notPorts": ["dns"],
                    "serviceAccounts": {"names": ["x"], "selector": "has(y)"}},
         "destination": {"ports": ["https"]}},
        {"action": "Log", "protocol": "ICMP", "icmp": {"type": 8, "code": 0}, "notICMP": {"type": 3}},
        {"action": "Deny", "source": {"services": {"name": "s", "namespace": "n"}}},
        {"action": "Pass"},
    ]);
    let egress = json!([{"action": "Allow", "destination": {"services": {"name": "s", "namespace": "n"}}}]);
    let policy = |more: Value| {
        let mut spec = json!({"tier": "t", "order": 5.5, "selector": "all()", "types": ["Ingress", "Egress"],
            "serviceAccountSelector": "has(z)", "performanceHints": ["AssumeNeededOnEveryNode"],
            "ingress": ingress, "egress": egress});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let global = json!({"namespaceSelector": "has(n)", "applyOnForward": true, "doNotTrack": false, "preDNAT": false});
    let mut namespaced = meta();
    namespaced["namespace"] = "n".into();
    let endpoint = json!({"node": "n", "orchestrator": "k8s", "pod": "p", "endpoint": "e", "workload": "w", "containerID": "Ab",
        "serviceAccountName": "s", "ipNetworks": ["10.0.0.1", "fd00::1/128"], "interfaceName": "cali1", "mac": "02:00:00:00:00:01",
        "ipNATs": [{"internalIP": "10.0.0.1", "externalIP": "1.1.1.1"}], "awsElasticIPs": ["1.1.1.2"],
        "ipv4Gateway": "169.254.1.1", "ipv6Gateway": "fe80::1", "profiles": ["kns.n"],
        "ports": [{"name": "http", "protocol": "TCP", "port": 80, "hostPort": 8080, "hostIP": "1.2.3.4"}],
        "allowSpoofedSourcePrefixes": ["8.8.8.8"], "qosControls": {"ingressBandwidth": 1000, "dscp": "EF"}});
    let host = json!({"node": "n", "interfaceName": "eth0", "expectedIPs": ["1.2.3.4"], "profiles": ["p"],
        "ports": [{"name": "ssh", "protocol": "TCP", "port": 22}]});
    let pool = json!({"cidr": "10.0.0.0/16", "natOutgoing": true, "disabled": false, "disableBGPExport": false, "ipipMode": "Always",
        "vxlanMode": "Never", "blockSize": 26, "nodeSelector": "all()", "namespaceSelector": "has(a)",
        "allowedUses": ["Workload"], "assignmentMode": "Automatic"});
    let felix = json!({"logSeverityScreen": "Info", "interfacePrefix": "cali,tap", "defaultEndpointToHostAction": "Accept",
        "floatingIPs": "Enabled"});
    vec![
        record("NetworkPolicy", namespaced.clone(), policy(json!({}))),
        record(
            "StagedNetworkPolicy",
            namespaced.clone(),
            policy(json!({"stagedAction": "Set"})),
        ),
        record("GlobalNetworkPolicy", meta(), policy(global.clone())),
        record("StagedGlobalNetworkPolicy", meta(), policy(global)),
        record(
            "Profile",
            meta(),
            json!({"labelsToApply": {"pcns.a": "b"}, "ingress": ingress, "egress": egress}),
        ),
        record("Tier", meta(), json!({"order": 5, "defaultAction": "Pass"})),
        record(
            "NetworkSet",
            namespaced.clone(),
            json!({"nets": ["10.0.0.1", "10.0.0.0/8"]}),
        ),
        record("GlobalNetworkSet", meta(), json!({"nets": ["fd00::1"]})),
        record(
            "WorkloadEndpoint",
            json!({"namespace": "n", "labels": {"a": "b"}}),
            endpoint,
        ),
        record("HostEndpoint", meta(), host),
        record("IPPool", meta(), pool),
        record("FelixConfiguration", json!({"name": "default"}), felix),
    ]
}

/// Records of other forms in which every field stands. Of pods and the like only a few fields
/// count: they are not here.
fn foreign() -> Vec<Value> {
    let selector = || {
        json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["d"]}, {"key": "e", "operator": "DoesNotExist"}]})
    };
    let by_pods = || json!({"pods": {"podSelector": selector(), "namespaceSelector": selector()}});
    let network_rule = |peers: &str| {
        json!({peers: [{"podSelector": selector(), "namespaceSelector": selector()},
                {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
            "ports": [{"protocol": "UDP", "port": 80, "endPort": 90}, {"protocol": "TCP", "port": "http"}]})
    };
    let cluster_rule = |peers: &str| {
        json!({"name": "n", "action": "Accept", peers: [{"namespaces": selector()}, by_pods()], "protocols": [
            {"tcp": {"destinationPort": {"number": 80}}}, {"udp": {"destinationPort": {"range": {"start": 1, "end": 2}}}},
            {"sctp": {"destinationPort": {"number": 5}}}, {"destinationNamedPort": "http"}]})
    };
    let admin_rule = |peers: &str| {
        json!({"name": "n", "action": "Allow", peers: [{"namespaces": selector()}, by_pods()], "ports": [
            {"portNumber": {"protocol": "TCP", "port": 80}}, {"portRange": {"protocol": "UDP", "start": 1, "end": 2}},
            {"namedPort": "http"}]})
    };
    let networks = |action: &str| json!({"action": action, "to": [{"networks": ["10.0.0.0/8", "fd00::/8"]}]});
    let meta = || json!({"name": "a.b.c", "labels": {"a/b": "c"}, "annotations": {"d": "e"}});
    let mut namespaced = meta();
    namespaced["namespace"] = "n".into();
    let network = json!({"podSelector": selector(), "policyTypes": ["Ingress", "Egress"],
        "ingress": [network_rule("from")], "egress": [network_rule("to")]});
    let mut staged = network.clone();
    staged["stagedAction"] = json!("Set");
    let admin = json!({"subject": {"namespaces": selector()}, "ingress": [admin_rule("from")],
        "egress": [admin_rule("to"), networks("Pass")]});
    let mut with_priority = admin.clone();
    with_priority["priority"] = json!(5);
    let cluster = json!({"tier": "Admin", "priority": 5, "subject": by_pods(), "ingress": [cluster_rule("from")],
        "egress": [cluster_rule("to"), networks("Deny")]});
    let endpoint = json!({"ipNetworks": ["10.0.0.1", "fd00::1/128"], "interfaceName": "cali1", "mac": "02:00:00:00:00:01",
        "ipNATs": [{"internalIP": "10.0.0.1", "externalIP": "1.1.1.1"}], "ipv4Gateway": "169.254.1.1", "ipv6Gateway": "fe80::1",
        "profiles": ["k8s_ns.n"], "ports": [{"name": "http", "protocol": "tcp", "port": 80}]});
    let endpoint_meta = json!({"name": "eth0", "workload": "n.p", "orchestrator": "k8s", "node": "host", "activeInstanceID": "ab",
        "labels": {"a": "b"}});
    let of = |api_version: &str, kind: &str, metadata: Value, spec: Value| json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec});
    vec![
        of("networking.k8s.io/v1", "NetworkPolicy", namespaced.clone(), network),
        of(
            "projectcalico.org/v3",
            "StagedKubernetesNetworkPolicy",
            json!({"name": "a"}),
            staged,
        ),
        of(
            "policy.networking.k8s.io/v1alpha1",
            "AdminNetworkPolicy",
            meta(),
            with_priority,
        ),
        of(
            "policy.networking.k8s.io/v1alpha1",
            "BaselineAdminNetworkPolicy",
            json!({"name": "default"}),
            admin,
        ),
        of(
            "policy.networking.k8s.io/v1alpha2",
            "ClusterNetworkPolicy",
            meta(),
            cluster,
        ),
        of("v1", "workloadEndpoint", endpoint_meta, endpoint),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": namespaced}),
    ]
}

fn good_cases() -> Vec<Value> {
    let mut good = Vec::new();
    for (file, field) in [("policy_validation.json", "resource"), ("wep_validation.json", "wep")] {
        let path = format!("{}/../../tests/cases/{file}", env!("CARGO_MANIFEST_DIR"));
        let cases: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        good.extend(
            cases
                .into_iter()
                .filter(|case| case["valid"] == true)
                .map(|case| case[field].clone()),
        );
    }
    good
}

/// One step to a part of a value.
#[derive(Clone)]
enum Step {
    Key(String),
    Index(usize),
}

fn places(value: &Value, at: &mut Vec<Step>, found: &mut Vec<Vec<Step>>) {
    let mut visit = |step: Step, child: &Value| {
        at.push(step);
        found.push(at.clone());
        places(child, at, found);
        at.pop();
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, child)| visit(Step::Key(key.clone()), child)),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .for_each(|(i, child)| visit(Step::Index(i), child)),
        _ => {}
    }
}

fn all_places(value: &Value) -> Vec<Vec<Step>> {
    let mut found = Vec::new();
    places(value, &mut Vec::new(), &mut found);
    found
}

fn get_mut<'a>(value: &'a mut Value, place: &[Step]) -> &'a mut Value {
    place.iter().fold(value, |value, step| match step {
        Step::Key(key) => value.get_mut(key).unwrap(),
        Step::Index(i) => value.get_mut(*i).unwrap(),
    })
}

fn path(place: &[Step]) -> String {
    let mut path = String::new();
    for step in place {
        match step {
            Step::Key(key) if path.is_empty() => path.push_str(key),
            Step::Key(key) => path.push_str(&format!(".{key}")),
            Step::Index(i) => path.push_str(&format!("[{i}]")),
        }
    }
    path
}

fn has_errors(decoded: &Decoded) -> bool {
    decoded.issues().iter().any(|issue| issue.severity == Severity::Error)
}

/// Every field of the record counts.
fn check_fields(record: &Value) {
    let before = decode_value(record);
    for place in all_places(record) {
        let path = path(&place);
        // The whole of it was told of already.
        let told = |reason: &str| {
            reason == "unknown field" || reason.starts_with("has no effect") || reason.starts_with("does not count")
        };
        let told = before
            .issues()
            .iter()
            .any(|issue| told(&issue.reason) && path.starts_with(&issue.field));
        // Of these only their metadata is looked at.
        let partly = record["kind"] == "ServiceAccount" && !path.starts_with("metadata");
        let free = partly || FREE.iter().any(|free| path.starts_with(free));
        if told || free || get_mut(&mut record.clone(), &place).is_null() {
            continue;
        }
        let mut odd = record.clone();
        *get_mut(&mut odd, &place) = json!({"?": 1});
        let decoded = decode_value(&odd);
        // What it says it is decides what it is.
        if path == "apiVersion" || path == "kind" {
            assert!(!matches!(decoded, Decoded::Resource { .. }), "{odd}");
            continue;
        }
        let near = |field: &str| field.starts_with(&path) || path.starts_with(field) && !field.is_empty();
        let mut new = decoded.issues().iter().filter(|issue| !before.issues().contains(issue));
        assert!(
            new.any(|issue| near(&issue.field)),
            "{path} of {record}\nsays nothing: {decoded:?}"
        );
    }
}

#[test]
fn every_field_counts() {
    for record in full().into_iter().chain(foreign()) {
        let decoded = decode_value(&record);
        assert!(!has_errors(&decoded), "{record}\n{decoded:?}");
        check_fields(&record);
    }
    good_cases().iter().for_each(check_fields);
}

/// A small generator of numbers, so that each run tries the same.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides.max(1) as u64).unwrap()
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        list.get(self.roll(list.len()))
    }
}

/// Damages one place of a record; what was done, for messages.
fn mutate(record: &mut Value, dice: &mut Dice, others: &[Value]) -> String {
    let places = all_places(record);
    let place = dice.pick(&places).unwrap().clone();
    let (last, parent) = place.split_last().unwrap();
    let name = path(&place);
    let kind = dice.roll(8);
    match kind {
        0 => {
            // A field or item is lost.
            match (get_mut(record, parent), last) {
                (Value::Object(map), Step::Key(key)) => drop(map.remove(key)),
                (Value::Array(list), Step::Index(i)) => drop(list.remove(*i)),
                _ => {}
            }
        }
        1 => {
            // A key is misspelt.
            if let (Value::Object(map), Step::Key(key)) = (get_mut(record, parent), last) {
                let value = map.remove(key).unwrap();
                let mut name: Vec<char> = key.chars().collect();
                let i = dice.roll(name.len());
                match dice.roll(3) {
                    0 => name.insert(i, 'x'),
                    1 if name.len() > 1 => drop(name.remove(i)),
                    _ => name.iter_mut().for_each(|c| *c = c.to_ascii_uppercase()),
                }
                map.insert(name.into_iter().collect(), value);
            }
        }
        2 => {
            // A value of another type.
            let odd = [
                json!(null),
                json!(true),
                json!(0),
                json!(-1),
                json!(1.5),
                json!(1e300),
                json!(4_294_967_296_u64),
                json!(""),
                json!("x"),
                json!([]),
                json!([null]),
                json!([[]]),
                json!({}),
                json!({"a": null}),
                json!("\u{0}"),
            ];
            *get_mut(record, &place) = dice.pick(&odd).unwrap().clone();
        }
        3 => {
            // A value from somewhere else in this or another record.
            let other = dice.pick(others).unwrap().clone();
            let from = all_places(&other);
            let from = dice.pick(&from).unwrap().clone();
            *get_mut(record, &place) = get_mut(&mut other.clone(), &from).clone();
        }
        4 => {
            // A text is damaged.
            if let Value::String(text) = get_mut(record, &place) {
                let mut chars: Vec<char> = text.chars().collect();
                let i = dice.roll(chars.len() + 1);
                let odd = *dice
                    .pick(&['-', '.', '/', ' ', 'A', '0', '\'', '(', ':', 'é', '\n'])
                    .unwrap();
                match dice.roll(3) {
                    0 => chars.insert(i, odd),
                    1 if i < chars.len() => chars[i] = odd,
                    _ => chars.truncate(i),
                }
                *text = chars.into_iter().collect();
            }
        }
        5 => {
            // An item twice, or an unknown field.
            match get_mut(record, &place) {
                Value::Array(list) if !list.is_empty() => {
                    let item = list[dice.roll(list.len())].clone();
                    list.push(item);
                }
                Value::Object(map) => drop(map.insert("colour".to_owned(), json!("red"))),
                _ => {}
            }
        }
        6 => {
            // A field that another kind has.
            let other = dice.pick(others).unwrap();
            let spec = other["spec"].as_object().cloned().unwrap_or_else(Map::new);
            let keys: Vec<(String, Value)> = spec.into_iter().collect();
            if let (Some((key, value)), Some(spec)) = (dice.pick(&keys), record["spec"].as_object_mut()) {
                spec.insert(key.clone(), value.clone());
            }
        }
        _ => {
            // A number near a limit.
            if let Value::Number(_) = get_mut(record, &place) {
                let odd = [
                    json!(0),
                    json!(1),
                    json!(255),
                    json!(256),
                    json!(65_535),
                    json!(65_536),
                    json!(80.0),
                    json!(-1),
                ];
                *get_mut(record, &place) = dice.pick(&odd).unwrap().clone();
            }
        }
    }
    format!("{kind} at {name}")
}

#[test]
fn damaged_records_give_errors_or_lose_nothing() {
    let mut originals = full();
    originals.extend(foreign());
    originals.extend(good_cases());
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut good, mut bad) = (0, 0);
    for round in 0..2_000 {
        let mut record = originals[round % originals.len()].clone();
        let mut done = Vec::new();
        for _ in 0..=dice.roll(3) {
            if record.is_object() && !all_places(&record).is_empty() {
                done.push(mutate(&mut record, &mut dice, &originals));
            }
        }
        let decoded = decode_value(&record);
        // Records that are taken as they stand are told the same of.
        let literal = decode_literal(&record);
        assert_eq!(has_errors(&literal), has_errors(&decoded), "{done:?}\n{record}");
        if let (Decoded::Resource { resource: strict, .. }, false) = (&decoded, has_errors(&decoded)) {
            assert!(
                matches!(&literal, Decoded::Resource { resource, .. } if resource == strict),
                "{done:?}\n{record}\n{literal:?}"
            );
        }
        match &decoded {
            Decoded::Resource { .. } if !has_errors(&decoded) => {
                good += 1;
                check_fields(&record);
            }
            Decoded::Resource { .. } => bad += 1,
            Decoded::Bad { .. } => {
                assert!(has_errors(&decoded), "{done:?}\n{record}");
                bad += 1;
            }
            Decoded::Foreign { .. } | Decoded::NotARecord { .. } | Decoded::Empty => {}
        }
        // By way of a file: the same, with lines.
        let text = serde_json::to_string_pretty(&record).unwrap();
        let found = documents(&text);
        assert_eq!(found.len(), 1, "{text}");
        let by_file = decode(&found[0]);
        assert_eq!(by_file.issues().len(), decoded.issues().len(), "{text}");
        let lines = text.lines().count();
        for issue in by_file.issues() {
            assert!(
                issue.line.is_some_and(|line| (1..=lines).contains(&line)),
                "{issue}\n{text}"
            );
        }
        if let (Decoded::Resource { resource: a, .. }, Decoded::Resource { resource: b, .. }) = (&decoded, &by_file) {
            assert_eq!(a, b, "{text}");
        }
    }
    if good < 200 || bad < 1_000 {
        panic!("not much was tried: {good} good, {bad} bad");
    }
}
