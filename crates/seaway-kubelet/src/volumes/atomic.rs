//! Writing a volume's files so that a reader sees all of the old ones or all of the new.
//!
//! The layout is kubelet's: the files are in a directory named for its time, `..data` is a symbolic link to it that is
//! replaced in one rename, and each top-level name is a link through `..data`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use super::payload::{FileContent, Files};

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Brings `dir` to hold `files`; false where it did already.
pub(crate) fn write(dir: &Path, files: &Files) -> io::Result<bool> {
    fs::create_dir_all(dir)?;
    let data = dir.join(DATA);
    let old = fs::read_link(&data).ok();
    if old.is_some() && holds(&data, files) {
        return Ok(false);
    }
    let version = new_version(dir)?;
    let made = fill(&dir.join(&version), files);
    if let Err(error) = made {
        // What is half written was never visible; the error is what matters.
        let _ = fs::remove_dir_all(dir.join(&version));
        return Err(error);
    }
    let new = dir.join(DATA_NEW);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(&version, &new)?;
    fs::rename(&new, &data)?;
    link_names(dir, files)?;
    if let Some(old) = old {
        fs::remove_dir_all(dir.join(old))?;
    }
    Ok(true)
}

fn holds(data: &Path, files: &Files) -> bool {
    let same = |(path, file): (&String, &FileContent)| {
        fs::read(data.join(path)).is_ok_and(|bytes| bytes == file.bytes)
    };
    files.iter().all(same) && count_files(data).is_ok_and(|count| count == files.len())
}

fn count_files(dir: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() { count_files(&entry.path())? } else { 1 };
    }
    Ok(count)
}

/// Makes a directory whose name nobody has had.
fn new_version(dir: &Path) -> io::Result<String> {
    let now = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    let mut number = 0_u32;
    loop {
        let name = format!("{now}.{number:010}");
        match fs::create_dir(dir.join(&name)) {
            Ok(()) => {
                fs::set_permissions(dir.join(&name), fs::Permissions::from_mode(0o755))?;
                return Ok(name);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    }
}

fn fill(version: &Path, files: &Files) -> io::Result<()> {
    for (path, file) in files {
        let path = version.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, &file.bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
    }
    Ok(())
}

/// Makes the links of the names that there are, and removes those of names that are gone.
fn link_names(dir: &Path, files: &Files) -> io::Result<()> {
    let wanted: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        match symlink(Path::new(DATA).join(name), dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(name.as_ref()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(entries: &[(&str, &str)]) -> Files {
        let content = |text: &str| FileContent { bytes: text.as_bytes().to_vec(), mode: 0o640 };
        entries.iter().map(|(path, text)| ((*path).to_owned(), content(text))).collect()
    }

    fn visible(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.retain(|name| !name.starts_with(".."));
        names.sort();
        names
    }

    #[test]
    fn contents_follow_and_nothing_old_stays() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("volume");
        assert!(write(&dir, &files(&[("a", "1"), ("sub/b", "2")])).unwrap());
        assert!(!write(&dir, &files(&[("a", "1"), ("sub/b", "2")])).unwrap());
        assert_eq!(visible(&dir), ["a", "sub"]);
        assert_eq!(fs::read_to_string(dir.join("sub/b")).unwrap(), "2");
        assert_eq!(fs::metadata(dir.join("a")).unwrap().permissions().mode() & 0o777, 0o640);

        assert!(write(&dir, &files(&[("a", "new")])).unwrap());
        assert_eq!(visible(&dir), ["a"]);
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "new");
        let versions = fs::read_dir(&dir)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_dir())
            .count();
        assert_eq!(versions, 1);

        assert!(write(&dir, &Files::new()).unwrap());
        assert!(visible(&dir).is_empty());
    }
}
