//! The folder that keeps compiled modules, if nobody else can put something into it.

use std::path::Path;

use wasmtime::{Cache, CacheConfig};

/// Wasmtime's cache in a folder, if only the user can write to the folder, and nobody else can put another one into its place:
/// the engine runs what it finds there, and cannot tell whether that was compiled from the module.
#[cfg(unix)]
pub(crate) fn within(folder: &Path) -> Option<Cache> {
    use std::os::unix::fs::DirBuilderExt;
    // The cache has its own folder inside, because it deletes files that it does not know.
    let own = folder.join("wasmtime");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&own).ok()?;
    // The cache does not accept relative paths.
    let (folder, own) = (folder.canonicalize().ok()?, own.canonicalize().ok()?);
    let user = rustix::process::geteuid().as_raw();
    let is_safe = is_alone_of(user, &folder) && folder.ancestors().skip(1).all(|parent| is_kept_for(user, parent));
    if !is_safe || !is_private_to(user, &own) {
        return None;
    }
    let mut config = CacheConfig::new();
    config.with_directory(own);
    Cache::new(config).ok()
}

/// On other systems, the evaluator cannot tell who owns a folder, so it keeps nothing.
#[cfg(not(unix))]
pub(crate) fn within(_: &Path) -> Option<Cache> {
    None
}

/// Whether a folder is the user's, and nobody else can write to it.
#[cfg(unix)]
fn is_alone_of(user: u32, folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    folder.metadata().is_ok_and(|folder| folder.uid() == user && folder.mode() & 0o022 == 0)
}

/// Whether nobody but the user and root can rename what the user has in a folder. In one such as `/tmp`, everybody can write,
/// but only owners can rename.
#[cfg(unix)]
fn is_kept_for(user: u32, folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    folder.metadata().is_ok_and(|folder| {
        let is_sticky = folder.mode() & 0o1000 != 0;
        [user, 0].contains(&folder.uid()) && (folder.mode() & 0o022 == 0 || is_sticky)
    })
}

/// Whether nobody else can enter a folder, and nobody else left anything in it while that was possible.
#[cfg(unix)]
fn is_private_to(user: u32, folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    folder.metadata().is_ok_and(|folder| folder.mode() & 0o077 == 0) && is_all_of(user, folder)
}

