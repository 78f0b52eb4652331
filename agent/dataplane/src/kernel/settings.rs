//! Settings of the programs, in seconds outside and jiffies inside.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use felid_common::{
    EGRESS, INGRESS, SETTING_ALLOW_IPIP, SETTING_ALLOW_VXLAN, SETTING_HOST_REACHABLE, SETTING_NAT_OUTBOUND,
};

use crate::error::{KernelError, Result};
use crate::sys;

/// What the programs are told beside policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// An unanswered TCP flow ends after this time without a packet.
    pub tcp_syn: Duration,
    /// An established TCP flow.
    pub tcp_established: Duration,
    /// A TCP flow after both FINs.
    pub tcp_fin: Duration,
    /// A TCP flow after a RST.
    pub tcp_rst: Duration,
    /// UDP and UDP-Lite.
    pub udp: Duration,
    /// ICMP and ICMPv6.
    pub icmp: Duration,
    /// Other protocols.
    pub other: Duration,
    /// Workloads reach the host as far as their egress policy allows (`defaultEndpointToHostAction` other than Drop).
    pub host_reachable: bool,
    /// Workloads may send IP-in-IP.
    pub allow_ipip: bool,
    /// Workloads may send VXLAN to the cluster's port.
    pub allow_vxlan: bool,
    /// UDP port of the cluster's VXLAN.
    pub vxlan_port: u16,
    /// Packets a second and CPU of which Log rules may tell.
    pub log_rate: u32,
    /// ... at once.
    pub log_burst: u32,
    /// Workloads that have external addresses are shown under them outside the cluster.
    pub nat_outbound: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tcp_syn: Duration::from_secs(20),
            tcp_established: Duration::from_secs(3600),
            tcp_fin: Duration::from_secs(30),
            tcp_rst: Duration::from_secs(40),
            udp: Duration::from_secs(60),
            icmp: Duration::from_secs(5),
            other: Duration::from_secs(600),
            host_reachable: false,
            allow_ipip: false,
            allow_vxlan: false,
            vxlan_port: 4789,
            log_rate: 100,
            log_burst: 200,
            nat_outbound: false,
        }
    }
}

impl Settings {
    /// The value of the map `settings`, without the flags that say which tables are in use.
    pub(crate) fn encode(&self, hz: u32) -> felid_common::Settings {
        // `last seen` has 32 bits and is compared by wrapping arithmetic: a quarter of its circle is always safe.
        let jiffies = |time: Duration| {
            let jiffies = time.as_millis().saturating_mul(hz.into()).div_ceil(1000);
            u32::try_from(jiffies).unwrap_or(u32::MAX).clamp(1, u32::MAX / 4)
        };
        let mut flags = 0;
        for (set, flag) in [
            (self.host_reachable, SETTING_HOST_REACHABLE),
            (self.allow_ipip, SETTING_ALLOW_IPIP),
            (self.allow_vxlan, SETTING_ALLOW_VXLAN),
            (self.nat_outbound, SETTING_NAT_OUTBOUND),
        ] {
            if set {
                flags |= flag;
            }
        }
        felid_common::Settings {
            hz,
            tcp_syn: jiffies(self.tcp_syn),
            tcp_established: jiffies(self.tcp_established),
            tcp_fin: jiffies(self.tcp_fin),
            tcp_rst: jiffies(self.tcp_rst),
            udp: jiffies(self.udp),
            icmp: jiffies(self.icmp),
            other: jiffies(self.other),
            flags,
            vxlan_port: self.vxlan_port.into(),
            log_rate: self.log_rate,
            log_burst: self.log_burst,
            revoking: 0,
            reserved: [0; 3],
        }
    }
}

/// Directions (as in `revoking`) whose flows a change of the settings may forbid: they are to be judged again.
pub(crate) const fn revoked(old: &felid_common::Settings, new: &felid_common::Settings) -> u32 {
    if old.hz == 0 {
        // Never written: there are no flows.
        0
    } else if old.vxlan_port != new.vxlan_port {
        // Either end may be the one that sends to the port.
        1 << EGRESS | 1 << INGRESS
    } else if old.flags & !new.flags & SETTING_HOST_REACHABLE != 0 {
        1 << EGRESS
    } else {
        0
    }
}

/// The kernel's jiffies, by a test run of the program `clock`.
pub(crate) fn jiffies(clock: BorrowedFd<'_>) -> Result<u64> {
    let run = sys::test_run(clock, &[0; 64], &[], 1).map_err(KernelError::call("run the program clock"))?;
    let bytes = run.data.first_chunk::<8>().ok_or_else(|| {
        KernelError::call("run the program clock")(io::Error::new(
            io::ErrorKind::InvalidData,
            "too little data came back",
        ))
    })?;
    Ok(u64::from_le_bytes(*bytes))
}

/// Jiffies a second, which the kernel tells nobody: counted for a tenth of a second, then the nearest of the values that a kernel can
/// be built with.
pub(crate) fn calibrate_hz(clock: BorrowedFd<'_>) -> Result<u32> {
    let (start, first) = (Instant::now(), jiffies(clock)?);
    std::thread::sleep(Duration::from_millis(100));
    let (elapsed, last) = (start.elapsed(), jiffies(clock)?);
    Ok(nearest_hz(last.wrapping_sub(first), elapsed))
}

fn nearest_hz(jiffies: u64, elapsed: Duration) -> u32 {
    let measured = jiffies.saturating_mul(1_000_000) / u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1);
    [100, 250, 300, 1000]
        .into_iter()
        .min_by_key(|hz| measured.abs_diff(u64::from(*hz)))
        .unwrap_or(250)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_more_or_less_does_not_matter() {
        let tenth = Duration::from_millis(100);
        for hz in [100_u32, 250, 300, 1000] {
            let ticks = u64::from(hz) / 10;
            assert_eq!(nearest_hz(ticks, tenth), hz);
            assert_eq!(nearest_hz(ticks + 1, tenth + Duration::from_millis(1)), hz);
        }
        assert_eq!(nearest_hz(24, tenth), 250);
        assert_eq!(nearest_hz(31, tenth), 300);
    }

    #[test]
    fn times_become_jiffies() {
        let encoded = Settings {
            udp: Duration::from_millis(1),
            ..Settings::default()
        }
        .encode(250);
        assert_eq!(
            (encoded.hz, encoded.tcp_syn, encoded.tcp_established),
            (250, 5000, 900_000)
        );
        assert_eq!(encoded.udp, 1, "never zero: that would end every flow at once");
        let forever = Settings {
            other: Duration::MAX,
            ..Settings::default()
        }
        .encode(1000);
        assert_eq!(forever.other, u32::MAX / 4);
    }
}
