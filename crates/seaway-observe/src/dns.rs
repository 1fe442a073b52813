//! DNS messages, for those who read what happened.

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::Name;

use crate::api::{Dns, DnsRecord};

/// Reads a message; `None` for what is none, and for one that was cut off.
pub(crate) fn read(bytes: &[u8]) -> Option<Dns> {
    let message = Message::from_vec(bytes).ok()?;
    let question = message.queries.first();
    Some(Dns {
        id: message.metadata.id,
        response: message.metadata.message_type == MessageType::Response,
        rcode: rcode(message.metadata.response_code.into()),
        name: question.map(|question| absolute(question.name())).unwrap_or_default(),
        kind: question.map(|question| question.query_type().to_string()).unwrap_or_default(),
        answers: message
            .answers
            .iter()
            .map(|record| DnsRecord {
                name: absolute(&record.name),
                kind: record.record_type().to_string(),
                ttl: record.ttl,
                data: record.data.to_string(),
            })
            .collect(),
    })
}

/// A name in lower case, with the dot at its end.
fn absolute(name: &Name) -> String {
    let text = name.to_ascii().to_ascii_lowercase();
    if text.ends_with('.') { text } else { format!("{text}.") }
}

/// IANA's names of RCODEs.
fn rcode(number: u16) -> String {
    const NAMES: [&str; 11] = [
        "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET",
        "NOTAUTH", "NOTZONE",
    ];
    NAMES.get(usize::from(number)).map_or_else(|| format!("RCODE{number}"), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{OpCode, Query, ResponseCode};
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{RData, Record, RecordType};

    use super::*;

    #[test]
    fn questions_and_answers() {
        let name = Name::from_ascii("Google.com.").unwrap();
        let mut message = Message::response(7, OpCode::Query);
        message.add_query(Query::query(name.clone(), RecordType::A));
        message.add_answer(Record::from_rdata(name, 60, RData::A(A([198, 51, 100, 10].into()))));
        message.metadata.response_code = ResponseCode::NXDomain;
        let seen = read(&message.to_vec().unwrap()).unwrap();
        assert_eq!((seen.id, seen.response, seen.rcode.as_str()), (7, true, "NXDOMAIN"));
        assert_eq!((seen.name.as_str(), seen.kind.as_str()), ("google.com.", "A"));
        assert_eq!(
            seen.answers,
            [DnsRecord {
                name: "google.com.".into(),
                kind: "A".into(),
                ttl: 60,
                data: "198.51.100.10".into()
            }]
        );
    }
}
