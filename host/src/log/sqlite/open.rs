//! From a data folder to open connections, or a reason why not that says what to
//! do. A folder that is refused is left as it was; only its lock file may be new.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::database::{SqliteSettings, explain};
use crate::log::schema::{self, Found};

pub(super) const DATABASE_FILE: &str = "tidepool.db";
const LOCK_FILE: &str = "tidepool.lock";

/// How every SQLite file begins (<https://www.sqlite.org/fileformat2.html>).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// How long a connection waits for a lock in the file. Only readers that recover
/// the write-ahead log after a crash ever hold one for long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Prepared statements that a connection keeps.
const STATEMENT_CACHE: usize = 32;

/// The permissions of a folder, and of a database, that are made here. What SQLite puts
/// beside a database (`-wal`, `-shm`) gets the permissions of the database.
const FOLDER_MODE: u32 = 0o700;
const DATABASE_MODE: u32 = 0o600;

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Something else has that name.
    #[error("{} is not a folder; choose another with --data", .0.display())]
    NotAFolder(PathBuf),
    /// No permission, or a file system that is read-only.
    #[error("data folder {} cannot be written ({source}); change its permissions or choose another with --data", .folder.display())]
    NotWritable {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it.
    #[error("data folder {} is in use by another tidepool; stop it or choose another with --data", .0.display())]
    InUse(PathBuf),
    /// The database cannot be trusted.
    #[error("{} is damaged ({detail}); restore it from a copy, or move it away to start empty", .file.display())]
    Damaged {
        /// The database file.
        file: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Another program's database.
    #[error("{} is a database of another program; move it away or choose another folder with --data", .0.display())]
    Foreign(PathBuf),
    /// Written by a newer binary.
    #[error("{} was written by a newer tidepool (schema {found}, this one knows {known}); start that one, or choose another folder with --data", .file.display())]
    Newer {
        /// The database file.
        file: PathBuf,
        /// Its schema.
        found: usize,
        /// The newest schema that this binary knows.
        known: usize,
    },
    /// Anything else.
    #[error("data folder {} cannot be opened ({detail}); check the disk, or choose another with --data", .folder.display())]
    Unusable {
        /// The folder.
        folder: PathBuf,
        /// What the system or the database said.
        detail: String,
    },
}

impl OpenError {
    pub(super) fn io(folder: &Path, source: io::Error) -> OpenError {
        let folder = folder.to_path_buf();
        match source.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                OpenError::NotWritable { folder, source }
            }
            ErrorKind::NotADirectory | ErrorKind::AlreadyExists => OpenError::NotAFolder(folder),
            _ => OpenError::Unusable {
                folder,
                detail: source.to_string(),
            },
        }
    }
}

/// An open data folder.
pub(super) struct Opened {
    /// Holds the folder for this process until it is dropped.
    pub lock: File,
    pub writer: Connection,
    pub readers: Vec<Connection>,
    /// The position of the last row of the log.
    pub last_seq: i64,
}

/// Opens a folder.
pub(super) fn open(folder: &Path, settings: &SqliteSettings) -> Result<Opened, OpenError> {
    let failed = |source| OpenError::io(folder, source);
    // All values and the hashes of tokens will be in it: for nobody else. What is there
    // already has the permissions that somebody gave it.
    let mut folders = DirBuilder::new();
    folders.recursive(true).mode(FOLDER_MODE);
    folders.create(folder).map_err(failed)?;
    let lock = lock(folder)?;
    let file = folder.join(DATABASE_FILE);
    check_header(folder, &file)?;
    create(&file).map_err(failed)?;
    open_database(&file, settings, lock).map_err(|refusal| match refusal {
        Refusal::Typed(error) => error,
        Refusal::Sqlite(error) => match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => OpenError::Damaged {
                file,
                detail: error.to_string(),
            },
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
                OpenError::NotWritable {
                    folder: folder.into(),
                    source: io::Error::other(error),
                }
            }
            _ => OpenError::Unusable {
                folder: folder.into(),
                detail: explain(&error),
            },
        },
    })
}

