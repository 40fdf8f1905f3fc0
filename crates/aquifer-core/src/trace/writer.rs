//! Writing.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::{COLUMNS, TraceError, TraceErrorKind, TraceEvent};

/// How a trace is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TraceCompression {
    /// As text.
    None,
    /// With gzip; four to five times smaller.
    Gzip,
}

/// Writes a trace, event by event.
///
/// It writes what it is given and keeps no record of it: that the events follow the format's rules is up to the
/// caller, and is checked when the trace is read. The events of a [`Trace`](super::Trace) always do.
///
/// Call [`finish`](Self::finish) at the end. Dropping the writer instead still writes everything, but has no way to
/// report that this failed.
pub struct TraceWriter<W: Write> {
    name: String,
    // Dropping the buffer writes it out; dropping the encoder below then ends the gzip data.
    output: BufWriter<Output<W>>,
}

enum Output<W: Write> {
    Plain(W),
    Gzip(GzEncoder<W>),
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(output) => output.write(bytes),
            Self::Gzip(output) => output.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(output) => output.flush(),
            Self::Gzip(output) => output.flush(),
        }
    }
}

impl TraceWriter<File> {
    /// Creates a file, or empties the one that is there. Compresses if the path ends in `.gz`.
    ///
    /// # Errors
    ///
    /// [`TraceErrorKind::Unwritable`] if the file cannot be created.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, TraceError> {
        Self::to_file(path.as_ref(), |path| File::create(path))
    }

    /// As [`TraceWriter::create`], but never empties a file that is there.
    ///
    /// # Errors
    ///
    /// [`TraceErrorKind::Unwritable`] if the file exists or cannot be created.
    pub fn create_new(path: impl AsRef<Path>) -> Result<Self, TraceError> {
        Self::to_file(path.as_ref(), |path| File::create_new(path))
    }

    fn to_file(path: &Path, create: impl FnOnce(&Path) -> io::Result<File>) -> Result<Self, TraceError> {
        let name = path.display().to_string();
        let file = create(path).map_err(|error| write_error(&name, error))?;
        let is_gzip = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
        Self::new(name, file, if is_gzip { TraceCompression::Gzip } else { TraceCompression::None })
    }
}

impl<W: Write> TraceWriter<W> {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Writes to anything that takes bytes. It need not be buffered. Errors carry `name`.
    ///
    /// # Errors
    ///
    /// [`TraceErrorKind::Unwritable`] if `output` fails.
    pub fn new(
        name: impl Into<String>,
        output: W,
        compression: TraceCompression,
    ) -> Result<Self, TraceError> {
        let output = match compression {
            TraceCompression::None => Output::Plain(output),
            TraceCompression::Gzip => Output::Gzip(GzEncoder::new(output, Compression::default())),
        };
        let mut writer = Self { name: name.into(), output: BufWriter::new(output) };
        let header = writeln!(writer.output, "{}", COLUMNS.join(","));
        header.map_err(|error| write_error(&writer.name, error))?;
        Ok(writer)
    }

    /// Adds one event.
    ///
    /// # Errors
    ///
    /// [`TraceErrorKind::Unwritable`] if the output fails. Events are buffered, so the cause may lie further back.
    pub fn write(&mut self, event: &TraceEvent) -> Result<(), TraceError> {
        let &TraceEvent { time_us, op, id, bytes, stream } = event;
        writeln!(self.output, "{time_us},{},{id},{bytes},{stream}", op.letter())
            .map_err(|error| write_error(&self.name, error))
    }

    /// Writes what is still buffered, ends the gzip data, and gives the output back.
    ///
    /// # Errors
    ///
    /// [`TraceErrorKind::Unwritable`] if the output fails. The trace is then not complete.
    pub fn finish(self) -> Result<W, TraceError> {
        let Self { name, output } = self;
        let finish = || {
            let mut output = match output.into_inner().map_err(io::IntoInnerError::into_error)? {
                Output::Plain(output) => output,
                Output::Gzip(output) => output.finish()?,
            };
            output.flush()?;
            Ok(output)
        };
        finish().map_err(|error| write_error(&name, error))
    }
}

impl<W: Write> fmt::Debug for TraceWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceWriter").field("name", &self.name).finish_non_exhaustive()
    }
}

pub(super) fn write_error(name: &str, error: io::Error) -> TraceError {
    TraceError::new(name, TraceErrorKind::Unwritable(error.kind())).with_source(error)
}
