//! `--filter`: which packets are meant. Pure.
//!
//! ```text
//! EXPRESSION = TERM {"or" TERM}      TERM = FACTOR {["and"] FACTOR}      FACTOR = "not" FACTOR | "(" EXPRESSION ")" | TEST
//! TEST = "tcp" | "udp" | "icmp" | "dns" | ["src" | "dst"] ("host" ADDRESS | "net" PREFIX | "port" NUMBER)
//! ```

use std::net::IpAddr;

use ipnet::IpNet;
use seaway_observe::api::IpPacket;

/// What a packet is tested for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    And(Box<Filter>, Box<Filter>),
    Or(Box<Filter>, Box<Filter>),
    Not(Box<Filter>),
    Protocol(&'static [u8]),
    /// Over UDP or TCP port 53.
    Dns,
    Net(Side, IpNet),
    Port(Side, u16),
}

/// Which end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
    Either,
}

impl Side {
    fn ends<T>(self, source: Option<T>, destination: Option<T>) -> [Option<T>; 2] {
        match self {
            Self::Source => [source, None],
            Self::Destination => [None, destination],
            Self::Either => [source, destination],
        }
    }
}

impl Filter {
    /// Whether the packet, or what it is an error about, passes.
    pub(crate) fn takes(&self, packet: &IpPacket) -> bool {
        let about = packet.icmp.as_ref().and_then(|icmp| icmp.about.as_deref());
        self.test(packet) || about.is_some_and(|about| self.test(about))
    }

    fn test(&self, packet: &IpPacket) -> bool {
        let has_port =
            |side: Side, port| side.ends(packet.source_port, packet.destination_port).contains(&Some(port));
        match self {
            Self::And(a, b) => a.test(packet) && b.test(packet),
            Self::Or(a, b) => a.test(packet) || b.test(packet),
            Self::Not(a) => !a.test(packet),
            Self::Protocol(numbers) => numbers.contains(&packet.protocol),
            Self::Dns => has_port(Side::Either, 53),
            Self::Net(side, net) => side
                .ends(packet.source, packet.destination)
                .iter()
                .flatten()
                .any(|address| net.contains(address)),
            Self::Port(side, port) => has_port(*side, *port),
        }
    }
}

/// Reads an expression; the error shows where it goes wrong.
pub(crate) fn parse(text: &str) -> Result<Filter, String> {
    let mut parser = Parser { text, tokens: tokens(text), at: 0, depth: 0 };
    let filter = parser.expression()?;
    match parser.peek() {
        None => Ok(filter),
        Some(token) => Err(parser.wrong(format!("{token:?} is not expected here"))),
    }
}

/// Words and parentheses, each with where it begins.
fn tokens(text: &str) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    let mut begin = None;
    for (at, character) in text.char_indices() {
        let alone = matches!(character, '(' | ')');
        if character.is_whitespace() || alone {
            tokens.extend(begin.take().map(|begin| (begin, &text[begin..at])));
        } else {
            begin.get_or_insert(at);
        }
        if alone {
            tokens.push((at, &text[at..=at]));
        }
    }
    tokens.extend(begin.map(|begin| (begin, &text[begin..])));
    tokens
}

