//! What is wanted, as classic BPF (linux/filter.h, bpf_common.h).
//!
//! The program may let through more than is wanted (fragments, errors, IPv6 with extension headers, all of it where it
//! would be too long), never less: whoever reads the packets looks again.

use std::net::IpAddr;

use super::words;

/// Which packets are wanted. What is empty or absent matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The transport protocol's number.
    pub protocol: Option<u8>,
    /// The source or the destination is one of these.
    pub addresses: Vec<IpAddr>,
    /// The address at the other end than one of `addresses` is one of these. With IPv6 the kernel does not look.
    pub peers: Vec<IpAddr>,
    /// The source or the destination port is one of these.
    pub ports: Vec<u16>,
    /// Of TCP only segments with SYN or RST: they open a connection or refuse it.
    pub opening: bool,
}

/// UDP ports of VXLAN: Linux's own and IANA's (RFC 7348).
pub const VXLAN_PORTS: [u16; 2] = [8472, 4789];
/// From the UDP header to the IP header inside: UDP 8, VXLAN 8, Ethernet 14.
const VXLAN_HEADERS: u32 = 30;
/// BPF_MAXINSNS
const LONGEST: usize = 4096;

// Instructions: class | size | mode.
const LD_ABSOLUTE: u16 = 0x20;
const LD_INDIRECT: u16 = 0x40;
const LDH_INDIRECT: u16 = 0x48;
const LDB_INDIRECT: u16 = 0x50;
const LD_IMMEDIATE: u16 = 0x00;
const LDX_IMMEDIATE: u16 = 0x01;
const LD_MEMORY: u16 = 0x60;
const LDX_MEMORY: u16 = 0x61;
const ST: u16 = 0x02;
const STX: u16 = 0x03;
const AND: u16 = 0x54;
const SHIFT_LEFT: u16 = 0x64;
const SHIFT_RIGHT: u16 = 0x74;
const ADD: u16 = 0x04;
const ADD_X: u16 = 0x0c;
const TAX: u16 = 0x07;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// SKF_AD_OFF + SKF_AD_PKTTYPE and SKF_AD_HATYPE
const AD_PACKET_TYPE: u32 = (-0x1000_i32 + 4) as u32;
const AD_HARDWARE: u32 = (-0x1000_i32 + 28) as u32;
const OUTGOING: u32 = 4;

// Cells of the scratch memory.
const BASE: u32 = 0;
const TRANSPORT: u32 = 1;
const PROTOCOL: u32 = 2;
const SOURCE: u32 = 3;
const DESTINATION: u32 = 4;
const SOURCE_PORT: u32 = 5;
const DESTINATION_PORT: u32 = 6;
/// What no port is.
const NO_PORT: u32 = 0x1_0000;

const TCP: u32 = 6;
const UDP: u32 = 17;
const SCTP: u32 = 132;
const ICMP: u32 = 1;
const ICMPV6: u32 = 58;
/// RFC 9293: the flags are the header's byte 13.
const TCP_FLAGS: u32 = 13;
const SYN_OR_RST: u32 = 0x02 | 0x04;

/// The program that gives `snap` bytes of a wanted packet, and `dns` bytes where it is DNS over UDP.
pub(super) fn compile(wanted: &[Wanted], snap: u32, dns: u32) -> Vec<libc::sock_filter> {
    let program = Assembler::new().program(wanted, snap, dns);
    if program.len() <= LONGEST {
        return program;
    }
    Assembler::new().program(&[Wanted::default()], snap, dns)
}

/// Where jumps go to; jumps go forward only.
#[derive(Clone, Copy)]
struct Label(usize);

struct Assembler {
    code: Vec<libc::sock_filter>,
    /// Instruction and label of each long jump.
    jumps: Vec<(usize, Label)>,
    labels: Vec<usize>,
}

/// The labels that every part may go to.
#[derive(Clone, Copy)]
struct Ends {
    /// It matches.
    hit: Label,
    /// Let user space decide; the ports are not known.
    pass: Label,
    drop: Label,
}

impl Assembler {
    fn new() -> Self {
        Self { code: Vec::new(), jumps: Vec::new(), labels: Vec::new() }
    }

    fn program(mut self, wanted: &[Wanted], snap: u32, dns: u32) -> Vec<libc::sock_filter> {
        let ends = Ends { hit: self.label(), pass: self.label(), drop: self.label() };
        let begin = self.label();
        self.emit(LD_ABSOLUTE, AD_PACKET_TYPE);
        self.unless(JUMP_EQUAL, OUTGOING, begin);
        self.emit(LD_ABSOLUTE, AD_HARDWARE);
        self.when(JUMP_EQUAL, u32::from(libc::ARPHRD_LOOPBACK), ends.drop);
        self.place(begin);
        self.emit(LDX_IMMEDIATE, 0);
        let inner = self.label();
        self.packet(wanted, ends, Some(inner));
        self.place(inner);
        self.emit(LD_MEMORY, TRANSPORT);
        self.emit(ADD, VXLAN_HEADERS);
        self.emit(TAX, 0);
        self.packet(wanted, ends, None);
        self.ending(ends, snap, dns)
    }

