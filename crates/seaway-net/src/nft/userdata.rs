//! User data: what the kernel keeps for user space without looking at it.
//!
//! `nft` keeps declarations and comments there, as type, length (a byte each) and value; with the same in ours,
//! `nft list ruleset` shows them. Numbers: libnftnl's udata.h and nftables' expression.h, datatype.h and proto.h;
//! checked with `nft --debug=mnl` 1.0.6.

use super::field::{Direction, Field, NumgenMode, Tuple};
use super::table::{Declaration, MapData, SetSpec};
use super::value::DataType;

/// Most bytes that the kernel takes (NFT_USERDATA_MAXLEN).
pub(crate) const MAX: usize = 256;
/// Longest comment that `nft` itself takes (NFTNL_UDATA_COMMENT_MAXLEN).
pub(crate) const MAX_COMMENT: usize = 127;

/// NFTNL_UDATA_RULE_COMMENT and NFTNL_UDATA_SET_ELEM_COMMENT.
const COMMENT: u8 = 0;
/// NFTNL_UDATA_SET_ELEM_FLAGS, with nft's flag for an interval without an end.
const ELEMENT_FLAGS: u8 = 1;
const INTERVAL_OPEN: u32 = 1;
/// Ours: the digest of a rule. nft passes over types that it does not know.
const RULE_DIGEST: u8 = 0x73;

/// enum nftnl_udata_set_types
const SET_KEY_BYTEORDER: u8 = 0;
const SET_DATA_BYTEORDER: u8 = 1;
const SET_KEY_TYPEOF: u8 = 3;
const SET_DATA_TYPEOF: u8 = 4;
const SET_DATA_INTERVAL: u8 = 6;
const SET_COMMENT: u8 = 7;

/// nft's enum expr_types
const EXPR_VERDICT: u32 = 1;
const EXPR_PAYLOAD: u32 = 7;
const EXPR_META: u32 = 9;
const EXPR_SOCKET: u32 = 10;
const EXPR_CT: u32 = 12;
const EXPR_CONCAT: u32 = 13;
const EXPR_NUMGEN: u32 = 23;

/// nft's enum proto_desc_id
const PROTO_TH: u32 = 11;
const PROTO_IP: u32 = 12;
const PROTO_IP6: u32 = 13;

fn put(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    out.push(kind);
    // Callers keep values short; a longer one would be cut off rather than misread.
    out.push(value.len().min(255) as u8);
    out.extend_from_slice(&value[..value.len().min(255)]);
}

fn put_number(out: &mut Vec<u8>, kind: u8, value: u32) {
    put(out, kind, &value.to_ne_bytes());
}

fn put_text(out: &mut Vec<u8>, kind: u8, text: &str) {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    put(out, kind, &bytes);
}

/// The entries of user data; stops at what is malformed.
fn entries(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&[kind, length], rest) = bytes.split_first_chunk::<2>()?;
        let value = rest.get(..usize::from(length))?;
        bytes = &rest[usize::from(length)..];
        Some((kind, value))
    })
}

fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8(bytes[..end].to_vec()).ok()
}

/// A rule's comment and digest.
pub(crate) fn rule(comment: Option<&str>, digest: u64) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(comment) = comment {
        put_text(&mut out, COMMENT, comment);
    }
    put(&mut out, RULE_DIGEST, &digest.to_be_bytes());
    out
}

/// Reads what [`rule`] wrote.
pub(crate) fn read_rule(bytes: &[u8]) -> (Option<String>, Option<u64>) {
    let mut comment = None;
    let mut digest = None;
    for (kind, value) in entries(bytes) {
        match kind {
            COMMENT => comment = text(value),
            RULE_DIGEST => digest = value.try_into().ok().map(u64::from_be_bytes),
            _ => {}
        }
    }
    (comment, digest)
}

/// An element's comment, and whether it is an interval up to the highest value.
pub(crate) fn element(comment: Option<&str>, open: bool) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(comment) = comment {
        put_text(&mut out, COMMENT, comment);
    }
    if open {
        put_number(&mut out, ELEMENT_FLAGS, INTERVAL_OPEN);
    }
    out
}

