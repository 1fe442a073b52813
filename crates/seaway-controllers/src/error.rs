//! What can go wrong on the way to the API server.

/// An operation of a controller that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request to the API server failed.
    #[error("{operation} {kind} {name}: {source}")]
    Request {
        /// The verb, such as `create` or `patch status of`.
        operation: &'static str,
        /// The object's kind.
        kind: String,
        /// `namespace/name`, or the name alone.
        name: String,
        /// The client's error.
        source: Box<kube::Error>,
    },
    /// An object could not be written as JSON.
    #[error("encode {kind} {name}: {source}")]
    Encode {
        /// The object's kind.
        kind: String,
        /// `namespace/name`, or the name alone.
        name: String,
        /// The encoder's error.
        source: serde_json::Error,
    },
    /// A flag has a value that cannot be used.
    #[error("{flag}: {reason}")]
    Flag {
        /// The flag's name with its dashes.
        flag: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
}

impl Error {
    fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Error::Request { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            _ => None,
        }
    }

    /// The object (or its namespace) is not there.
    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(|s| s.code == 404)
    }

    /// The object changed since it was read, is there already, or has another uid.
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(|s| s.code == 409)
    }

    /// The namespace is going away: nothing can be created in it any more.
    pub fn is_terminating_namespace(&self) -> bool {
        self.status().is_some_and(|s| s.code == 403 && s.message.contains("being terminated"))
    }
}
