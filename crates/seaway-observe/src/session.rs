//! Observations: begun by request, each with a thread of its own that ends with it.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use seaway_net::netns::NetNs;
use seaway_net::wait;

use crate::Error;
use crate::api::{Observe, PacketFilter, PacketMatch, Packets, Rules};
use crate::rules::RuleTrace;
use crate::tap::Tap;

/// Observations at a time.
const MOST: usize = 16;
/// Seconds that one lasts at the most.
const LONGEST: u16 = 60;
/// Filters of one request, and addresses or ports of one filter.
const MOST_FILTERS: usize = 64;
const MOST_ENDPOINTS: usize = 256;

/// The running observations of a namespace.
#[derive(Default)]
pub(crate) struct Sessions {
    running: Arc<Mutex<BTreeMap<String, Session>>>,
}

struct Session {
    active: Arc<Mutex<Option<Active>>>,
    /// The thread wakes up when this is dropped.
    _wake: UnixStream,
}

/// What an observation holds while it runs.
struct Active {
    packets: Tap,
    rules: Option<RuleTrace>,
}

impl Active {
    fn drain(&mut self) -> Result<(), Error> {
        self.packets.drain()?;
        self.rules.as_mut().map_or(Ok(()), RuleTrace::drain)
    }
}

impl Sessions {
    /// Begins one in `ns`; captures when it returns. Blocks.
    pub(crate) fn start(&self, ns: &NetNs, request: &Observe) -> Result<String, Error> {
        check(request)?;
        let id = uuid::Uuid::new_v4().simple().to_string();
        if self.running.lock().len() >= MOST {
            return Err(Error::TooMany(MOST));
        }
        let active = ns.run(|| -> Result<Active, Error> {
            let packets = Tap::open(&request.packets)?;
            let rules =
                (!request.rules.is_empty()).then(|| RuleTrace::open(&id, &request.rules)).transpose()?;
            Ok(Active { packets, rules })
        });
        let active = Arc::new(Mutex::new(Some(active.map_err(Error::Namespace)??)));
        let (wake, asleep) = UnixStream::pair().map_err(Error::Namespace)?;
        let end = Instant::now() + Duration::from_secs(request.seconds.into());
        let thread = Reader {
            active: Arc::downgrade(&active),
            running: Arc::downgrade(&self.running),
            id: id.clone(),
            asleep,
            end,
        };
        let mut running = self.running.lock();
        if running.len() >= MOST {
            return Err(Error::TooMany(MOST));
        }
        std::thread::Builder::new()
            .name("observation".to_owned())
            .spawn(move || thread.run())
            .map_err(Error::Namespace)?;
        running.insert(id.clone(), Session { active, _wake: wake });
        Ok(id)
    }

    /// What was captured until now and matches; `None` where there is no such observation. Blocks.
    pub(crate) fn packets(&self, id: &str, any: &[PacketMatch]) -> Option<Result<Packets, Error>> {
        let active = self.active(id)?;
        let mut active = active.lock();
        Some(active.as_mut()?.packets.select(any))
    }

    /// Keeps other packets from now on. Blocks.
    pub(crate) fn want(&self, id: &str, filters: &[PacketFilter]) -> Option<Result<(), Error>> {
        let active = self.active(id)?;
        let mut active = active.lock();
        let tap = &mut active.as_mut()?.packets;
        Some(check_filters(filters).and_then(|()| tap.want(filters)))
    }

    /// The rules met until now. Blocks.
    pub(crate) fn rules(&self, id: &str) -> Option<Result<Rules, Error>> {
        let active = self.active(id)?;
        let mut active = active.lock();
        let rules = &mut active.as_mut()?.rules;
        Some(rules.as_mut().map_or_else(|| Ok(Rules::default()), RuleTrace::rules))
    }

    /// Ends one: its sockets are closed, and its rules gone, when this returns `true`.
    pub(crate) fn end(&self, id: &str) -> bool {
        let session = self.running.lock().remove(id);
        session.is_some_and(|session| session.active.lock().take().is_some())
    }

    fn active(&self, id: &str) -> Option<Arc<Mutex<Option<Active>>>> {
        self.running.lock().get(id).map(|session| Arc::clone(&session.active))
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        for session in self.running.lock().values() {
            session.active.lock().take();
        }
    }
}

fn check(request: &Observe) -> Result<(), Error> {
    let bad = |text: String| Err(Error::Request(text));
    if request.seconds == 0 || request.seconds > LONGEST {
        return bad(format!("seconds: {} is not between 1 and {LONGEST}", request.seconds));
    }
    if request.rules.len() > MOST_FILTERS {
        return bad(format!("rules: more than {MOST_FILTERS} filters"));
    }
    check_filters(&request.packets)
}

fn check_filters(filters: &[PacketFilter]) -> Result<(), Error> {
    if filters.len() > MOST_FILTERS {
        return Err(Error::Request(format!("packets: more than {MOST_FILTERS} filters")));
    }
    let most = |it: &PacketFilter| it.addresses.len().max(it.peers.len()).max(it.ports.len());
    if filters.iter().any(|it| most(it) > MOST_ENDPOINTS) {
        let text = format!("packets: more than {MOST_ENDPOINTS} addresses, peers or ports in a filter");
        return Err(Error::Request(text));
    }
    Ok(())
}

/// The thread that reads what comes, so that the kernel's buffers have room.
struct Reader {
    active: Weak<Mutex<Option<Active>>>,
    running: Weak<Mutex<BTreeMap<String, Session>>>,
    id: String,
    asleep: UnixStream,
    end: Instant,
}

impl Reader {
    fn run(self) {
        while let Some(left) = self.end.checked_duration_since(Instant::now())
            && self.wait(left)
        {
            let Some(active) = self.active.upgrade() else { break };
            let mut active = active.lock();
            let Some(active) = active.as_mut() else { break };
            if let Err(error) = active.drain() {
                tracing::warn!(%error, "an observation cannot be read; it ends");
                break;
            }
        }
        if let Some(running) = self.running.upgrade() {
            let session = running.lock().remove(&self.id);
            drop(session);
        }
    }

    /// Waits for something to read; `false` at the observation's end.
    fn wait(&self, left: Duration) -> bool {
        // Descriptors of one's own: the sockets may be closed by whoever ends the observation.
        let Some(sockets) = self.sockets() else { return false };
        let mut fds: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        fds.push(self.asleep.as_fd());
        wait::readable(&fds, left.min(Duration::from_secs(1))).is_ok()
    }

    fn sockets(&self) -> Option<Vec<std::os::fd::OwnedFd>> {
        let active = self.active.upgrade()?;
        let active = active.lock();
        let active = active.as_ref()?;
        let all = std::iter::once(active.packets.as_fd()).chain(active.rules.iter().map(AsFd::as_fd));
        all.map(|fd| fd.try_clone_to_owned().ok()).collect()
    }
}
