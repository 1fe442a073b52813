//! A pod's volumes, as directories of the node that its containers get bound into their roots.

mod atomic;
mod payload;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::select_all;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath, Pod, Secret, ServiceAccount, VolumeMount};
use kube::api::PostParams;
use kube::{Api, Client};
use seaway_net::sandbox::Mount;

use crate::env::{Addresses, Machine};
use crate::objects::{Interest, Objects};
use payload::{FileVolume, Files, Kind, Source};

/// How soon a token that could not be renewed is asked for again.
const TOKEN_RETRY: Duration = Duration::from_secs(5);

/// The lifetime in seconds that a token is taken to have at least, however soon it says that it expires.
const SHORTEST_LIFE: i64 = 2;

/// A token and when to ask for the next one.
struct Token {
    text: String,
    renew_at: Timestamp,
}

/// All volumes of one pod, and what keeps their contents current.
pub(crate) struct Volumes {
    dir: PathBuf,
    kinds: BTreeMap<String, Kind>,
    config_maps: BTreeMap<String, Interest<ConfigMap>>,
    secrets: BTreeMap<String, Interest<Secret>>,
    tokens: BTreeMap<(String, String), Token>,
}

/// What the contents are made of, beside the objects that volumes name.
pub(crate) struct About<'a> {
    pub client: &'a Client,
    pub pod: &'a Pod,
    pub addresses: &'a Addresses,
    pub machine: Machine,
}

