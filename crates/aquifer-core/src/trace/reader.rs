//! Reading: bytes, lines, fields, events.
//!
//! The layers, from the input up: [`decompress`] undoes gzip, [`BoundedLines`] refuses what would not fit in memory,
//! the `csv` crate cuts lines into fields, [`parse_event`] makes an event of them, and a [`Checker`] compares it with
//! those before.

use std::fs::File;
use std::io::{self, BufReader, Cursor, ErrorKind, Read};
use std::path::Path;

use csv::{ByteRecord, ReaderBuilder, Terminator};
use flate2::bufread::MultiGzDecoder;

use super::check::Checker;
use super::{
    COLUMNS, NumberProblem, TRACE_FORMAT_VERSION, TRACE_LINE_BYTES_MAX, Trace, TraceError, TraceErrorKind,
    TraceEvent, TraceOp, VERSION_PREFIX,
};

const BUFFER_BYTES: usize = 64 << 10;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Some editors put it before a UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// How much of a wrong text an error repeats.
const EXCERPT_BYTES: usize = 40;

impl Trace {
    /// Reads a trace from a file, plain or compressed.
    ///
    /// # Errors
    ///
    /// [`TraceErrorKind::MissingFile`] or [`TraceErrorKind::Unreadable`] if the file cannot be read, else the first
    /// breach of the format's rules.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, TraceError> {
        let path = path.as_ref();
        let source = path.display().to_string();
        let file = File::open(path).map_err(|error| {
            let kind = match error.kind() {
                ErrorKind::NotFound => TraceErrorKind::MissingFile,
                kind => TraceErrorKind::Unreadable(kind),
            };
            TraceError::new(&source, kind).with_source(error)
        })?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        let name = name.strip_suffix(".csv").unwrap_or(name);
        let events = read_events(&source, file)?;
        Ok(Self::from_checked(name.to_owned(), events))
    }

    /// Reads a trace, plain or compressed, from anything that gives bytes. It need not be buffered.
    ///
    /// # Errors
    ///
    /// [`TraceErrorKind::Unreadable`] if `input` fails, else the first breach of the format's rules. The error carries
    /// `name`.
    pub fn read(name: impl Into<String>, input: impl Read) -> Result<Self, TraceError> {
        let name = name.into();
        let events = read_events(&name, input)?;
        Ok(Self::from_checked(name, events))
    }
}

fn read_events(source: &str, input: impl Read) -> Result<Vec<TraceEvent>, TraceError> {
    let (input, is_gzip) = decompress(input).map_err(|error| read_error(source, 1, false, error))?;
    let mut lines = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        // A quoted field could hold line endings and so escape the limit on lines. The format needs no quotes.
        .quoting(false)
        .terminator(Terminator::Any(b'\n'))
        .buffer_capacity(BUFFER_BYTES)
        .from_reader(BoundedLines::new(input));
    let mut record = ByteRecord::new();
    let mut preamble = Preamble::Start;
    let mut checker = Checker::new();
    let mut events = Vec::new();
    loop {
        let more = lines.read_byte_record(&mut record);
        let next_line = lines.position().line();
        match more {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                let error = match error.into_kind() {
                    csv::ErrorKind::Io(error) => error,
                    // With flexible byte records nothing else can go wrong in there.
                    other => io::Error::new(ErrorKind::InvalidData, format!("{other:?}")),
                };
                return Err(read_error(source, next_line, is_gzip, error));
            }
        }
        // The record's own position is that of the empty lines before it, if there are any. Every line ends in `\n`
        // (BoundedLines sees to the last one), so counting back from the end is exact.
        let line = next_line - 1;
        let at_line = |kind| TraceError::at_line(source, line, kind);
        if record.len() == 1 && &record[0] == b"\r" {
            continue;
        }
        if preamble != Preamble::Done {
            preamble = preamble.next(&record).map_err(at_line)?;
            continue;
        }
        events.push(parse_event(&record).and_then(|event| checker.check(event)).map_err(at_line)?);
    }
    if preamble != Preamble::Done {
        return Err(TraceError::new(source, TraceErrorKind::NotATrace { found: String::new() }));
    }
    checker.finish().map_err(|kind| TraceError::new(source, kind))?;
    Ok(events)
}

