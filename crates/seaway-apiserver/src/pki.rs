//! The cluster's own certificate authority: one CA for serving certificates, client certificates and the kubelets, and the key that
//! signs service account tokens. File names are kubeadm's.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// How many years a certificate of a lab is good for.
const VALID_YEARS: i16 = 10;

/// A failure to make, read or keep a key or certificate.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// Reading or writing a file of the certificate directory failed.
    #[error("cannot {operation} {path}: {source}", path = .path.display())]
    File {
        /// What was tried: `read`, `write`, `create directory`.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file is there but isn't what its name says.
    #[error("{path} is not usable: {reason}; delete the directory to start with a new certificate authority", path = .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A client certificate has room for two groups.
    #[error("a client certificate for {user} can name 2 groups, not {count}")]
    TooManyGroups {
        /// The user.
        user: String,
        /// How many were asked for.
        count: usize,
    },
    /// Making a key or certificate failed.
    #[error("cannot make {what}: {source}")]
    Make {
        /// Which key or certificate.
        what: String,
        /// The library's reason.
        source: rcgen::Error,
    },
}

/// A certificate and its private key in PEM form.
#[derive(Clone, Debug)]
pub struct CertifiedPem {
    /// The certificate.
    pub certificate: String,
    /// The PKCS #8 private key.
    pub key: String,
}

/// The certificate authority of one cluster, kept in a directory.
pub struct Pki {
    ca: Issuer<'static, KeyPair>,
    ca_pem: String,
    serving: CertifiedPem,
    account_key: KeyPair,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki").finish_non_exhaustive()
    }
}

impl Pki {
    /// Loads the authority kept in `dir`, or makes one there: `ca.crt`, `ca.key`, `apiserver.crt`, `apiserver.key`, `sa.key`, `sa.pub`.
    ///
    /// `sans` are the DNS names and addresses that the API server's certificate must have; it is made anew (by the same CA) when it
    /// lacks one of them.
    pub fn ensure(dir: &Path, sans: &[String]) -> Result<Self, PkiError> {
        fs::create_dir_all(dir).map_err(|source| PkiError::File {
            operation: "create directory",
            path: dir.to_owned(),
            source,
        })?;
        let (ca_key, fresh) = key(&dir.join("ca.key"))?;
        let ca_path = dir.join("ca.crt");
        let params = ca_params();
        let ca_pem = match read(&ca_path)? {
            Some(pem) if !fresh => pem,
            _ => {
                let certificate = params.self_signed(&ca_key).map_err(|e| failed("the CA certificate", e))?;
                write(&ca_path, &certificate.pem(), 0o644)?;
                certificate.pem()
            }
        };
        check_ca(&ca_path, &ca_pem, &ca_key)?;
        let ca = Issuer::new(params, ca_key);
        let serving = serving_pair(dir, &ca, sans, fresh)?;
        let (account_key, _) = key(&dir.join("sa.key"))?;
        let public = account_key.public_key_pem();
        if read(&dir.join("sa.pub"))?.as_deref() != Some(&public) {
            write(&dir.join("sa.pub"), &public, 0o644)?;
        }
        Ok(Self { ca, ca_pem, serving, account_key })
    }

    /// The CA's certificate, PEM.
    pub fn ca_certificate(&self) -> &str {
        &self.ca_pem
    }

