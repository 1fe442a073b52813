//! `log [NAMES…] [FORMAT] { class CLASSES… }`: a line for each query.

use std::fmt::Write as _;

use hickory_proto::op::{Metadata, ResponseCode};

use crate::corefile::{CorefileError, Directive, Word};
use crate::message::Query;
use crate::metrics::{Answered, rcode_label};
use crate::name::ZoneName;

const COMMON: &str = "{remote}:{port} - {>id} \"{type} {class} {name} {proto} {size} {>do} {>bufsize}\" \
                      {rcode} {>rflags} {rsize} {duration}";

/// A kind of reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Success,
    Denial,
    Error,
    All,
}

/// A part of the format.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(Field),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Type,
    Name,
    Class,
    Proto,
    Remote,
    Port,
    Size,
    Rcode,
    Rsize,
    Duration,
    Id,
    Opcode,
    Do,
    BufferSize,
    Flags,
}

const FIELDS: [(&str, Field); 15] = [
    ("type", Field::Type),
    ("name", Field::Name),
    ("class", Field::Class),
    ("proto", Field::Proto),
    ("remote", Field::Remote),
    ("port", Field::Port),
    ("size", Field::Size),
    ("rcode", Field::Rcode),
    ("rsize", Field::Rsize),
    ("duration", Field::Duration),
    (">id", Field::Id),
    (">opcode", Field::Opcode),
    (">do", Field::Do),
    (">bufsize", Field::BufferSize),
    (">rflags", Field::Flags),
];

/// One `log` directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    zones: Vec<ZoneName>,
    format: Vec<Piece>,
    classes: Vec<Class>,
}

impl Rule {
    /// Reads the directive.
    pub(crate) fn parse(directive: &Directive) -> Result<Self, CorefileError> {
        let mut names: &[Word] = &directive.args;
        let mut format = pieces(COMMON, None)?;
        if let [before @ .., last] = names
            && (last.text.contains('{'))
        {
            names = before;
            let text = last
                .text
                .replace("{common}", COMMON)
                .replace("{combined}", &format!("{COMMON} \"{{>opcode}}\""));
            format = pieces(&text, Some(last))?;
        }
        let mut zones = crate::corefile::args::zones(names)?;
        if zones.is_empty() {
            zones.extend(ZoneName::parse("."));
        }
        let mut classes = Vec::new();
        for property in &directive.block {
            if property.name.text != "class" {
                return Err(directive.unknown_property(property, &["class"]));
            }
            for word in property.at_least_one("classes: success, denial, error or all")? {
                classes.push(word.choice(
                    "class of replies",
                    &[
                        ("success", Class::Success),
                        ("denial", Class::Denial),
                        ("error", Class::Error),
                        ("all", Class::All),
                    ],
                )?);
            }
        }
        if classes.is_empty() {
            classes.push(Class::All);
        }
        Ok(Self { zones, format, classes })
    }

    /// Whether the rule is for this query and reply.
    pub(crate) fn applies_to(&self, query: &Query, code: ResponseCode, empty: bool) -> bool {
        let class = match code {
            ResponseCode::NoError if !empty => Class::Success,
            ResponseCode::NoError | ResponseCode::NXDomain => Class::Denial,
            _ => Class::Error,
        };
        self.zones.iter().any(|zone| zone.contains(&query.lower))
            && self.classes.iter().any(|c| *c == class || *c == Class::All)
    }

    /// The line.
    pub(crate) fn line(&self, query: &Query, reply: &Metadata, answered: &Answered) -> String {
        let mut line = String::new();
        for piece in &self.format {
            match piece {
                Piece::Text(text) => line.push_str(text),
                Piece::Field(field) => field.write(&mut line, query, reply, answered),
            }
        }
        line
    }
}

fn pieces(text: &str, at: Option<&Word>) -> Result<Vec<Piece>, CorefileError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        match (FIELDS.iter().find(|(known, _)| *known == name), at) {
            (Some((_, field)), _) => pieces.push(Piece::Field(*field)),
            (None, Some(word)) => {
                let accepted: Vec<&str> = FIELDS.iter().map(|(name, _)| *name).collect();
                return Err(CorefileError::at(word, format!("unknown placeholder {{{name}}}"))
                    .help(format!("accepted: {}", accepted.join(", "))));
            }
            (None, None) => {}
        }
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

impl Field {
    fn write(self, line: &mut String, query: &Query, reply: &Metadata, answered: &Answered) {
        // Writing to a String cannot fail.
        let _ = match self {
            Self::Type => write!(line, "{}", query.record_type),
            Self::Name => write!(line, "{}", query.lower),
            Self::Class => write!(line, "{}", query.class),
            Self::Proto => write!(line, "{}", query.transport.as_str()),
            Self::Remote => match query.client.ip().to_canonical() {
                std::net::IpAddr::V4(ip) => write!(line, "{ip}"),
                std::net::IpAddr::V6(ip) => write!(line, "[{ip}]"),
            },
            Self::Port => write!(line, "{}", query.client.port()),
            Self::Size => write!(line, "{}", query.size),
            Self::Rcode => write!(line, "{}", rcode_label(answered.code)),
            Self::Rsize => write!(line, "{}", answered.size),
            Self::Duration => write!(line, "{:.9}s", answered.duration.as_secs_f64()),
            Self::Id => write!(line, "{}", query.id),
            Self::Opcode => write!(line, "0"),
            Self::Do => write!(line, "{}", query.dnssec_ok()),
            Self::BufferSize => write!(line, "{}", query.edns.map_or(512, |e| e.udp_size)),
            Self::Flags => {
                let flags = [
                    (true, "qr"),
                    (reply.authoritative, "aa"),
                    (reply.truncation, "tc"),
                    (reply.recursion_desired, "rd"),
                    (reply.recursion_available, "ra"),
                    (reply.authentic_data, "ad"),
                    (reply.checking_disabled, "cd"),
                ];
                let set: Vec<&str> = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
                write!(line, "{}", set.join(","))
            }
        };
    }
}