    fn ending(mut self, ends: Ends, snap: u32, dns: u32) -> Vec<libc::sock_filter> {
        let long = self.label();
        self.place(ends.hit);
        self.emit(LD_MEMORY, PROTOCOL);
        self.unless(JUMP_EQUAL, UDP, ends.pass);
        for cell in [SOURCE_PORT, DESTINATION_PORT] {
            self.emit(LD_MEMORY, cell);
            self.when(JUMP_EQUAL, 53, long);
        }
        self.place(ends.pass);
        self.emit(RETURN, snap);
        self.place(long);
        self.emit(RETURN, dns);
        self.place(ends.drop);
        self.emit(RETURN, 0);
        for (at, label) in &self.jumps {
            // Labels lie behind their jumps.
            self.code[*at].k = (self.labels[label.0] - at - 1) as u32;
        }
        self.code
    }

    /// The IP packet that begins at X; goes to `inner` where it is a VXLAN packet that does not match itself.
    fn packet(&mut self, wanted: &[Wanted], ends: Ends, inner: Option<Label>) {
        let (v4, v6) = (self.label(), self.label());
        self.emit(STX, BASE);
        self.emit(LDB_INDIRECT, 0);
        self.emit(SHIFT_RIGHT, 4);
        self.when(JUMP_EQUAL, 4, v4);
        self.when(JUMP_EQUAL, 6, v6);
        self.go(ends.drop);
        self.place(v4);
        self.load_v4(ends);
        self.filters(wanted, true, ends);
        self.tunnel(ends, inner);
        self.place(v6);
        self.load_v6(ends);
        self.filters(wanted, false, ends);
        self.tunnel(ends, inner);
    }

    /// RFC 791.
    fn load_v4(&mut self, ends: Ends) {
        for (load, offset, cell) in
            [(LDB_INDIRECT, 9, PROTOCOL), (LD_INDIRECT, 12, SOURCE), (LD_INDIRECT, 16, DESTINATION)]
        {
            self.emit(load, offset);
            self.emit(ST, cell);
        }
        let whole = self.label();
        self.emit(LDH_INDIRECT, 6);
        self.emit(AND, 0x1fff);
        self.when(JUMP_EQUAL, 0, whole);
        self.go(ends.pass);
        self.place(whole);
        self.emit(LDB_INDIRECT, 0);
        self.emit(AND, 0xf);
        self.emit(SHIFT_LEFT, 2);
        self.emit(ADD_X, 0);
        self.emit(TAX, 0);
        self.emit(STX, TRANSPORT);
        // RFC 792: unreachable, quench, redirect, time exceeded, parameter problem.
        let ports = self.label();
        self.emit(LD_MEMORY, PROTOCOL);
        self.unless(JUMP_EQUAL, ICMP, ports);
        self.emit(LDB_INDIRECT, 0);
        for kind in [3, 4, 5, 11, 12] {
            self.when(JUMP_EQUAL, kind, ends.pass);
        }
        self.place(ports);
        self.load_ports();
    }

    /// RFC 8200.
    fn load_v6(&mut self, ends: Ends) {
        self.emit(LDB_INDIRECT, 6);
        self.emit(ST, PROTOCOL);
        for extension in [0, 43, 44, 51, 60] {
            self.when(JUMP_EQUAL, extension, ends.pass);
        }
        self.emit(LD_IMMEDIATE, 40);
        self.emit(ADD_X, 0);
        self.emit(TAX, 0);
        self.emit(STX, TRANSPORT);
        // RFC 4443: errors are below 128.
        let ports = self.label();
        self.emit(LD_MEMORY, PROTOCOL);
        self.unless(JUMP_EQUAL, ICMPV6, ports);
        self.emit(LDB_INDIRECT, 0);
        self.unless(JUMP_GREATER_OR_EQUAL, 128, ends.pass);
        self.place(ports);
        self.load_ports();
    }

    fn load_ports(&mut self) {
        let (there, done) = (self.label(), self.label());
        self.emit(LD_MEMORY, PROTOCOL);
        for protocol in [TCP, UDP, SCTP] {
            self.when(JUMP_EQUAL, protocol, there);
        }
        self.emit(LD_IMMEDIATE, NO_PORT);
        self.emit(ST, SOURCE_PORT);
        self.emit(ST, DESTINATION_PORT);
        self.go(done);
        self.place(there);
        for (offset, cell) in [(0, SOURCE_PORT), (2, DESTINATION_PORT)] {
            self.emit(LDH_INDIRECT, offset);
            self.emit(ST, cell);
        }
        self.place(done);
    }

