//! JSON over HTTP on a unix socket: a client, one request a connection, and a socket to serve on.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use futures::StreamExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer in bytes: a plan of 50,000 Services fits.
const MAX_ANSWER: usize = 256 << 20;

/// Why a request on a unix socket was not answered.
#[derive(Debug, thiserror::Error)]
pub enum UnixError {
    /// Nobody listens, or the connection broke.
    #[error("{path}: {source}", path = path.display())]
    Connection {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The other side said no.
    #[error("{path}: {request}: {status}: {text}", path = path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
        /// Method and path of the request.
        request: String,
        /// The HTTP status.
        status: StatusCode,
        /// What it said.
        text: String,
    },
    /// The answer is not what was expected.
    #[error("{path}: {request}: the answer cannot be read: {source}", path = path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// Method and path of the request.
        request: String,
        /// Why.
        source: serde_json::Error,
    },
}

/// Makes the socket `path` and the folders to it; only its owner may connect. One left over from before is replaced at
/// one stroke.
///
/// # Errors
/// What the system says.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a socket needs a name"));
    };
    fs::create_dir_all(folder)?;
    let fresh = folder.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let _ = fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    fs::rename(&fresh, path)?;
    Ok(listener)
}

/// `GET target` at the socket `path`.
///
/// # Errors
/// See [`UnixError`]; an answer that takes longer than ten seconds is one.
pub async fn get<T: DeserializeOwned>(path: &Path, target: &str) -> Result<T, UnixError> {
    request(path, Method::GET, target, Vec::new()).await
}

/// `POST target` with `body` as JSON.
///
/// # Errors
/// See [`get`].
pub async fn post<T: DeserializeOwned>(
    path: &Path,
    target: &str,
    body: &impl Serialize,
) -> Result<T, UnixError> {
    request(path, Method::POST, target, json(path, Method::POST, target, body)?).await
}

/// `PUT target` with `body` as JSON.
///
/// # Errors
/// See [`get`].
pub async fn put(path: &Path, target: &str, body: &impl Serialize) -> Result<(), UnixError> {
    let bytes = json(path, Method::PUT, target, body)?;
    request::<Option<()>>(path, Method::PUT, target, bytes).await.map(drop)
}

fn json(path: &Path, method: Method, target: &str, body: &impl Serialize) -> Result<Vec<u8>, UnixError> {
    serde_json::to_vec(body).map_err(|source| UnixError::Answer {
        path: path.to_owned(),
        request: format!("{method} {target}"),
        source,
    })
}

/// `DELETE target`.
///
/// # Errors
/// See [`get`].
pub async fn delete(path: &Path, target: &str) -> Result<(), UnixError> {
    request::<Option<()>>(path, Method::DELETE, target, Vec::new()).await.map(drop)
}

/// `POST target` with `body` as JSON; the answer's lines as they come, until [`Lines`] is dropped.
///
/// # Errors
/// See [`get`], up to the answer's head.
pub async fn post_for_lines(path: &Path, target: &str, body: &impl Serialize) -> Result<Lines, UnixError> {
    let what = format!("POST {target}");
    let bytes = json(path, Method::POST, target, body)?;
    let failed = |source: io::Error| UnixError::Connection { path: path.to_owned(), source };
    let begun = timeout(PATIENCE, begin(path, Method::POST, target, bytes)).await;
    let (driving, response) = begun
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within 10 s")))
        .map_err(failed)?;
    let status = response.status();
    let body = Body::new(response.into_body());
    if !status.is_success() {
        let bytes =
            axum::body::to_bytes(body, MAX_ANSWER).await.map_err(|error| failed(io::Error::other(error)))?;
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        return Err(UnixError::Refused { path: path.to_owned(), request: what, status, text });
    }
    Ok(Lines { path: path.to_owned(), chunks: body.into_data_stream(), rest: Vec::new(), driving })
}

/// The lines of an answer without an end.
pub struct Lines {
    path: PathBuf,
    chunks: axum::body::BodyDataStream,
    /// What has come behind the last whole line.
    rest: Vec<u8>,
    driving: Driving,
}

