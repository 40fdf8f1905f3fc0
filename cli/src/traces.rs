//! A command over several traces.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{CliError, Status};
use crate::output;

/// Makes a row of every trace; tells of those that fail and goes on.
///
/// A row is written at once as a line of JSON, or goes to `print` with all the others.
pub(crate) fn for_each_trace<Row: Serialize>(
    traces: &[PathBuf],
    json: bool,
    one: impl Fn(&Path) -> Result<Row, CliError>,
    print: impl FnOnce(&[Row]) -> io::Result<()>,
) -> Result<Status, CliError> {
    let mut status = Status::Done;
    let mut rows = Vec::new();
    for path in traces {
        match one(path) {
            Ok(row) if json => {
                if let Err(error) = output::json_line(&row) {
                    return status.after(error);
                }
            }
            Ok(row) => rows.push(row),
            Err(error) => {
                error.report(&mut io::stderr());
                status = Status::SomeFailed;
                if let Some(row) = error.json_row().filter(|_| json)
                    && let Err(error) = output::json_line(row)
                {
                    return status.after(error);
                }
            }
        }
    }
    match print(&rows) {
        Ok(()) => Ok(status),
        Err(error) => status.after(error),
    }
}
