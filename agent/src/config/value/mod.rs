//! Types of settings and how each is read from text.

mod listen;
mod timeouts;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use felid_datastore::StreamAddress;
use felid_model::{EndpointToHostAction, LogSeverity, WorkloadSourceSpoofing};
use ipnet::IpNet;

pub use listen::{ClientAuth, Listen, MetricsTls, OptionalPath};
pub use timeouts::ConntrackTimeouts;

/// A value that a setting can have.
pub trait FromSetting: Sized {
    /// Parses the text of a setting; the error says what would be good.
    fn from_setting(text: &str) -> Result<Self, String>;

    /// Takes over from a weaker layer what this value leaves open; most values leave nothing open.
    fn fill(&mut self, _weaker: &Self) {}
}

impl FromSetting for bool {
    fn from_setting(text: &str) -> Result<Self, String> {
        // As Felix reads booleans.
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "y" | "t" | "enabled" => Ok(true),
            "false" | "0" | "no" | "n" | "f" | "disabled" => Ok(false),
            _ => Err("not a boolean (true or false)".to_owned()),
        }
    }
}

impl FromSetting for PathBuf {
    fn from_setting(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            Err("an empty path".to_owned())
        } else {
            Ok(Self::from(text))
        }
    }
}

/// As Go writes durations (`1h30m`, `90s`, `500ms`), or a number of seconds.
impl FromSetting for Duration {
    fn from_setting(text: &str) -> Result<Self, String> {
        let bad = || "not a duration such as 90s, 1h30m, 500ms or a number of seconds".to_owned();
        let text = text.trim();
        if let Ok(seconds) = text.parse::<f64>() {
            return Duration::try_from_secs_f64(seconds).map_err(|_| bad());
        }
        let mut rest = text;
        let mut total = 0.0;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
            let number: f64 = rest[..end].parse().map_err(|_| bad())?;
            rest = &rest[end..];
            let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let unit = match &rest[..end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return Err(bad()),
            };
            total += number * unit;
            rest = &rest[end..];
        }
        if text.is_empty() {
            Err(bad())
        } else {
            Duration::try_from_secs_f64(total).map_err(|_| bad())
        }
    }
}

/// A duration as a setting would be written: `1h30m`, `90s`, `0.5s`.
pub fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration.subsec_nanos() != 0 {
        return format!("{}s", duration.as_secs_f64());
    }
    match (seconds / 3600, seconds % 3600 / 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, 0) => format!("{m}m"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, 0, 0) => format!("{h}h"),
        (h, m, 0) => format!("{h}h{m}m"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

/// Where records are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatastoreUrl {
    /// A directory of YAML and JSON files.
    Directory(PathBuf),
    /// JSON lines, on standard input or on a Unix socket.
    Stream(StreamAddress),
}

impl FromSetting for DatastoreUrl {
    fn from_setting(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("dir", path)) if !path.is_empty() => Ok(Self::Directory(PathBuf::from(path))),
            Some(("dir", _)) => Err("a path must follow dir:".to_owned()),
            Some(("stream", "-")) => Ok(Self::Stream(StreamAddress::Stdin)),
            Some(("stream", path)) if !path.is_empty() => Ok(Self::Stream(StreamAddress::Socket(PathBuf::from(path)))),
            Some(("stream", _)) => {
                Err("- (standard input) or the path of a Unix socket must follow stream:".to_owned())
            }
            _ => Err("not a datastore that this version knows; write dir:PATH, stream:- or stream:PATH".to_owned()),
        }
    }
}

impl fmt::Display for DatastoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "dir:{}", path.display()),
            Self::Stream(address) => address.fmt(f),
        }
    }
}

/// Name of a node, in lower case as Felix takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeName(pub String, Option<String>);

impl NodeName {
    /// The host's name in lower case, as Felix takes it; empty if the system does not say.
    pub fn host() -> Self {
        let name = nix::unistd::gethostname().map(|name| name.to_string_lossy().trim().to_owned());
        Self::lowered(&name.unwrap_or_default())
    }

    fn lowered(text: &str) -> Self {
        let name = text.to_ascii_lowercase();
        let given = (name != text).then(|| text.to_owned());
        Self(name, given)
    }

    /// Returns the name as it was given, or as the host has it, if that was not in lower case.
    pub fn given(&self) -> Option<&str> {
        self.1.as_deref()
    }
}

impl FromSetting for NodeName {
    fn from_setting(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if text.is_empty() || text.len() > 253 || !text.chars().all(good) {
            return Err("not a node name (letters, digits, '-', '.', '_')".to_owned());
        }
        Ok(Self::lowered(text))
    }
}

/// Interface prefixes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefixes(pub Vec<String>);

impl Prefixes {
    /// What the interfaces of pods begin with.
    pub fn first(&self) -> &str {
        self.0.first().map(String::as_str).unwrap_or_default()
    }
}