/// Makes an empty database, where there is none yet.
fn create(file: &Path) -> io::Result<()> {
    let mut new = OpenOptions::new();
    let made = new.write(true).create_new(true).mode(DATABASE_MODE);
    match made.open(file) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn lock(folder: &Path) -> Result<File, OpenError> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join(LOCK_FILE));
    let file = file.map_err(|source| OpenError::io(folder, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(folder.into())),
        Err(TryLockError::Error(source)) => Err(OpenError::io(folder, source)),
    }
}

/// Looks at the first bytes before SQLite does: it would take a file that begins
/// with zeros, or is shorter than a page, for an empty database.
fn check_header(folder: &Path, file: &Path) -> Result<(), OpenError> {
    let mut start = Vec::new();
    match File::open(file) {
        Ok(open) => open
            .take(100)
            .read_to_end(&mut start)
            .map_err(|source| OpenError::io(folder, source))?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(OpenError::io(folder, error)),
    };
    // An empty one is what a crash leaves at the very first start.
    if start.is_empty() || (start.len() == 100 && start.starts_with(MAGIC)) {
        return Ok(());
    }
    Err(OpenError::Damaged {
        file: file.into(),
        detail: "it does not begin as a SQLite database does".into(),
    })
}

enum Refusal {
    Typed(OpenError),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Refusal {
        Refusal::Sqlite(error)
    }
}

fn open_database(file: &Path, settings: &SqliteSettings, lock: File) -> Result<Opened, Refusal> {
    let has_log = write_ahead_log(file).exists();
    let mut writer = connect(
        file,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
    )?;
    // Until it is known to be ours and whole, closing must not move what is in the
    // write-ahead log into the file. Where there was no such log, closing takes the
    // one away that looking has made.
    writer.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, has_log)?;
    let seen = match schema::inspect(&writer)? {
        Found::Empty => 0,
        Found::Ours(seen) => seen,
        Found::Newer(found) => {
            let known = schema::MIGRATIONS.len();
            return Err(Refusal::Typed(OpenError::Newer {
                file: file.into(),
                found,
                known,
            }));
        }
        Found::Foreign => return Err(Refusal::Typed(OpenError::Foreign(file.into()))),
    };
    if let Some(detail) = find_damage(&writer, settings.damage_check)? {
        return Err(Refusal::Typed(OpenError::Damaged {
            file: file.into(),
            detail,
        }));
    }
    writer.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;

    writer.pragma_update(None, "journal_mode", "WAL")?;
    // A commit is on disk when it returns.
    writer.pragma_update(None, "synchronous", "FULL")?;
    writer.pragma_update(None, "wal_autocheckpoint", settings.checkpoint_pages)?;
    writer.pragma_update(None, "cache_size", -i64::from(settings.page_cache_kib))?;
    let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
    schema::migrate(&transaction, seen)?;
    transaction.commit()?;

    let mut readers = Vec::new();
    for _ in 0..settings.readers.max(1) {
        readers.push(connect(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?);
    }
    let last_seq = writer.query_row("SELECT coalesce(max(seq), 0) FROM kv_log", (), |row| {
        row.get(0)
    })?;
    Ok(Opened {
        lock,
        writer,
        readers,
        last_seq,
    })
}

/// Where SQLite keeps the write-ahead log of a database.
fn write_ahead_log(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

fn connect(file: &Path, mode: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(file, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    Ok(connection)
}

/// SQLite's own check of every page, for a bounded time: what is found is damage,
/// what is not looked at in time is left to the reads that meet it.
fn find_damage(connection: &Connection, bound: Duration) -> rusqlite::Result<Option<String>> {
    let interrupt = connection.get_interrupt_handle();
    let (done, is_done) = channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if is_done.recv_timeout(bound).is_err() {
                interrupt.interrupt();
            }
        });
        let found =
            connection.query_row("PRAGMA quick_check(1)", (), |row| row.get::<_, String>(0));
        let _ = done.send(());
        match found {
            Ok(verdict) if verdict == "ok" => Ok(None),
            // Its second line names the place.
            Ok(verdict) => Ok(Some(verdict.lines().last().unwrap_or_default().into())),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    })
}
