//! Query strings of requests.

use felid_model::Direction;

use crate::api::{FlowFilter, Refusal, Wait};

/// Reads the parameters of a request for flows.
pub(super) fn flows(query: &str) -> Result<FlowFilter, Refusal> {
    let pairs = decode(query);
    FlowFilter::from_query(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())))
}

/// Reads the parameters of a request to wait.
pub(super) fn wait(query: &str) -> Result<Wait, Refusal> {
    let pairs = decode(query);
    Wait::from_query(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())))
}

/// Reads the parameters of a request for programs: the endpoint, and the direction (`None` = both).
pub(super) fn program(query: &str) -> Result<(String, Option<Direction>), Refusal> {
    let (mut endpoint, mut direction) = (None, None);
    for (name, value) in decode(query) {
        match name.as_str() {
            "endpoint" => endpoint = Some(value),
            "direction" if value == "both" => direction = None,
            "direction" => {
                let named = Direction::BOTH.into_iter().find(|known| known.name() == value);
                let unknown = || {
                    let text = "expected ingress, egress or both";
                    Refusal::Unknown(format!("invalid value {value:?} of parameter \"direction\": {text}"))
                };
                direction = Some(named.ok_or_else(unknown)?);
            }
            _ => return Err(Refusal::Unknown(format!("unknown parameter {name:?}"))),
        }
    }
    let missing = || Refusal::Unknown("missing parameter \"endpoint\"".to_owned());
    Ok((endpoint.ok_or_else(missing)?, direction))
}

/// Returns the pairs of a query string.
fn decode(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (unescape(name), unescape(value)))
        .collect()
}

/// Undoes `%XX` and `+`.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
