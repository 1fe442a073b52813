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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question};
    use hickory_proto::rr::{Name, RecordType};

    use super::*;
    use crate::corefile::{Disk, parse};
    use crate::message::{Reply, Transport, decode, encode};

    fn rule(directive: &str) -> Rule {
        let blocks = parse("Corefile", &format!(". {{\n{directive}\n}}\n"), &|_| None, &Disk).unwrap();
        Rule::parse(&blocks[0].directives[0]).unwrap()
    }

    fn query() -> Query {
        let mut message = Message::new(20_000, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Question::query(Name::from_ascii("Www.Example.").unwrap(), RecordType::AAAA));
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        message.set_edns(edns);
        let client = SocketAddr::from(([10, 244, 1, 2], 4000));
        decode(&message.to_vec().unwrap(), client, Transport::Udp).unwrap()
    }

    #[test]
    fn lines() {
        let encoded =
            encode(&query(), &Reply { authoritative: true, ..Reply::of_code(ResponseCode::NXDomain) });
        let answered =
            Answered { code: ResponseCode::NXDomain, size: 100, duration: Duration::from_micros(1500) };
        for (directive, line) in [
            (
                "log",
                "10.244.1.2:4000 - 20000 \"AAAA IN www.example. udp 40 false 1232\" NXDOMAIN qr,aa,rd 100 0.001500000s",
            ),
            ("log . \"{type} of {name}: {rcode}!\"", "AAAA of www.example.: NXDOMAIN!"),
        ] {
            assert_eq!(rule(directive).line(&query(), &encoded.metadata, &answered), line, "{directive}");
        }
    }

    #[test]
    fn classes_and_names() {
        let (ok, nx, fail) = (ResponseCode::NoError, ResponseCode::NXDomain, ResponseCode::ServFail);
        for (directive, expected) in [
            ("log", [true, true, true, true]),
            ("log example", [true, true, true, true]),
            ("log other", [false, false, false, false]),
            ("log {\n class denial\n}", [false, true, true, false]),
            ("log {\n class success error\n}", [true, false, false, true]),
        ] {
            let rule = rule(directive);
            let got = [(ok, false), (ok, true), (nx, true), (fail, true)]
                .map(|(code, empty)| rule.applies_to(&query(), code, empty));
            assert_eq!(got, expected, "{directive}");
        }
    }
}
