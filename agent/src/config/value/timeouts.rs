//! Timeouts of flows.

use std::time::Duration;

use super::FromSetting;

/// Timeouts of flows, by Felix's names; `None` = not said here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ConntrackTimeouts {
    pub tcp_syn_sent: Option<Duration>,
    pub tcp_established: Option<Duration>,
    pub tcp_fins_seen: Option<Duration>,
    pub tcp_reset_seen: Option<Duration>,
    pub udp: Option<Duration>,
    pub udp_answered: Option<Duration>,
    pub icmp: Option<Duration>,
    pub generic: Option<Duration>,
}

impl ConntrackTimeouts {
    /// Felix's.
    pub fn defaults() -> Self {
        let seconds = |n| Some(Duration::from_secs(n));
        Self {
            tcp_syn_sent: seconds(20),
            tcp_established: seconds(2 * 3600 + 4 * 60),
            tcp_fins_seen: seconds(30),
            tcp_reset_seen: seconds(40),
            udp: seconds(60),
            udp_answered: seconds(10),
            icmp: seconds(5),
            generic: seconds(600),
        }
    }
}

impl FromSetting for ConntrackTimeouts {
    fn from_setting(text: &str) -> Result<Self, String> {
        let mut timeouts = Self::default();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let (name, value) = item
                .split_once('=')
                .ok_or_else(|| format!("{item:?} is not NAME=DURATION"))?;
            let duration = Duration::from_setting(value).map_err(|reason| format!("{name}: {value:?} is {reason}"))?;
            // jiffies of these times are kept in 32 bits and compared with wrap-around.
            if duration < Duration::from_secs(1) || duration > Duration::from_secs(7 * 24 * 3600) {
                return Err(format!("{name}: {value:?} is not between 1s and 168h"));
            }
            let field = match name.trim().to_ascii_lowercase().as_str() {
                "tcpsynsent" => &mut timeouts.tcp_syn_sent,
                "tcpestablished" => &mut timeouts.tcp_established,
                "tcpfinsseen" => &mut timeouts.tcp_fins_seen,
                "tcpresetseen" => &mut timeouts.tcp_reset_seen,
                "udptimeout" => &mut timeouts.udp,
                "udpanswered" => &mut timeouts.udp_answered,
                "icmptimeout" => &mut timeouts.icmp,
                "generictimeout" => &mut timeouts.generic,
                _ => return Err(format!("{name:?} is no timeout that felid has")),
            };
            *field = Some(duration);
        }
        Ok(timeouts)
    }

    fn fill(&mut self, weaker: &Self) {
        self.tcp_syn_sent = self.tcp_syn_sent.or(weaker.tcp_syn_sent);
        self.tcp_established = self.tcp_established.or(weaker.tcp_established);
        self.tcp_fins_seen = self.tcp_fins_seen.or(weaker.tcp_fins_seen);
        self.tcp_reset_seen = self.tcp_reset_seen.or(weaker.tcp_reset_seen);
        self.udp = self.udp.or(weaker.udp);
        self.udp_answered = self.udp_answered.or(weaker.udp_answered);
        self.icmp = self.icmp.or(weaker.icmp);
        self.generic = self.generic.or(weaker.generic);
    }
}
