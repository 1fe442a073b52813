//! Queries and replies, and what they are on the wire (RFC 1035, RFC 6891).

use std::net::SocketAddr;

use hickory_proto::ProtoError;
use hickory_proto::op::{
    Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, Query as Question, ResponseCode,
};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder, NameEncoding};

use crate::name::lower_text;

/// What a UDP reply may have without EDNS (RFC 1035, section 4.2.1).
const PLAIN_UDP_SIZE: u16 = 512;
/// What we say that we can take: fits the path MTUs there are (DNS flag day 2020).
pub(crate) const OUR_UDP_SIZE: u16 = 1232;
/// Replies over these sizes are compressed although the client would take them as they are, so that UDP stays below
/// an Ethernet frame.
const COMPRESS_OVER_V4: usize = 1480;
const COMPRESS_OVER_V6: usize = 1220;
/// Octets of an OPT record without options.
const OPT_SIZE: u16 = 11;

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

impl Transport {
    /// `udp` or `tcp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// What of a query's OPT record matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientEdns {
    /// The largest UDP payload that the client takes.
    pub udp_size: u16,
    /// It wants DNSSEC's records.
    pub dnssec_ok: bool,
}

/// A query that is well-formed.
#[derive(Clone, Debug)]
pub struct Query {
    /// Its identifier.
    pub id: u16,
    /// The name, in the client's spelling.
    pub name: Name,
    /// The name in lower case with its final dot.
    pub lower: Box<str>,
    /// The type.
    pub record_type: RecordType,
    /// The class; plugins see IN only.
    pub class: DNSClass,
    /// Recursion is desired.
    pub recursion_desired: bool,
    /// The client checks signatures itself.
    pub checking_disabled: bool,
    /// The client understands the AD bit.
    pub authentic_data: bool,
    /// Its OPT record.
    pub edns: Option<ClientEdns>,
    /// Who asks.
    pub client: SocketAddr,
    /// How it came.
    pub transport: Transport,
    /// Octets of the message.
    pub size: usize,
    /// How many queries of our own led to this one: a CNAME is followed by asking again.
    pub depth: u8,
}

impl Query {
    /// The same query for another name and type, on behalf of this one.
    pub fn derived(&self, name: Name, record_type: RecordType) -> Self {
        let lower = lower_text(&name).into();
        Self { name, lower, record_type, depth: self.depth + 1, ..self.clone() }
    }

    /// Whether the client wants DNSSEC's records.
    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }
}

/// Why there is no query for the plugins, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub enum Rejected {
    /// Nothing can be said: too short, or itself a reply.
    Ignore,
    /// This message is the answer.
    Answer(Vec<u8>),
}

/// Reads a message.
///
/// # Errors
/// Anything that is no query with one question of class IN, with the reply that it gets.
pub fn decode(bytes: &[u8], client: SocketAddr, transport: Transport) -> Result<Query, Rejected> {
    let header = Header::read(&mut BinDecoder::new(bytes)).map_err(|_| Rejected::Ignore)?;
    if header.message_type == MessageType::Response {
        return Err(Rejected::Ignore);
    }
    let message = Message::from_vec(bytes);
    // RFC 6891, section 7: who sends an OPT record gets one, whatever else is wrong.
    let edns = message.as_ref().ok().and_then(|message| message.edns.as_ref());
    let edns = edns.map(|e| ClientEdns { udp_size: e.max_payload(), dnssec_ok: e.flags().dnssec_ok });
    if header.op_code != OpCode::Query {
        return Err(refuse(&header.metadata, None, ResponseCode::NotImp, edns));
    }
    let form_error = || refuse(&header.metadata, None, ResponseCode::FormErr, edns);
    let message = message.map_err(|_| form_error())?;
    // RFC 9619: a query has one question.
    let [question] = &message.queries[..] else { return Err(form_error()) };
    if message.edns.as_ref().is_some_and(|e| e.version() > 0) {
        return Err(refuse(&header.metadata, Some(question), ResponseCode::BADVERS, edns));
    }
    if question.query_class() != DNSClass::IN {
        return Err(refuse(&header.metadata, Some(question), ResponseCode::Refused, edns));
    }
    Ok(Query {
        id: header.id,
        name: question.name().clone(),
        lower: lower_text(question.name()).into(),
        record_type: question.query_type(),
        class: question.query_class(),
        recursion_desired: header.recursion_desired,
        checking_disabled: header.checking_disabled,
        authentic_data: header.authentic_data,
        edns,
        client,
        transport,
        size: bytes.len(),
        depth: 0,
    })
}

fn refuse(
    request: &Metadata,
    question: Option<&Question>,
    code: ResponseCode,
    edns: Option<ClientEdns>,
) -> Rejected {
    let mut metadata = Metadata::response_from_request(request);
    metadata.response_code = code;
    let encoder = Encoder { metadata, question, records: [&[], &[], &[]], edns };
    match encoder.encode(NameEncoding::Uncompressed, u16::MAX) {
        Some((bytes, _)) => Rejected::Answer(bytes),
        None => Rejected::Ignore,
    }
}

/// Where a reply's data came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Another server: worth to be cached.
    #[default]
    Remote,
    /// Data that we hold and that change under us: never cached, so never stale.
    Local,
}

/// What the plugins answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The response code.
    pub code: ResponseCode,
    /// AA: the data are the server's own.
    pub authoritative: bool,
    /// RA: somebody recursed for it.
    pub recursion_available: bool,
    /// AD: signatures have been checked.
    pub authentic_data: bool,
    /// TC: the upstream left something out.
    pub truncated: bool,
    /// The answer section.
    pub answers: Vec<Record>,
    /// The authority section.
    pub authorities: Vec<Record>,
    /// The additional section, without OPT.
    pub additionals: Vec<Record>,
    /// Where the data came from.
    pub origin: Origin,
}

