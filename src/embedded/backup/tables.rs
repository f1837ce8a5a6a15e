//! Copying a database: what a transaction sees, into a new file.

use std::path::Path;

use redb::{Database, Key, ReadTransaction, ReadableTable, TableDefinition, Value};
use tokio_util::sync::CancellationToken;

/// Memory for pages of the new file.
const CACHE_BYTES: usize = 16 << 20;

/// Bytes of rows of one transaction of the new file.
const CHUNK_BYTES: usize = 8 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Database(String),
    #[error("stopped")]
    Stopped,
}

impl<E: Into<redb::Error>> From<E> for Error {
    fn from(error: E) -> Self {
        Error::Database(error.into().to_string())
    }
}

/// A new database.
pub fn create(path: &Path) -> Result<Database, Error> {
    Ok(redb::Builder::new().set_cache_size(CACHE_BYTES).create(path)?)
}

/// Copies one table, a few megabytes with each commit.
pub fn copy<K: Key + 'static, V: Value + 'static>(
    from: &ReadTransaction,
    to: &Database,
    table: TableDefinition<'_, K, V>,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let source = from.open_table(table)?;
    let mut rows = source.iter()?;
    loop {
        if stop.is_cancelled() {
            return Err(Error::Stopped);
        }
        let transaction = to.begin_write()?;
        let mut bytes = 0;
        {
            let mut target = transaction.open_table(table)?;
            for row in rows.by_ref() {
                let (key, value) = row?;
                let (key, value) = (key.value(), value.value());
                bytes += K::as_bytes(&key).as_ref().len() + V::as_bytes(&value).as_ref().len();
                target.insert(key, value)?;
                if bytes >= CHUNK_BYTES {
                    break;
                }
            }
        }
        transaction.commit()?;
        if bytes < CHUNK_BYTES {
            return Ok(());
        }
    }
}
