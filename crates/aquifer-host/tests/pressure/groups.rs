//! Control groups of the kernel's, made for a test, and a child in one that makes memory short there.

use std::fs;
use std::io::{BufRead, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

/// The limit of a group of version 1, in bytes.
pub(crate) const LIMIT_BYTES: u64 = 48 << 20;

/// What the child holds besides the file that it reads. The rest of the limit is for the file's caches and the child itself.
pub(crate) const HELD_BYTES: usize = 24 * MIB;

/// Longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Where the memory controller of version 1 is.
pub(crate) const VERSION_1: &str = "/sys/fs/cgroup/memory";

/// Where version 2 is, if it is there: alone, or beside version 1.
fn version_2() -> Option<&'static Path> {
    let places = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    places.into_iter().find(|place| place.join("cgroup.controllers").exists())
}

/// A control group of a test's own. It goes when the value is dropped.
#[derive(Debug)]
pub(crate) struct Group(PathBuf);

impl Group {
    /// One of version 1 that has a limit; or why there is none.
    pub(crate) fn version_1() -> Result<Self, String> {
        if !Path::new(VERSION_1).join("memory.limit_in_bytes").exists() {
            return Err("no memory controller of version 1".into());
        }
        let group = Self::make(Path::new(VERSION_1))?;
        let limit = fs::write(group.file("memory.limit_in_bytes"), LIMIT_BYTES.to_string());
        limit.map_err(|error| format!("no limit for a group: {error}"))?;
        Ok(group)
    }

    /// One of version 2; or why there is none.
    pub(crate) fn version_2() -> Result<Self, String> {
        Self::make(version_2().ok_or("no control groups of version 2")?)
    }

    fn make(top: &Path) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = top.join(format!("aquifer-test-{}-{count}", std::process::id()));
        fs::create_dir(&folder).map_err(|error| format!("no group {}: {error}", folder.display()))?;
        Ok(Self(folder))
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// As `/proc/self/cgroup` would have it.
    pub(crate) fn name(&self) -> String {
        format!("/{}", self.0.file_name().unwrap().to_str().unwrap())
    }

    /// What [`Drop`] does. The kernel may take a moment to see that nobody is in it any more.
    fn remove(&self) -> std::io::Result<()> {
        let start = Instant::now();
        loop {
            match fs::remove_dir(&self.0) {
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy && start.elapsed() < LONG => {
                    std::thread::yield_now();
                }
                result => return result,
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}

/// Set in the child, to the file that it reads.
const HOG: &str = "AQUIFER_TEST_PRESSURE_FILE";

/// A child that holds memory and reads a file over and over. It ends when the value is dropped, or with its parent.
#[derive(Debug)]
pub(crate) struct Hog {
    child: Child,
    /// Kept for as long as the child reads it.
    _file: tempfile::NamedTempFile,
}

impl Hog {
    /// One in all of these groups, made by running the test of that name again, which must begin with [`run_if_child`]. Or why
    /// there is none.
    pub(crate) fn start(test: &str, groups: &[&Group]) -> Result<Self, String> {
        // Such a file takes no room, but its caches do.
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        const TMPFS_MAGIC: i64 = 0x0102_1994;
        #[allow(clippy::unnecessary_cast, reason = "its width is the machine's")]
        if rustix::fs::fstatfs(&file).unwrap().f_type as i64 == TMPFS_MAGIC {
            return Err("files are in memory, so they have no caches that could be dropped".into());
        }
        file.as_file().set_len(256 * MIB as u64).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(HOG, file.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut hog = Self { child, _file: file };
        for group in groups {
            let id = hog.child.id().to_string();
            fs::write(group.file("cgroup.procs"), id)
                .map_err(|error| format!("no child in a group: {error}"))?;
        }
        hog.child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        Ok(hog)
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        // It may have ended by itself; whoever waited for what it does has told so.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the child does, which never comes back. Does nothing in the test itself.
pub(crate) fn run_if_child() {
    let Some(path) = std::env::var_os(HOG) else { return };
    // Until it is in its groups it takes nothing.
    std::io::stdin().lock().read_line(&mut String::new()).unwrap();
    std::thread::spawn(|| {
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let held = vec![1u8; HELD_BYTES];
    let mut file = fs::File::open(path).unwrap();
    let mut part = vec![0; MIB];
    loop {
        file.rewind().unwrap();
        while file.read(&mut part).unwrap() > 0 {
            std::hint::black_box(&held);
        }
    }
}
