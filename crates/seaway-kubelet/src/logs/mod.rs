//! Containers' logs on disk, in the format of the container runtime interface.

mod format;
mod reader;
mod writer;

pub(crate) use format::{Splitter, Stream};
pub(crate) use reader::{LogQuery, find, last_words, send};
pub(crate) use writer::{LiveLog, LogWriter};
