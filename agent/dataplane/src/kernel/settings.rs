//! Settings of the programs, in seconds outside and jiffies inside.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use felid_common::{
    EGRESS, INGRESS, NatSeed, SETTING_ALLOW_IPIP, SETTING_ALLOW_VXLAN, SETTING_HOST_REACHABLE, SETTING_NAT_OUTBOUND,
};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::shares::Shares;
use crate::error::{KernelError, Result};
use crate::sys::{self, RawMap};

/// What the programs are told beside policy. The timeouts are those of Felix's
/// `bpfConntrackTimeouts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The silence after which a TCP flow without an answer ends.
    pub tcp_syn: Duration,
    /// The silence after which an established TCP flow ends.
    pub tcp_established: Duration,
    /// The silence after which a TCP flow ends once both ends have sent their FIN.
    pub tcp_fin: Duration,
    /// The silence after which a TCP flow ends once there was a RST.
    pub tcp_rst: Duration,
    /// The silence after which a flow of UDP or UDP-Lite ends that has no answer, or whose
    /// originator went on after one.
    pub udp: Duration,
    /// The silence after which a flow of UDP or UDP-Lite ends that was answered, until its
    /// originator goes on.
    pub udp_answered: Duration,
    /// The silence after which a flow of ICMP or ICMPv6 ends.
    pub icmp: Duration,
    /// The silence after which a flow of any other protocol ends.
    pub other: Duration,
    /// Whether workloads reach the host as far as their egress policy allows:
    /// `defaultEndpointToHostAction` is not Drop.
    pub host_reachable: bool,
    /// Whether workloads may send IP-in-IP.
    pub allow_ipip: bool,
    /// Whether workloads may send VXLAN to the cluster's port.
    pub allow_vxlan: bool,
    /// The UDP port of the cluster's VXLAN, host byte order.
    pub vxlan_port: u16,
    /// How many packets a second each CPU reports for Log rules.
    pub log_rate: u32,
    /// How many packets a CPU reports at once, beyond that rate.
    pub log_burst: u32,
    /// Whether workloads that have external addresses are known by them outside the cluster.
    pub nat_outbound: bool,
    /// How many established flows of one IP version an endpoint may have; 0 = as many as its share
    /// of the table and the pool give.
    pub max_flows_per_endpoint: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tcp_syn: Duration::from_secs(20),
            tcp_established: Duration::from_secs(2 * 3600 + 4 * 60),
            tcp_fin: Duration::from_secs(30),
            tcp_rst: Duration::from_secs(40),
            udp: Duration::from_secs(60),
            udp_answered: Duration::from_secs(10),
            icmp: Duration::from_secs(5),
            other: Duration::from_secs(600),
            host_reachable: false,
            allow_ipip: false,
            allow_vxlan: false,
            vxlan_port: 4789,
            log_rate: 100,
            log_burst: 200,
            nat_outbound: false,
            max_flows_per_endpoint: 0,
        }
    }
}

impl Settings {
    /// The value of the map `settings`, without the flags that say which tables are in use
    /// and the endpoints' shares.
    pub(crate) fn encode(&self, hz: u32) -> felid_common::Settings {
        // `last seen` has 32 bits and is compared by wrapping arithmetic: a quarter of its circle
        // is always safe.
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
            udp_answered: jiffies(self.udp_answered),
            icmp: jiffies(self.icmp),
            other: jiffies(self.other),
            flags,
            vxlan_port: self.vxlan_port.into(),
            log_rate: self.log_rate,
            log_burst: self.log_burst,
            revoking: 0,
            nat_seed: NatSeed::default(),
            ..felid_common::Settings::default()
        }
    }
}

/// What the map `settings` holds; zeros if no run has written it.
pub(crate) fn read(map: &RawMap) -> Result<felid_common::Settings> {
    let value = map
        .lookup(&0_u32.to_ne_bytes())
        .map_err(KernelError::call("read the map settings"))?;
    Ok(value
        .and_then(|value| felid_common::Settings::read_from_bytes(&value).ok())
        .unwrap_or_default())
}

/// The seed of a host that has none yet.
fn new_nat_seed() -> Result<NatSeed> {
    let mut seed = NatSeed::default();
    getrandom::fill(seed.as_mut_bytes())
        .map_err(|error| KernelError::call("get random numbers")(io::Error::from(error)))?;
    Ok(seed)
}

/// The settings in the kernel, and those that are wanted.
pub(crate) struct StoredSettings {
    map: RawMap,
    /// What is wanted.
    pub(crate) desired: Settings,
    /// What the map holds.
    pub(crate) written: felid_common::Settings,
    /// Jiffies a second of this kernel.
    pub(crate) hz: u32,
    /// This host's secret: what has been written stays for as long as the tables do.
    pub(crate) nat_seed: NatSeed,
}

impl StoredSettings {
    /// Goes on from what a previous run left: `written`. `clock` is the program that tells jiffies,
    /// which are counted if no run has done so before.
    pub(crate) fn adopt(
        map: RawMap,
        written: felid_common::Settings,
        desired: Settings,
        clock: BorrowedFd<'_>,
    ) -> Result<Self> {
        let hz = match written.hz {
            0 => calibrate_hz(clock)?,
            hz => hz,
        };
        let nat_seed = if written.nat_seed == NatSeed::default() {
            new_nat_seed()?
        } else {
            written.nat_seed
        };
        Ok(Self {
            map,
            desired,
            written,
            hz,
            nat_seed,
        })
    }

    /// Whether no run has written them.
    pub(crate) fn is_new(&self) -> bool {
        self.written.hz == 0 || self.written.nat_seed != self.nat_seed
    }

    /// Writes what is wanted, which tables are in use, and what each endpoint may have of those
    /// that packets fill. What has still to be revoked stays noted, so that it survives the agent.
    pub(crate) fn write(&mut self, table_flags: u32, shares: &Shares) -> Result<()> {
        let mut value = self.desired.encode(self.hz);
        shares.encode(&mut value);
        value.flags |= table_flags;
        value.nat_seed = self.nat_seed;
        value.revoking = self.written.revoking | revoked(&self.written, &value);
        self.put(value)
    }

    /// Notes that nothing has to be revoked any more.
    pub(crate) fn revoked(&mut self) -> Result<()> {
        self.put(felid_common::Settings {
            revoking: 0,
            ..self.written
        })
    }

    fn put(&mut self, value: felid_common::Settings) -> Result<()> {
        self.map
            .update(&0_u32.to_ne_bytes(), value.as_bytes())
            .map_err(KernelError::call("write the map settings"))?;
        self.written = value;
        Ok(())
    }
}

/// Directions (as in `revoking`) whose flows a change of the settings may forbid: they are to be
/// judged again.
const fn revoked(old: &felid_common::Settings, new: &felid_common::Settings) -> u32 {
    if old.hz == 0 {
        // Never written: there are no flows.
        0
    } else if old.vxlan_port != new.vxlan_port {
        // Either end may be the one that sends to the port.
        1 << EGRESS | 1 << INGRESS
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

/// Jiffies a second, which the kernel tells nobody: counted for a tenth of a second, then the
/// nearest of the values that a kernel can be built with.
fn calibrate_hz(clock: BorrowedFd<'_>) -> Result<u32> {
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
            (250, 5000, 1_860_000)
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
