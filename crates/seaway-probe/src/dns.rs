//! The DNS query that the probe sends to port 53 (RFC 1035, 4.1).

/// The query `TOKEN.invalid. TXT`: a name that exists nowhere (RFC 6761, 6.4), so that no cache has it. `token` is a label.
pub(crate) fn query(token: &str) -> Vec<u8> {
    // FNV-1a folded: an identifier that is the token's.
    let hash =
        token.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let id = ((hash >> 16) ^ hash) & 0xffff;
    let mut query = vec![(id >> 8) as u8, (id & 0xff) as u8];
    // RD; one question.
    query.extend([0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in [token, "invalid"] {
        query.push(u8::try_from(label.len()).unwrap_or(0));
        query.extend(label.bytes());
    }
    // The root, type TXT, class IN.
    query.extend([0, 0, 16, 0, 1]);
    query
}

/// What an answer says, such as `NXDOMAIN, 0 answers`.
pub(crate) fn summary(answer: &[u8]) -> String {
    let [_, _, _, low, _, _, high_count, low_count, ..] = answer else {
        return format!("{} bytes that are no DNS message", answer.len());
    };
    let names = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];
    let code = usize::from(low & 0x0f);
    let name = names.get(code).map_or_else(|| format!("RCODE{code}"), |name| (*name).to_owned());
    let answers = u16::from_be_bytes([*high_count, *low_count]);
    format!("{name}, {answers} {}", if answers == 1 { "answer" } else { "answers" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_and_what_answers_say() {
        let query = query("t-1");
        assert_eq!(&query[2..], b"\x01\0\0\x01\0\0\0\0\0\0\x03t-1\x07invalid\0\0\x10\0\x01");
        for (answer, expected) in [
            (&b"\0\0\x81\x83\0\x01\0\0\0\0\0\0"[..], "NXDOMAIN, 0 answers"),
            (b"\0\0\x81\x80\0\x01\0\x01\0\0\0\0", "NOERROR, 1 answer"),
            (b"\0\0\x81\x8f\0\x01\x01\0\0\0\0\0", "RCODE15, 256 answers"),
            (b"\0\0", "2 bytes that are no DNS message"),
        ] {
            assert_eq!(summary(answer), expected);
        }
    }
}