/// Whether the user owns a file, or a folder and everything in it.
#[cfg(unix)]
fn is_all_of(user: u32, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let found = match path.symlink_metadata() {
        Ok(found) => found,
        // The cache of another process may just have removed it.
        Err(error) => return error.kind() == std::io::ErrorKind::NotFound,
    };
    let is_content =
        |entry: std::io::Result<std::fs::DirEntry>| entry.is_ok_and(|entry| is_all_of(user, &entry.path()));
    found.uid() == user && (!found.is_dir() || std::fs::read_dir(path).is_ok_and(|mut entries| entries.all(is_content)))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use crate::wapc::Guest;

    /// An empty module.
    const EMPTY: &[u8] = b"\0asm\x01\0\0\0";

    /// A folder for a test, to which only the user can write.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let folder = Self(std::env::temp_dir().join(format!("vmfm-{test}-{}", std::process::id())));
            fs::create_dir(&folder.0).unwrap();
            folder.set_mode("", 0o755);
            folder
        }

        fn set_mode(&self, path: &str, mode: u32) {
            fs::set_permissions(self.0.join(path), Permissions::from_mode(mode)).unwrap();
        }

        /// Loads a module, and returns the files in the cache. Files with an extension are statistics or unfinished.
        fn after(&self, module: &[u8]) -> Vec<(PathBuf, Vec<u8>)> {
            Guest::load(module, Some(&self.0)).unwrap();
            let list = |folder| fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
            let files = list(self.0.join("wasmtime/modules")).flat_map(list).filter(|file| file.extension().is_none());
            files.map(|file| (file.clone(), fs::read(file).unwrap())).collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            // The cache may still be using it.
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_damaged_file_is_written_anew() {
        let folder = Folder::new("damaged");
        let kept = folder.after(EMPTY);
        let [(path, content)] = &kept[..] else {
            panic!("not one file");
        };
        for broken in [b"", &b"nonsense"[..], &content[..content.len() - 1], &content[..content.len() / 2]] {
            fs::write(path, broken).unwrap();
            assert!(folder.after(EMPTY) == kept);
        }
        // Another module has its own file.
        assert_eq!(folder.after(&[EMPTY, b"\0\x02\x01x"].concat()).len(), 2);
    }

    #[test]
    fn a_folder_that_cannot_be_written_costs_time_only() {
        assert!(Guest::load(EMPTY, Some(Path::new("/dev/null/no-folder"))).is_ok());
        // A file with the name of the cache's folder.
        let folder = Folder::new("unwritable");
        fs::write(folder.0.join("wasmtime"), "").unwrap();
        assert_eq!(folder.after(EMPTY), []);
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_not_used() {
        let folder = Folder::new("others");
        for mode in [0o775, 0o757, 0o1777] {
            folder.set_mode("", mode);
            assert_eq!(folder.after(EMPTY), []);
            folder.set_mode("", 0o755);
            folder.set_mode("wasmtime", mode);
            assert_eq!(folder.after(EMPTY), []);
            folder.set_mode("wasmtime", 0o700);
        }
        assert_eq!(folder.after(EMPTY).len(), 1);
        let user = rustix::process::geteuid().as_raw();
        assert!(is_alone_of(user, &folder.0) && !is_alone_of(user + 1, &folder.0));
    }

    #[test]
    fn a_folder_that_others_can_replace_is_not_used() {
        let parent = Folder::new("parent");
        let folder = Folder(parent.0.join("cache"));
        fs::create_dir(&folder.0).unwrap();
        folder.set_mode("", 0o755);
        for (mode, count) in [(0o775, 0), (0o757, 0), (0o777, 0), (0o1777, 1)] {
            parent.set_mode("", mode);
            assert_eq!(folder.after(EMPTY).len(), count, "{mode:o}");
        }
        parent.set_mode("", 0o755);
        let user = rustix::process::geteuid().as_raw();
        assert!(is_kept_for(user, &parent.0));
        // A folder of root is as good as one of the user.
        assert_eq!(is_kept_for(user + 1, &parent.0), user == 0);
        assert!(is_kept_for(user + 1, Path::new("/")));
    }

    /// The link itself may be anywhere: what it leads to counts.
    #[test]
    fn a_link_to_a_folder_that_others_can_write_to_is_not_used() {
        let (folder, target) = (Folder::new("link"), Folder::new("target"));
        std::os::unix::fs::symlink(&target.0, folder.0.join("cache")).unwrap();
        let load = || Guest::load(EMPTY, Some(&folder.0.join("cache"))).unwrap();
        target.set_mode("", 0o777);
        load();
        assert!(!target.0.join("wasmtime/modules").exists());
        target.set_mode("", 0o755);
        load();
        assert!(target.0.join("wasmtime/modules").exists());
    }

    #[test]
    fn a_folder_in_which_others_may_have_left_something_is_not_used() {
        let folder = Folder::new("left");
        assert_eq!(folder.after(EMPTY).len(), 1);
        let own = folder.0.join("wasmtime");
        let user = rustix::process::geteuid().as_raw();
        assert!(is_private_to(user, &own) && is_all_of(user, &own) && !is_all_of(user + 1, &own));
        folder.set_mode("wasmtime", 0o755);
        assert!(!is_private_to(user, &own));
        let another = [EMPTY, b"\0\x02\x01x"].concat();
        assert_eq!(folder.after(&another).len(), 1, "nothing was added");
        folder.set_mode("wasmtime", 0o700);
        assert_eq!(folder.after(&another).len(), 2);
        // Only root can give a file to somebody else.
        if user == 0 {
            let files = fs::read_dir(own.join("modules")).unwrap();
            let file = files.map(|entry| entry.unwrap().path()).next().unwrap();
            std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
            assert!(!is_private_to(user, &own));
        }
    }
}
