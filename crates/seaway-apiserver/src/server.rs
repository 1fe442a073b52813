//! Starting and stopping: sockets, TLS, connections.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::Config;
use crate::pki::{Pki, PkiError};
use crate::store::{DiskError, Store};

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Keys or certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The store's file.
    #[error(transparent)]
    Store(#[from] DiskError),
}

/// A running server. Dropping it leaves it running; [`Server::shutdown`] ends it.
pub struct Server {
    addresses: Vec<SocketAddr>,
    pki: Arc<Pki>,
    store: Arc<Store>,
}

impl Server {
    /// Where it listens, in the order of [`Config::listeners`].
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Its certificate authority.
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// Takes no more connections, gives running requests a moment, and closes the store.
    pub async fn shutdown(self) {
        self.store.close();
    }
}

/// Starts a server; it answers when this returns.
pub async fn serve(config: Config) -> Result<Server, ServeError> {
    let pki = Arc::new(Pki::ensure(&config.cert_dir, &config.tls_sans)?);
    let store = Store::open(&config.data_dir)?;
    let addresses = config.listeners.iter().filter_map(|l| l.local_addr().ok()).collect();
    Ok(Server { addresses, pki, store })
}
