//! The durable copy: one redb file with every object, and the last revision.

use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

/// (kind, namespace/name) → the object's JSON.
const OBJECTS: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("objects");
/// Single numbers.
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
/// The revision of the last write, in [`NUMBERS`].
const REVISION: &str = "revision";
/// Everything is read once, at the start; then pages are only written.
const CACHE_BYTES: usize = 8 << 20;

/// A failure of the store's file.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The directory of the file can't be made.
    #[error("cannot create directory {path}: {source}", path = .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// redb refuses the file; most often another server has it open.
    #[error("cannot {operation} {path}: {source}", path = .path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// redb's reason.
        source: Box<redb::Error>,
    },
    /// An object in the file isn't one.
    #[error("{path}: {kind} {key} is not usable: {reason}", path = .path.display())]
    Object {
        /// The file.
        path: PathBuf,
        /// The kind, `GROUP/PLURAL`.
        kind: String,
        /// `NAMESPACE/NAME`.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

/// One object's change to be written.
pub(crate) struct Row<'a> {
    pub(crate) kind: &'a str,
    pub(crate) key: &'a str,
    /// Nothing deletes.
    pub(crate) json: Option<&'a [u8]>,
}

/// The open file.
pub(crate) struct Disk {
    path: PathBuf,
    database: Database,
}

impl Disk {
    /// Opens or makes the file.
    pub(crate) fn open(path: &Path) -> Result<Disk, DiskError> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)
                .map_err(|source| DiskError::Directory { path: directory.to_owned(), source })?;
        }
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(|e| error("open", path, e.into()))?;
        let disk = Disk { path: path.to_owned(), database };
        disk.write(&[], None).map_err(|e| error("initialize", path, e))?;
        Ok(disk)
    }

    /// Reads everything: gives each object to `each`, and returns the last revision.
    pub(crate) fn load(
        &self,
        mut each: impl FnMut(&str, &str, &[u8]) -> Result<(), String>,
    ) -> Result<u64, DiskError> {
        let read = |e: redb::Error| error("read", &self.path, e);
        let transaction = self.database.begin_read().map_err(|e| read(e.into()))?;
        let objects = transaction.open_table(OBJECTS).map_err(|e| read(e.into()))?;
        for row in objects.iter().map_err(|e| read(e.into()))? {
            let (at, json) = row.map_err(|e| read(e.into()))?;
            let (kind, key) = at.value();
            each(kind, key, json.value()).map_err(|reason| DiskError::Object {
                path: self.path.clone(),
                kind: kind.to_owned(),
                key: key.to_owned(),
                reason,
            })?;
        }
        let numbers = transaction.open_table(NUMBERS).map_err(|e| read(e.into()))?;
        let revision = numbers.get(REVISION).map_err(|e| read(e.into()))?;
        Ok(revision.map_or(0, |number| number.value()))
    }

    /// Writes rows and the revision in one transaction; on the disk when it returns.
    pub(crate) fn write(&self, rows: &[Row<'_>], revision: Option<u64>) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut objects = transaction.open_table(OBJECTS)?;
            for row in rows {
                match row.json {
                    Some(json) => drop(objects.insert((row.kind, row.key), json)?),
                    None => drop(objects.remove((row.kind, row.key))?),
                }
            }
            let mut numbers = transaction.open_table(NUMBERS)?;
            if let Some(revision) = revision {
                numbers.insert(REVISION, revision)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

fn error(operation: &'static str, path: &Path, source: redb::Error) -> DiskError {
    DiskError::File { operation, path: path.to_owned(), source: Box::new(source) }
}
