//! The store in one file, by redb: transactions, checksums, fsync at each commit.
//!
//! Called by `Store` alone, off the runtime's threads. After an error of the disk redb refuses all further work until it
//! is opened again (`StorageError::PreviousIo`), so a failed handle is dropped and the next call opens a new one: a disk
//! that was full and has room again needs no restart.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use redb::{Database, DatabaseError, ReadableDatabase, TableDefinition};

use super::StoreError;

const VALUES: TableDefinition<&str, &[u8]> = TableDefinition::new("values");

#[derive(Debug)]
pub struct Embedded {
    path: PathBuf,
    database: Mutex<Option<Database>>,
    /// Held by whoever changes something, over reading and writing.
    writing: Mutex<()>,
}

impl Embedded {
    pub fn new(path: PathBuf) -> Self {
        Self { path, database: Mutex::new(None), writing: Mutex::new(()) }
    }

    pub fn open(&self) -> Result<(), StoreError> {
        self.with(|_| Ok(()))
    }

    /// One writer at a time; readers are not kept waiting.
    pub fn exclusively<T>(&self, work: impl FnOnce(&Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        work(self)
    }

    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(VALUES)?;
            Ok(table.get(key)?.map(|value| value.value().to_vec()))
        })
    }

    pub fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(VALUES)?;
            let mut entries = Vec::new();
            for entry in table.range(prefix..)? {
                let (key, value) = entry?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                entries.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok(entries)
        })
    }

    pub fn write(&self, changes: &[(String, Option<Vec<u8>>)]) -> Result<(), StoreError> {
        self.with(|database| {
            let transaction = database.begin_write()?;
            {
                let mut table = transaction.open_table(VALUES)?;
                for (key, value) in changes {
                    match value {
                        Some(bytes) => drop(table.insert(key.as_str(), bytes.as_slice())?),
                        None => drop(table.remove(key.as_str())?),
                    }
                }
            }
            Ok(transaction.commit()?)
        })
    }

    pub fn failure(&self, reason: impl Display) -> StoreError {
        StoreError::Storage { path: self.path.clone(), reason: reason.to_string() }
    }

    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let mut slot = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let database = match slot.take() {
            Some(database) => database,
            None => self.create()?,
        };
        let result = work(&database).map_err(|error| self.failure(error));
        if result.is_ok() {
            *slot = Some(database);
        }
        result
    }

    fn create(&self) -> Result<Database, StoreError> {
        // It holds what apps are given: for this user alone, from its first byte.
        let made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path);
        made.map_err(|error| self.failure(error))?;
        let database = Database::create(&self.path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(self.path.clone()),
            other => self.failure(other),
        })?;
        // So that reading never meets a table that is not there.
        let table = database.begin_write().map_err(|error| self.failure(error))?;
        table.open_table(VALUES).map_err(|error| self.failure(error))?;
        table.commit().map_err(|error| self.failure(error))?;
        Ok(database)
    }
}
