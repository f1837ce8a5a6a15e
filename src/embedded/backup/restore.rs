//! From a backup to a region's data.
//!
//! The files are copied beside the data, each against its checksum, and made durable. Then both directories change their
//! names, at once where the file system can: whoever looks for the data finds the old or the new. What stood there is
//! moved aside and never removed.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, lchown},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    holds_data,
    manifest::{self, Listed, Reader},
    target::{self, copy, read_from, sync_folder},
};
use crate::ports::backup::About;

/// What processes keep in a data directory for themselves. It goes over into the new one as it is: an `up` that runs has
/// locked the one and looks for the other.
pub const OF_PROCESSES: [&str; 3] = ["agent.hold", "agent.pid", "up.lock"];

/// Why nothing was restored. The data is as it was, or the error says where it is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    #[error(
        "{}: a backup of region `{}` of cluster `{}`, not of region `{region}` of cluster `{cluster}`",
        from.display(), about.region, about.cluster
    )]
    Foreign { from: PathBuf, about: Box<About>, cluster: String, region: String },
    #[error("{}: damaged: it is not the file that was backed up", .0.display())]
    Damaged(PathBuf),
    #[error("{}: damaged: the file is not there", .0.display())]
    Missing(PathBuf),
    #[error("{}: not empty; --replace moves what is there aside", .0.display())]
    Occupied(PathBuf),
    #[error("{0}")]
    Disk(#[from] target::Error),
    #[error(
        "{}: cannot be replaced: {source} (it must be a directory that can be renamed: no mount point, and not the only \
         directory that you may write to)",
        data_dir.display()
    )]
    Swap { data_dir: PathBuf, source: io::Error },
}

/// A backup whose manifest is whole, of the right region.
pub struct Checked {
    from: PathBuf,
    about: About,
}

/// A backup that is a region's data now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Restored {
    pub backup: About,
    pub data_dir: PathBuf,
    /// Where the data lies that stood there before.
    pub replaced: Option<PathBuf>,
    pub files: u64,
    pub bytes: u64,
}

/// Reads the manifest, and nothing else yet.
///
/// # Errors
/// No whole backup, or another region's.
pub fn check(from: &Path, cluster: &str, region: &str) -> Result<Checked, Error> {
    let (about, mut reader) = Reader::open(from)?;
    if about.cluster != cluster || about.region != region {
        let (cluster, region) = (cluster.to_owned(), region.to_owned());
        return Err(Error::Foreign { from: from.to_owned(), about: Box::new(about), cluster, region });
    }
    while reader.next()?.is_some() {}
    Ok(Checked { from: from.to_owned(), about })
}

impl Checked {
    /// Makes the backup the data in `data_dir`. Nobody else uses that: the caller holds its lock.
    ///
    /// # Errors
    /// The backup is damaged, the data stands in the way, or the disk fails. The data is as it was.
    pub fn restore(self, data_dir: &Path, replace: bool, moment: &str) -> Result<Restored, Error> {
        let real = fs::canonicalize(data_dir).map_err(target::Error::disk(data_dir))?;
        let had_data = holds_data(&real).map_err(target::Error::disk(&real))?;
        if had_data && !replace {
            return Err(Error::Occupied(data_dir.to_owned()));
        }
        let swap = |source| Error::Swap { data_dir: data_dir.to_owned(), source };
        if is_mount_point(&real).map_err(swap)? {
            // Before the copy, which may take long.
            return Err(swap(io::ErrorKind::CrossesDevices.into()));
        }
        let staged = Staged::create(beside(&real, &format!("restoring-{moment}")))?;
        let (files, bytes) = self.copy_to(&staged.0)?;
        for name in OF_PROCESSES {
            match fs::hard_link(real.join(name), staged.0.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                linked => linked.map_err(target::Error::disk(&real.join(name)))?,
            }
        }
        let to_own = |source| target::Error::disk(&staged.0)(source);
        belong_like(&real, &staged.0).map_err(to_own)?;
        sync_folders(&staged.0)?;
        let aside = beside(&real, &format!("before-restore-{moment}"));
        exchange(staged, &real, &aside).map_err(swap)?;
        // The data is in its place: what fails from here on is told, and changes nothing of that.
        if let Some(Err(error)) = real.parent().map(sync_folder) {
            tracing::warn!(%error, "the names may come back as they were after a power cut");
        }
        if !had_data && let Err(error) = fs::remove_dir_all(&aside) {
            tracing::warn!(directory = %aside.display(), %error, "an empty directory stays");
        }
        Ok(Restored {
            backup: self.about,
            data_dir: data_dir.to_owned(),
            replaced: had_data.then_some(aside),
            files,
            bytes,
        })
    }

