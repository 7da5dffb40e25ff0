//! Files that are replaced whole or not at all.
//!
//! A program names its outputs before its work, and finds out there whether they can be written.
//! Its results go to files beside them, which are renamed when all are complete: a run that fails
//! leaves what an earlier one wrote.

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, PersistError};

/// A place that can be written, as far as can be told beforehand.
#[derive(Debug)]
pub struct OutputFile {
    /// As the user named it.
    named: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// Takes a file by renaming.
    File {
        /// Without links, so that a link is kept and what it points to replaced.
        path: PathBuf,
        /// Of the file that is there.
        permissions: Option<Permissions>,
    },
    /// A pipe or a device such as `/dev/stdout`: written to, never replaced.
    Stream,
}

impl OutputFile {
    /// Checks `path` and leaves it as it is.
    ///
    /// # Errors
    /// Names `path`, where that is a folder, may not be written, or lies in a folder that is
    /// missing or takes no new file.
    pub fn at(path: impl Into<PathBuf>) -> io::Result<Self> {
        let named = path.into();
        let place = place(&named).map_err(|cause| cannot_write(&named, cause))?;
        Ok(Self { named, place })
    }

    /// The path as given.
    pub fn path(&self) -> &Path {
        &self.named
    }

    /// Replaces the file by one that holds `contents`. [`write_all`] does so for several.
    ///
    /// # Errors
    /// Names the path; the file is then as it was.
    pub fn write(&self, contents: impl AsRef<[u8]>) -> io::Result<()> {
        write_all(&[(self, contents)])
    }

    fn written_beside(&self, contents: &[u8]) -> io::Result<Beside<'_>> {
        let Place::File { path, permissions } = &self.place else {
            return Ok(Beside::Stream);
        };
        let (folder, name) = folder_and_name(path)?;
        let mut file = beside(folder, name)?;
        file.write_all(contents)?;
        if let Some(permissions) = permissions {
            file.as_file().set_permissions(permissions.clone())?;
        }
        // The new name must not reach the disk before what the file holds.
        file.as_file().sync_all()?;
        Ok(Beside::File { file, path })
    }
}

/// Replaces files, none before all are complete.
///
/// # Errors
/// Names the path that could not be written. Where that was found before the first renaming, all
/// files are as they were.
pub fn write_all<C: AsRef<[u8]>>(files: &[(&OutputFile, C)]) -> io::Result<()> {
    let mut complete = Vec::with_capacity(files.len());
    for (output, contents) in files {
        let named = |cause| cannot_write(&output.named, cause);
        complete.push(output.written_beside(contents.as_ref()).map_err(named)?);
    }
    for (beside, (output, contents)) in complete.into_iter().zip(files) {
        let outcome = match beside {
            Beside::File { file, path } => file
                .persist(path)
                .map(|_| ())
                .map_err(|PersistError { error, .. }| error),
            Beside::Stream => OpenOptions::new()
                .write(true)
                .open(&output.named)
                .and_then(|mut stream| stream.write_all(contents.as_ref())),
        };
        outcome.map_err(|cause| cannot_write(&output.named, cause))?;
    }
    Ok(())
}

enum Beside<'a> {
    File { file: NamedTempFile, path: &'a Path },
    Stream,
}

fn place(named: &Path) -> io::Result<Place> {
    let there = match fs::metadata(named) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (folder, name) = folder_and_name(named)?;
            beside(folder, name)?;
            return Ok(Place::File {
                path: named.to_owned(),
                permissions: None,
            });
        }
        Err(error) => return Err(error),
    };
    if there.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !there.is_file() {
        // Not opened yet: that waits for a pipe's reader.
        return Ok(Place::Stream);
    }
    // A rename would pass over the protection of a file that may not be written.
    OpenOptions::new().write(true).open(named)?;
    let path = named.canonicalize()?;
    let (folder, name) = folder_and_name(&path)?;
    beside(folder, name)?;
    Ok(Place::File {
        path,
        permissions: Some(there.permissions()),
    })
}

fn folder_and_name(path: &Path) -> io::Result<(&Path, &OsStr)> {
    let names_a_folder = path
        .as_os_str()
        .as_encoded_bytes()
        .ends_with(std::path::MAIN_SEPARATOR_STR.as_bytes());
    let (Some(folder), Some(name), false) = (path.parent(), path.file_name(), names_a_folder)
    else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidFilename,
            "this is no file's name",
        ));
    };
    let here = Path::new(".");
    let folder = if folder == Path::new("") {
        here
    } else {
        folder
    };
    Ok((folder, name))
}

/// An empty file with the permissions of any new one; gone where it is not renamed.
fn beside(folder: &Path, name: &OsStr) -> io::Result<NamedTempFile> {
    let mut prefix = OsStr::new(".").to_owned();
    prefix.push(name);
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix);
    #[cfg(unix)]
    // Less what the user's umask takes. tempfile's own are the owner's alone.
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

