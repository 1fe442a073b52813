//! Carries actions out, and puts what the API server answers into the cache.

use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    Binding, ConfigMap, Endpoints, Event, EventSource, Namespace, Node, ObjectReference, Pod, Service,
    ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Request;
use kube::{Client, Resource};
use serde_json::{Value, json};
use tracing::debug;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::object::{Action, Kind, Notice, NoticeKind, Object, Part, Target, with_watched_kinds};
use crate::routes::Routed;
use crate::store::Key;

/// How many writes of one decision are under way at once.
const AT_ONCE: usize = 8;

/// Writes to the API server.
#[derive(Clone)]
pub struct Executor {
    client: Client,
    cluster: Arc<Cluster>,
}

macro_rules! define_dispatch {
    ($($kind:ident $field:ident $group:expr;)*) => {
        impl Executor {
            async fn create(&self, object: Object) -> Result<(), Error> {
                match object { $(Object::$kind(object) => self.create_one(*object).await,)* }
            }

            async fn replace(&self, object: Object, part: Part) -> Result<(), Error> {
                match object { $(Object::$kind(object) => self.replace_one(*object, part).await,)* }
            }

            async fn patch(&self, target: Target, part: Part, patch: Value) -> Result<(), Error> {
                match target.kind { $(Kind::$kind => self.patch_one::<$kind>(target, part, patch).await,)* }
            }

            async fn delete(&self, target: Target, grace: Option<u32>) -> Result<(), Error> {
                match target.kind { $(Kind::$kind => self.delete_one::<$kind>(target, grace).await,)* }
            }
        }
    };
}
with_watched_kinds!(define_dispatch);

impl Executor {
    /// An executor that writes through this client and tells this cache.
    pub fn new(client: Client, cluster: Arc<Cluster>) -> Self {
        Self { client, cluster }
    }

    /// The cache.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Does one action after another, up to the first that fails.
    pub async fn perform(&self, actions: Vec<Action>) -> Result<(), Error> {
        for action in actions {
            self.perform_one(action).await?;
        }
        Ok(())
    }

    /// Does actions that don't depend on each other, several at once. After a failure no more are begun, but those under way
    /// are waited for: what they did must be in the cache before anyone decides again.
    pub async fn perform_unordered(&self, actions: Vec<Action>) -> Result<(), Error> {
        all_begun(futures::stream::iter(actions).map(|action| self.perform_one(action))).await
    }

    /// Does one action.
    pub async fn perform_one(&self, action: Action) -> Result<(), Error> {
        match action {
            Action::Create(object) => match self.create(object).await {
                // The namespace's end will clean up; there is nothing to try again.
                Err(error) if error.is_terminating_namespace() => {
                    debug!(%error, "not created");
                    Ok(())
                }
                result => result,
            },
            Action::Replace(object) => self.replace(object, Part::Main).await,
            Action::ReplaceStatus(object) => self.replace(object, Part::Status).await,
            Action::Patch(target, part, patch) => self.patch(target, part, patch).await,
            Action::Delete(target, grace) => self.delete(target, grace).await,
            Action::Bind(target, node) => self.bind(target, node).await,
            Action::Notify(notice) => {
                if let Err(error) = self.notify(notice).await {
                    debug!(%error, "event lost");
                }
                Ok(())
            }
        }
    }

    async fn create_one<K: Routed>(&self, object: K) -> Result<(), Error> {
        let key = Key::of(object.meta());
        let body = encode(&object, &key)?;
        let created: K = self
            .send::<K, _>("create", &key, request::<K>(&key).create(&PostParams::default(), body))
            .await?;
        self.cluster.observe(created);
        Ok(())
    }

    async fn replace_one<K: Routed>(&self, object: K, part: Part) -> Result<(), Error> {
        let key = Key::of(object.meta());
        let body = encode(&object, &key)?;
        let (request, params) = (request::<K>(&key), PostParams::default());
        let replaced: K = match part {
            Part::Main => {
                self.send::<K, _>("replace", &key, request.replace(&key.name, &params, body)).await?
            }
            Part::Status => {
                let built = request.replace_subresource("status", &key.name, &params, body);
                self.send::<K, _>("replace status of", &key, built).await?
            }
        };
        self.cluster.observe(replaced);
        Ok(())
    }

    async fn patch_one<K: Routed>(&self, target: Target, part: Part, patch: Value) -> Result<(), Error> {
        let Target { key, uid, version, .. } = target;
        let mut patch = patch;
        if let Some(uid) = uid {
            patch["metadata"]["uid"] = json!(uid);
        }
        if let Some(version) = version {
            patch["metadata"]["resourceVersion"] = json!(version);
        }
        let (patch, params, request) = (Patch::Merge(patch), PatchParams::default(), request::<K>(&key));
        let patched: K = match part {
            Part::Main => self.send::<K, _>("patch", &key, request.patch(&key.name, &params, &patch)).await?,
            Part::Status => {
                let built = request.patch_subresource("status", &key.name, &params, &patch);
                self.send::<K, _>("patch status of", &key, built).await?
            }
        };
        self.cluster.observe(patched);
        Ok(())
    }