    /// A certificate by which a client is `user` (common name) in `groups` (organisations, two at most).
    pub fn client_certificate(&self, user: &str, groups: &[&str]) -> Result<CertifiedPem, PkiError> {
        let mut params = leaf_params(user, ExtendedKeyUsagePurpose::ClientAuth);
        // A name of rcgen has one value of each type; the type written as its OID (X.520 organizationName) counts as another.
        let types = [DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])];
        if groups.len() > types.len() {
            return Err(PkiError::TooManyGroups { user: user.to_owned(), count: groups.len() });
        }
        for (kind, group) in types.into_iter().zip(groups) {
            params.distinguished_name.push(kind, *group);
        }
        self.issue(&params, &format!("a client certificate for {user}"))
    }

    /// A certificate for a TLS server with the given names and addresses, e.g. a kubelet's.
    pub fn serving_certificate(&self, names: &[String], ips: &[IpAddr]) -> Result<CertifiedPem, PkiError> {
        let mut sans = names.to_vec();
        sans.extend(ips.iter().map(IpAddr::to_string));
        issue_serving(&self.ca, &sans)
    }

    /// A kubeconfig (YAML) with everything inline: the CA, and a new client certificate of `user` in `groups`.
    pub fn kubeconfig(&self, server: &str, user: &str, groups: &[&str]) -> Result<String, PkiError> {
        let client = self.client_certificate(user, groups)?;
        let b64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        Ok(format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: seaway\n  cluster:\n    server: {server}\n    \
             certificate-authority-data: {ca}\nusers:\n- name: {name}\n  user:\n    client-certificate-data: {certificate}\n    \
             client-key-data: {key}\ncontexts:\n- name: seaway\n  context:\n    cluster: seaway\n    user: {name}\n\
             current-context: seaway\npreferences: {{}}\n",
            ca = b64(&self.ca_pem),
            name = serde_json::Value::from(user),
            certificate = b64(&client.certificate),
            key = b64(&client.key),
        ))
    }

    /// The API server's own certificate and key.
    pub fn serving(&self) -> &CertifiedPem {
        &self.serving
    }

    /// The PKCS #8 DER of the ECDSA P-256 key that signs service account tokens.
    pub fn account_key_der(&self) -> &[u8] {
        self.account_key.serialized_der()
    }

    fn issue(&self, params: &CertificateParams, what: &str) -> Result<CertifiedPem, PkiError> {
        issue(&self.ca, params, what)
    }
}

/// The certificates of a PEM text, as rustls wants them.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let list = list.map_err(|e| e.to_string())?;
    if list.is_empty() { Err("it has no certificate".to_owned()) } else { Ok(list) }
}

/// The private key of a PEM text, as rustls wants it.
pub(crate) fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| e.to_string())
}

/// A root store with the CA alone.
pub(crate) fn roots(ca_pem: &str) -> Result<Arc<rustls::RootCertStore>, String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(ca_pem)? {
        roots.add(certificate).map_err(|e| e.to_string())?;
    }
    Ok(Arc::new(roots))
}

fn failed(what: &str, source: rcgen::Error) -> PkiError {
    PkiError::Make { what: what.to_owned(), source }
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File { operation: "read", path: path.to_owned(), source }),
    }
}

/// Writes a file so that it is there whole or not at all.
pub(crate) fn write(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let put = || {
        let _ = fs::remove_file(&temporary);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        // The store outlives a loss of power; it is of no use without the keys.
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |directory| fs::File::open(directory)?.sync_all())
    };
    put().map_err(|source| PkiError::File { operation: "write", path: path.to_owned(), source })
}

/// The key in a file, and whether it had to be made.
fn key(path: &Path) -> Result<(KeyPair, bool), PkiError> {
    if let Some(pem) = read(path)? {
        let pair = KeyPair::from_pem(&pem)
            .map_err(|e| PkiError::Unusable { path: path.to_owned(), reason: e.to_string() })?;
        return Ok((pair, false));
    }
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| failed("a key", e))?;
    write(path, &pair.serialize_pem(), 0o600)?;
    Ok((pair, true))
}

/// From yesterday, so that a clock that is a little behind doesn't matter.
fn set_validity(params: &mut CertificateParams) {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let start = today.yesterday().unwrap_or(today);
    let date = |year: i16, d: jiff::civil::Date| {
        // 28 exists in every month.
        rcgen::date_time_ymd(i32::from(year), d.month().unsigned_abs(), d.day().min(28).unsigned_abs())
    };
    params.not_before = date(start.year(), start);
    params.not_after = date(start.year().saturating_add(VALID_YEARS), start);
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "seaway-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    set_validity(&mut params);
    params
}

fn leaf_params(common_name: &str, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params);
    params
}

fn issue(
    ca: &Issuer<'static, KeyPair>,
    params: &CertificateParams,
    what: &str,
) -> Result<CertifiedPem, PkiError> {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| failed(what, e))?;
    let certificate = params.signed_by(&pair, ca).map_err(|e| failed(what, e))?;
    Ok(CertifiedPem { certificate: certificate.pem(), key: pair.serialize_pem() })
}