impl Volumes {
    /// Reads the pod's volumes and begins to watch what they name; `dir` is the pod's own directory for them.
    pub(crate) fn new(pod: &Pod, dir: PathBuf, objects: &Objects) -> Result<Self, String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut kinds = BTreeMap::new();
        let (mut config_maps, mut secrets) = (BTreeMap::new(), BTreeMap::new());
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let kind = payload::kind_of(volume)?;
            if let Kind::Files(files) = &kind {
                for source in &files.sources {
                    match source {
                        Source::ConfigMap { name, .. } => {
                            config_maps
                                .entry(name.clone())
                                .or_insert_with(|| objects.config_maps.watch(namespace, name));
                        }
                        Source::Secret { name, .. } => {
                            secrets
                                .entry(name.clone())
                                .or_insert_with(|| objects.secrets.watch(namespace, name));
                        }
                        Source::Downward(_) | Source::Token { .. } => {}
                    }
                }
            }
            kinds.insert(volume.name.clone(), kind);
        }
        Ok(Self { dir, kinds, config_maps, secrets, tokens: BTreeMap::new() })
    }

    /// Makes every volume's directory and writes its files; run again, it brings them up to date.
    pub(crate) async fn prepare(&mut self, about: &About<'_>) -> Result<(), String> {
        let kinds: Vec<(String, Kind)> = self.kinds.clone().into_iter().collect();
        for (name, kind) in kinds {
            match kind {
                Kind::Empty => make_empty(&self.path(&name))?,
                Kind::Host { path, kind } => check_host_path(&name, Path::new(&path), &kind)?,
                Kind::Files(volume) => {
                    let files = self.files(about, &volume).await?;
                    atomic::write(&self.path(&name), &files)
                        .map_err(|error| format!("volume {name:?}: {error}"))?;
                }
            }
        }
        Ok(())
    }

    /// Waits until some contents may have changed; for ever where nothing can.
    pub(crate) async fn changed(&mut self) {
        let mut waits: Vec<futures::future::BoxFuture<'_, ()>> = Vec::new();
        waits.extend(self.config_maps.values_mut().map(|interest| Box::pin(interest.changed()) as _));
        waits.extend(self.secrets.values_mut().map(|interest| Box::pin(interest.changed()) as _));
        if let Some(at) = self.tokens.values().map(|token| token.renew_at).min() {
            let wait = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or(TOKEN_RETRY);
            waits.push(Box::pin(tokio::time::sleep(wait.max(Duration::from_secs(1)))));
        }
        if waits.is_empty() {
            return std::future::pending().await;
        }
        select_all(waits).await;
    }

    fn path(&self, volume: &str) -> PathBuf {
        self.dir.join(volume)
    }

    async fn files(&mut self, about: &About<'_>, volume: &FileVolume) -> Result<Files, String> {
        let mut files = Files::new();
        for source in &volume.sources {
            match source {
                Source::ConfigMap { name, items, optional } => {
                    let map = current(self.config_maps.get_mut(name)).await;
                    let entries = map.as_deref().map(payload::config_map_entries);
                    add(&mut files, volume, ("configmap", name), entries, items.as_deref(), *optional)?;
                }
                Source::Secret { name, items, optional } => {
                    let secret = current(self.secrets.get_mut(name)).await;
                    let entries = secret.as_deref().map(payload::secret_entries);
                    add(&mut files, volume, ("secret", name), entries, items.as_deref(), *optional)?;
                }
                Source::Downward(items) => {
                    payload::add_downward(
                        &mut files,
                        about.pod,
                        about.addresses,
                        about.machine,
                        items,
                        volume.mode,
                    )?;
                }
                Source::Token { audience, expiration_seconds, path } => {
                    let text = self
                        .token(about, &volume.name, audience.as_deref(), *expiration_seconds, path)
                        .await?;
                    let content = payload::FileContent { bytes: text.into_bytes(), mode: volume.mode };
                    files.insert(payload::checked(path)?, content);
                }
            }
        }
        Ok(files)
    }

    /// The token for one file: the one there is, or a new one when it is due.
    async fn token(
        &mut self,
        about: &About<'_>,
        volume: &str,
        audience: Option<&str>,
        seconds: i64,
        path: &str,
    ) -> Result<String, String> {
        let key = (volume.to_owned(), path.to_owned());
        let now = Timestamp::now();
        if let Some(token) = self.tokens.get(&key).filter(|token| token.renew_at > now) {
            return Ok(token.text.clone());
        }
        match request_token(about, audience, seconds).await {
            Ok((text, expires)) => {
                self.tokens.insert(key, Token { text: text.clone(), renew_at: renewal(now, expires) });
                Ok(text)
            }
            Err(error) => match self.tokens.get_mut(&key) {
                Some(token) => {
                    tracing::warn!(error, "renewing a service account token");
                    token.renew_at = now + jiff::SignedDuration::try_from(TOKEN_RETRY).unwrap_or_default();
                    Ok(token.text.clone())
                }
                None => Err(error),
            },
        }
    }

    /// The mount for one `volumeMounts` entry; `env` serves `subPathExpr`.
    pub(crate) fn mount(
        &self,
        wanted: &VolumeMount,
        env: &BTreeMap<String, String>,
    ) -> Result<Mount, String> {
        let kind =
            self.kinds.get(&wanted.name).ok_or_else(|| format!("volume {:?} not found", wanted.name))?;
        let base = match kind {
            Kind::Host { path, .. } => PathBuf::from(path),
            Kind::Empty | Kind::Files(_) => self.path(&wanted.name),
        };
        let expression =
            wanted.sub_path_expr.as_ref().map(|text| crate::env::expand(text, |name| env.get(name).cloned()));
        let sub_path = expression.or_else(|| wanted.sub_path.clone()).filter(|path| !path.is_empty());
        let source = match sub_path {
            None => base,
            Some(sub_path) => below(&base, &sub_path, matches!(kind, Kind::Files(_)))?,
        };
        let read_only = wanted.read_only == Some(true) || matches!(kind, Kind::Files(_));
        let target = Path::new("/").join(&wanted.mount_path);
        Ok(Mount::Bind { source, target, read_only })
    }
}

/// When to renew what expires then, as kubelet does: at 80 % of its lifetime, or after a day.
fn renewal(now: Timestamp, expires: Timestamp) -> Timestamp {
    let life = expires.duration_since(now).as_secs().clamp(SHORTEST_LIFE, 86_400 * 10 / 8);
    now + jiff::SignedDuration::from_millis(life * 800)
}