fn cannot_write(path: &Path, cause: impl Display + Into<io::Error>) -> io::Error {
    let message = format!("cannot write {}: {cause}", path.display());
    io::Error::new(cause.into().kind(), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::error::Error;

    type TestResult = Result<(), Box<dyn Error>>;

    fn names(folder: &Path) -> io::Result<Vec<String>> {
        let mut names = fs::read_dir(folder)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    #[test]
    fn naming_a_file_leaves_it_as_it_is_and_writing_replaces_it() -> TestResult {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("results.json");
        let missing = OutputFile::at(&path)?;
        assert_eq!(names(folder.path())?, [""; 0]);
        missing.write("a longer first text")?;
        let again = OutputFile::at(&path)?;
        assert_eq!(fs::read_to_string(&path)?, "a longer first text");
        again.write("second")?;
        assert_eq!(fs::read_to_string(&path)?, "second");
        assert_eq!(names(folder.path())?, ["results.json"]);
        Ok(())
    }

    /// Where one of several cannot be written any more, the others stay what they were.
    #[test]
    fn several_files_are_replaced_together_or_not_at_all() -> TestResult {
        let folder = tempfile::tempdir()?;
        let (first, gone) = (folder.path().join("first"), folder.path().join("gone"));
        fs::write(&first, "old")?;
        fs::create_dir(&gone)?;
        let outputs = [
            OutputFile::at(&first)?,
            OutputFile::at(gone.join("second"))?,
        ];
        fs::remove_dir(&gone)?;
        let files = outputs.each_ref().map(|output| (output, "new"));
        let error = write_all(&files).err().ok_or("the folder is gone")?;
        assert!(error.to_string().contains("second"), "{error}");
        assert_eq!(fs::read_to_string(&first)?, "old");
        assert_eq!(names(folder.path())?, ["first"]);

        fs::create_dir(&gone)?;
        write_all(&files)?;
        assert_eq!(fs::read_to_string(&first)?, "new");
        assert_eq!(fs::read_to_string(gone.join("second"))?, "new");
        Ok(())
    }

    #[test]
    fn places_that_cannot_be_written_are_named_beforehand() -> TestResult {
        let folder = tempfile::tempdir()?;
        let missing = folder.path().join("missing/results.json");
        for path in [
            missing.as_path(),
            folder.path(),
            Path::new(""),
            Path::new("new_folder/"),
        ] {
            let error = OutputFile::at(path).err().ok_or("accepted")?.to_string();
            let start = format!("cannot write {}: ", path.display());
            assert!(error.starts_with(&start), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        Ok(())
    }

    #[test]
    fn a_name_alone_is_a_file_of_this_folder() -> TestResult {
        // Only asked about: this folder is the package's.
        let (folder, name) = folder_and_name(Path::new("results.json"))?;
        assert_eq!((folder, name), (Path::new("."), OsStr::new("results.json")));
        Ok(())
    }

    #[cfg(unix)]
    mod unix {
        use std::os::unix::fs::{PermissionsExt, symlink};

        use super::*;

        fn mode(path: &Path) -> io::Result<u32> {
            Ok(fs::metadata(path)?.permissions().mode() & 0o777)
        }

        #[test]
        fn a_new_file_has_the_usual_permissions_and_an_old_one_keeps_its_own() -> TestResult {
            let folder = tempfile::tempdir()?;
            let (usual, new) = (folder.path().join("usual"), folder.path().join("new"));
            fs::write(&usual, "")?;
            OutputFile::at(&new)?.write("")?;
            assert_eq!(mode(&new)?, mode(&usual)?);
            fs::set_permissions(&new, Permissions::from_mode(0o640))?;
            OutputFile::at(&new)?.write("other")?;
            assert_eq!(mode(&new)?, 0o640);
            Ok(())
        }

        #[test]
        fn a_link_stays_and_what_it_points_to_is_replaced() -> TestResult {
            let folder = tempfile::tempdir()?;
            let elsewhere = tempfile::tempdir()?;
            let (link, target) = (folder.path().join("link"), elsewhere.path().join("target"));
            fs::write(&target, "old")?;
            symlink(&target, &link)?;
            OutputFile::at(&link)?.write("new")?;
            assert_eq!(fs::read_link(&link)?, target);
            assert_eq!(fs::read_to_string(&target)?, "new");
            Ok(())
        }

        /// `--json /dev/stdout` in a pipeline; with a renamed file root would lose its devices.
        #[test]
        fn a_device_is_written_to_and_never_replaced() -> TestResult {
            use std::os::unix::fs::FileTypeExt;

            // A link of its own, so that a mistake costs no device.
            let folder = tempfile::tempdir()?;
            let link = folder.path().join("null");
            symlink("/dev/null", &link)?;
            let output = OutputFile::at(&link)?;
            assert!(matches!(output.place, Place::Stream));
            output.write("nothing")?;
            assert!(fs::metadata("/dev/null")?.file_type().is_char_device());
            assert_eq!(names(folder.path())?, ["null"]);
            Ok(())
        }
    }
}