impl Lines {
    /// The lines that come next; `None` at the end.
    ///
    /// # Errors
    /// The connection broke, or a line is longer than an answer may be.
    pub async fn next(&mut self) -> Option<Result<Vec<Vec<u8>>, UnixError>> {
        loop {
            let failed = |source| UnixError::Connection { path: self.path.clone(), source };
            match self.chunks.next().await {
                None => {
                    self.driving.abort();
                    return None;
                }
                Some(Err(error)) => return Some(Err(failed(io::Error::other(error)))),
                Some(Ok(chunk)) => self.rest.extend_from_slice(&chunk),
            }
            if self.rest.len() > MAX_ANSWER {
                return Some(Err(failed(io::Error::other("a line without an end"))));
            }
            if let Some(last) = self.rest.iter().rposition(|byte| *byte == b'\n') {
                let behind = self.rest.split_off(last + 1);
                let whole = std::mem::replace(&mut self.rest, behind);
                let lines = whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                return Some(Ok(lines.map(<[u8]>::to_vec).collect()));
            }
        }
    }
}

/// The connection's task; it ends with this.
struct Driving(tokio::task::JoinHandle<Result<(), hyper::Error>>);

impl Driving {
    fn abort(&self) {
        self.0.abort();
    }
}

impl Drop for Driving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn request<T: DeserializeOwned>(
    path: &Path,
    method: Method,
    target: &str,
    body: Vec<u8>,
) -> Result<T, UnixError> {
    let what = format!("{method} {target}");
    let failed = |source: io::Error| UnixError::Connection { path: path.to_owned(), source };
    let answered = timeout(PATIENCE, exchange(path, method, target, body)).await;
    let (status, bytes) = answered
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within 10 s")))
        .map_err(failed)?;
    if !status.is_success() {
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        return Err(UnixError::Refused { path: path.to_owned(), request: what, status, text });
    }
    // An empty answer reads as null.
    let bytes: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
    serde_json::from_slice(bytes).map_err(|source| UnixError::Answer {
        path: path.to_owned(),
        request: what,
        source,
    })
}

async fn exchange(
    path: &Path,
    method: Method,
    target: &str,
    body: Vec<u8>,
) -> io::Result<(StatusCode, Vec<u8>)> {
    let (_driving, response) = begin(path, method, target, body).await?;
    let status = response.status();
    let bytes =
        axum::body::to_bytes(Body::new(response.into_body()), MAX_ANSWER).await.map_err(io::Error::other)?;
    Ok((status, bytes.to_vec()))
}

/// Sends a request and waits for the answer's head.
async fn begin(
    path: &Path,
    method: Method,
    target: &str,
    body: Vec<u8>,
) -> io::Result<(Driving, hyper::Response<hyper::body::Incoming>)> {
    let stream = UnixStream::connect(path).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let driving = Driving(tokio::spawn(connection));
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Body::from(body))
        .map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    Ok((driving, response))
}

#[cfg(test)]
mod tests {
    use axum::routing::{delete as on_delete, get as on_get, post as on_post};
    use axum::{Json, Router};
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn requests_and_their_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let router = Router::new()
            .route("/number", on_get(|| async { Json(7) }))
            .route("/next", on_post(|Json(n): Json<u32>| async move { Json(n + 1) }))
            .route("/it", on_delete(|| async { StatusCode::NO_CONTENT }))
            .route("/no", on_get(|| async { (StatusCode::CONFLICT, "not now\n") }));
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        assert_eq!(get::<u32>(&path, "/number").await.unwrap(), 7);
        assert_eq!(post::<u32>(&path, "/next", &41).await.unwrap(), 42);
        delete(&path, "/it").await.unwrap();
        let refused = get::<u32>(&path, "/no").await.unwrap_err().to_string();
        assert!(refused.ends_with("GET /no: 409 Conflict: not now"), "{refused}");
        assert!(matches!(get::<String>(&path, "/number").await, Err(UnixError::Answer { .. })));
        server.abort();
        let gone = get::<u32>(&folder.path().join("none"), "/number").await;
        assert!(matches!(gone, Err(UnixError::Connection { .. })));
    }
}
