//! Netlink messages and attributes as bytes (linux/netlink.h).

use crate::netlink::NetlinkError;

/// Size of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// Size of `struct nlattr`.
const ATTRIBUTE_HEADER: usize = 4;
/// NLA_F_NESTED (linux/netlink.h).
const NESTED: u16 = 1 << 15;
/// NLA_TYPE_MASK (linux/netlink.h): without the nested and byte order flags.
const TYPE_MASK: u16 = 0x3fff;

/// Rounds a length up to netlink's alignment of 4.
pub const fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// Writes netlink messages with their attributes one after the other into one buffer.
///
/// Lengths are filled in when a message or nest ends. An attribute's length field has 16 bits: a nest that may grow
/// must be split by its writer, with [`Writer::open_length`] telling how long it is so far.
#[derive(Debug, Default)]
pub struct Writer {
    buffer: Vec<u8>,
    message: usize,
}

impl Writer {
    /// An empty buffer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { buffer: Vec::with_capacity(capacity), message: 0 }
    }

    /// Starts a message; `NLM_F_REQUEST` is added to `flags`.
    pub fn begin(&mut self, kind: u16, flags: u16, sequence: u32) {
        self.message = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        self.buffer.extend_from_slice(&sequence.to_ne_bytes());
        self.buffer.extend_from_slice(&[0; 4]);
    }

    /// Ends the message and fills in its length.
    pub fn end(&mut self) {
        let length = (self.buffer.len() - self.message) as u32;
        self.buffer[self.message..self.message + 4].copy_from_slice(&length.to_ne_bytes());
        self.pad();
    }

    /// Adds flags to the message that was started last.
    pub fn add_flags(&mut self, flags: u16) {
        let at = self.message + 6;
        let now = u16::from_ne_bytes([self.buffer[at], self.buffer[at + 1]]);
        self.buffer[at..at + 2].copy_from_slice(&(now | flags).to_ne_bytes());
    }

    /// Appends bytes as they are, such as a family header.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Appends an attribute, padded.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = (ATTRIBUTE_HEADER + value.len()) as u16;
        self.buffer.extend_from_slice(&length.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(value);
        self.pad();
    }

    /// Appends a 32-bit attribute in network byte order.
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// Appends a 64-bit attribute in network byte order.
    pub fn be64(&mut self, kind: u16, value: u64) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// Appends a string attribute with its terminating zero.
    pub fn string(&mut self, kind: u16, value: &str) {
        let length = (ATTRIBUTE_HEADER + value.len() + 1) as u16;
        self.buffer.extend_from_slice(&length.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(value.as_bytes());
        self.buffer.push(0);
        self.pad();
    }

    /// Opens a nested attribute; give what it returns to [`Writer::close`].
    #[must_use]
    pub fn open(&mut self, kind: u16) -> usize {
        let at = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 2]);
        self.buffer.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        at
    }

    /// Length so far of the nested attribute that [`Writer::open`] started.
    pub fn open_length(&self, opened: usize) -> usize {
        self.buffer.len() - opened
    }

    /// Closes a nested attribute.
    pub fn close(&mut self, opened: usize) {
        let length = (self.buffer.len() - opened) as u16;
        self.buffer[opened..opened + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Writes a nested attribute whose contents `body` writes.
    pub fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let opened = self.open(kind);
        body(self);
        self.close(opened);
    }

    /// Gives the messages written consecutive sequence numbers from `first` on.
    pub(crate) fn renumber(&mut self, first: u32) {
        let mut at = 0;
        let mut sequence = first;
        while let Some(length) = ne32(&self.buffer, at) {
            self.buffer[at + 8..at + 12].copy_from_slice(&sequence.to_ne_bytes());
            sequence += 1;
            at += align(length as usize);
        }
    }

    /// The bytes written.
    pub fn as_slice(&self) -> &[u8] {
        &self.buffer
    }

    /// The number of bytes written.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether nothing is written yet.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    fn pad(&mut self) {
        self.buffer.resize(align(self.buffer.len()), 0);
    }
}

/// One message as received.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`.
    pub sequence: u32,
    /// `nlmsg_pid`.
    pub port: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// The messages in one received buffer.
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// Reads `buffer` as messages one after the other.
    pub fn new(buffer: &'a [u8]) -> Self {
        Self { rest: buffer }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, NetlinkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let (Some(length), Some(kind), Some(flags), Some(sequence), Some(port)) = (
            ne32(self.rest, 0),
            ne16(self.rest, 4),
            ne16(self.rest, 6),
            ne32(self.rest, 8),
            ne32(self.rest, 12),
        ) else {
            self.rest = &[];
            return Some(Err(NetlinkError::malformed("shorter than a message header")));
        };
        let length = length as usize;
        if length < HEADER || length > self.rest.len() {
            self.rest = &[];
            return Some(Err(NetlinkError::malformed(format!("message says it has {length} bytes"))));
        }
        let payload = &self.rest[HEADER..length];
        self.rest = &self.rest[align(length).min(self.rest.len())..];
        Some(Ok(Message { kind, flags, sequence, port, payload }))
    }
}

