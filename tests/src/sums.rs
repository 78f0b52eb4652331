//! Checks the checksums of a frame, by reading it anew.

use crate::packet_craft::checksum;

/// What is wrong with a frame's checksums: IPv4 header, TCP, UDP, UDP-Lite, ICMP, ICMPv6, and IPv4
/// headers that ICMP errors quote. Fragments but for unfragmented packets are looked at no further
/// than their IP header.
pub fn faults(frame: &[u8]) -> Vec<String> {
    let mut faults = Vec::new();
    packet(frame.get(14..).unwrap_or_default(), &mut faults);
    faults
}

fn packet(ip: &[u8], faults: &mut Vec<String>) {
    match ip.first().map(|byte| byte >> 4) {
        Some(4) => {
            let header = usize::from(ip[0] & 15) * 4;
            if checksum(&ip[..header]) != 0 {
                faults.push("IPv4 header".to_owned());
            }
            if u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff == 0 {
                let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
                payload(ip[9], &ip[12..20], &ip[header..total], faults);
            }
        }
        Some(6) => {
            let (mut next, mut at) = (ip[6], 40);
            let end = 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
            while matches!(next, 0 | 43 | 44 | 60) {
                if next == 44 && u16::from_be_bytes([ip[at + 2], ip[at + 3]]) & 0xfff9 != 0 {
                    return;
                }
                let length = if next == 44 {
                    8
                } else {
                    (usize::from(ip[at + 1]) + 1) * 8
                };
                (next, at) = (ip[at], at + length);
            }
            payload(next, &ip[8..40], &ip[at..end], faults);
        }
        _ => faults.push("neither IPv4 nor IPv6".to_owned()),
    }
}

fn payload(protocol: u8, addresses: &[u8], data: &[u8], faults: &mut Vec<String>) {
    let name = match protocol {
        1 => "ICMP",
        6 => "TCP",
        17 => "UDP",
        58 => "ICMPv6",
        136 => "UDP-Lite",
        _ => return,
    };
    if protocol == 17 && data[6..8] == [0, 0] {
        return;
    }
    let mut covered = Vec::new();
    if protocol != 1 {
        covered.extend(addresses);
        covered.extend((data.len() as u32).to_be_bytes());
        covered.extend([0, 0, 0, protocol]);
    }
    covered.extend(data);
    if checksum(&covered) != 0 {
        faults.push(name.to_owned());
    }
    let quotes = (protocol == 1 && matches!(data[0], 3..=5 | 11 | 12)) || (protocol == 58 && data[0] < 128);
    if quotes && data.len() >= 28 && data[8] >> 4 == 4 && checksum(&data[8..8 + usize::from(data[8] & 15) * 4]) != 0 {
        faults.push("quoted IPv4 header".to_owned());
    }
}