    /// Goes on behind the last filter where none matches.
    fn filters(&mut self, wanted: &[Wanted], v4: bool, ends: Ends) {
        for filter in wanted {
            let next = self.label();
            if let Some(protocol) = filter.protocol {
                self.emit(LD_MEMORY, PROTOCOL);
                self.unless(JUMP_EQUAL, protocol.into(), next);
            }
            if !filter.ports.is_empty() {
                let found = self.label();
                for cell in [SOURCE_PORT, DESTINATION_PORT] {
                    self.emit(LD_MEMORY, cell);
                    for port in &filter.ports {
                        self.when(JUMP_EQUAL, (*port).into(), found);
                    }
                }
                self.go(next);
                self.place(found);
            }
            if filter.opening {
                self.opening(next);
            }
            if filter.addresses.is_empty() {
                self.go(ends.hit);
            } else if v4 && !filter.peers.is_empty() {
                self.pairs_v4(&filter.addresses, &filter.peers, ends.hit);
            } else if v4 {
                self.addresses_v4(&filter.addresses, ends.hit);
            } else {
                self.addresses_v6(&filter.addresses, ends.hit);
            }
            self.place(next);
        }
    }

    /// Goes to `next` with a TCP segment that has neither SYN nor RST.
    fn opening(&mut self, next: Label) {
        let fits = self.label();
        self.emit(LD_MEMORY, PROTOCOL);
        self.unless(JUMP_EQUAL, TCP, fits);
        self.emit(LDX_MEMORY, TRANSPORT);
        self.emit(LDB_INDIRECT, TCP_FLAGS);
        self.emit(AND, SYN_OR_RST);
        self.when(JUMP_EQUAL, 0, next);
        self.place(fits);
    }

    fn pairs_v4(&mut self, addresses: &[IpAddr], peers: &[IpAddr], hit: Label) {
        for (one, other) in [(SOURCE, DESTINATION), (DESTINATION, SOURCE)] {
            let (found, next) = (self.label(), self.label());
            for (cell, list, label) in [(one, addresses, found), (other, peers, hit)] {
                self.emit(LD_MEMORY, cell);
                for address in list.iter().filter(|address| address.is_ipv4()) {
                    self.when(JUMP_EQUAL, words(*address)[0], label);
                }
                self.go(next);
                if cell == one {
                    self.place(found);
                }
            }
            self.place(next);
        }
    }

    fn addresses_v4(&mut self, addresses: &[IpAddr], hit: Label) {
        for cell in [SOURCE, DESTINATION] {
            self.emit(LD_MEMORY, cell);
            for address in addresses.iter().filter(|address| address.is_ipv4()) {
                self.when(JUMP_EQUAL, words(*address)[0], hit);
            }
        }
    }

    fn addresses_v6(&mut self, addresses: &[IpAddr], hit: Label) {
        self.emit(LDX_MEMORY, BASE);
        for address in addresses.iter().filter(|address| address.is_ipv6()) {
            for start in [8, 24] {
                let other = self.label();
                for (word, offset) in words(*address).into_iter().zip((start..).step_by(4)) {
                    self.emit(LD_INDIRECT, offset);
                    self.unless(JUMP_EQUAL, word, other);
                }
                self.go(hit);
                self.place(other);
            }
        }
    }

    /// Goes to `inner` where it is VXLAN, else drops.
    fn tunnel(&mut self, ends: Ends, inner: Option<Label>) {
        if let Some(inner) = inner {
            self.emit(LD_MEMORY, PROTOCOL);
            self.unless(JUMP_EQUAL, UDP, ends.drop);
            self.emit(LD_MEMORY, DESTINATION_PORT);
            for port in VXLAN_PORTS {
                self.when(JUMP_EQUAL, port.into(), inner);
            }
        }
        self.go(ends.drop);
    }

    fn emit(&mut self, code: u16, k: u32) {
        self.code.push(libc::sock_filter { code, jt: 0, jf: 0, k });
    }

    fn label(&mut self) -> Label {
        self.labels.push(0);
        Label(self.labels.len() - 1)
    }

    fn place(&mut self, label: Label) {
        self.labels[label.0] = self.code.len();
    }

    fn go(&mut self, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.emit(JUMP, 0);
    }

    /// A conditional jump reaches 255 instructions; the long one behind it reaches all.
    fn when(&mut self, code: u16, k: u32, label: Label) {
        self.code.push(libc::sock_filter { code, jt: 0, jf: 1, k });
        self.go(label);
    }

    fn unless(&mut self, code: u16, k: u32, label: Label) {
        self.code.push(libc::sock_filter { code, jt: 1, jf: 0, k });
        self.go(label);
    }
}
