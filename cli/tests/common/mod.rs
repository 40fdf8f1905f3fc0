//! What the tests of the command line share.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[track_caller]
pub(crate) fn success(output: &Output) -> &str {
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    text(&output.stdout)
}

/// The error output of a command that must fail with exit code 2 and without a panic.
#[track_caller]
pub(crate) fn failure(output: &Output) -> &str {
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.starts_with("error: "), "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    errors
}

/// The trace that ships in the repository.
#[allow(dead_code, reason = "not every file of tests replays")]
pub(crate) fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../traces/moe_train_start.csv.gz")
}

/// The command, whatever the environment says.
pub(crate) fn aquifer() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aquifer"));
    for (name, _) in aquifer::ENVIRONMENT_VARIABLES {
        command.env_remove(name);
    }
    command
}