/// The plain text of `input`, and whether it was compressed.
fn decompress<'a>(mut input: impl Read + 'a) -> io::Result<(Box<dyn Read + 'a>, bool)> {
    let mut start = Vec::with_capacity(GZIP_MAGIC.len());
    input.by_ref().take(GZIP_MAGIC.len() as u64).read_to_end(&mut start)?;
    let is_gzip = start == GZIP_MAGIC;
    let input = Cursor::new(start).chain(input);
    Ok(if is_gzip {
        (Box::new(MultiGzDecoder::new(BufReader::with_capacity(BUFFER_BYTES, input))), true)
    } else {
        (Box::new(input), false)
    })
}

fn read_error(source: &str, line: u64, is_gzip: bool, error: io::Error) -> TraceError {
    let kind = if error.get_ref().is_some_and(|inner| inner.is::<LineTooLong>()) {
        TraceErrorKind::LineTooLong
    } else {
        match error.kind() {
            ErrorKind::UnexpectedEof if is_gzip => TraceErrorKind::TruncatedGzip,
            ErrorKind::InvalidInput | ErrorKind::InvalidData if is_gzip => TraceErrorKind::CorruptGzip,
            kind => TraceErrorKind::Unreadable(kind),
        }
    };
    TraceError::at_line(source, line, kind).with_source(error)
}

/// The lines before the first event.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Preamble {
    /// The version or the header comes next.
    Start,
    /// The header comes next.
    Header,
    /// It is over.
    Done,
}

impl Preamble {
    /// What follows after the line that `record` holds.
    fn next(self, record: &ByteRecord) -> Result<Self, TraceErrorKind> {
        let line = record.iter().collect::<Vec<_>>().join(&b',');
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        if line == COLUMNS.join(",").as_bytes() {
            return Ok(Self::Done);
        }
        match named_version(line) {
            Some(version) if version != u64::from(TRACE_FORMAT_VERSION) => {
                Err(TraceErrorKind::UnsupportedVersion { found: version })
            }
            Some(_) if self == Self::Start => Ok(Self::Header),
            _ => Err(TraceErrorKind::NotATrace { found: excerpt(line) }),
        }
    }
}

/// The number in a line `# aquifer-trace N`. A later version may put more behind it.
fn named_version(line: &[u8]) -> Option<u64> {
    let number = line.strip_prefix(VERSION_PREFIX.as_bytes())?.split(|&byte| byte == b' ').next()?;
    parse_number("version", number).ok().filter(|&version| version > 0)
}

/// A field without the `\r` of a line that ends in `\r\n`.
fn field(record: &ByteRecord, index: usize) -> &[u8] {
    let bytes = &record[index];
    if index + 1 == record.len() { bytes.strip_suffix(b"\r").unwrap_or(bytes) } else { bytes }
}

fn parse_event(record: &ByteRecord) -> Result<TraceEvent, TraceErrorKind> {
    if record.len() != COLUMNS.len() {
        return Err(TraceErrorKind::FieldCount { found: record.len() });
    }
    let number = |index: usize| parse_number(COLUMNS[index], field(record, index));
    Ok(TraceEvent {
        time_us: number(0)?,
        op: parse_op(field(record, 1))?,
        id: number(2)?,
        bytes: number(3)?,
        stream: number(4)?,
    })
}

fn parse_op(text: &[u8]) -> Result<TraceOp, TraceErrorKind> {
    match text {
        b"a" => Ok(TraceOp::Allocate),
        b"f" => Ok(TraceOp::Free),
        b"c" => Ok(TraceOp::FreeCompleted),
        _ if std::str::from_utf8(text).is_err() => Err(TraceErrorKind::InvalidUtf8 { field: COLUMNS[1] }),
        _ => Err(TraceErrorKind::UnknownOp { text: excerpt(text) }),
    }
}