/// Parentheses and `not` within each other.
const DEEPEST: usize = 64;

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<(usize, &'a str)>,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.tokens.get(self.at).map(|token| token.1)
    }

    fn take(&mut self, word: &str) -> bool {
        let there = self.peek() == Some(word);
        self.at += usize::from(there);
        there
    }

    /// An error at the next token.
    fn wrong(&self, problem: String) -> String {
        let offset = self.tokens.get(self.at).map_or(self.text.len(), |token| token.0);
        let column = self.text[..offset].chars().count();
        format!("--filter, column {}: {problem}\n  {}\n  {}^", column + 1, self.text, " ".repeat(column))
    }

    fn expression(&mut self) -> Result<Filter, String> {
        let mut left = self.term()?;
        while self.take("or") {
            left = Filter::Or(Box::new(left), Box::new(self.term()?));
        }
        Ok(left)
    }

    fn term(&mut self) -> Result<Filter, String> {
        let mut left = self.factor()?;
        while self.take("and") || !matches!(self.peek(), None | Some("or" | ")")) {
            left = Filter::And(Box::new(left), Box::new(self.factor()?));
        }
        Ok(left)
    }

    fn factor(&mut self) -> Result<Filter, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.wrong(format!("more than {DEEPEST} parentheses within each other")));
        }
        let found = if self.take("not") {
            Filter::Not(Box::new(self.factor()?))
        } else if self.take("(") {
            let inner = self.expression()?;
            if !self.take(")") {
                return Err(self.wrong("\")\" is missing".to_owned()));
            }
            inner
        } else {
            self.test()?
        };
        self.depth -= 1;
        Ok(found)
    }

    fn test(&mut self) -> Result<Filter, String> {
        for (name, filter) in [
            ("tcp", Filter::Protocol(&[6])),
            ("udp", Filter::Protocol(&[17])),
            ("icmp", Filter::Protocol(&[1, 58])),
            ("dns", Filter::Dns),
        ] {
            if self.take(name) {
                return Ok(filter);
            }
        }
        let side = if self.take("src") {
            Side::Source
        } else if self.take("dst") {
            Side::Destination
        } else {
            Side::Either
        };
        if self.take("host") {
            self.value("an address", |word| word.parse::<IpAddr>().ok())
                .map(|it| Filter::Net(side, it.into()))
        } else if self.take("net") {
            self.value("a prefix such as 10.0.0.0/8", |word| word.parse().ok())
                .map(|net| Filter::Net(side, net))
        } else if self.take("port") {
            self.value("a port", |word| word.parse().ok()).map(|port| Filter::Port(side, port))
        } else {
            let what = self.peek().map_or("the expression ends".to_owned(), |word| format!("{word:?}"));
            Err(self.wrong(format!(
                "{what}; tcp, udp, icmp, dns, host, net, port, src, dst, not or \"(\" is expected"
            )))
        }
    }

    fn value<T>(&mut self, what: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<T, String> {
        let found = self.peek().and_then(read).ok_or_else(|| self.wrong(format!("{what} is expected")))?;
        self.at += 1;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(protocol: u8, source: (&str, u16), destination: (&str, u16)) -> IpPacket {
        IpPacket {
            protocol,
            source: source.0.parse().ok(),
            source_port: Some(source.1),
            destination: destination.0.parse().ok(),
            destination_port: Some(destination.1),
            ..IpPacket::default()
        }
    }

    #[test]
    fn expressions_take_what_they_say() {
        let tcp = packet(6, ("10.0.0.1", 4000), ("10.0.1.1", 80));
        let dns = packet(17, ("10.0.0.1", 4000), ("10.96.0.10", 53));
        for (text, takes_tcp, takes_dns) in [
            ("tcp", true, false),
            ("dns or port 80", true, true),
            ("host 10.0.0.1", true, true),
            ("host 10.0.0.1 port 80", true, false),
            ("dst net 10.0.0.0/16", true, false),
            ("src port 80", false, false),
            ("not tcp", false, true),
            ("not (tcp or udp)", false, false),
            ("tcp and not host 10.0.0.1 or udp", false, true),
        ] {
            let filter = parse(text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((filter.takes(&tcp), filter.takes(&dns)), (takes_tcp, takes_dns), "{text}");
        }
    }

    #[test]
    fn errors_show_the_column() {
        for (text, expected) in [
            ("tcp and host x", "column 14: an address is expected\n  tcp and host x\n               ^"),
            ("(tcp", "column 5: \")\" is missing"),
            ("tcp )", "column 5: \")\" is not expected here"),
            ("", "column 1: the expression ends; tcp, udp"),
            ("prot tcp", "column 1: \"prot\"; tcp, udp"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(parse(&"(".repeat(100_000)).is_err());
    }
}
