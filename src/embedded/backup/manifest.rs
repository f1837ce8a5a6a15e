//! What a backup says of itself, in its file `BACKUP`. It is written last: a directory without it is no backup.
//!
//! ```text
//! hubweave backup, format 1
//! {"cluster":"local","region":"eu-central-1","time":"…","head":1234,"incarnation":"…"}
//! SHA256 SIZE PATH                       one line for each file
//! end FILES SHA256                       of all lines above
//! ```

use std::{
    fs,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::{Component, Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::{
    core::{key::hex, object::unhex},
    ports::backup::About,
};

/// Its name.
pub const FILE: &str = "BACKUP";

/// Its name until it is whole.
pub const TEMPORARY: &str = "BACKUP.tmp";

const TITLE: &str = "hubweave backup, format ";
const VERSION: &str = "1";

/// No line is longer.
const LINE_BYTES_MAX: u64 = 16 << 10;

/// Why a directory cannot be read as a backup.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}", path.display())]
    Disk { path: PathBuf, source: io::Error },
    #[error("{}: no backup, or one that was never finished: it has no file {FILE}", .0.display())]
    Absent(PathBuf),
    #[error("{}: has format {found}; this build reads format {VERSION}", path.display())]
    Version { path: PathBuf, found: String },
    #[error("{}: damaged: {why}", path.display())]
    Damaged { path: PathBuf, why: String },
}

/// A file of the backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub sha256: [u8; 32],
    pub size: u64,
    /// Relative to the backup, and to the region's data.
    pub path: String,
}

/// Writes the manifest, under its temporary name until the end.
pub struct Writer {
    root: PathBuf,
    file: BufWriter<fs::File>,
    sum: Sha256,
    pub files: u64,
    pub bytes: u64,
}

impl Writer {
    pub fn create(root: &Path) -> io::Result<Writer> {
        let file = fs::OpenOptions::new().write(true).create_new(true).open(root.join(TEMPORARY))?;
        let file = BufWriter::new(file);
        Ok(Writer { root: root.to_owned(), file, sum: Sha256::new(), files: 0, bytes: 0 })
    }

    /// Before the first file.
    pub fn begin(&mut self, about: &About) -> io::Result<()> {
        let about = serde_json::to_string(about)?;
        self.line(&format!("{TITLE}{VERSION}\n{about}\n"))
    }

    pub fn add(&mut self, listed: &Listed) -> io::Result<()> {
        self.files += 1;
        self.bytes += listed.size;
        self.line(&format!("{} {} {}\n", hex(&listed.sha256), listed.size, listed.path))
    }

    /// Gives it its name: from here on the directory is a backup. All that it lists is durable.
    pub fn finish(mut self) -> io::Result<()> {
        let end = format!("end {} {}\n", self.files, hex(&self.sum.clone().finalize()));
        self.line(&end)?;
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        fs::rename(self.root.join(TEMPORARY), self.root.join(FILE))?;
        fs::File::open(&self.root)?.sync_all()
    }

    fn line(&mut self, text: &str) -> io::Result<()> {
        self.sum.update(text);
        self.file.write_all(text.as_bytes())
    }
}

/// Reads the manifest, file by file.
pub struct Reader {
    path: PathBuf,
    file: BufReader<fs::File>,
    sum: Sha256,
    files: u64,
}