fn parse_number(field: &'static str, text: &[u8]) -> Result<u64, TraceErrorKind> {
    let digits = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if digits(text) {
        let value = text
            .iter()
            .try_fold(0_u64, |value, digit| value.checked_mul(10)?.checked_add(u64::from(digit - b'0')));
        if let Some(value) = value {
            return Ok(value);
        }
    }
    let unsigned = text.strip_prefix(b"-").unwrap_or(text);
    let is_fraction = unsigned.split(|&byte| byte == b'.').filter(|part| digits(part)).count() == 2
        && unsigned.iter().filter(|&&byte| byte == b'.').count() == 1;
    let problem = if std::str::from_utf8(text).is_err() {
        return Err(TraceErrorKind::InvalidUtf8 { field });
    } else if text.is_empty() {
        NumberProblem::Empty
    } else if digits(text) {
        NumberProblem::TooLarge
    } else if !digits(unsigned) && !is_fraction {
        NumberProblem::NotANumber
    } else if unsigned.len() < text.len() {
        NumberProblem::Negative
    } else {
        NumberProblem::Fractional
    };
    Err(TraceErrorKind::InvalidNumber { field, text: excerpt(text), problem })
}

/// The beginning of a text from the input, fit to print.
fn excerpt(text: &[u8]) -> String {
    let shown = &text[..text.len().min(EXCERPT_BYTES)];
    format!("{}{}", shown.escape_ascii(), if shown.len() < text.len() { "..." } else { "" })
}

/// Passes text on, fails at a line that is too long, and ends the last line if nothing else does.
///
/// The `csv` crate collects a line before it hands it out. Without this, a small gzip file that holds one endless
/// line would fill the memory.
struct BoundedLines<R> {
    input: R,
    /// Length so far of the line that is being passed on.
    line_bytes: usize,
    state: LinesState,
}

#[derive(PartialEq, Eq)]
enum LinesState {
    Reading,
    TooLong,
    Ended,
}

#[derive(Debug, thiserror::Error)]
#[error("a line is longer than {TRACE_LINE_BYTES_MAX} bytes")]
struct LineTooLong;

impl<R: Read> BoundedLines<R> {
    fn new(input: R) -> Self {
        Self { input, line_bytes: 0, state: LinesState::Reading }
    }

    fn read_input(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.input.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// How much of `text` belongs to lines that are not too long. Takes note if that is not all of it.
    fn admit(&mut self, text: &[u8]) -> usize {
        let mut admitted = 0;
        for piece in text.split_inclusive(|&byte| byte == b'\n') {
            let is_whole = piece.ends_with(b"\n");
            self.line_bytes += piece.len() - usize::from(is_whole);
            if self.line_bytes > TRACE_LINE_BYTES_MAX {
                self.state = LinesState::TooLong;
                break;
            }
            if is_whole {
                self.line_bytes = 0;
            }
            admitted += piece.len();
        }
        admitted
    }
}

impl<R: Read> Read for BoundedLines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.state == LinesState::Reading && !buffer.is_empty() {
            let count = self.read_input(buffer)?;
            if count > 0 {
                // The lines before one that is too long come first, so that the error names the right line.
                let admitted = self.admit(&buffer[..count]);
                if admitted > 0 {
                    return Ok(admitted);
                }
            } else {
                self.state = LinesState::Ended;
                if self.line_bytes > 0 {
                    buffer[0] = b'\n';
                    return Ok(1);
                }
            }
        }
        match self.state {
            LinesState::TooLong => Err(io::Error::new(ErrorKind::InvalidData, LineTooLong)),
            LinesState::Reading | LinesState::Ended => Ok(0),
        }
    }
}