/// One attribute as received.
#[derive(Debug, Clone, Copy)]
pub struct Attribute<'a> {
    /// Type, without the nested and byte order flags.
    pub kind: u16,
    /// The value, without padding.
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The attributes nested in this one.
    pub fn nested(&self) -> Attributes<'a> {
        Attributes::new(self.value)
    }

    /// The value as an 8-bit number.
    pub fn u8(&self) -> Result<u8, NetlinkError> {
        self.value.first().copied().ok_or_else(|| self.wrong("8-bit"))
    }

    /// The value as a 16-bit number in network byte order.
    pub fn be16(&self) -> Result<u16, NetlinkError> {
        self.value.try_into().map(u16::from_be_bytes).map_err(|_| self.wrong("16-bit"))
    }

    /// The value as a 32-bit number in network byte order.
    pub fn be32(&self) -> Result<u32, NetlinkError> {
        self.value.try_into().map(u32::from_be_bytes).map_err(|_| self.wrong("32-bit"))
    }

    /// The value as a 64-bit number in network byte order.
    pub fn be64(&self) -> Result<u64, NetlinkError> {
        self.value.try_into().map(u64::from_be_bytes).map_err(|_| self.wrong("64-bit"))
    }

    /// The value as a string; it ends at the first zero byte, if there is one.
    pub fn string(&self) -> Result<String, NetlinkError> {
        let end = self.value.iter().position(|&byte| byte == 0).unwrap_or(self.value.len());
        String::from_utf8(self.value[..end].to_vec()).map_err(|_| self.wrong("UTF-8"))
    }

    fn wrong(&self, expected: &str) -> NetlinkError {
        NetlinkError::malformed(format!(
            "attribute {} of {} bytes is no {expected} value",
            self.kind,
            self.value.len()
        ))
    }
}

/// The attributes in a message or nest.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Reads `bytes` as attributes one after the other.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, NetlinkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let (Some(length), Some(kind)) = (ne16(self.rest, 0), ne16(self.rest, 2)) else {
            self.rest = &[];
            return Some(Err(NetlinkError::malformed("shorter than an attribute header")));
        };
        let length = length as usize;
        if length < ATTRIBUTE_HEADER || length > self.rest.len() {
            self.rest = &[];
            return Some(Err(NetlinkError::malformed(format!(
                "attribute {kind} says it has {length} bytes"
            ))));
        }
        let value = &self.rest[ATTRIBUTE_HEADER..length];
        self.rest = &self.rest[align(length).min(self.rest.len())..];
        Some(Ok(Attribute { kind: kind & TYPE_MASK, value }))
    }
}

pub(crate) fn ne16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn ne32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Messages that no kernel sends, for property tests of decoders.
#[cfg(test)]
pub(crate) mod arbitrary {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::Writer;

    #[derive(Clone, Debug)]
    enum Node {
        Leaf(u16, Vec<u8>),
        Nest(u16, Vec<Self>),
    }

    impl Node {
        fn write(&self, writer: &mut Writer) {
            match self {
                Self::Leaf(kind, value) => writer.attribute(*kind, value),
                Self::Nest(kind, parts) => {
                    writer.nested(*kind, |writer| parts.iter().for_each(|part| part.write(writer)));
                }
            }
        }
    }

    /// A header of any `header` bytes, then attributes within attributes, of kinds that decoders know and lengths that
    /// they may not expect, and at times cut off.
    pub(crate) fn payload(header: usize) -> impl Strategy<Value = Vec<u8>> {
        // Kinds are small numbers, values mostly as long as addresses and numbers are.
        let length = prop_oneof![4 => Just(1), 4 => Just(2), 8 => Just(4), 4 => Just(8), 4 => Just(16), 2 => 0..70_usize];
        let value = length.prop_flat_map(|length| vec(any::<u8>(), length));
        let leaf = (0..30_u16, value).prop_map(|(kind, value)| Node::Leaf(kind, value));
        let node = leaf.prop_recursive(4, 40, 6, |inner| {
            (0..30_u16, vec(inner, 0..6)).prop_map(|(kind, parts)| Node::Nest(kind, parts))
        });
        (vec(any::<u8>(), header), vec(node, 0..8), prop::option::weighted(0.1, any::<prop::sample::Index>()))
            .prop_map(|(header, nodes, cut)| {
                let mut writer = Writer::default();
                writer.bytes(&header);
                nodes.iter().for_each(|node| node.write(&mut writer));
                let end = cut.map_or(writer.len(), |cut| cut.index(writer.len() + 1));
                writer.as_slice()[..end].to_vec()
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::default();
        writer.begin(7, 0x100, 42);
        writer.bytes(&[1, 2, 3, 4]);
        writer.string(1, "seaway");
        writer.nested(2, |writer| writer.be32(3, 99));
        writer.end();
        writer.begin(8, 0, 43);
        writer.end();

        let messages: Vec<_> = Messages::new(writer.as_slice()).map(Result::unwrap).collect();
        assert_eq!(messages.len(), 2);
        assert_eq!((messages[0].kind, messages[0].flags, messages[0].sequence), (7, 0x101, 42));
        let attributes: Vec<_> = Attributes::new(&messages[0].payload[4..]).map(Result::unwrap).collect();
        assert_eq!(attributes[0].string().unwrap(), "seaway");
        assert_eq!(attributes[1].kind, 2);
        assert_eq!(attributes[1].nested().next().unwrap().unwrap().be32().unwrap(), 99);
        assert_eq!(messages[1].kind, 8);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in Messages::new(&bytes).flatten() {
                for attribute in Attributes::new(message.payload).flatten() {
                    let _ = attribute.nested().count();
                }
            }
            let _ = Attributes::new(&bytes).count();
        }
    }
}
