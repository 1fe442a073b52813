//! Kubernetes' protobuf form of request bodies, which kubectl's `create` commands and Go clients send, to JSON.
//!
//! Answers are always JSON: clients that send protobuf accept both. Which field has which number is in `messages.txt`.

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

/// Every protobuf body begins with it (`k8s.io/apimachinery/pkg/runtime/serializer/protobuf`).
const MAGIC: &[u8] = b"k8s\0";
/// Messages within messages; the API's deepest type has about 20.
const MAX_DEPTH: usize = 64;

static MESSAGES: LazyLock<HashMap<&'static str, Message>> =
    LazyLock::new(|| parse(include_str!("messages.txt")));

type Message = HashMap<u32, Field>;

#[derive(Clone, Copy, Debug)]
struct Field {
    name: &'static str,
    kind: &'static str,
    shape: Shape,
    /// Absent and zero (or empty) differ.
    pointer: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    One,
    Repeated,
    Map,
    /// The message's fields belong to the one that has it.
    Inline,
}

/// Why a body can't be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtobufError {
    #[error("it does not begin with k8s\\x00")]
    Magic,
    #[error("it ends within a field")]
    Truncated,
    #[error("field {0} has a wire type that is not in use")]
    WireType(u32),
    #[error("messages are nested too deeply")]
    Depth,
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\"")]
    Unknown { api_version: String, kind: String },
    #[error("the embedded JSON is malformed")]
    Json,
    #[error("its contents are encoded or of another content type")]
    Encoding,
}

/// Decodes a body to the JSON that the same object has.
pub(crate) fn decode(body: &[u8]) -> Result<Value, ProtobufError> {
    let body = body.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &body[..0]);
    for field in Wire(body) {
        match field? {
            (1, Datum::Bytes(type_meta)) => {
                for field in Wire(type_meta) {
                    match field? {
                        (1, Datum::Bytes(text)) => api_version = string(text),
                        (2, Datum::Bytes(text)) => kind = string(text),
                        _ => {}
                    }
                }
            }
            (2, Datum::Bytes(bytes)) => raw = bytes,
            (3 | 4, Datum::Bytes(bytes)) if !bytes.is_empty() => return Err(ProtobufError::Encoding),
            _ => {}
        }
    }
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), api_version.as_str().into());
    object.insert("kind".to_owned(), kind.as_str().into());
    let message = message_name(&api_version, &kind);
    let Some(message) = MESSAGES.get(message.as_str()) else {
        return Err(ProtobufError::Unknown { api_version, kind });
    };
    decode_into(&mut object, message, raw, 0)?;
    Ok(Value::Object(object))
}

/// `core.v1.Pod` for v1 and Pod; `rbac.v1.Role` for rbac.authorization.k8s.io/v1 and Role.
fn message_name(api_version: &str, kind: &str) -> String {
    if kind == "DeleteOptions" {
        return "meta.v1.DeleteOptions".to_owned();
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    let package = group.split('.').next().unwrap_or_default();
    format!("{package}.{version}.{kind}")
}

fn decode_into(
    object: &mut Map<String, Value>,
    message: &Message,
    bytes: &[u8],
    depth: usize,
) -> Result<(), ProtobufError> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::Depth);
    }
    for field in Wire(bytes) {
        let (number, datum) = field?;
        let Some(field) = message.get(&number) else { continue };
        match field.shape {
            Shape::Inline => {
                if let (Datum::Bytes(bytes), Some(inner)) = (datum, MESSAGES.get(field.kind)) {
                    decode_into(object, inner, bytes, depth + 1)?;
                }
            }
            Shape::One => {
                let value = value_of(field.kind, datum, depth)?;
                if field.pointer || !is_zero(&value) {
                    object.insert(field.name.to_owned(), value);
                }
            }
            Shape::Repeated => {
                let value = value_of(field.kind, datum, depth)?;
                if let Value::Array(list) =
                    object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()))
                {
                    list.push(value);
                }
            }
            Shape::Map => {
                let Datum::Bytes(entry) = datum else { continue };
                let (key, value) = entry_of(field.kind, entry, depth)?;
                if let Value::Object(map) =
                    object.entry(field.name).or_insert_with(|| Value::Object(Map::new()))
                {
                    map.insert(key, value);
                }
            }
        }
    }
    Ok(())
}

/// What JSON leaves out: zero, false, the empty text, no time. An empty message says something.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(_) | Value::Object(_) => false,
    }
}

fn entry_of(kind: &'static str, entry: &[u8], depth: usize) -> Result<(String, Value), ProtobufError> {
    let mut key = String::new();
    let mut value = if matches!(kind, "s" | "y") { Value::from("") } else { Value::Null };
    for field in Wire(entry) {
        match field? {
            (1, Datum::Bytes(text)) => key = string(text),
            (2, datum) => value = value_of(kind, datum, depth)?,
            _ => {}
        }
    }
    Ok((key, value))
}