    /// Answers how many files, and their bytes.
    fn copy_to(&self, staged: &Path) -> Result<(u64, u64), Error> {
        let (_, mut reader) = Reader::open(&self.from)?;
        let never = CancellationToken::new();
        let (mut files, mut bytes) = (0, 0);
        while let Some(Listed { sha256, size, path }) = reader.next()? {
            let (source, to) = (self.from.join(&path), staged.join(&path));
            let file = fs::File::open(&source).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Error::Missing(source.clone()),
                _ => target::Error::disk(&source)(error).into(),
            })?;
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder).map_err(target::Error::disk(folder))?;
            }
            let length = file.metadata().map_err(target::Error::disk(&source))?.len();
            if length != size || copy(&to, size, &never, read_from(&file))? != sha256 {
                return Err(Error::Damaged(source));
            }
            files += 1;
            bytes += size;
        }
        Ok((files, bytes))
    }
}

/// A directory on its way; removed unless it comes to its place.
struct Staged(PathBuf);

impl Staged {
    fn create(path: PathBuf) -> Result<Staged, target::Error> {
        fs::create_dir(&path).map_err(target::Error::disk(&path))?;
        Ok(Staged(path))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A directory beside another one.
fn beside(directory: &Path, suffix: &str) -> PathBuf {
    let mut name = directory.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn is_mount_point(directory: &Path) -> io::Result<bool> {
    let Some(parent) = directory.parent() else { return Ok(true) };
    Ok(fs::metadata(directory)?.dev() != fs::metadata(parent)?.dev())
}

/// Gives the staged data the owner and the permissions that the data has: an agent must be able to use it, and nobody else.
fn belong_like(data_dir: &Path, staged: &Path) -> io::Result<()> {
    let like = fs::metadata(data_dir)?;
    fs::set_permissions(staged, like.permissions())?;
    own(staged, like.uid(), like.gid())
}

fn own(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if (metadata.uid(), metadata.gid()) != (uid, gid) {
        lchown(path, Some(uid), Some(gid))?;
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            own(&entry?.path(), uid, gid)?;
        }
    }
    Ok(())
}

/// Puts what is staged in the place of the data, and the data aside. It gets the name `aside` first, so that the exchange is
/// the last thing that can fail.
fn exchange(mut staged: Staged, data_dir: &Path, aside: &Path) -> io::Result<()> {
    if fs::symlink_metadata(aside).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is there already", aside.display())));
    }
    fs::rename(&staged.0, aside)?;
    let beside = std::mem::replace(&mut staged.0, aside.to_owned());
    match renameat_with(CWD, aside, CWD, data_dir, RenameFlags::EXCHANGE) {
        Ok(()) => {
            // The old data lies there now.
            std::mem::forget(staged);
            Ok(())
        }
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            fs::rename(aside, &beside)?;
            staged.0 = beside;
            in_two_steps(staged, data_dir, aside)
        }
        Err(error) => Err(error.into()),
    }
}

/// Where the file system cannot exchange names. In between there is no data; an agent that starts then makes an empty
/// directory, and the second step fails.
fn in_two_steps(staged: Staged, data_dir: &Path, aside: &Path) -> io::Result<()> {
    fs::rename(data_dir, aside)?;
    let Err(error) = fs::rename(&staged.0, data_dir) else {
        std::mem::forget(staged);
        return Ok(());
    };
    match fs::rename(aside, data_dir) {
        Ok(()) => Err(error),
        Err(_) => Err(io::Error::new(error.kind(), format!("{error}; the data lies in {} now", aside.display()))),
    }
}

fn sync_folders(folder: &Path) -> Result<(), target::Error> {
    for entry in fs::read_dir(folder).map_err(target::Error::disk(folder))? {
        let entry = entry.map_err(target::Error::disk(folder))?;
        if entry.file_type().map_err(target::Error::disk(folder))?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_and_backup_change_places_with_and_without_an_exchange_of_names() {
        type Swap = fn(Staged, &Path, &Path) -> io::Result<()>;
        for swap in [exchange as Swap, in_two_steps] {
            let folder = tempfile::tempdir().unwrap();
            let (data, aside) = (folder.path().join("data"), folder.path().join("aside"));
            let staged = Staged::create(folder.path().join("staged")).unwrap();
            fs::write(staged.0.join("new"), "").unwrap();
            fs::create_dir(&data).unwrap();
            fs::write(data.join("old"), "").unwrap();
            swap(staged, &data, &aside).unwrap();
            assert!(data.join("new").exists() && aside.join("old").exists());
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        }
    }

    #[test]
    fn a_name_that_is_taken_stops_it_before_anything_moves() {
        let folder = tempfile::tempdir().unwrap();
        let (data, aside) = (folder.path().join("data"), folder.path().join("aside"));
        let staged = Staged::create(folder.path().join("staged")).unwrap();
        fs::create_dir(&data).unwrap();
        fs::write(data.join("old"), "").unwrap();
        fs::create_dir(&aside).unwrap();
        exchange(staged, &data, &aside).unwrap_err();
        assert!(data.join("old").exists() && !folder.path().join("staged").exists());
    }

    #[test]
    fn restored_data_is_as_private_as_the_data_was() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (data, staged) = (folder.path().join("data"), folder.path().join("staged"));
        fs::create_dir(&data).unwrap();
        fs::create_dir(&staged).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
        belong_like(&data, &staged).unwrap();
        assert_eq!(fs::metadata(&staged).unwrap().mode() & 0o777, 0o700);
    }
}
