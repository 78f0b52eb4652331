//! What Log rules tell: a record in the ring buffer `log`, at a bounded rate.

use felid_common::{EGRESS, Event, LOG_INGRESS, LogRecord, Scratch, Settings};

use crate::maps;
use crate::packet::{count, now};

/// Tells of the Log rules that matched in the policy of this endpoint and direction.
#[inline(always)]
pub(crate) fn emit(tuple: &Scratch, endpoint: u32, direction: u32, verdict: u32, settings: &Settings) {
    let Some(rate) = maps::LOG_RATES.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this CPU's own element.
    let rate = unsafe { &mut *rate };
    if !rate.take(now(), settings) {
        rate.missed = rate.missed.saturating_add(1);
        count(Event::LogSuppressed);
        return;
    }
    let Some(mut record) = maps::LOG.reserve(0) else {
        rate.missed = rate.missed.saturating_add(1);
        count(Event::LogLost);
        return;
    };
    record.write(LogRecord {
        src: tuple.src,
        dst: tuple.dst,
        src_port: tuple.src_port,
        dst_port: tuple.dst_port,
        protocol: tuple.protocol,
        ip_version: tuple.ip_version,
        icmp_type: tuple.icmp_type,
        icmp_code: tuple.icmp_code,
        endpoint: endpoint | if direction == EGRESS { 0 } else { LOG_INGRESS },
        verdict,
        program: tuple.log_program,
        count: tuple.log_count,
        rules: tuple.log_rules,
        missed: rate.missed,
        reserved: 0,
    });
    record.submit(0);
    rate.missed = 0;
    count(Event::Logged);
}
