//! Recorded files of a system, for tests.

use tempfile::TempDir;

/// A small file system: paths relative to its root, and contents. It goes when the value is dropped.
pub(crate) fn tree<P: AsRef<str>, C: AsRef<str>>(files: &[(P, C)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path.as_ref());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content.as_ref()).unwrap();
    }
    root
}

/// One without any file.
pub(crate) fn bare_tree() -> TempDir {
    tree::<&str, &str>(&[])
}