async fn current<K>(interest: Option<&mut Interest<K>>) -> Option<Arc<K>> {
    match interest {
        Some(interest) => interest.get().await,
        None => None,
    }
}

/// Adds what an object of this kind and name holds, where it is there.
fn add(
    files: &mut Files,
    volume: &FileVolume,
    (kind, name): (&str, &str),
    entries: Option<BTreeMap<&str, &[u8]>>,
    items: Option<&[KeyToPath]>,
    optional: bool,
) -> Result<(), String> {
    let what = format!("{kind} {name:?}");
    match entries {
        Some(entries) => payload::add_entries(files, &what, &entries, items, optional, volume.mode),
        None if optional => Ok(()),
        None => Err(format!("MountVolume.SetUp failed for volume {:?}: {what} not found", volume.name)),
    }
}

/// `sub_path` below `base`; a directory is made where nothing is, except among written files.
fn below(base: &Path, sub_path: &str, files: bool) -> Result<PathBuf, String> {
    let relative = Path::new(sub_path);
    if !relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(format!("subPath {sub_path:?} must be relative and without \"..\""));
    }
    let failed = |error: io::Error| format!("subPath {sub_path:?}: {error}");
    let base = base.canonicalize().map_err(|error| format!("{}: {error}", base.display()))?;
    let mut real = base.clone();
    for part in relative.components().filter(|part| matches!(part, Component::Normal(_))) {
        let next = real.join(part);
        // A link, even one to nothing, is there: what it points to is never made.
        if !files && fs::symlink_metadata(&next).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            fs::create_dir(&next).map_err(failed)?;
        }
        // Links may lead out of the volume; what is made and bound must not.
        real = next.canonicalize().map_err(failed)?;
        if !real.starts_with(&base) {
            return Err(format!("subPath {sub_path:?} leads out of its volume"));
        }
    }
    Ok(real)
}

fn make_empty(dir: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt as _;
    let made =
        fs::create_dir_all(dir).and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(0o777)));
    made.map_err(|error| format!("{}: {error}", dir.display()))
}

/// A hostPath's `type`, as core/v1 HostPathVolumeSource has them.
fn check_host_path(name: &str, path: &Path, kind: &str) -> Result<(), String> {
    let fail = |problem: &str| Err(format!("hostPath volume {name:?}: {} {problem}", path.display()));
    let io = |error: std::io::Error| format!("hostPath volume {name:?}: {}: {error}", path.display());
    match kind {
        // A runtime makes a directory of a source that is absent.
        "" | "DirectoryOrCreate" if !path.exists() => fs::create_dir_all(path).map_err(io),
        "FileOrCreate" if !path.exists() => fs::write(path, "").map_err(io),
        "" => Ok(()),
        "Directory" | "DirectoryOrCreate" if !path.is_dir() => fail("is not a directory"),
        "File" | "FileOrCreate" if !path.is_file() => fail("is not a file"),
        "Directory" | "DirectoryOrCreate" | "File" | "FileOrCreate" => Ok(()),
        _ if path.exists() => Ok(()),
        other => fail(&format!("does not exist (type {other})")),
    }
}