impl Reader {
    /// # Errors
    /// There is none, or it is of another format.
    pub fn open(root: &Path) -> Result<(About, Reader), Error> {
        let path = root.join(FILE);
        let file = fs::File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Error::Absent(root.to_owned()),
            _ => Error::Disk { path: path.clone(), source },
        })?;
        let mut reader = Reader { path, file: BufReader::new(file), sum: Sha256::new(), files: 0 };
        let title = reader.line()?;
        match title.strip_prefix(TITLE) {
            Some(VERSION) => {}
            Some(found) => return Err(Error::Version { path: reader.path, found: found.to_owned() }),
            None => return Err(reader.damaged("it does not begin as a backup's does")),
        }
        let about = reader.line()?;
        let about = serde_json::from_str(&about).map_err(|error| reader.damaged(&error.to_string()))?;
        Ok((about, reader))
    }

    /// The next file; none when all were read and the manifest is whole.
    ///
    /// # Errors
    /// It cannot be read, or is not as it was written.
    pub fn next(&mut self) -> Result<Option<Listed>, Error> {
        let sum: [u8; 32] = self.sum.clone().finalize().into();
        let line = self.line()?;
        let mut parts = line.splitn(3, ' ');
        let parts = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next());
        match parts {
            ("end", files, Some(expected)) => match files.parse() == Ok(self.files) && unhex(expected) == Some(sum) {
                true => Ok(None),
                false => Err(self.damaged("its lines are not those that were written")),
            },
            (sha256, size, Some(path)) => {
                let within = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
                let listed = unhex(sha256).zip(size.parse().ok()).filter(|_| within && !path.is_empty());
                let (sha256, size) = listed.ok_or_else(|| self.damaged("a line that is none"))?;
                self.files += 1;
                Ok(Some(Listed { sha256, size, path: path.to_owned() }))
            }
            _ => Err(self.damaged("it ends too early")),
        }
    }

    fn line(&mut self) -> Result<String, Error> {
        let mut line = Vec::new();
        let read = self.file.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        read.map_err(|source| Error::Disk { path: self.path.clone(), source })?;
        self.sum.update(&line);
        match line.pop() {
            Some(b'\n') => String::from_utf8(line).map_err(|_| self.damaged("it is no text")),
            _ => Err(self.damaged("it ends too early")),
        }
    }

    fn damaged(&self, why: &str) -> Error {
        Error::Damaged { path: self.path.clone(), why: why.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About {
        About {
            cluster: "c".to_owned(),
            region: "a".to_owned(),
            time: "2026-11-23T10:00:00Z".to_owned(),
            head: 7,
            incarnation: None,
        }
    }

    fn listed(path: &str) -> Listed {
        Listed { sha256: [7; 32], size: 5, path: path.to_owned() }
    }

    fn written(root: &Path) {
        let mut writer = Writer::create(root).unwrap();
        writer.begin(&about()).unwrap();
        writer.add(&listed("log/1.log")).unwrap();
        writer.add(&listed("a name with blanks")).unwrap();
        assert!(matches!(Reader::open(root), Err(Error::Absent(_))), "before it is whole");
        writer.finish().unwrap();
    }

    fn read(root: &Path) -> Result<(About, Vec<Listed>), Error> {
        let (about, mut reader) = Reader::open(root)?;
        let mut files = Vec::new();
        while let Some(listed) = reader.next()? {
            files.push(listed);
        }
        Ok((about, files))
    }

    #[test]
    fn what_was_written_reads_back_and_no_byte_of_it_may_change_or_lack() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path());
        let files = vec![listed("log/1.log"), listed("a name with blanks")];
        assert_eq!(read(folder.path()).unwrap(), (about(), files));
        let path = folder.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            fs::write(&path, flipped).unwrap();
            assert!(read(folder.path()).is_err(), "byte {at} changed");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(read(folder.path()).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn another_format_is_refused_by_its_number_and_a_path_out_of_the_backup_as_damage() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        fs::write(&path, "hubweave backup, format 2\n").unwrap();
        let refused = read(folder.path()).unwrap_err().to_string();
        assert!(refused.ends_with("has format 2; this build reads format 1"), "{refused}");
        for path in ["../IDENTITY", "/IDENTITY", "log/../../IDENTITY", ""] {
            let folder = tempfile::tempdir().unwrap();
            let mut writer = Writer::create(folder.path()).unwrap();
            writer.begin(&about()).unwrap();
            writer.add(&listed(path)).unwrap();
            writer.finish().unwrap();
            assert!(matches!(read(folder.path()), Err(Error::Damaged { .. })), "{path}");
        }
    }
}
