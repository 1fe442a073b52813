//! Logs and exec are passed through to the pod's kubelet: here a small one that echoes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something fails")]

mod common;

use std::net::IpAddr;
use std::sync::Arc;

use common::TestServer;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use seaway_apiserver::pki::CertifiedPem;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn roots(server: &TestServer) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let ca = server.server.as_ref().unwrap().pki().ca_certificate();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    Arc::new(roots)
}

fn identity(pem: &CertifiedPem) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    (
        vec![CertificateDer::from_pem_slice(pem.certificate.as_bytes()).unwrap()],
        PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).unwrap(),
    )
}

/// A kubelet that wants a client certificate: it answers logs with the path, and exec by echoing. Returns its port.
async fn kubelet(server: &TestServer) -> u16 {
    let own = server.server.as_ref().unwrap().pki().serving_certificate(&[], &[LOOPBACK]).unwrap();
    let (certificates, key) = identity(&own);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(roots(server), provider.clone()).build().unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(certificates, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    answer(BufReader::new(stream)).await;
                }
            });
        }
    });
    port
}

async fn answer(mut stream: BufReader<tokio_rustls::server::TlsStream<TcpStream>>) {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) <= 2 {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let path = head[0].split(' ').nth(1).unwrap_or_default().to_owned();
    if path.starts_with("/containerLogs/default/broken") {
        let text = "HTTP/1.1 400 Bad Request\r\ncontent-length: 8\r\n\r\nno logs\n";
        stream.write_all(text.as_bytes()).await.unwrap();
    } else if path.starts_with("/containerLogs/") {
        let line = format!("asked for {path}\n");
        let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{line}", line.len());
        stream.write_all(text.as_bytes()).await.unwrap();
    } else {
        assert!(
            head.iter().any(|line| line.eq_ignore_ascii_case("sec-websocket-protocol: v5.channel.k8s.io"))
        );
        let text = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-protocol: v5.channel.k8s.io\r\n\r\n";
        stream.write_all(format!("{text}{path}\n").as_bytes()).await.unwrap();
        let mut buffer = [0; 64];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            stream.write_all(&buffer[..count]).await.unwrap();
        }
    }
    let _ = stream.shutdown().await;
}

fn prepare(server: &TestServer, port: u16) {
    let pod = |name: &str, node: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{nodeName: {node}, containers: [{{name: main, image: pause}}]}}\n"
        )
    };
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: node-2}\n";
    server.apply(&format!(
        "{node}{}{}{}",
        pod("web", "node-1"),
        pod("broken", "node-1"),
        pod("lost", "node-2")
    ));
    for (node, port) in [("node-1", port), ("node-2", 1)] {
        let status = format!(
            r#"{{"status":{{"addresses":[{{"type":"InternalIP","address":"127.0.0.1"}}],"daemonEndpoints":{{"kubeletEndpoint":{{"Port":{port}}}}}}}}}"#
        );
        let arguments = ["patch", "node", node, "--subresource=status", "--type=merge", "-p", &status];
        common::succeeded("patch", server.kubectl_with(&arguments, ""));
    }
}

#[test]
fn logs_come_from_the_kubelet() {
    let server = TestServer::start();
    let port = server.runtime.block_on(kubelet(&server));
    prepare(&server, port);
    let logs = server.ok("logs web --tail=5");
    assert_eq!(logs, "asked for /containerLogs/default/web/main?tailLines=5\n");
    assert!(server.fails("logs broken").contains("(BadRequest): no logs"));
    let lost = server.fails("logs lost");
    assert!(lost.contains("https://127.0.0.1:1/containerLogs/default/lost/main"), "{lost}");
}

#[test]
fn exec_is_upgraded_through() {
    let server = TestServer::start();
    let port = server.runtime.block_on(kubelet(&server));
    prepare(&server, port);
    let address = server.server.as_ref().unwrap().addresses()[0];
    let admin =
        server.server.as_ref().unwrap().pki().client_certificate("admin", &["system:masters"]).unwrap();
    let (certificates, key) = identity(&admin);
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(&server))
        .with_client_auth_cert(certificates, key)
        .unwrap();
    server.runtime.block_on(async {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::IpAddress(LOOPBACK.into());
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let mut stream = BufReader::new(stream);
        let request = "GET /api/v1/namespaces/default/pods/web/exec?command=sh&stdin=true&stdout=true HTTP/1.1\r\n\
                       host: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: eA==\r\nsec-websocket-protocol: v5.channel.k8s.io\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        assert!(line.starts_with("HTTP/1.1 101"), "{line}");
        while line.trim() != "" {
            line.clear();
            stream.read_line(&mut line).await.unwrap();
        }
        stream.read_line(&mut line).await.unwrap();
        assert_eq!(line.trim(), "/exec/default/web/main?command=sh&input=1&output=1");
        stream.write_all(b"there and back").await.unwrap();
        let mut echo = [0; 14];
        stream.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"there and back");
    });
}