    async fn delete_one<K: Routed>(&self, target: Target, grace: Option<u32>) -> Result<(), Error> {
        let Target { key, uid, version, .. } = target;
        let params = DeleteParams {
            grace_period_seconds: grace,
            preconditions: Some(Preconditions { uid: uid.clone(), resource_version: version }),
            ..DeleteParams::default()
        };
        let answer: Result<Value, Error> =
            self.send::<K, _>("delete", &key, request::<K>(&key).delete(&key.name, &params)).await;
        match answer {
            // The object, if it goes in its own time; else a Status or the object as it was.
            Ok(answer) => {
                match serde_json::from_value::<K>(answer) {
                    Ok(object)
                        if object.meta().deletion_timestamp.is_some()
                            && (object.meta().deletion_grace_period_seconds != Some(0)
                                || object.meta().finalizers.iter().flatten().next().is_some()) =>
                    {
                        self.cluster.observe(object);
                    }
                    _ => self.cluster.forget::<K>(&key, uid.as_deref()),
                }
                Ok(())
            }
            Err(error) if error.is_not_found() => {
                self.cluster.forget::<K>(&key, uid.as_deref());
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn bind(&self, target: Target, node: String) -> Result<(), Error> {
        let key = target.key;
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(key.name.clone()),
                namespace: Some(key.namespace.clone()),
                uid: target.uid,
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Node".into()),
                name: Some(node),
                ..ObjectReference::default()
            },
        };
        let body = encode(&binding, &key)?;
        let built =
            request::<Pod>(&key).create_subresource("binding", &key.name, &PostParams::default(), body);
        self.send::<Pod, Value>("bind", &key, built).await.map(|_| ())
    }

    async fn notify(&self, notice: Notice) -> Result<(), Error> {
        let now = Time(Timestamp::now());
        // Events of cluster-scoped objects live in the default namespace.
        let namespace = notice.about.namespace.clone().unwrap_or_else(|| "default".into());
        let name = notice.about.name.clone().unwrap_or_default();
        let event = Event {
            metadata: ObjectMeta {
                // By time, as everyone's: events of the same second are listed in order. The last bits keep names apart.
                name: Some(format!(
                    "{name}.{:016x}",
                    now.0.as_nanosecond() & !0xfff | i128::from(rand::random::<u16>() & 0xfff)
                )),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: notice.about,
            type_: Some(
                match notice.kind {
                    NoticeKind::Normal => "Normal",
                    NoticeKind::Warning => "Warning",
                }
                .into(),
            ),
            reason: Some(notice.reason.into()),
            message: Some(notice.message),
            source: Some(EventSource { component: Some(notice.source.into()), host: None }),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            reporting_component: Some(notice.source.into()),
            ..Event::default()
        };
        let key = Key::new(namespace, name);
        let body = encode(&event, &key)?;
        let url = Event::url_path(&(), key.scope());
        let built = Request::new(url).create(&PostParams::default(), body);
        self.send::<Event, Value>("create", &key, built).await.map(|_| ())
    }

    async fn send<K, T>(
        &self,
        operation: &'static str,
        key: &Key,
        built: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<T, Error>
    where
        K: Resource<DynamicType = ()>,
        T: serde::de::DeserializeOwned,
    {
        let failed = |source: kube::Error| Error::Request {
            operation,
            kind: K::kind(&()).into_owned(),
            name: key.to_string(),
            source: Box::new(source),
        };
        let request = built.map_err(|error| failed(kube::Error::BuildRequest(error)))?;
        self.client.request(request).await.map_err(failed)
    }
}

/// Runs what a stream gives, several at once, until one fails and those begun before have ended; the first failure.
async fn all_begun<F: Future<Output = Result<(), Error>>>(
    mut jobs: impl futures::Stream<Item = F> + Unpin,
) -> Result<(), Error> {
    let mut running = FuturesUnordered::new();
    let mut outcome = Ok(());
    loop {
        while outcome.is_ok() && running.len() < AT_ONCE {
            match jobs.next().await {
                Some(job) => running.push(job),
                None => break,
            }
        }
        match running.next().await {
            Some(result) => outcome = outcome.and(result),
            None => return outcome,
        }
    }
}

fn request<K: Resource<DynamicType = ()>>(key: &Key) -> Request {
    Request::new(K::url_path(&(), key.scope()))
}

fn encode<T: serde::Serialize + Resource<DynamicType = ()>>(object: &T, key: &Key) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(object).map_err(|source| Error::Encode {
        kind: T::kind(&()).into_owned(),
        name: key.to_string(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test]
    async fn a_failure_stops_what_is_not_begun_and_no_more() {
        let (begun, ended) = (RefCell::new(0), RefCell::new(0));
        let jobs = futures::stream::iter(0..20).map(|number| {
            let (begun, ended) = (&begun, &ended);
            async move {
                *begun.borrow_mut() += 1;
                if number == 3 {
                    return Err(Error::Flag { flag: "--x", reason: "wrong".into() });
                }
                tokio::task::yield_now().await;
                *ended.borrow_mut() += 1;
                Ok(())
            }
        });
        assert!(all_begun(jobs).await.is_err());
        assert_eq!((*begun.borrow(), *ended.borrow()), (AT_ONCE, AT_ONCE - 1));
    }
}