fn issue_serving(ca: &Issuer<'static, KeyPair>, sans: &[String]) -> Result<CertifiedPem, PkiError> {
    let name = sans.first().map_or("seaway", String::as_str);
    let mut params = leaf_params(name, ExtendedKeyUsagePurpose::ServerAuth);
    for san in sans {
        params.subject_alt_names.push(match san.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(
                san.as_str().try_into().map_err(|e| failed(&format!("a certificate for {san}"), e))?,
            ),
        });
    }
    issue(ca, &params, &format!("a serving certificate for {name}"))
}

/// The CA's certificate must be one, and of the CA's key.
fn check_ca(path: &Path, pem: &str, key: &KeyPair) -> Result<(), PkiError> {
    let unusable = |reason: String| PkiError::Unusable { path: path.to_owned(), reason };
    let der = certificates(pem).map_err(unusable)?;
    let (_, certificate) =
        x509_parser::parse_x509_certificate(&der[0]).map_err(|e| unusable(e.to_string()))?;
    if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Err(unusable("it is not the certificate of ca.key".to_owned()));
    }
    Ok(())
}

fn serving_pair(
    dir: &Path,
    ca: &Issuer<'static, KeyPair>,
    sans: &[String],
    fresh: bool,
) -> Result<CertifiedPem, PkiError> {
    let (crt, key) = (dir.join("apiserver.crt"), dir.join("apiserver.key"));
    if let (Some(certificate), Some(key), false) = (read(&crt)?, read(&key)?, fresh)
        && covers(&certificate, sans)
    {
        return Ok(CertifiedPem { certificate, key });
    }
    let pair = issue_serving(ca, sans)?;
    write(&key, &pair.key, 0o600)?;
    write(&crt, &pair.certificate, 0o644)?;
    Ok(pair)
}

/// Whether a certificate has all the names and addresses.
fn covers(pem: &str, sans: &[String]) -> bool {
    let Ok(der) = certificates(pem) else { return false };
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(&der[0]) else { return false };
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return sans.is_empty() };
    let have: Vec<String> = extension
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            x509_parser::extensions::GeneralName::DNSName(name) => Some((*name).to_owned()),
            x509_parser::extensions::GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
                _ => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            },
            _ => None,
        })
        .collect();
    sans.iter().all(|san| have.contains(san))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_kept_and_grows_names() {
        let dir = tempfile::tempdir().unwrap();
        let first = Pki::ensure(dir.path(), &["localhost".into(), "127.0.0.1".into()]).unwrap();
        let again = Pki::ensure(dir.path(), &["127.0.0.1".into()]).unwrap();
        assert_eq!(first.ca_certificate(), again.ca_certificate());
        assert_eq!(first.serving().certificate, again.serving().certificate);
        assert_eq!(first.account_key_der(), again.account_key_der());
        let more = Pki::ensure(dir.path(), &["127.0.0.1".into(), "10.96.0.1".into()]).unwrap();
        assert_ne!(first.serving().certificate, more.serving().certificate);
        assert_eq!(first.ca_certificate(), more.ca_certificate());
    }

    #[test]
    fn issues_certificates_that_its_ca_signed() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::ensure(dir.path(), &["localhost".into()]).unwrap();
        let client = pki.client_certificate("system:node:node-1", &["system:nodes", "others"]).unwrap();
        let der = certificates(&client.certificate).unwrap();
        let (_, leaf) = x509_parser::parse_x509_certificate(&der[0]).unwrap();
        let ca = certificates(pki.ca_certificate()).unwrap();
        let (_, ca) = x509_parser::parse_x509_certificate(&ca[0]).unwrap();
        assert_eq!(leaf.issuer(), ca.subject());
        let groups: Vec<_> = leaf.subject().iter_organization().map(|o| o.as_str().unwrap()).collect();
        assert_eq!(groups, ["system:nodes", "others"]);
        assert!(
            pki.kubeconfig("https://127.0.0.1:6443", "admin", &["system:masters"])
                .unwrap()
                .contains("seaway")
        );
    }

    #[test]
    fn a_foreign_certificate_is_refused() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Pki::ensure(one.path(), &[]).unwrap();
        Pki::ensure(two.path(), &[]).unwrap();
        fs::copy(one.path().join("ca.crt"), two.path().join("ca.crt")).unwrap();
        assert!(matches!(Pki::ensure(two.path(), &[]), Err(PkiError::Unusable { .. })));
    }
}
