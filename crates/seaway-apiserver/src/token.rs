//! Service account tokens: JWTs (RFC 7519) signed with ECDSA P-256 (RFC 7518 ES256).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey};
use serde_json::{Value, json};

/// Who signs, and the audience of tokens for the API server itself.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Longer ones are not looked at.
const MAX_TOKEN_BYTES: usize = 16 << 10;

/// Signs and checks tokens.
pub(crate) struct Tokens {
    key: EcdsaKeyPair,
    random: SystemRandom,
    key_id: String,
}

/// Why a token is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("it is not a JWT signed with ES256")]
    Malformed,
    #[error("its signature is not by this cluster")]
    Signature,
    #[error("it is expired or not valid yet")]
    Time,
    #[error("it is for another issuer or audience")]
    Audience,
}

/// The claims of a token, checked but for the existence of what they name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) namespace: String,
    pub(crate) account: String,
    pub(crate) account_uid: String,
    /// Name and uid of the pod to which the token is bound.
    pub(crate) pod: Option<(String, String)>,
    pub(crate) audiences: Vec<String>,
    pub(crate) id: String,
}

/// What a new token shall say.
pub(crate) struct Grant<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) account: &'a str,
    pub(crate) account_uid: &'a str,
    pub(crate) pod: Option<(&'a str, &'a str)>,
    pub(crate) node: Option<(&'a str, &'a str)>,
    pub(crate) audiences: &'a [String],
    /// Seconds since the epoch.
    pub(crate) issued: i64,
    /// Seconds since the epoch.
    pub(crate) expires: i64,
}

impl Tokens {
    /// From the PKCS #8 DER of the key.
    pub(crate) fn new(pkcs8: &[u8]) -> Result<Tokens, String> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random)
            .map_err(|e| e.to_string())?;
        let digest = ring::digest::digest(&ring::digest::SHA256, key.public_key().as_ref());
        let key_id = BASE64.encode(digest);
        Ok(Tokens { key, random, key_id })
    }

    /// A new token.
    pub(crate) fn sign(&self, grant: &Grant<'_>) -> Result<String, String> {
        let reference = |(name, uid): (&str, &str)| json!({"name": name, "uid": uid});
        let mut own = json!({
            "namespace": grant.namespace,
            "serviceaccount": reference((grant.account, grant.account_uid)),
        });
        if let Some(pod) = grant.pod {
            own["pod"] = reference(pod);
        }
        if let Some(node) = grant.node {
            own["node"] = reference(node);
        }
        let claims = json!({
            "aud": grant.audiences,
            "exp": grant.expires,
            "iat": grant.issued,
            "iss": ISSUER,
            "jti": uuid::Uuid::new_v4().to_string(),
            "kubernetes.io": own,
            "nbf": grant.issued,
            "sub": format!("system:serviceaccount:{}:{}", grant.namespace, grant.account),
        });
        let header = json!({"alg": "ES256", "kid": self.key_id});
        let mut token =
            format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let signed = self.key.sign(&self.random, token.as_bytes()).map_err(|e| e.to_string())?;
        token.push('.');
        BASE64.encode_string(signed, &mut token);
        Ok(token)
    }

    /// Checks signature, times, issuer and audience (any of `audiences`).
    pub(crate) fn verify(&self, token: &str, audiences: &[String], now: i64) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let header = part(header)?;
        if header["alg"] != "ES256" {
            return Err(TokenError::Malformed);
        }
        let signature = BASE64.decode(signature).map_err(|_| TokenError::Malformed)?;
        UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| TokenError::Signature)?;
        let claims = part(claims)?;
        let time = |name: &str| claims[name].as_i64().ok_or(TokenError::Malformed);
        if now >= time("exp")? || now < time("nbf")? {
            return Err(TokenError::Time);
        }
        let audience: Vec<String> = match &claims["aud"] {
            Value::String(one) => vec![one.clone()],
            Value::Array(many) => many.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
            _ => return Err(TokenError::Malformed),
        };
        let common: Vec<String> = audiences.iter().filter(|a| audience.contains(a)).cloned().collect();
        if claims["iss"] != ISSUER || common.is_empty() {
            return Err(TokenError::Audience);
        }
        let own = &claims["kubernetes.io"];
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or(TokenError::Malformed);
        let pod = match &own["pod"] {
            Value::Null => None,
            pod => Some((text(&pod["name"])?, text(&pod["uid"])?)),
        };
        Ok(Claims {
            namespace: text(&own["namespace"])?,
            account: text(&own["serviceaccount"]["name"])?,
            account_uid: text(&own["serviceaccount"]["uid"])?,
            pod,
            audiences: common,
            id: claims["jti"].as_str().unwrap_or_default().to_owned(),
        })
    }

    /// The public key as a JSON Web Key Set (RFC 7517).
    pub(crate) fn key_set(&self) -> Value {
        // An uncompressed point: 4, then the two coordinates.
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256",
            "x": BASE64.encode(x), "y": BASE64.encode(y),
        }]})
    }
}

fn part(text: &str) -> Result<Value, TokenError> {
    let bytes = BASE64.decode(text).map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Tokens {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        Tokens::new(key.serialized_der()).unwrap()
    }

    #[test]
    fn signs_and_checks() {
        let tokens = tokens();
        let audiences = [ISSUER.to_owned(), "vault".to_owned()];
        let grant = Grant {
            namespace: "kube-system",
            account: "coredns",
            account_uid: "u",
            pod: Some(("dns-1", "p")),
            node: None,
            audiences: &audiences,
            issued: 100,
            expires: 200,
        };
        let token = tokens.sign(&grant).unwrap();
        let claims = tokens.verify(&token, &audiences[..1], 150).unwrap();
        assert_eq!((&*claims.namespace, &*claims.account), ("kube-system", "coredns"));
        assert_eq!(claims.pod, Some(("dns-1".to_owned(), "p".to_owned())));
        assert_eq!(claims.audiences, [ISSUER]);
        let other = ["other".to_owned()];
        let mut forged = token.clone().into_bytes();
        let middle = token.find('.').unwrap() + 5;
        forged[middle] = if forged[middle] == b'A' { b'B' } else { b'A' };
        let cases = [
            (tokens.verify(&token, &audiences, 200), TokenError::Time),
            (tokens.verify(&token, &audiences, 99), TokenError::Time),
            (tokens.verify(&token, &other, 150), TokenError::Audience),
            (tokens.verify(&String::from_utf8(forged).unwrap(), &audiences, 150), TokenError::Signature),
            (self::tokens().verify(&token, &audiences, 150), TokenError::Signature),
            (tokens.verify("a.b.c", &audiences, 150), TokenError::Malformed),
            (tokens.verify("", &audiences, 150), TokenError::Malformed),
        ];
        for (result, error) in cases {
            assert_eq!(result, Err(error));
        }
    }
}