fn value_of(kind: &'static str, datum: Datum<'_>, depth: usize) -> Result<Value, ProtobufError> {
    Ok(match (kind, datum) {
        ("s", Datum::Bytes(bytes)) => string(bytes).into(),
        ("y", Datum::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        ("b", Datum::Number(number)) => (number != 0).into(),
        // Negative numbers are in two's complement.
        ("i", Datum::Number(number)) => number.cast_signed().into(),
        ("f", Datum::Number(number)) => f64::from_bits(number).into(),
        (_, Datum::Bytes(bytes)) => message_value(kind, bytes, depth)?,
        (_, Datum::Number(_)) => Value::Null,
    })
}

/// The value of a message; some have a JSON form of their own.
fn message_value(kind: &'static str, bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    let (mut numbers, mut texts): ([i64; 4], [Option<&[u8]>; 4]) = Default::default();
    let special = matches!(
        kind,
        "resource.Quantity"
            | "intstr.IntOrString"
            | "meta.v1.Time"
            | "meta.v1.MicroTime"
            | "meta.v1.Duration"
            | "runtime.RawExtension"
            | "authentication.v1.ExtraValue"
            | "authorization.v1.ExtraValue"
    );
    if !special {
        let mut object = Map::new();
        if let Some(message) = MESSAGES.get(kind) {
            decode_into(&mut object, message, bytes, depth + 1)?;
        }
        return Ok(Value::Object(object));
    }
    let mut items = Vec::new();
    for field in Wire(bytes) {
        match field? {
            (number @ 1..4, Datum::Number(value)) => numbers[number as usize] = value.cast_signed(),
            (number @ 1..4, Datum::Bytes(bytes)) => {
                texts[number as usize] = Some(bytes);
                items.push(Value::from(string(bytes)));
            }
            _ => {}
        }
    }
    let text = |at: usize| texts[at].map(string);
    Ok(match kind {
        "resource.Quantity" => text(1).map_or(Value::Null, Value::from),
        "intstr.IntOrString" if numbers[1] == 1 => text(3).unwrap_or_default().into(),
        "intstr.IntOrString" => numbers[2].into(),
        "meta.v1.Time" => time(numbers[1], 0, "%Y-%m-%dT%H:%M:%SZ"),
        "meta.v1.MicroTime" => time(numbers[1], numbers[2], "%Y-%m-%dT%H:%M:%S.%6fZ"),
        "meta.v1.Duration" => format!("{}ns", numbers[1]).into(),
        "runtime.RawExtension" => match texts[1] {
            Some(json) if !json.is_empty() => {
                serde_json::from_slice(json).map_err(|_| ProtobufError::Json)?
            }
            _ => Value::Null,
        },
        _ => Value::Array(items),
    })
}

fn time(seconds: i64, nanoseconds: i64, format: &str) -> Value {
    let nanoseconds = i32::try_from(nanoseconds).unwrap_or(0);
    match Timestamp::new(seconds, nanoseconds) {
        // The year 1 and the empty message stand for no time.
        Ok(time) if seconds > 0 => time.strftime(format).to_string().into(),
        _ => Value::Null,
    }
}

fn string(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A field's content on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Datum<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, in their order on the wire.
struct Wire<'a>(&'a [u8]);

impl<'a> Wire<'a> {
    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(ProtobufError::Truncated)?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(ProtobufError::Truncated)
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], ProtobufError> {
        let count = usize::try_from(count).map_err(|_| ProtobufError::Truncated)?;
        let (taken, rest) = self.0.split_at_checked(count).ok_or(ProtobufError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u32, Datum<'a>), ProtobufError> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| ProtobufError::Truncated)?;
        let little = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let datum = match tag & 7 {
            0 => Datum::Number(self.varint()?),
            1 => Datum::Number(little(self.take(8)?)),
            2 => {
                let length = self.varint()?;
                Datum::Bytes(self.take(length)?)
            }
            5 => Datum::Number(little(self.take(4)?)),
            _ => return Err(ProtobufError::WireType(number)),
        };
        Ok((number, datum))
    }
}

impl<'a> Iterator for Wire<'a> {
    type Item = Result<(u32, Datum<'a>), ProtobufError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// Parses `messages.txt`.
fn parse(text: &'static str) -> HashMap<&'static str, Message> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let (name, fields) = line.split_once(' ').unwrap_or((line, ""));
            (!name.is_empty()).then(|| (name, fields.split(' ').filter_map(parse_field).collect()))
        })
        .collect()
}

fn parse_field(text: &'static str) -> Option<(u32, Field)> {
    let mut parts = text.split(':');
    let (number, name, kind) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
    let (kind, pointer) = match kind.strip_suffix('?') {
        Some(kind) => (kind, true),
        None => (kind, false),
    };
    let (kind, shape) = match (kind.strip_prefix('*'), kind.strip_prefix('%')) {
        (Some(kind), _) => (kind, Shape::Repeated),
        (_, Some(kind)) => (kind, Shape::Map),
        _ if name == "~" => (kind, Shape::Inline),
        _ => (kind, Shape::One),
    };
    Some((number, Field { name, kind, shape, pointer }))
}

#[cfg(test)]
mod tests;
