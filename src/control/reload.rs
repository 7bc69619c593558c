//! A reload of conf: from a signal, a changed file or `opri reload`, one at a time.
//!
//! The rule: new sockets are bound before anything else changes; a fault in `prime.toml` changes nothing, one in a
//! project's file leaves that project as it was; what did not change is not touched.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};

use crate::control::conf::{self, Conf};
use crate::control::deploy::{self, Workshop};
use crate::control::web::api::Reloaded;
use crate::report::Fault;

/// Reloads that may wait; each does all that those before it would have done.
const QUEUE: usize = 16;

/// A handle to the one who reloads; clones are the same.
#[derive(Debug, Clone)]
pub struct Reload {
    dir: PathBuf,
    orders: mpsc::Sender<oneshot::Sender<Reloaded>>,
    last: Arc<Mutex<Last>>,
}

/// What the last load found wrong, and of which content.
#[derive(Debug)]
struct Last {
    faults: Vec<Fault>,
    content: u64,
}

impl Reload {
    /// `faults` are those of the first load; `publish` tells everybody of a new conf.
    pub fn begin(dir: PathBuf, faults: Vec<Fault>, publish: watch::Sender<Arc<Conf>>, workshop: Arc<Workshop>) -> Self {
        let (orders, mut queue) = mpsc::channel::<oneshot::Sender<Reloaded>>(QUEUE);
        workshop.observed.reloaded(faults.is_empty());
        let last = Arc::new(Mutex::new(Last { faults, content: 0 }));
        let reloader = Reloader { dir: dir.clone(), publish, workshop, last: last.clone() };
        tokio::spawn(async move {
            while let Some(reply) = queue.recv().await {
                let _ = reply.send(reloader.reload().await);
            }
        });
        Self { dir, orders, last }
    }

    /// Where conf lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reloads and tells what came of it.
    pub async fn now(&self) -> Reloaded {
        let (reply, answer) = oneshot::channel();
        let _ = self.orders.send(reply).await;
        answer.await.unwrap_or_default()
    }

    /// What the last load found wrong.
    pub fn faults(&self) -> Vec<Fault> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).faults.clone()
    }

    /// Reloads when the last load had faults and the files are others by now.
    pub async fn if_mended(&self) {
        let Some(faulty) = self.faulty_content() else { return };
        if fingerprint(&self.dir).await != faulty {
            self.now().await;
        }
    }

    fn faulty_content(&self) -> Option<u64> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        (!last.faults.is_empty()).then_some(last.content)
    }
}

#[derive(Debug)]
struct Reloader {
    dir: PathBuf,
    publish: watch::Sender<Arc<Conf>>,
    workshop: Arc<Workshop>,
    last: Arc<Mutex<Last>>,
}

impl Reloader {
    async fn reload(&self) -> Reloaded {
        let content = fingerprint(&self.dir).await;
        let outcome = self.apply().await;
        for fault in &outcome.faults {
            tracing::error!("{}", fault.to_string().trim_end());
        }
        if let Some(changes) = outcome.changes.as_ref().filter(|_| outcome.is_applied) {
            tracing::info!(changes, "conf is reloaded");
        }
        self.workshop.observed.reloaded(outcome.faults.is_empty());
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Last { faults: outcome.faults.clone(), content };
        outcome
    }

    async fn apply(&self) -> Reloaded {
        let old = self.workshop.conf();
        let (dir, previous) = (self.dir.clone(), old.clone());
        let loading = tokio::task::spawn_blocking(move || conf::load(&dir, Some(&previous)));
        let previews = match self.workshop.history.previewed().await {
            Ok(previews) => previews,
            Err(error) => return self.refused(format!("the previews cannot be read: {error}"), None),
        };
        let (new, faults) = match loading.await {
            Ok(Ok(loaded)) => (loaded.conf.with_previews(&previews), loaded.faults),
            Ok(Err(faults)) => return Reloaded { faults, ..Reloaded::default() },
            Err(error) => return self.refused(format!("conf could not be loaded: {error}"), None),
        };
        if let Some(key) = needs_restart(&old, &new) {
            let hint = "stop `opri serve` and start it again, or take the change back";
            return self.refused(format!("`{key}` cannot change while Prime runs"), Some(hint));
        }
        let changes = conf::changes(&old, &new);
        let new = Arc::new(new);
        if let Err(error) = self.workshop.live.conf(new.clone()).await {
            return self.refused(crate::report::with_causes(&error), None);
        }
        self.publish.send_replace(new.clone());
        self.keep(new.clone(), faults.clone()).await;
        deploy::conf_changed(&self.workshop, &old, &new).await;
        Reloaded { is_applied: true, changes, faults }
    }

    async fn keep(&self, conf: Arc<Conf>, faults: Vec<Fault>) {
        let dir = self.dir.clone();
        let keeping = tokio::task::spawn_blocking(move || conf::keep(&dir, &conf, &faults));
        if let Ok(Err(error)) = keeping.await {
            tracing::warn!(%error, "conf could not be kept");
        }
    }

    /// For what is wrong with the machine's conf only in this moment.
    fn refused(&self, message: String, hint: Option<&str>) -> Reloaded {
        let file = self.dir.join("prime.toml").display().to_string();
        let hint = hint.map(str::to_owned);
        let fault = Fault { message, file, excerpt: None, label: String::new(), hint };
        Reloaded { faults: vec![fault], ..Reloaded::default() }
    }
}

async fn fingerprint(dir: &Path) -> u64 {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || conf::fingerprint(&dir)).await.unwrap_or_default()
}

/// What a running control cannot change under itself.
fn needs_restart(old: &Conf, new: &Conf) -> Option<&'static str> {
    let (old, new) = (&old.machine, &new.machine);
    match () {
        () if old.state_dir != new.state_dir => Some("state_dir"),
        () if old.runtime != new.runtime => Some("runtime"),
        () if old.edge_user != new.edge_user => Some("[edge] user"),
        () if old.build.parallel != new.build.parallel => Some("[build] parallel"),
        () => None,
    }
}
