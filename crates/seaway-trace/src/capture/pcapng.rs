//! Packets as a pcapng file (draft-ietf-opsawg-pcapng): an interface for each link of each place.

use std::collections::HashMap;
use std::io::{self, Write};

/// LINKTYPE_ETHERNET. Packets come without their link's header and get one without addresses: libpcap reads no file with
/// several interfaces of LINKTYPE_RAW.
const LINK_TYPE: u16 = 1;
const ETHERNET_HEADER: u32 = 14;
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;

/// Writes a file, an interface at its first packet.
pub(crate) struct Writer<W> {
    out: W,
    interfaces: HashMap<String, u32>,
}

/// A packet to write.
pub(crate) struct Record<'a> {
    /// `node-1/eth0`
    pub(crate) interface: &'a str,
    /// Nanoseconds since 1970.
    pub(crate) time: u64,
    pub(crate) out: bool,
    /// Its length before it was cut off.
    pub(crate) length: u32,
    /// From the IP header on.
    pub(crate) data: &'a [u8],
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    pub(crate) fn new(mut out: W) -> io::Result<Self> {
        let mut body = Vec::new();
        body.extend(0x1a2b_3c4d_u32.to_le_bytes());
        body.extend(1_u16.to_le_bytes());
        body.extend(0_u16.to_le_bytes());
        body.extend(u64::MAX.to_le_bytes());
        // shb_userappl
        option(&mut body, 4, b"seaway");
        end_of_options(&mut body);
        block(&mut out, SECTION_HEADER, &body)?;
        Ok(Self { out, interfaces: HashMap::new() })
    }

    /// Appends a packet.
    pub(crate) fn packet(&mut self, record: &Record<'_>) -> io::Result<()> {
        let interface = self.interface(record.interface)?;
        let mut body = Vec::with_capacity(record.data.len() + 40);
        body.extend(interface.to_le_bytes());
        body.extend(((record.time >> 32) as u32).to_le_bytes());
        body.extend((record.time as u32).to_le_bytes());
        let frame = framed(record.data);
        body.extend(u32::try_from(frame.len()).unwrap_or(u32::MAX).to_le_bytes());
        body.extend(record.length.saturating_add(ETHERNET_HEADER).to_le_bytes());
        padded(&mut body, &frame);
        // epb_flags: inbound or outbound
        option(&mut body, 2, &(if record.out { 2_u32 } else { 1 }).to_le_bytes());
        end_of_options(&mut body);
        block(&mut self.out, ENHANCED_PACKET, &body)
    }

    /// Writes what is held back.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn interface(&mut self, name: &str) -> io::Result<u32> {
        if let Some(number) = self.interfaces.get(name) {
            return Ok(*number);
        }
        let number = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        let mut body = Vec::new();
        body.extend(LINK_TYPE.to_le_bytes());
        body.extend([0; 2]);
        body.extend(0_u32.to_le_bytes());
        // if_name, if_tsresol: nanoseconds
        option(&mut body, 2, name.as_bytes());
        option(&mut body, 9, &[9]);
        end_of_options(&mut body);
        block(&mut self.out, INTERFACE, &body)?;
        self.interfaces.insert(name.to_owned(), number);
        Ok(number)
    }
}

/// An IP packet behind an Ethernet header.
fn framed(packet: &[u8]) -> Vec<u8> {
    let v6 = packet.first().is_some_and(|first| first >> 4 == 6);
    let mut frame = vec![0; 12];
    frame.extend(if v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
    frame.extend_from_slice(packet);
    frame
}

fn block(out: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len() + 12).map_err(io::Error::other)?.to_le_bytes();
    out.write_all(&kind.to_le_bytes())?;
    out.write_all(&length)?;
    out.write_all(body)?;
    out.write_all(&length)
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
    padded(body, value);
}

fn end_of_options(body: &mut Vec<u8>) {
    body.extend([0; 4]);
}

fn padded(body: &mut Vec<u8>, value: &[u8]) {
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_their_lengths_at_both_ends() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes).unwrap();
        for interface in ["node-1/eth0", "gateway/eth0", "node-1/eth0"] {
            writer
                .packet(&Record { interface, time: 1 << 40, out: true, length: 90, data: b"hello" })
                .unwrap();
        }
        let mut kinds = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            let length = number(at + 4) as usize;
            assert_eq!((length % 4, number(at + length - 4) as usize), (0, length));
            kinds.push(number(at));
            at += length;
        }
        assert_eq!(kinds, [SECTION_HEADER, INTERFACE, 6, INTERFACE, 6, 6]);
    }
}
