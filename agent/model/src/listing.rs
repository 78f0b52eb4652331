//! How rules and their parts read in listings: one line, Calico's field names left out where the
//! sense is plain.

use std::fmt::{self, Display};

use crate::{Action, EntityRule, Port, Rule};

impl Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Action::Allow => "Allow",
            Action::Deny => "Deny",
            Action::Pass => "Pass",
            Action::Log => "Log",
        })
    }
}

/// `80`, `80:90` or `http`.
impl Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Port::Range(first, last) if first == last => f.pad(&first.to_string()),
            Port::Range(first, last) => f.pad(&format!("{first}:{last}")),
            Port::Named(name) => f.pad(name),
        }
    }
}

/// `Deny TCP from nets [10.0.0.0/8] to selector (app == "web") ports [80, http]`.
impl Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.action)?;
        if let Some(version) = self.ip_version {
            write!(f, " IPv{version}")?;
        }
        if let Some(protocol) = self.protocol {
            write!(f, " {protocol}")?;
        }
        if let Some(protocol) = self.not_protocol {
            write!(f, " not {protocol}")?;
        }
        write!(f, "{}", self.fields)?;
        for (word, side) in [("from", &self.source), ("to", &self.destination)] {
            if *side != EntityRule::default() {
                write!(f, " {word}{side}")?;
            }
        }
        if !self.unknown_fields.is_empty() {
            write!(f, " (closed: unknown fields {})", self.unknown_fields.join(", "))?;
        }
        Ok(())
    }
}

/// Every term begins with a space.
impl Display for EntityRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, "nets", &self.nets)?;
        list(f, "not nets", &self.not_nets)?;
        for (word, selector) in [
            ("namespaces", &self.namespace_selector),
            ("selector", &self.selector),
            ("not selector", &self.not_selector),
        ] {
            if let Some(selector) = selector {
                let text = selector.canonical();
                if text.starts_with('(') {
                    write!(f, " {word} {text}")?
                } else {
                    write!(f, " {word} ({text})")?
                }
            }
        }
        if let Some(accounts) = &self.service_accounts {
            f.write_str(" service accounts")?;
            list(f, "named", &accounts.names)?;
            if let Some(selector) = &accounts.selector {
                write!(f, " ({})", selector.canonical())?;
            }
        }
        if let Some(service) = &self.services {
            let namespace = service.namespace.as_ref().map(|namespace| format!("{namespace}/"));
            write!(f, " service {}{}", namespace.unwrap_or_default(), service.name)?;
        }
        list(f, "ports", &self.ports)?;
        list(f, "not ports", &self.not_ports)
    }
}

fn list(f: &mut fmt::Formatter<'_>, word: &str, items: &[impl Display]) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    write!(f, " {word} [{}]", items.join(", "))
}
