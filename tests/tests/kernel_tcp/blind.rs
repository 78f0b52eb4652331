//! What somebody who knows addresses and ports, but no sequence numbers, can do to a connection of
//! others: nothing.

use felid_common::{
    ENDPOINT_REDIRECTABLE, Event, FLOW_CLOSING, FLOW_ESTABLISHED, Flow, PEER_HOST, Peer, TCP_FIN, TCP_RST,
    protocol::TCP,
};
use felid_tests::bpf_fixture::{Fixture, SETTINGS};
use felid_tests::packet_craft::{ACK, FIN, RST, SYN, Segment};

use crate::{Pair, V4, V6, packet, two};

/// NOP, window scale.
fn scale(shift: u8) -> Vec<u8> {
    vec![1, 3, 3, shift]
}

/// Both ends of a connection from endpoint 1, port 40000, to endpoint 2, port 80.
struct Talk<'a> {
    fixture: &'a Fixture,
    pair: &'a Pair,
    /// Past the host's stack, or through it and both hooks.
    redirect: bool,
    /// Next sequence number of the client and of the server.
    next: (u32, u32),
    window: u16,
}

impl Talk<'_> {
    /// Sends a segment with these numbers: from the client, or from the server.
    fn send(&self, client: bool, segment: Segment) {
        let (from, to, source, destination, ports) = if client {
            (1, 2, self.pair.a, self.pair.b, (40000, 80))
        } else {
            (2, 1, self.pair.b, self.pair.a, (80, 40000))
        };
        let packet = packet(source, destination)
            .segment(&Segment { ports, ..segment })
            .build();
        let outcome = self.fixture.from_workload(from, &packet).unwrap();
        if self.redirect {
            outcome.redirected(to + 10);
        } else {
            outcome.passed();
            self.fixture.to_workload(to, from + 10, &packet).unwrap().passed();
        }
    }

    /// Sends what an honest end would send now.
    fn say(&mut self, client: bool, flags: u8, data: usize) {
        let (sequence, acknowledged) = if client { self.next } else { (self.next.1, self.next.0) };
        let segment = Segment {
            flags,
            sequence,
            acknowledged: if flags & ACK == 0 { 0 } else { acknowledged },
            window: self.window,
            data: vec![0; data],
            ..Segment::default()
        };
        self.send(client, segment);
        let length = data as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let next = if client { &mut self.next.0 } else { &mut self.next.1 };
        *next = next.wrapping_add(length);
    }

    /// What somebody sends who forges an end's address, at a distance from what the other end
    /// expects.
    fn forge(&self, client: bool, flags: u8, distance: i64) {
        let expected = if client { self.next.0 } else { self.next.1 };
        let segment = Segment {
            flags,
            sequence: expected.wrapping_add(distance as u32),
            acknowledged: 0x1234_5678,
            window: 1,
            ..Segment::default()
        };
        self.send(client, segment);
    }

    fn flow(&self) -> (bool, Flow) {
        self.fixture
            .flow(TCP, self.pair.a, 40000, self.pair.b, 80)
            .unwrap()
            .unwrap()
    }

    fn bits(&self) -> (u16, u8, u8) {
        let (_, flow) = self.flow();
        (flow.flags, flow.tcp_original, flow.tcp_reply)
    }
}

