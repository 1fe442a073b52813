//! What can be written at all: the kernel's limits, and values that fit their declarations.

use super::field::Field;
use super::rule::{Rule, Statement};
use super::table::{Data, Element, MapData, SetSpec};
use super::userdata;
use super::value::{DataType, IFNAMSIZ, Value, padded_length};
use crate::netlink::align;

/// Longest name (NFT_NAME_MAXLEN, with its terminating zero).
const MAX_NAME: usize = 255;
/// Longest key or data of an element, and all registers together (NFT_DATA_VALUE_MAXLEN).
const MAX_VALUE: usize = 64;

/// What of a set's declaration counts for each element, worked out once.
pub(super) struct ElementLayout {
    pub(super) key_types: Vec<DataType>,
    key_padded: usize,
    pub(super) key_length: usize,
    pub(super) data: DataLayout,
    pub(super) interval: bool,
}

pub(super) enum DataLayout {
    None,
    Verdict,
    Value { padded: usize, length: usize },
}

/// Lengths of a declaration's values: padded as in registers, and as the kernel wants them (a single field is not
/// padded).
pub(super) fn lengths(types: &[DataType]) -> (usize, usize) {
    let padded = padded_length(types);
    match types {
        [kind] => (padded, kind.length()),
        _ => (padded, padded),
    }
}

impl ElementLayout {
    pub(super) fn new(spec: &SetSpec) -> Self {
        let key_types = spec.key.types();
        let (key_padded, key_length) = lengths(&key_types);
        let data = match &spec.data {
            None => DataLayout::None,
            Some(MapData::Verdict) => DataLayout::Verdict,
            Some(MapData::Values(declaration)) => {
                let (padded, length) = lengths(&declaration.types());
                DataLayout::Value { padded, length }
            }
        };
        Self { key_types, key_padded, key_length, data, interval: spec.interval }
    }

    pub(super) fn check_key(&self, key: &Value, element: &Element) -> Result<(), String> {
        let wants = self.key_padded;
        if key.bytes().len() != wants {
            return Err(wrong_length("key", key, wants));
        }
        match &element.key_end {
            Some(_) if !self.interval => Err("a range in a set without the interval flag".to_owned()),
            Some(end) if end.bytes().len() != wants => Err(wrong_length("end of the range", end, wants)),
            Some(end) if end < key => Err("the range ends before it starts".to_owned()),
            _ => Ok(()),
        }
    }

    pub(super) fn check_contents(&self, element: &Element) -> Result<(), String> {
        if element.comment.as_ref().is_some_and(|comment| comment.len() > userdata::MAX_COMMENT) {
            return Err(format!("comment has more than {} bytes", userdata::MAX_COMMENT));
        }
        match (&self.data, &element.data) {
            (DataLayout::None, None) | (DataLayout::Verdict, Some(Data::Verdict(_))) => Ok(()),
            (DataLayout::Value { padded, .. }, Some(Data::Value(value)))
                if value.bytes().len() == *padded =>
            {
                Ok(())
            }
            (DataLayout::Value { padded, .. }, Some(Data::Value(value))) => {
                Err(wrong_length("data", value, *padded))
            }
            (DataLayout::None, Some(_)) => Err("data in a set that is no map".to_owned()),
            (DataLayout::Verdict, _) => Err("no verdict in a map of verdicts".to_owned()),
            (DataLayout::Value { .. }, _) => Err("no value in a map of values".to_owned()),
        }
    }
}

fn wrong_length(what: &str, value: &Value, wants: usize) -> String {
    format!("{what} has {} bytes where the set's declaration has {wants}", value.bytes().len())
}

pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME || name.contains('\0') {
        return Err(format!("name {name:?} is not 1 to {MAX_NAME} bytes without zeros"));
    }
    Ok(())
}

pub(super) fn check_set(spec: &SetSpec) -> Result<(), String> {
    check_name(&spec.name)?;
    let key = spec.key.types();
    if key.is_empty() || padded_length(&key) > MAX_VALUE {
        return Err(format!("its key has {} bytes, not 1 to {MAX_VALUE}", padded_length(&key)));
    }
    if let Some(data) = spec.data_types()
        && (data.is_empty() || padded_length(&data) > MAX_VALUE)
    {
        return Err(format!("its data has {} bytes, not 1 to {MAX_VALUE}", padded_length(&data)));
    }
    let user_data = userdata::set(spec).len();
    if user_data > userdata::MAX {
        return Err(format!("declaration and comment take {user_data} bytes, more than {}", userdata::MAX));
    }
    Ok(())
}

pub(super) fn check_rule(rule: &Rule) -> Result<(), String> {
    if rule.comment.as_ref().is_some_and(|comment| comment.len() > userdata::MAX_COMMENT) {
        return Err(format!("comment has more than {} bytes", userdata::MAX_COMMENT));
    }
    for statement in &rule.statements {
        match statement {
            Statement::OneOf { field, values, .. } => {
                check_count(values.len())?;
                values.iter().try_for_each(|value| check_value(*field, value))?;
            }
            Statement::VerdictOf { field, verdicts } => {
                check_count(verdicts.len())?;
                verdicts.iter().try_for_each(|(value, _)| check_value(*field, value))?;
            }
            Statement::Compare { field, mask, value, .. } => {
                check_value(*field, value)?;
                mask.iter().try_for_each(|mask| check_value(*field, mask))?;
            }
            Statement::NameBegins { field, prefix, .. } => {
                // What nft writes as a name with a wildcard; a quote or a star would make another text of it.
                let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'*' | b'\\');
                let fits = (1..IFNAMSIZ).contains(&prefix.len());
                if field.data_type() != DataType::IfName || !fits || !prefix.bytes().all(plain) {
                    return Err(format!("{field} {prefix:?}*: not the beginning of an interface's name"));
                }
            }
            Statement::Range { field, first, last, .. } => {
                check_value(*field, first)?;
                check_value(*field, last)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The values of a rule must fit into one message.
fn check_count(values: usize) -> Result<(), String> {
    // An element with a verdict takes at most its key and 300 bytes.
    const MOST: usize = 180;
    if values == 0 || values > MOST {
        return Err(format!("{values} values in one rule, not 1 to {MOST}; use a named set"));
    }
    Ok(())
}

fn check_value(field: Field, value: &Value) -> Result<(), String> {
    let wants = align(field.data_type().length());
    let has = value.bytes().len();
    if has == wants { Ok(()) } else { Err(format!("{field} has {wants} bytes and its value {has}")) }
}