/// Reads the comment that [`element`] wrote.
pub(crate) fn read_element(bytes: &[u8]) -> Option<String> {
    entries(bytes).find(|(kind, _)| *kind == COMMENT).and_then(|(_, value)| text(value))
}

/// A set's byte orders, `typeof` expressions and comment.
pub(crate) fn set(spec: &SetSpec) -> Vec<u8> {
    let mut out = Vec::new();
    put_number(&mut out, SET_KEY_BYTEORDER, byte_order(&spec.key));
    let data = match &spec.data {
        None => None,
        Some(MapData::Verdict) => {
            put_number(&mut out, SET_DATA_BYTEORDER, 0);
            let mut verdict = Vec::new();
            put_number(&mut verdict, 0, EXPR_VERDICT);
            put(&mut verdict, 1, &[]);
            matches!(spec.key, Declaration::Typeof(_)).then_some(verdict)
        }
        Some(MapData::Values(data)) => {
            put_number(&mut out, SET_DATA_BYTEORDER, byte_order(data));
            declaration(data)
        }
    };
    if let Some(key) = declaration(&spec.key) {
        put(&mut out, SET_KEY_TYPEOF, &key);
    }
    if let Some(data) = data {
        put(&mut out, SET_DATA_TYPEOF, &data);
    }
    if spec.data.is_some() {
        put_number(&mut out, SET_DATA_INTERVAL, 0);
    }
    if let Some(comment) = &spec.comment {
        put_text(&mut out, SET_COMMENT, comment);
    }
    out
}

/// nft's enum byteorder of a declaration: 0 for concatenations and single bytes.
fn byte_order(declaration: &Declaration) -> u32 {
    const HOST_ENDIAN: u32 = 1;
    const BIG_ENDIAN: u32 = 2;
    let types = declaration.types();
    let [kind] = types.as_slice() else { return 0 };
    match kind {
        DataType::Ipv4Addr | DataType::Ipv6Addr | DataType::InetService => BIG_ENDIAN,
        DataType::Mark
        | DataType::IfName
        | DataType::Integer
        | DataType::CtState
        | DataType::CtStatus
        | DataType::AddressType => HOST_ENDIAN,
        DataType::InetProto | DataType::NfProto | DataType::CtDirection | DataType::TcpFlag => {
            match declaration {
                Declaration::Typeof(_) => HOST_ENDIAN,
                Declaration::Type(_) => 0,
            }
        }
    }
}

/// A declaration as an expression; `None` when its type says all there is to say, or nft cannot read it back.
fn declaration(declaration: &Declaration) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match declaration {
        Declaration::Type(types) if types.len() < 2 => return None,
        Declaration::Type(_) => {
            put_number(&mut out, 0, EXPR_CONCAT);
            put(&mut out, 1, &[]);
        }
        Declaration::Typeof(fields) if fields.len() < 2 => out = expression(*fields.first()?)?,
        Declaration::Typeof(fields) => {
            let mut parts = Vec::new();
            for (index, field) in fields.iter().enumerate() {
                put(&mut parts, index as u8, &expression(*field)?);
            }
            put_number(&mut out, 0, EXPR_CONCAT);
            put(&mut out, 1, &parts);
        }
    }
    Some(out)
}

