//! What control must not forget: small JSON values under keys that are paths, as `release/shop/master/0000000003`.
//!
//! The contract, whatever is behind it: a batch is stored whole or not at all, and is on disk when `write` returns; a
//! failed write leaves what was there; a listing comes in the order of its keys. One process owns a store at a time.

mod embedded;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use embedded::Embedded;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("another `opri serve` uses the state in {0}")]
    InUse(PathBuf),
    #[error("the store {path} cannot be read or written: {reason}")]
    Storage { path: PathBuf, reason: String },
    #[error("the value under {key} does not parse: {reason}")]
    Malformed { key: String, reason: String },
}

/// A handle to the store; clones are the same store.
#[derive(Debug, Clone)]
pub struct Store {
    behind: Arc<Embedded>,
}

/// Changes that belong together.
#[derive(Debug, Default)]
pub struct Batch {
    changes: Vec<(String, Option<Vec<u8>>)>,
    malformed: Option<StoreError>,
}

impl Batch {
    pub fn put<T: Serialize>(mut self, key: impl Into<String>, value: &T) -> Self {
        let key = key.into();
        match serde_json::to_vec(value) {
            Ok(bytes) => self.changes.push((key, Some(bytes))),
            Err(error) => self.malformed = Some(StoreError::Malformed { key, reason: error.to_string() }),
        }
        self
    }

    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.changes.push((key.into(), None));
        self
    }
}

impl Store {
    /// Opens `state.redb` in the state directory, or makes it.
    pub async fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let path = state_dir.join("state.redb");
        let behind = Arc::new(Embedded::new(path));
        let store = Self { behind };
        store.run(|embedded| embedded.open()).await?;
        Ok(store)
    }

    pub async fn get<T: DeserializeOwned>(&self, key: impl Into<String>) -> Result<Option<T>, StoreError> {
        let key = key.into();
        let bytes = self.run({
            let key = key.clone();
            move |embedded| embedded.get(&key)
        });
        bytes.await?.map(|bytes| parse(key, &bytes)).transpose()
    }

    /// All values whose keys begin with `prefix`, in the order of their keys.
    pub async fn list<T: DeserializeOwned>(&self, prefix: impl Into<String>) -> Result<Vec<T>, StoreError> {
        let prefix = prefix.into();
        let entries = self.run(move |embedded| embedded.list(&prefix)).await?;
        entries.into_iter().map(|(key, bytes)| parse(key, &bytes)).collect()
    }

    /// The keys that begin with `prefix` and whose values are as wanted.
    pub async fn keys<T: DeserializeOwned>(
        &self,
        prefix: impl Into<String>,
        is_wanted: impl Fn(&T) -> bool,
    ) -> Result<Vec<String>, StoreError> {
        let prefix = prefix.into();
        let entries = self.run(move |embedded| embedded.list(&prefix)).await?;
        let mut keys = Vec::new();
        for (key, bytes) in entries {
            if is_wanted(&parse(key.clone(), &bytes)?) {
                keys.push(key);
            }
        }
        Ok(keys)
    }

    pub async fn write(&self, batch: Batch) -> Result<(), StoreError> {
        if let Some(malformed) = batch.malformed {
            return Err(malformed);
        }
        self.run(move |embedded| embedded.exclusively(|embedded| embedded.write(&batch.changes))).await
    }

    /// Changes one value in one step: nobody else's change comes between. `change` sees what is there and says what
    /// shall be, `None` for nothing; tells what it said.
    pub async fn update<T>(
        &self,
        key: impl Into<String>,
        change: impl FnOnce(Option<T>) -> Option<T> + Send + 'static,
    ) -> Result<Option<T>, StoreError>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
    {
        let key = key.into();
        self.run(move |embedded| {
            embedded.exclusively(|embedded| {
                let before = embedded.get(&key)?.map(|bytes| parse(key.clone(), &bytes)).transpose()?;
                let after = change(before);
                let batch = match &after {
                    Some(value) => Batch::default().put(key, value),
                    None => Batch::default().delete(key),
                };
                match batch.malformed {
                    Some(malformed) => Err(malformed),
                    None => embedded.write(&batch.changes).map(|()| after),
                }
            })
        })
        .await
    }

    /// The disk is waited for elsewhere than on the runtime's threads.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Embedded) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let behind = self.behind.clone();
        let done = tokio::task::spawn_blocking(move || work(&behind)).await;
        done.unwrap_or_else(|error| Err(self.behind.failure(error)))
    }
}

fn parse<T: DeserializeOwned>(key: String, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| StoreError::Malformed { key, reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn batches_are_whole_and_survive_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        store.write(Batch::default().put("a/2", &2).put("a/1", &1).put("b", &3)).await.unwrap();
        store.write(Batch::default().delete("b")).await.unwrap();
        drop(store);
        let store = Store::open(dir.path()).await.unwrap();
        assert_eq!(store.list::<u32>("a/").await.unwrap(), [1, 2]);
        assert_eq!(store.get::<u32>("b").await.unwrap(), None);
        assert!(store.get::<String>("a/1").await.is_err());
    }

    #[tokio::test]
    async fn updates_do_not_lose_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let counting = (0..20).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.update("n", |n: Option<u32>| Some(n.unwrap_or(0) + 1)).await.unwrap() })
        });
        for task in counting.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        assert_eq!(store.get::<u32>("n").await.unwrap(), Some(20));
    }

    #[tokio::test]
    async fn a_second_owner_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Store::open(dir.path()).await.unwrap();
        assert!(matches!(Store::open(dir.path()).await, Err(StoreError::InUse(_))));
    }
}
