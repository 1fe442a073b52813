//! The node's pods: one worker for each, and the watch that feeds them.

mod assemble;
mod backoff;
mod credentials;
mod image_events;
mod live;
mod manager;
mod names;
mod publish;
mod restore;
mod sandbox;
mod slots;
mod status;
mod stop;
mod worker;

pub(crate) use manager::{clean_up, run};
