//! How long a trace waits for those whom it asks: one that hangs is one that cannot be asked.

use std::time::Duration;

use seaway_http::unix::UnixError;
use tokio::time::timeout;

/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// The answer, or why there is none.
pub(crate) async fn patiently<T>(asked: impl Future<Output = Result<T, UnixError>>) -> Result<T, String> {
    match timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}
