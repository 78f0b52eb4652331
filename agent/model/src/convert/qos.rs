//! `qosControls` from a pod's annotations. What does not parse, or lacks what it needs, is left
//! out.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::quantity;

/// Annotations of Calico begin so.
const PREFIX: &str = "qos.projectcalico.org/";

/// Names, least and most of what an annotation may say.
const LIMITS: [(&str, u64, u64); 7] = [
    ("Bandwidth", 1_000, 1_000_000_000_000_000),
    ("Burst", 1_000, 34_359_738_360),
    ("Peakrate", 1_010, 1_010_000_000_000_000),
    ("Minburst", 1_000, 100_000_000),
    ("PacketRate", 1, 10_000),
    ("PacketBurst", 1, 10_000),
    ("MaxConnections", 1, 4_294_967_295),
];

/// `Burst` where only the bandwidth is said.
const DEFAULT_BURST: u64 = 4 << 30;
/// `PacketBurst` where only the rate is said.
const DEFAULT_PACKET_BURST: u64 = 5;

/// Names of DSCP values.
const DSCP: [&str; 21] = [
    "DF", "EF", "AF11", "AF12", "AF13", "AF21", "AF22", "AF23", "AF31", "AF32", "AF33", "AF41", "AF42", "AF43", "CS0",
    "CS1", "CS2", "CS3", "CS4", "CS5", "CS6",
];

/// The controls, if there are any.
pub(super) fn controls(annotations: &BTreeMap<&str, &str>) -> Option<Value> {
    let mut controls = Map::new();
    for direction in ["ingress", "egress"] {
        let said = |name: &str| {
            let own = annotations.get(format!("{PREFIX}{direction}{name}").as_str());
            let general = || annotations.get(format!("kubernetes.io/{direction}-bandwidth").as_str());
            own.or_else(|| if name == "Bandwidth" { general() } else { None })
        };
        let limit = |name: &str| {
            let (_, least, most) = LIMITS.iter().find(|(known, ..)| *known == name)?;
            Some(quantity::parse(said(name)?)?.clamp(*least, *most))
        };
        let bandwidth = limit("Bandwidth");
        let burst = bandwidth.map(|_| limit("Burst").unwrap_or(DEFAULT_BURST));
        let peak = limit("Peakrate").filter(|peak| bandwidth.is_some_and(|bandwidth| bandwidth < *peak));
        let least_burst = peak.and_then(|_| limit("Minburst"));
        let rate = limit("PacketRate");
        let packet_burst = rate.map(|_| limit("PacketBurst").unwrap_or(DEFAULT_PACKET_BURST));
        let values = [
            bandwidth,
            burst,
            peak,
            least_burst,
            rate,
            packet_burst,
            limit("MaxConnections"),
        ];
        for ((name, ..), value) in LIMITS.iter().zip(values) {
            if let Some(value) = value {
                controls.insert(format!("{direction}{name}"), json!(value));
            }
        }
    }
    if let Some(dscp) = annotations
        .get(format!("{PREFIX}dscp").as_str())
        .and_then(|text| dscp(text))
    {
        controls.insert("dscp".to_owned(), dscp);
    }
    (!controls.is_empty()).then_some(Value::Object(controls))
}

/// A name, which is written in upper case, or a number from 0 to 63.
fn dscp(text: &str) -> Option<Value> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text
            .parse::<u8>()
            .ok()
            .filter(|value| *value <= 63)
            .map(|value| json!(value));
    }
    let name = text.trim().to_ascii_uppercase();
    DSCP.contains(&name.as_str()).then(|| json!(name))
}