impl FromSetting for Prefixes {
    fn from_setting(text: &str) -> Result<Self, String> {
        let prefixes: Vec<String> = text.split(',').map(|prefix| prefix.trim().to_owned()).collect();
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if prefixes
            .iter()
            .any(|prefix| prefix.is_empty() || prefix.len() > 15 || !prefix.chars().all(good))
        {
            return Err(
                "not a list of interface prefixes (1 to 15 of letters, digits, '_', '.', '-'), split at commas"
                    .to_owned(),
            );
        }
        Ok(Self(prefixes))
    }
}

/// A UDP or TCP port, not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortSetting(pub u16);

impl FromSetting for PortSetting {
    fn from_setting(text: &str) -> Result<Self, String> {
        text.trim()
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .map(Self)
            .ok_or_else(|| "not a port (1 to 65535)".to_owned())
    }
}

/// A number of things, at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u32);

impl FromSetting for Size {
    fn from_setting(text: &str) -> Result<Self, String> {
        let limit = 1 << 28;
        let number = text
            .trim()
            .parse::<u32>()
            .ok()
            .filter(|number| (1..=limit).contains(number));
        number
            .map(Self)
            .ok_or_else(|| format!("not a number from 1 to {limit}"))
    }
}

/// A number of things that is not to be exceeded; 0 = no limit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit(pub u32);

impl FromSetting for Limit {
    fn from_setting(text: &str) -> Result<Self, String> {
        let highest = 1 << 28;
        let number = text.trim().parse::<u32>().ok().filter(|number| *number <= highest);
        number
            .map(Self)
            .ok_or_else(|| format!("not a number from 0 to {highest}"))
    }
}

/// Calico's log levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warning,
    Error,
    Fatal,
}

impl LogLevel {
    /// The filter that shows this level and worse.
    pub fn filter(self) -> tracing::level_filters::LevelFilter {
        use tracing::level_filters::LevelFilter;
        match self {
            Self::Trace => LevelFilter::TRACE,
            Self::Debug => LevelFilter::DEBUG,
            Self::Info => LevelFilter::INFO,
            Self::Warning => LevelFilter::WARN,
            // There is no level above error: what would be fatal is an error and the end.
            Self::Error | Self::Fatal => LevelFilter::ERROR,
        }
    }
}

impl From<LogSeverity> for LogLevel {
    fn from(severity: LogSeverity) -> Self {
        match severity {
            LogSeverity::Trace => Self::Trace,
            LogSeverity::Debug => Self::Debug,
            LogSeverity::Info => Self::Info,
            LogSeverity::Warning => Self::Warning,
            LogSeverity::Error => Self::Error,
            LogSeverity::Fatal => Self::Fatal,
        }
    }
}

impl FromSetting for LogLevel {
    fn from_setting(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "trace" => Ok(Self::Trace),
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warning" | "warn" => Ok(Self::Warning),
            "error" => Ok(Self::Error),
            "fatal" => Ok(Self::Fatal),
            _ => Err("not one of trace, debug, info, warning, error, fatal".to_owned()),
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl FromSetting for LogFormat {
    fn from_setting(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("not text or json".to_owned()),
        }
    }
}

/// `defaultEndpointToHostAction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum HostAction {
    Drop,
    Return,
    Accept,
}

impl From<EndpointToHostAction> for HostAction {
    fn from(action: EndpointToHostAction) -> Self {
        match action {
            EndpointToHostAction::Drop => Self::Drop,
            EndpointToHostAction::Return => Self::Return,
            EndpointToHostAction::Accept => Self::Accept,
        }
    }
}

impl FromSetting for HostAction {
    fn from_setting(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "drop" => Ok(Self::Drop),
            "return" => Ok(Self::Return),
            "accept" => Ok(Self::Accept),
            _ => Err("not Drop, Return or Accept".to_owned()),
        }
    }
}

impl FromSetting for WorkloadSourceSpoofing {
    fn from_setting(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "disabled" => Ok(Self::Disabled),
            "any" => Ok(Self::Any),
            _ => Err("not Disabled or Any".to_owned()),
        }
    }
}

/// `ipNATOutbound`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatOutbound {
    /// Its own: only answers of flows that others began are translated.
    None,
    /// An external one, outside the cluster.
    External,
}

impl FromSetting for NatOutbound {
    fn from_setting(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "none" => Ok(Self::None),
            "external" => Ok(Self::External),
            _ => Err("not None or External".to_owned()),
        }
    }
}

/// `externalIPAnnouncement`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announcement {
    /// By others: routers have routes to this host, or learn them from its routing table.
    None,
    /// The host answers ARP and neighbour discovery for them.
    ProxyArp,
}

impl FromSetting for Announcement {
    fn from_setting(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "none" => Ok(Self::None),
            "proxyarp" => Ok(Self::ProxyArp),
            _ => Err("not None or ProxyARP".to_owned()),
        }
    }
}

/// A list of networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nets(pub Vec<IpNet>);

impl FromSetting for Nets {
    fn from_setting(text: &str) -> Result<Self, String> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let net = |item: &str| {
            let net: Result<IpNet, String> = item
                .parse()
                .map_err(|_| format!("{item:?} is not a network such as 10.0.0.0/8"));
            net.map(|net| net.trunc())
        };
        items.map(net).collect::<Result<_, _>>().map(Self)
    }
}