/// An established connection in each family, past the host's stack and through it, with numbers
/// that wrap around soon.
fn everywhere(window: u16, test: impl Fn(&mut Talk<'_>)) {
    for pair in [&V4, &V6] {
        for redirect in [true, false] {
            let mut fixture = two();
            let mut record = Fixture::record(2);
            record.flags = if redirect { ENDPOINT_REDIRECTABLE } else { 0 };
            fixture.set_endpoint(2, record).unwrap();
            let mut talk = Talk {
                fixture: &fixture,
                pair,
                redirect,
                next: (u32::MAX - 50, 0x8000_0000),
                window,
            };
            talk.say(true, SYN, 0);
            talk.say(false, SYN | ACK, 0);
            talk.say(true, ACK, 0);
            assert!(talk.flow().0);
            test(&mut talk);
        }
    }
}

#[test]
fn a_reset_that_its_receiver_would_not_take_changes_nothing() {
    everywhere(1000, |talk| {
        talk.say(true, ACK, 100);
        talk.say(false, ACK, 300);
        talk.say(true, ACK, 0);
        let before = talk.bits();
        for client in [true, false] {
            for distance in [-1, -100, 1001, 65_536, 1 << 30, 1 << 31, -(1 << 30)] {
                for flags in [RST, RST | ACK, RST | SYN, RST | FIN | ACK] {
                    talk.forge(client, flags, distance);
                    assert_eq!(talk.bits(), before, "{client} {flags} {distance}");
                }
            }
        }
        // The one that it would take.
        talk.forge(true, RST, 0);
        assert_ne!(talk.bits().0 & FLOW_CLOSING, 0);
        assert_ne!(talk.bits().1 & TCP_RST, 0);
    });
}

#[test]
fn the_number_that_counts_is_that_of_the_last_acknowledgement() {
    everywhere(60_000, |talk| {
        // All of it by the fast programs, but for what they leave to the others once a second.
        for _ in 0..20 {
            talk.say(true, ACK, 1000);
            talk.say(false, ACK, 500);
        }
        talk.say(true, ACK, 0);
        let before = talk.bits();
        talk.forge(true, RST, -20_000);
        talk.forge(false, RST, -10_000);
        assert_eq!(talk.bits(), before, "what was right twenty segments ago");
        // Sent but not acknowledged: the server takes it all the same.
        talk.say(true, ACK, 1000);
        talk.forge(true, RST | ACK, 0);
        assert_ne!(talk.bits().1 & TCP_RST, 0);
        assert_eq!(talk.bits().0 & FLOW_CLOSING, 0, "nobody but the server knows");
        let (_, flow) = talk.flow();
        assert_eq!(
            Flow::timeout(flow.flags, flow.tcp_original, flow.tcp_reply, TCP, &SETTINGS),
            SETTINGS.tcp_rst
        );
    });
}

#[test]
fn a_reset_within_the_window_is_taken_back_by_its_receiver_alone() {
    everywhere(1000, |talk| {
        let before = talk.bits();
        talk.forge(true, RST, 17);
        assert_ne!(talk.bits().1 & TCP_RST, 0);
        assert_eq!(talk.bits().0 & FLOW_CLOSING, 0);
        // A SYN does not make use of it.
        talk.forge(true, SYN, 5000);
        assert!(talk.flow().0);
        // The server asks whether that was meant.
        talk.say(false, ACK, 0);
        assert_eq!(talk.bits(), before);
        assert_eq!(talk.fixture.events(Event::Reused).unwrap(), 0);
    });
}

#[test]
fn windows_are_read_as_the_handshake_said() {
    for (client_scale, server_scale, shift) in [(Some(7), Some(4), 4), (Some(7), None, 0), (None, Some(4), 0)] {
        for pair in [&V4, &V6] {
            let fixture = two();
            let mut talk = Talk {
                fixture: &fixture,
                pair,
                redirect: true,
                next: (1001, 5001),
                window: 100,
            };
            let syn = |flags, sequence, acknowledged, shift: Option<u8>| Segment {
                flags,
                sequence,
                acknowledged,
                window: 64_000,
                options: shift.map(scale).unwrap_or_default(),
                ..Segment::default()
            };
            talk.send(true, syn(SYN, 1000, 0, client_scale));
            talk.send(false, syn(SYN | ACK, 5000, 1001, server_scale));
            talk.say(true, ACK, 0);
            talk.say(true, ACK, 10);
            talk.say(false, ACK, 0);
            let before = talk.bits();
            talk.forge(true, RST, (100 << shift) + 1);
            assert_eq!(talk.bits(), before, "beyond {} bytes", 100 << shift);
            talk.forge(true, RST, 100 << shift);
            assert_ne!(talk.bits().1 & TCP_RST, 0, "within {} bytes", 100 << shift);
        }
    }
}

#[test]
fn a_forged_fin_is_not_noted() {
    everywhere(1000, |talk| {
        talk.say(true, ACK, 100);
        talk.say(false, ACK, 0);
        let before = talk.bits();
        for client in [true, false] {
            for distance in [-500, 1001, 1 << 30, -(1 << 31)] {
                talk.forge(client, FIN | ACK, distance);
                assert_eq!(talk.bits(), before, "{client} {distance}");
            }
        }
        // One behind data that is still on its way is.
        talk.say(true, ACK, 500);
        talk.say(true, FIN | ACK, 100);
        assert_ne!(talk.bits().1 & TCP_FIN, 0);
        talk.say(false, FIN | ACK, 0);
        assert_ne!(talk.bits().0 & FLOW_CLOSING, 0);
    });
}

#[test]
fn a_forged_syn_or_syn_ack_changes_nothing() {
    everywhere(1000, |talk| {
        let before = talk.bits();
        talk.forge(true, SYN, 0);
        talk.forge(true, SYN, 1 << 20);
        talk.forge(true, SYN | ACK, 0);
        talk.forge(false, SYN | ACK, 0);
        talk.forge(false, SYN | ACK, 1 << 20);
        assert_eq!(talk.bits(), before);
        talk.say(true, ACK, 10);
        talk.say(false, ACK, 10);
        assert!(talk.flow().0);
    });
}

#[test]
fn a_forged_answer_does_not_hold_up_a_handshake() {
    for pair in [&V4, &V6] {
        let fixture = two();
        let mut talk = Talk {
            fixture: &fixture,
            pair,
            redirect: true,
            next: (1000, 5000),
            window: 1000,
        };
        talk.say(true, SYN, 0);
        let before = talk.bits();
        for (flags, acknowledged) in [
            (SYN | ACK, 7),
            (RST | ACK, 7),
            (RST, 1001),
            (SYN | ACK, 1000),
            (RST | ACK, 1000),
        ] {
            let segment = Segment {
                flags,
                acknowledged,
                sequence: 77,
                ..Segment::default()
            };
            talk.send(false, segment);
            assert_eq!(talk.bits().2, before.2, "{flags} {acknowledged}");
        }
        talk.say(false, SYN | ACK, 0);
        // Again, but not with the client's number.
        talk.forge(true, SYN, -400);
        talk.forge(false, SYN | ACK, 9);
        talk.say(true, ACK, 0);
        assert!(talk.flow().0 && talk.bits().0 & FLOW_ESTABLISHED != 0);
    }
}

#[test]
fn a_refused_connection_is_over() {
    let fixture = two();
    let mut talk = Talk {
        fixture: &fixture,
        pair: &V4,
        redirect: true,
        next: (1000, 0),
        window: 1000,
    };
    talk.say(true, SYN, 0);
    talk.say(false, RST | ACK, 0);
    assert_ne!(talk.bits().0 & FLOW_CLOSING, 0);
}

#[test]
fn the_host_and_what_is_beyond_are_no_better() {
    for (pair, far) in [(&V4, "192.0.2.9"), (&V6, "2001:db8::9")] {
        for host in [true, false] {
            let mut fixture = two();
            if host {
                let peer = Peer {
                    flags: PEER_HOST,
                    ..Peer::default()
                };
                fixture.peer(far, peer).unwrap();
            }
            let send = |out: bool, flags, sequence, acknowledged| {
                let (source, destination, ports) = if out {
                    (pair.b, far, (80, 40000))
                } else {
                    (far, pair.b, (40000, 80))
                };
                let segment = Segment {
                    ports,
                    flags,
                    sequence,
                    acknowledged,
                    window: 1000,
                    ..Segment::default()
                };
                let packet = packet(source, destination).segment(&segment).build();
                if out {
                    fixture.from_workload(2, &packet).unwrap().passed();
                } else {
                    fixture
                        .to_workload(2, if host { 0 } else { 2 }, &packet)
                        .unwrap()
                        .passed();
                }
            };
            send(false, SYN, 100, 0);
            send(true, SYN | ACK, 500, 101);
            send(false, ACK, 101, 501);
            let flow = || fixture.flow(TCP, far, 40000, pair.b, 80).unwrap().unwrap();
            assert!(flow().0);
            let before = (flow().1.flags, flow().1.tcp_original, flow().1.tcp_reply);
            send(false, RST, 100_000, 0);
            send(false, FIN | ACK, 100_000, 501);
            send(false, SYN, 100_000, 0);
            assert_eq!((flow().1.flags, flow().1.tcp_original, flow().1.tcp_reply), before);
            send(false, RST, 101, 0);
            assert_ne!(flow().1.flags & FLOW_CLOSING, 0);
        }
    }
}
