//! Who is asking: client certificates and service account tokens.
//!
//! Authorisation is one rule: whoever is known may do everything (a lab has no RBAC); anonymous callers may ask for the server's health
//! and version only.

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use rustls::pki_types::CertificateDer;
use seaway_apis::StatusError;
use serde_json::{Map, Value, json};

use crate::store::{Store, key};
use crate::token::{Claims, ISSUER, TokenError, Tokens};

/// The group of everyone who is known.
const AUTHENTICATED: &str = "system:authenticated";

/// A caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: Vec<(String, Vec<String>)>,
}

impl User {
    /// A caller who did not say who it is.
    pub(crate) fn anonymous() -> User {
        User {
            name: "system:anonymous".to_owned(),
            uid: String::new(),
            groups: vec!["system:unauthenticated".to_owned()],
            extra: Vec::new(),
        }
    }

    pub(crate) fn is_anonymous(&self) -> bool {
        self.name == "system:anonymous"
    }

    /// `userInfo` of the review kinds.
    pub(crate) fn info(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = self.uid.as_str().into();
        }
        if !self.extra.is_empty() {
            let extra: Map<String, Value> =
                self.extra.iter().map(|(name, values)| (name.clone(), json!(values))).collect();
            info["extra"] = extra.into();
        }
        info
    }
}

/// The user of a client certificate that TLS has verified: its common name, and its organisations as groups.
pub(crate) fn certificate_user(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    if name.is_empty() {
        return None;
    }
    let mut groups: Vec<String> =
        parsed.subject().iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    groups.push(AUTHENTICATED.to_owned());
    Some(User { name, uid: String::new(), groups, extra: Vec::new() })
}

/// The caller of a request: a bearer token counts before the connection's certificate.
pub(crate) fn authenticate(
    headers: &HeaderMap,
    connection: &Option<Arc<User>>,
    tokens: &Tokens,
    store: &Store,
) -> Result<Arc<User>, StatusError> {
    if let Some(token) = bearer(headers) {
        return match token_user(token, &[ISSUER.to_owned()], tokens, store) {
            Ok((user, _)) => Ok(Arc::new(user)),
            Err(reason) => {
                tracing::debug!(%reason, "refused a bearer token");
                Err(StatusError::unauthorized())
            }
        };
    }
    Ok(connection.clone().unwrap_or_else(|| Arc::new(User::anonymous())))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Why a token stands for nobody.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RefusedToken {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("its {0} is gone or was replaced")]
    Gone(&'static str),
}

/// The service account behind a token; the account, and the pod it is bound to, must still be the same.
pub(crate) fn token_user(
    token: &str,
    audiences: &[String],
    tokens: &Tokens,
    store: &Store,
) -> Result<(User, Claims), RefusedToken> {
    let claims = tokens.verify(token, audiences, jiff::Timestamp::now().as_second())?;
    let account = store.get("/serviceaccounts", &key(&claims.namespace, &claims.account));
    if account.is_none_or(|account| account.uid != claims.account_uid) {
        return Err(RefusedToken::Gone("service account"));
    }
    let mut extra =
        vec![("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("JTI={}", claims.id)])];
    if let Some((name, uid)) = &claims.pod {
        let pod = store.get("/pods", &key(&claims.namespace, name));
        if pod.is_none_or(|pod| pod.uid != *uid) {
            return Err(RefusedToken::Gone("pod"));
        }
        extra.push(("authentication.kubernetes.io/pod-name".to_owned(), vec![name.clone()]));
        extra.push(("authentication.kubernetes.io/pod-uid".to_owned(), vec![uid.clone()]));
    }
    let user = User {
        name: format!("system:serviceaccount:{}:{}", claims.namespace, claims.account),
        uid: claims.account_uid.clone(),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{}", claims.namespace),
            AUTHENTICATED.to_owned(),
        ],
        extra,
    };
    Ok((user, claims))
}
