use std::net::Ipv4Addr;

use hickory_proto::rr::RData;
use proptest::prelude::*;

use super::*;

const CLIENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 4000);

fn question(name: &str, record_type: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Question::query(Name::from_ascii(name).unwrap(), record_type));
    message.metadata.recursion_desired = true;
    message
}

fn read(message: &Message) -> Query {
    decode(&message.to_vec().unwrap(), CLIENT, Transport::Udp).unwrap()
}

fn addresses(name: &str, count: u8) -> Reply {
    let name = Name::from_ascii(name).unwrap();
    let record = |i| Record::from_rdata(name.clone(), 30, RData::A(Ipv4Addr::new(10, 0, 0, i).into()));
    Reply { answers: (0..count).map(record).collect(), ..Reply::default() }
}

#[test]
fn a_query_is_read_and_its_spelling_kept() {
    let query = read(&question("WwW.Example.", RecordType::AAAA));
    assert_eq!((&*query.lower, query.record_type, query.id), ("www.example.", RecordType::AAAA, 7));
    let reply = Message::from_vec(&encode(&query, &Reply::default()).bytes).unwrap();
    assert!(reply.queries[0].name().eq_case(&Name::from_ascii("WwW.Example.").unwrap()));
    assert!(reply.recursion_desired && !reply.recursion_available && reply.edns.is_none());
}

#[test]
fn what_is_no_query_is_told_so_or_ignored() {
    let good = question("a.example.", RecordType::A);
    let code = |bytes: &[u8]| match decode(bytes, CLIENT, Transport::Udp) {
        Ok(_) => "query".to_owned(),
        Err(Rejected::Ignore) => "ignored".to_owned(),
        Err(Rejected::Answer(answer)) => {
            let answer = Message::from_vec(&answer).unwrap();
            assert_eq!((answer.id, answer.message_type), (7, MessageType::Response));
            u16::from(answer.response_code).to_string()
        }
    };
    let wire = good.to_vec().unwrap();
    let changed = |change: &dyn Fn(&mut Message)| {
        let mut message = good.clone();
        change(&mut message);
        message.to_vec().unwrap()
    };
    let edns = |version| {
        changed(&|m| {
            let mut edns = Edns::new();
            edns.set_version(version);
            m.set_edns(edns);
        })
    };
    assert_eq!(code(&wire), "query");
    assert_eq!(code(&[]), "ignored");
    assert_eq!(code(&wire[..11]), "ignored");
    assert_eq!(code(&wire[..14]), "1");
    assert_eq!(code(&changed(&|m| m.metadata.message_type = MessageType::Response)), "ignored");
    assert_eq!(code(&changed(&|m| m.metadata.op_code = OpCode::Notify)), "4");
    assert_eq!(code(&changed(&|m| m.queries.clear())), "1");
    assert_eq!(code(&changed(&|m| m.queries.push(m.queries[0].clone()))), "1");
    assert_eq!(code(&edns(0)), "query");
    assert_eq!(code(&edns(1)), "16");
    let chaos = changed(&|m| {
        m.queries[0].set_query_class(DNSClass::CH);
    });
    assert_eq!(code(&chaos), "5");
}

#[test]
fn a_small_reply_is_not_compressed() {
    // 53 octets of question, 37 of name, 14 of the rest of an A record.
    let name = "nginx-svc.default.svc.cluster.local.";
    let query = read(&question(name, RecordType::A));
    assert_eq!(query.size, 53);
    assert_eq!(encode(&query, &addresses(name, 1)).bytes.len(), 104);
}

#[test]
fn a_reply_too_large_is_compressed_and_then_cut() {
    let name = "nginx-svc.default.svc.cluster.local.";
    // (records, UDP size of the client if it has EDNS, octets at most, records that arrive)
    for (records, edns, size, arrive) in [
        (9, None, 512, 9),
        (10, None, 512, 10),
        (28, None, 512, 28),
        (29, None, 512, 28),
        (28, Some(100), 512, 28),
        (29, Some(100), 512, 28),
        (40, Some(1232), 1232, 40),
        (200, Some(1232), 1232, 73),
        (200, Some(65_535), 65_535, 200),
    ] {
        let mut message = question(name, RecordType::A);
        if let Some(size) = edns {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            message.set_edns(edns);
        }
        let mut query = read(&message);
        let reply = addresses(name, records);
        let encoded = encode(&query, &reply);
        assert!(encoded.bytes.len() <= size, "{records} {edns:?}: {}", encoded.bytes.len());
        let message = Message::from_vec(&encoded.bytes).unwrap();
        assert_eq!(message.answers.len(), arrive, "{records} {edns:?}");
        assert_eq!(message.truncation, arrive < usize::from(records));
        assert_eq!(message.truncation, encoded.metadata.truncation);
        assert_eq!(message.edns.map(|e| e.max_payload()), edns.map(|_| OUR_UDP_SIZE));
        query.transport = Transport::Tcp;
        assert_eq!(Message::from_vec(&encode(&query, &reply).bytes).unwrap().answers, reply.answers);
    }
}

proptest! {
    #[test]
    fn random_octets_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes, CLIENT, Transport::Udp);
    }

    #[test]
    fn a_damaged_query_never_panics(at in 0usize..40, byte: u8, cut in 0usize..45) {
        let mut bytes = question("www.a.example.", RecordType::SRV).to_vec().unwrap();
        let length = bytes.len();
        bytes[at % length] = byte;
        bytes.truncate(cut);
        if let Ok(query) = decode(&bytes, CLIENT, Transport::Udp) {
            let _ = encode(&query, &addresses("a.example.", 3));
        }
    }

    #[test]
    fn any_name_survives(labels in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 0..8)) {
        let name = Name::from_labels(labels.iter().map(Vec::as_slice)).unwrap();
        let mut message = question(".", RecordType::A);
        message.queries[0].set_name(name.clone());
        let query = read(&message);
        prop_assert!(query.name.eq_case(&name));
        prop_assert_eq!(query.lower.matches('.').count(), labels.len().max(1));
        let reply = Message::from_vec(&encode(&query, &Reply::default()).bytes).unwrap();
        prop_assert!(reply.queries[0].name().eq_case(&name));
    }
}
