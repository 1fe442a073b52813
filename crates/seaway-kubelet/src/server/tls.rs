//! The server's certificate, and who its callers are.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::args::KubeletArgs;

/// The name that kube-apiserver's client certificate for kubelets has by custom.
const API_SERVER: &str = "kube-apiserver-kubelet-client";
/// The group that may do everything.
const MASTERS: &str = "system:masters";

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Caller {
    /// The API server, or one of the cluster's masters.
    Allowed,
    /// Somebody that the cluster knows, of this name.
    Other(String),
    /// Nobody that the cluster knows.
    Unknown,
}

/// The server's side of TLS: callers may show a certificate of the client CA.
pub(super) fn config(args: &KubeletArgs) -> anyhow::Result<Arc<ServerConfig>> {
    let (chain, key) = match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => (certificates(cert)?, private_key(key)?),
        _ => self_signed(args)?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match &args.client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(file)? {
                roots
                    .add(certificate)
                    .with_context(|| format!("{}: a certificate that can't be trusted", file.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.allow_unauthenticated().build()?)
        }
    };
    Ok(Arc::new(builder.with_single_cert(chain, key)?))
}

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let text = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|error| anyhow!("{}: {error}", file.display()))?;
    if chain.is_empty() {
        return Err(anyhow!("{}: no certificate", file.display()));
    }
    Ok(chain)
}

fn private_key(file: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    let text = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| anyhow!("{}: {error}", file.display()))
}

fn self_signed(args: &KubeletArgs) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let mut names = vec![args.node_name.clone()];
    names.extend(args.node_ip.iter().map(ToString::to_string));
    let made = rcgen::generate_simple_self_signed(names)?;
    let key =
        PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(|error| anyhow!("{error}"))?;
    Ok((vec![made.cert.der().clone()], key))
}

/// Who is at the other end; the certificate's chain has been checked by then.
pub(super) fn caller(connection: &ServerConnection) -> Caller {
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    certificate.map_or(Caller::Unknown, |certificate| named_in(certificate))
}

fn named_in(certificate: &[u8]) -> Caller {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Caller::Unknown };
    let subject = parsed.subject();
    let name = subject.iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default();
    let master = subject.iter_organization().any(|group| group.as_str() == Ok(MASTERS));
    match name {
        API_SERVER => Caller::Allowed,
        _ if master => Caller::Allowed,
        "" => Caller::Unknown,
        other => Caller::Other(other.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn callers_are_told_by_their_certificates() {
        for (name, group, expected) in [
            ("kube-apiserver-kubelet-client", None, Caller::Allowed),
            ("admin", Some("system:masters"), Caller::Allowed),
            ("system:node:node-2", Some("system:nodes"), Caller::Other("system:node:node-2".into())),
            ("", None, Caller::Unknown),
        ] {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            if let Some(group) = group {
                params.distinguished_name.push(DnType::OrganizationName, group);
            }
            let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            assert_eq!(named_in(certificate.der()), expected, "{name}");
        }
        assert_eq!(named_in(b"nonsense"), Caller::Unknown);
    }
}