/// One field as an expression: its kind, and the kind's own data nested.
fn expression(field: Field) -> Option<Vec<u8>> {
    let mut data = Vec::new();
    let kind = match field {
        // A field's index in nft's description of the protocol.
        Field::IpSaddr => payload(&mut data, PROTO_IP, 11),
        Field::IpDaddr => payload(&mut data, PROTO_IP, 12),
        Field::Ip6Saddr => payload(&mut data, PROTO_IP6, 8),
        Field::Ip6Daddr => payload(&mut data, PROTO_IP6, 9),
        Field::ThSport => payload(&mut data, PROTO_TH, 1),
        Field::ThDport => payload(&mut data, PROTO_TH, 2),
        Field::L4Proto | Field::NfProto | Field::Mark | Field::IifName | Field::OifName => {
            put_number(&mut data, 0, meta_key(field)?);
            EXPR_META
        }
        Field::CtState | Field::CtStatus | Field::CtMark | Field::CtDirection | Field::CtTuple(..) => {
            let (key, direction) = ct_key(field)?;
            put_number(&mut data, 0, key);
            put_number(&mut data, 1, direction.map_or(u32::MAX, u32::from));
            EXPR_CT
        }
        Field::Numgen { mode, modulus, offset } => {
            put_number(&mut data, 0, u32::from(mode == NumgenMode::Random));
            put_number(&mut data, 1, modulus);
            put_number(&mut data, 2, offset);
            EXPR_NUMGEN
        }
        Field::SocketMark => {
            put_number(&mut data, 0, 1);
            EXPR_SOCKET
        }
        // No set has it for a key.
        Field::TcpFlags | Field::FibType(_) | Field::FibReversePath => return None,
    };
    let mut out = Vec::new();
    put_number(&mut out, 0, kind);
    put(&mut out, 1, &data);
    Some(out)
}

fn payload(data: &mut Vec<u8>, protocol: u32, field: u32) -> u32 {
    put_number(data, 0, protocol);
    put_number(data, 1, field);
    EXPR_PAYLOAD
}

/// enum nft_meta_keys
pub(crate) fn meta_key(field: Field) -> Option<u32> {
    Some(match field {
        Field::Mark => 3,
        Field::IifName => 6,
        Field::OifName => 7,
        Field::NfProto => 15,
        Field::L4Proto => 16,
        _ => return None,
    })
}

/// enum nft_ct_keys, and the direction for those that have one
pub(crate) fn ct_key(field: Field) -> Option<(u32, Option<u8>)> {
    Some(match field {
        Field::CtState => (0, None),
        Field::CtDirection => (1, None),
        Field::CtStatus => (2, None),
        Field::CtMark => (3, None),
        Field::CtTuple(direction, tuple) => {
            let key = match tuple {
                Tuple::Protocol => 10,
                Tuple::ProtoSrc => 11,
                Tuple::ProtoDst => 12,
                Tuple::IpSaddr => 19,
                Tuple::IpDaddr => 20,
                Tuple::Ip6Saddr => 21,
                Tuple::Ip6Daddr => 22,
            };
            (key, Some(u8::from(direction == Direction::Reply)))
        }
        _ => return None,
    })
}

/// nft's number of a type (enum datatypes).
fn type_number(kind: DataType) -> u32 {
    match kind {
        DataType::NfProto => 2,
        DataType::Integer => 4,
        DataType::Ipv4Addr => 7,
        DataType::Ipv6Addr => 8,
        DataType::InetProto => 12,
        DataType::InetService => 13,
        DataType::Mark => 19,
        DataType::CtState => 26,
        DataType::TcpFlag => 14,
        DataType::CtDirection => 27,
        DataType::CtStatus => 28,
        DataType::AddressType => 38,
        DataType::IfName => 41,
    }
}

/// nft's number of a concatenation: 6 bits for each type.
pub(crate) fn concatenated_type(types: &[DataType]) -> u32 {
    types.iter().fold(0u32, |number, kind| (number << 6) | type_number(*kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rule_keeps_comment_and_digest() {
        assert_eq!(read_rule(&rule(Some("why"), 7)), (Some("why".to_owned()), Some(7)));
        assert_eq!(read_rule(&rule(None, u64::MAX)), (None, Some(u64::MAX)));
        assert_eq!(read_rule(&[0, 3, b'a', b'b', 0]), (Some("ab".to_owned()), None));
        assert_eq!(read_element(&element(Some("c"), true)), Some("c".to_owned()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = read_rule(&bytes);
            let _ = read_element(&bytes);
        }
    }
}