impl Default for Reply {
    fn default() -> Self {
        Self {
            code: ResponseCode::NoError,
            authoritative: false,
            recursion_available: false,
            authentic_data: false,
            truncated: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
            origin: Origin::default(),
        }
    }
}

impl Reply {
    /// A reply with nothing but a code.
    pub fn of_code(code: ResponseCode) -> Self {
        Self { code, ..Self::default() }
    }

    /// All records.
    pub fn records_mut(&mut self) -> impl Iterator<Item = &mut Record> {
        self.answers.iter_mut().chain(&mut self.authorities).chain(&mut self.additionals)
    }
}

/// A reply on the wire, and what to note down about it.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The message.
    pub bytes: Vec<u8>,
    /// Its header.
    pub metadata: Metadata,
}

/// Writes the reply to `query`: as it is where the client takes that size, else with its names compressed, else with
/// as many whole records as fit and TC set.
pub fn encode(query: &Query, reply: &Reply) -> Encoded {
    let mut metadata = Metadata::new(query.id, MessageType::Response, OpCode::Query);
    metadata.recursion_desired = query.recursion_desired;
    metadata.checking_disabled = query.checking_disabled;
    metadata.response_code = reply.code;
    metadata.authoritative = reply.authoritative;
    metadata.recursion_available = reply.recursion_available;
    // RFC 6840, section 5.8: for those who understand it; another client's may have brought it into the cache.
    metadata.authentic_data = reply.authentic_data && (query.authentic_data || query.dnssec_ok());
    metadata.truncation = reply.truncated;
    let question = Question::query(query.name.clone(), query.record_type);
    let encoder = Encoder {
        metadata,
        question: Some(&question),
        records: [&reply.answers, &reply.authorities, &reply.additionals],
        edns: query.edns,
    };
    let limit = match query.transport {
        Transport::Tcp => u16::MAX,
        Transport::Udp => query.edns.map_or(PLAIN_UDP_SIZE, |e| e.udp_size.max(PLAIN_UDP_SIZE)),
    };
    let small = match query.transport {
        Transport::Tcp => usize::from(u16::MAX),
        Transport::Udp if query.client.ip().to_canonical().is_ipv4() => COMPRESS_OVER_V4,
        Transport::Udp => COMPRESS_OVER_V6,
    };
    let whole = encoder.encode(NameEncoding::Uncompressed, limit);
    let best = whole
        .filter(|(bytes, cut)| !cut && bytes.len() <= small)
        .or_else(|| encoder.encode(NameEncoding::Compressed, limit));
    match best {
        Some((bytes, cut)) => {
            metadata.truncation |= cut;
            Encoded { bytes, metadata }
        }
        // A record that cannot be written: say that something failed rather than nothing.
        None => {
            metadata.response_code = ResponseCode::ServFail;
            let bytes = Encoder { metadata, records: [&[], &[], &[]], ..encoder }
                .encode(NameEncoding::Uncompressed, limit)
                .map(|(bytes, _)| bytes)
                .unwrap_or_default();
            Encoded { bytes, metadata }
        }
    }
}

#[derive(Clone, Copy)]
struct Encoder<'a> {
    metadata: Metadata,
    question: Option<&'a Question>,
    records: [&'a [Record]; 3],
    edns: Option<ClientEdns>,
}

impl Encoder<'_> {
    /// The message in at most `limit` octets, and whether records had to be left out.
    fn encode(&self, names: NameEncoding, limit: u16) -> Option<(Vec<u8>, bool)> {
        let mut bytes = Vec::with_capacity(512);
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_name_encoding(names);
        let room = usize::from(limit - if self.edns.is_some() { OPT_SIZE } else { 0 });
        let place = encoder.place::<Header>().ok()?;
        if let Some(question) = self.question {
            question.emit(&mut encoder).ok()?;
        }
        let mut counts = [0u16; 3];
        let mut cut = false;
        for (section, count) in self.records.iter().zip(&mut counts) {
            if !cut {
                (*count, cut) = emit_section(&mut encoder, section, room)?;
            }
        }
        if let Some(client) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(OUR_UDP_SIZE).set_dnssec_ok(client.dnssec_ok);
            edns.set_rcode_high(self.metadata.response_code.high());
            Record::from(&edns).emit(&mut encoder).ok()?;
            counts[2] += 1;
        }
        let mut metadata = self.metadata;
        metadata.truncation |= cut;
        let [answers, authorities, additionals] = counts;
        let queries = u16::from(self.question.is_some());
        let counts = HeaderCounts { queries, answers, authorities, additionals };
        place.replace(&mut encoder, Header { metadata, counts }).ok()?;
        Some((bytes, cut))
    }
}

/// How many of the records fit into `room` octets with what is there already, and whether one did not.
fn emit_section(encoder: &mut BinEncoder<'_>, records: &[Record], room: usize) -> Option<(u16, bool)> {
    let mut count = 0;
    for record in records {
        let start = encoder.offset();
        let fits = match record.emit(encoder) {
            Ok(()) => encoder.offset() <= room,
            Err(ProtoError::MaxBufferSizeExceeded(_)) => false,
            Err(_) => return None,
        };
        if !fits {
            encoder.set_offset(start);
            encoder.trim();
            return Some((count, true));
        }
        count += 1;
    }
    Some((count, false))
}

#[cfg(test)]
mod tests;