/// Asks the API server for a token that is bound to the pod.
async fn request_token(
    about: &About<'_>,
    audience: Option<&str>,
    seconds: i64,
) -> Result<(String, Timestamp), String> {
    let meta = &about.pod.metadata;
    let account = about.pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    let account = account.filter(|name| !name.is_empty()).unwrap_or("default");
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(audience.map(str::to_owned).into_iter().collect()),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: meta.name.clone(),
                uid: meta.uid.clone(),
            }),
            expiration_seconds: Some(seconds),
        }),
        ..TokenRequest::default()
    };
    let api: Api<ServiceAccount> =
        Api::namespaced(about.client.clone(), meta.namespace.as_deref().unwrap_or_default());
    let answer = api.create_token_request(account, &PostParams::default(), &request).await;
    let status = answer.map_err(|error| format!("token of service account {account:?}: {error}"))?.status;
    let token = status.and_then(|status| Some((status.token?, status.expiration_timestamp?.0)));
    token.ok_or_else(|| format!("token of service account {account:?}: the answer has none"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use axum::extract::State;
    use axum::http::StatusCode;

    use super::*;

    #[test]
    fn sub_paths_stay_in_the_volume() {
        let root = tempfile::tempdir().unwrap();
        let base = root.path().join("volume");
        fs::create_dir(&base).unwrap();
        fs::write(root.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink("../secret", base.join("link")).unwrap();
        fs::write(base.join("file"), "x").unwrap();
        std::os::unix::fs::symlink("..", base.join("out")).unwrap();
        std::os::unix::fs::symlink("../made", base.join("nowhere")).unwrap();
        for (path, fits) in [
            ("file", true),
            ("new/dir", true),
            ("../secret", false),
            ("link", false),
            ("/etc", false),
            ("out/made", false),
            ("nowhere", false),
        ] {
            assert_eq!(below(&base, path, false).is_ok(), fits, "{path}");
        }
        assert!(!root.path().join("made").exists());
        assert!(below(&base, "absent", true).is_err());
    }

    #[test]
    fn tokens_are_renewed_in_time() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (life, after) in [(3600, 2880), (600, 480), (10 * 86_400, 86_400), (10, 8), (-5, 1)] {
            let renewed = renewal(now, now + jiff::SignedDuration::from_secs(life));
            assert_eq!(renewed.duration_since(now).as_secs(), after, "{life}");
        }
    }

    /// Gives out tokens that soon expire, or none.
    struct Issuer {
        given: AtomicU32,
        fails: AtomicBool,
    }

    async fn issue(State(issuer): State<Arc<Issuer>>) -> Result<axum::Json<serde_json::Value>, StatusCode> {
        if issuer.fails.load(Ordering::SeqCst) {
            return Err(StatusCode::INTERNAL_SERVER_ERROR);
        }
        let number = issuer.given.fetch_add(1, Ordering::SeqCst) + 1;
        let status =
            serde_json::json!({"token": format!("token {number}"), "expirationTimestamp": Timestamp::now()});
        Ok(axum::Json(serde_json::json!({"metadata": {}, "spec": {"audiences": []}, "status": status})))
    }

    #[tokio::test]
    async fn a_token_is_renewed_in_its_file_and_outlives_a_failed_renewal() {
        let issuer = Arc::new(Issuer { given: AtomicU32::new(0), fails: AtomicBool::new(false) });
        let path = "/api/v1/namespaces/shop/serviceaccounts/clerk/token";
        let app = axum::Router::new().route(path, axum::routing::post(issue)).with_state(issuer.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(seaway_http::serve(listener, app));
        let client = Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap();
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u"},
            "spec": {"serviceAccountName": "clerk", "containers": [], "volumes": [
                {"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]}
        }))
        .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut volumes = Volumes::new(&pod, dir.path().to_owned(), &Objects::start(&client)).unwrap();
        let (addresses, machine) = (Addresses::default(), Machine { cpus: 1.0, memory: 1.0 });
        let about = About { client: &client, pod: &pod, addresses: &addresses, machine };
        let token = || fs::read_to_string(dir.path().join("v/token")).unwrap();
        volumes.prepare(&about).await.unwrap();
        volumes.prepare(&about).await.unwrap();
        assert_eq!(token(), "token 1", "one that is not due is kept");
        volumes.changed().await;
        volumes.prepare(&about).await.unwrap();
        assert_eq!(token(), "token 2");
        issuer.fails.store(true, Ordering::SeqCst);
        volumes.changed().await;
        volumes.prepare(&about).await.unwrap();
        assert_eq!(token(), "token 2");
        issuer.fails.store(false, Ordering::SeqCst);
        volumes.changed().await;
        volumes.prepare(&about).await.unwrap();
        assert_eq!(token(), "token 3");
    }
}
