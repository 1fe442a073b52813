//! `nginx`: a small web server on port 80.
//!
//! It serves the files of `/usr/share/nginx/html` where a volume brings some, else a welcome page. It reads no
//! nginx.conf: arguments such as `-g "daemon off;"` are taken and have no effect.

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue, LOCATION, REFERER, SERVER, USER_AGENT};
use hyper::{Method, Request, StatusCode, Version};

use crate::listen::{self, Reply, typed};
use crate::signals;

const ROOT: &str = "/usr/share/nginx/html";
const PORT: u16 = 80;
/// A larger file than this is refused, since answers are held in memory.
const MAX_FILE: u64 = 16 * 1024 * 1024;

const WELCOME: &str = "<!DOCTYPE html>
<html>
<head><title>Welcome to nginx!</title></head>
<body>
<h1>Welcome to nginx!</h1>
<p>This is Seaway's stand-in for the nginx image. It works, and so does the network between you and it.</p>
</body>
</html>
";

pub(crate) async fn run(_args: &[String]) -> anyhow::Result<ExitCode> {
    let listener = listen::tcp(PORT)?;
    signals::serve_until_told(listen::http(listener, answer)).await
}

async fn answer(request: Request<Incoming>, peer: SocketAddr) -> Reply {
    let mut reply = match *request.method() {
        Method::GET | Method::HEAD => page(Path::new(ROOT), request.uri().path()).await,
        _ => failure(StatusCode::METHOD_NOT_ALLOWED),
    };
    reply.headers_mut().insert(SERVER, HeaderValue::from_static("nginx/1.29.0 (seaway)"));
    log(&request, peer, &reply);
    reply
}

/// The file that `path` names below `root`; the welcome page where there are no files at all.
async fn page(root: &Path, path: &str) -> Reply {
    let Some(mut file) = below(root, path) else { return failure(StatusCode::BAD_REQUEST) };
    if let Ok(found) = tokio::fs::metadata(&file).await
        && found.is_dir()
    {
        if !path.ends_with('/') {
            return redirect(path);
        }
        file.push("index.html");
    }
    match tokio::fs::metadata(&file).await {
        Ok(found) if found.is_file() && found.len() <= MAX_FILE => match tokio::fs::read(&file).await {
            Ok(body) => typed(StatusCode::OK, content_type(&file), body),
            Err(_) => failure(StatusCode::FORBIDDEN),
        },
        Ok(_) => failure(StatusCode::FORBIDDEN),
        Err(_) if matches!(path, "/" | "/index.html") => typed(StatusCode::OK, "text/html", WELCOME),
        Err(_) => failure(StatusCode::NOT_FOUND),
    }
}

/// `path` below `root`, or nothing where it would leave it.
fn below(root: &Path, path: &str) -> Option<PathBuf> {
    // A plus sign is itself in a path.
    let decoded = listen::decode(&path.replace('+', "%2B"));
    let relative = Path::new(decoded.trim_start_matches('/'));
    let inside = relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    (inside && !decoded.contains('\0')).then(|| root.join(relative))
}

fn redirect(path: &str) -> Reply {
    let mut reply = failure(StatusCode::MOVED_PERMANENTLY);
    if let Ok(location) = HeaderValue::try_from(format!("{path}/")) {
        reply.headers_mut().insert(LOCATION, location);
    }
    reply
}

fn failure(status: StatusCode) -> Reply {
    let title = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default());
    typed(
        status,
        "text/html",
        format!("<html>\n<head><title>{title}</title></head>\n<body><h1>{title}</h1></body>\n</html>\n"),
    )
}

fn content_type(file: &Path) -> &'static str {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("html" | "htm") => "text/html",
        Some("css") => "text/css",
        Some("js") => "application/javascript",
        Some("json") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("txt") | None => "text/plain",
        Some(_) => "application/octet-stream",
    }
}

/// One line of nginx's `combined` format, with the `X-Forwarded-For` that its image adds.
fn log(request: &Request<Incoming>, peer: SocketAddr, reply: &Reply) {
    let now = jiff::Timestamp::now().strftime("%d/%b/%Y:%H:%M:%S +0000").to_string();
    let version = if request.version() == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" };
    let size = hyper::body::Body::size_hint(reply.body()).exact().unwrap_or(0);
    let headers = request.headers();
    listen::say(format_args!(
        "{} - - [{now}] \"{} {} {version}\" {} {size} \"{}\" \"{}\" \"{}\"",
        peer.ip(),
        request.method(),
        request.uri(),
        reply.status().as_u16(),
        shown(headers, REFERER.as_str()),
        shown(headers, USER_AGENT.as_str()),
        shown(headers, "x-forwarded-for"),
    ));
}

fn shown<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        let root = Path::new("/root");
        for (path, expected) in [
            ("/", Some("/root/")),
            ("/a/b.html", Some("/root/a/b.html")),
            ("/a%20b+c", Some("/root/a b+c")),
            ("//a", Some("/root/a")),
            ("/../etc/passwd", None),
            ("/a/%2e%2e/%2e%2e/etc", None),
            ("/a%00", None),
        ] {
            assert_eq!(below(root, path), expected.map(PathBuf::from), "{path}");
        }
    }

    #[tokio::test]
    async fn files_come_first_and_the_welcome_page_last() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(page(root.path(), "/").await.status(), StatusCode::OK);
        assert_eq!(page(root.path(), "/none").await.status(), StatusCode::NOT_FOUND);
        std::fs::create_dir(root.path().join("docs")).unwrap();
        std::fs::write(root.path().join("docs/index.html"), "hello").unwrap();
        assert_eq!(page(root.path(), "/docs").await.status(), StatusCode::MOVED_PERMANENTLY);
        assert_eq!(page(root.path(), "/docs/").await.status(), StatusCode::OK);
    }
}
