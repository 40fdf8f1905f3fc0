use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::collection::vec;
use proptest::prelude::*;

use super::TraceOp::{Allocate, Free, FreeCompleted};
use super::check::Checker;
use super::*;

const HEADER: &str = "t_us,op,id,bytes,stream\n";

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn read(text: impl AsRef<[u8]>) -> Result<Trace, TraceError> {
    Trace::read("test", text.as_ref())
}

/// Line and kind of the error that reading `text` gives.
#[track_caller]
fn failure(text: impl AsRef<[u8]>) -> (Option<u64>, TraceErrorKind) {
    let error = read(text).unwrap_err();
    assert_eq!(error.name(), "test");
    (error.line(), error.kind().clone())
}

/// The same for lines after the header. Compression and line endings must make no difference.
#[track_caller]
fn failure_in(lines: &str) -> (u64, TraceErrorKind) {
    let text = format!("{HEADER}{lines}");
    let (line, kind) = failure(&text);
    assert_eq!(failure(gzip(text.as_bytes())), (line, kind.clone()));
    assert_eq!(failure(text.replace('\n', "\r\n")), (line, kind.clone()));
    assert_eq!(failure(format!("# aquifer-trace 1\n{text}")), (line.map(|line| line + 1), kind.clone()));
    (line.unwrap(), kind)
}

fn event(time_us: u64, op: TraceOp, id: u64, bytes: u64, stream: u64) -> TraceEvent {
    TraceEvent { time_us, op, id, bytes, stream }
}

#[test]
fn reads_every_op() {
    let trace = read("t_us,op,id,bytes,stream\n0,a,7,100,0\n5,a,9,50,3\n5,f,7,100,3\n8,c,7,100,0\n").unwrap();
    assert_eq!(trace.name(), "test");
    let expected = [
        event(0, Allocate, 7, 100, 0),
        event(5, Allocate, 9, 50, 3),
        event(5, Free, 7, 100, 3),
        event(8, FreeCompleted, 7, 100, 0),
    ];
    assert_eq!(trace.events(), expected);
    assert_eq!(trace.into_events(), expected);
}

#[test]
fn the_size_on_frees_is_ignored() {
    let trace = read(format!("{HEADER}0,a,1,100,0\n1,f,1,0,0\n2,c,1,7,0\n")).unwrap();
    assert!(trace.events().iter().all(|event| event.bytes == 100));
    assert!(read(format!("{HEADER}0,a,1,100,0\n1,f,1,,0\n")).is_err(), "but it must be a number");
}

#[test]
fn takes_what_harmless_tools_do_to_a_csv() {
    let expected = read(format!("{HEADER}0,a,1,100,0\n1,f,1,100,0\n")).unwrap();
    for text in [
        "t_us,op,id,bytes,stream\r\n0,a,1,100,0\r\n1,f,1,100,0\r\n",
        "t_us,op,id,bytes,stream\n0,a,1,100,0\n1,f,1,100,0",
        "\n\nt_us,op,id,bytes,stream\n\r\n0,a,1,100,0\n\n\n1,f,1,100,0\n\r\n\n",
        "\u{feff}t_us,op,id,bytes,stream\n0,a,1,100,0\n1,f,1,100,0\n",
        "# aquifer-trace 1\nt_us,op,id,bytes,stream\n000,a,01,0100,00\n1,f,1,100,0\n",
        "# aquifer-trace 1\r\nt_us,op,id,bytes,stream\r\n0,a,1,100,0\r\n1,f,1,100,0\r",
    ] {
        assert_eq!(read(text).unwrap(), expected, "{text:?}");
        assert_eq!(read(gzip(text.as_bytes())).unwrap(), expected, "{text:?}");
        assert_eq!(Trace::read("test", Trickle(text.as_bytes(), false)).unwrap(), expected, "{text:?}");
    }
}

#[test]
fn reads_gzip_of_several_members() {
    let mut data = gzip(HEADER.as_bytes());
    data.extend(gzip(b"0,a,1,1"));
    data.extend(gzip(b"00,0\n1,f,1,100,0\n"));
    assert_eq!(read(data).unwrap().events().len(), 2);
}

/// Gives one byte at a time, with interruptions.
struct Trickle<'a>(&'a [u8], bool);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let count = buffer.len().min(1);
        self.0.read(&mut buffer[..count])
    }
}

#[test]
fn reads_from_slow_and_interrupted_inputs() {
    let text = format!("{HEADER}0,a,1,100,0\n1,f,1,100,0");
    assert_eq!(Trace::read("test", Trickle(text.as_bytes(), false)).unwrap(), read(&text).unwrap());
    let broken = format!("{HEADER}0,a,1,100,0\n1,b,1,100,0");
    assert_eq!(Trace::read("test", Trickle(broken.as_bytes(), false)).unwrap_err().line(), Some(3));
}

#[test]
fn reads_slow_gzip() {
    let text = gzip(format!("{HEADER}0,a,1,100,0\n1,f,1,100,0").as_bytes());
    assert_eq!(Trace::read("test", Trickle(&text, false)).unwrap(), read(&text).unwrap());
}

#[test]
fn a_file_is_named_without_folder_and_ending() {
    let folder = tempfile::tempdir().unwrap();
    for (file, name) in [("run.csv", "run"), ("run.2.csv.gz", "run.2"), ("run.gz", "run"), ("run", "run")] {
        let path = folder.path().join(file);
        let mut writer = TraceWriter::create(&path).unwrap();
        writer.write(&event(0, Allocate, 1, 1, 0)).unwrap();
        writer.finish().unwrap();
        assert_eq!(Trace::open(&path).unwrap().name(), name);
        let mut start = [0; 2];
        File::open(&path).unwrap().read_exact(&mut start).unwrap();
        assert_eq!(start == [0x1f, 0x8b], file.ends_with(".gz"), "{file}");
    }
}

#[test]
fn a_missing_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.csv");
    let error = Trace::open(&path).unwrap_err();
    assert_eq!(error.kind(), &TraceErrorKind::MissingFile);
    assert_eq!((error.name(), error.line()), (path.to_str().unwrap(), None));
    assert!(error.source().is_some());
    assert_eq!(error.to_string(), format!("{}: there is no such file; check the path", path.display()));
}

#[test]
fn an_unreadable_file() {
    let folder = tempfile::tempdir().unwrap();
    let error = Trace::open(folder.path()).unwrap_err();
    assert!(matches!(error.kind(), TraceErrorKind::Unreadable(_)), "{error}");
}

#[test]
fn an_input_that_fails() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    let reset = TraceErrorKind::Unreadable(io::ErrorKind::ConnectionReset);
    let error = Trace::read("test", Failing).unwrap_err();
    assert_eq!((error.line(), error.kind()), (Some(1), &reset));
    let start = format!("{HEADER}0,a,1,1,0\n");
    let error = Trace::read("test", start.as_bytes().chain(Failing)).unwrap_err();
    assert_eq!((error.line(), error.kind()), (Some(3), &reset));
    let data = gzip(start.as_bytes());
    let error = Trace::read("test", data[..data.len() - 8].chain(Failing)).unwrap_err();
    assert_eq!((error.line(), error.kind()), (Some(3), &reset));
}

#[test]
fn what_is_no_trace() {
    let not_a_trace = |found: &str| TraceErrorKind::NotATrace { found: found.to_owned() };
    assert_eq!(failure(""), (None, not_a_trace("")));
    assert_eq!(failure("\n\n"), (None, not_a_trace("")));
    assert_eq!(failure(gzip(b"")), (None, not_a_trace("")));
    assert_eq!(failure("# aquifer-trace 1\n"), (None, not_a_trace("")));
    assert_eq!(failure("0,a,1,100,0\n"), (Some(1), not_a_trace("0,a,1,100,0")));
    assert_eq!(failure("\nt_us,op,id,bytes\n"), (Some(2), not_a_trace("t_us,op,id,bytes")));
    assert_eq!(failure("t_us,op,id,stream,bytes\n"), (Some(1), not_a_trace("t_us,op,id,stream,bytes")));
    assert_eq!(failure(b"\x7fELF\x02\x01\n"), (Some(1), not_a_trace("\\x7fELF\\x02\\x01")));
    assert_eq!(failure("x".repeat(50)), (Some(1), not_a_trace(&format!("{}...", "x".repeat(40)))));
    assert_eq!(failure("# aquifer-trace one\n"), (Some(1), not_a_trace("# aquifer-trace one")));
    assert_eq!(failure("# aquifer-trace 0\n"), (Some(1), not_a_trace("# aquifer-trace 0")));
    let twice = "# aquifer-trace 1\n# aquifer-trace 1\n";
    assert_eq!(failure(twice), (Some(2), not_a_trace("# aquifer-trace 1")));
}

#[test]
fn a_later_version() {
    let version = |found| (Some(1), TraceErrorKind::UnsupportedVersion { found });
    assert_eq!(failure(format!("# aquifer-trace 2\n{HEADER}")), version(2));
    assert_eq!(failure("# aquifer-trace 17\r\nanything,else\r\n"), version(17));
    assert_eq!(failure("# aquifer-trace 2 with, something"), version(2));
    let error = read("# aquifer-trace 2\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "test, line 1: `# aquifer-trace 2`: this trace is in version 2 of the format and only version 1 is \
         known here; use a newer Aquifer or record it again with this one"
    );
}

#[test]
fn no_events() {
    assert_eq!(failure(HEADER), (None, TraceErrorKind::NoEvents));
    assert_eq!(failure(gzip(HEADER.as_bytes())), (None, TraceErrorKind::NoEvents));
    assert_eq!(Trace::from_events("test", []).unwrap_err().kind(), &TraceErrorKind::NoEvents);
}

#[test]
fn a_wrong_number_of_fields() {
    assert_eq!(failure_in("0,a,1,8,0\n1,f,1\n"), (3, TraceErrorKind::FieldCount { found: 3 }));
    assert_eq!(failure_in("0,a,1,8,0,\n"), (2, TraceErrorKind::FieldCount { found: 6 }));
    assert_eq!(failure_in("\n\n0,a,1,8,0\n\n\n \n"), (7, TraceErrorKind::FieldCount { found: 1 }));
}

#[test]
fn gzip_cut_short() {
    let mut text = HEADER.to_owned();
    for id in 1..=300 {
        text += &format!("{id},a,{id},{},0\n", id * 7919 % 1009 + 1);
    }
    let whole = gzip(text.as_bytes());
    for length in 3..whole.len() {
        let (line, kind) = failure(&whole[..length]);
        assert_eq!(kind, TraceErrorKind::TruncatedGzip, "cut to {length} bytes");
        assert!((1..=302).contains(&line.unwrap()));
    }
    assert_eq!(failure(&whole[..whole.len() - 1]).0, Some(302));
    let error = read(&whole[..100]).unwrap_err();
    assert_eq!(
        error.source().unwrap().downcast_ref::<io::Error>().unwrap().kind(),
        io::ErrorKind::UnexpectedEof
    );
}

#[test]
fn gzip_damaged() {
    let text = format!("{HEADER}0,a,1,8,0\n");
    let mut checksum = gzip(text.as_bytes());
    let length = checksum.len();
    checksum[length - 8] ^= 1;
    assert_eq!(failure(checksum), (Some(3), TraceErrorKind::CorruptGzip));
    let mut method = gzip(text.as_bytes());
    method[2] = 7;
    assert_eq!(failure(method), (Some(1), TraceErrorKind::CorruptGzip));
    let mut tail = gzip(text.as_bytes());
    tail.extend(b"something that is not gzip");
    assert_eq!(failure(tail), (Some(3), TraceErrorKind::CorruptGzip));
}

#[test]
fn not_utf8() {
    let lines = |line: &[u8]| [HEADER.as_bytes(), b"0,a,1,8,0\n", line].concat();
    let invalid = |field| (Some(3), TraceErrorKind::InvalidUtf8 { field });
    assert_eq!(failure(lines(b"\xff1,f,1,8,0\n")), invalid("t_us"));
    assert_eq!(failure(lines(b"1,\xc3,1,8,0\n")), invalid("op"));
    assert_eq!(failure(lines(b"1,f,1,8,\xed\xa0\x80")), invalid("stream"));
}

#[test]
fn bad_numbers() {
    use NumberProblem::{Empty, Fractional, Negative, NotANumber, TooLarge};
    for (text, problem) in [
        ("", Empty),
        ("-1", Negative),
        ("-0", Negative),
        ("-1.5", Negative),
        ("1.5", Fractional),
        ("4096.0", Fractional),
        ("18446744073709551616", TooLarge),
        ("99999999999999999999999999", TooLarge),
        ("+1", NotANumber),
        (" 1", NotANumber),
        ("1 ", NotANumber),
        ("1e3", NotANumber),
        ("0x10", NotANumber),
        ("1.2.3", NotANumber),
        ("1..2", NotANumber),
        (".", NotANumber),
        ("-", NotANumber),
        ("4K", NotANumber),
        ("NaN", NotANumber),
        ("\"1\"", NotANumber),
    ] {
        for (field, line) in [
            ("t_us", format!("{text},a,2,8,0")),
            ("id", format!("1,a,{text},8,0")),
            ("bytes", format!("1,a,2,{text},0")),
            ("stream", format!("1,a,2,8,{text}")),
        ] {
            let text = text.escape_default().to_string();
            assert_eq!(
                failure_in(&format!("0,a,1,8,0\n{line}\n")),
                (3, TraceErrorKind::InvalidNumber { field, text, problem })
            );
        }
    }
    let largest = read(format!("{HEADER}{0},a,{0},{0},{0}\n", u64::MAX)).unwrap();
    assert_eq!(largest.events(), [event(u64::MAX, Allocate, u64::MAX, u64::MAX, u64::MAX)]);
    assert_eq!(
        read(format!("{HEADER}0,a,1,-5,0\n")).unwrap_err().to_string(),
        "test, line 2: bytes is `-5`, which is negative; a whole number from 0 to 18446744073709551615 is needed"
    );
}

#[test]
fn unknown_ops() {
    for op in ["", "A", "alloc", "b", " a"] {
        let kind = TraceErrorKind::UnknownOp { text: op.to_owned() };
        assert_eq!(failure_in(&format!("0,a,1,8,0\n1,{op},1,8,0\n")), (3, kind));
    }
}

#[test]
fn breaches_of_the_order() {
    use TraceErrorKind::*;
    assert_eq!(failure_in("0,a,1,0,0\n"), (2, ZeroBytes { id: 1 }));
    assert_eq!(failure_in("0,a,1,8,0\n1,a,1,8,0\n"), (3, DuplicateId { id: 1 }));
    assert_eq!(failure_in("0,a,1,8,0\n1,f,1,8,0\n1,a,1,8,0\n"), (4, DuplicateId { id: 1 }));
    assert_eq!(failure_in("0,a,1,8,0\n1,f,2,8,0\n"), (3, UnknownId { id: 2, op: Free }));
    assert_eq!(failure_in("0,c,2,8,0\n1,a,2,8,0\n"), (2, UnknownId { id: 2, op: FreeCompleted }));
    assert_eq!(failure_in("0,a,1,8,0\n1,f,1,8,0\n2,f,1,8,0\n"), (4, DoubleFree { id: 1 }));
    assert_eq!(failure_in("0,a,1,8,0\n1,f,1,8,0\n2,c,1,8,0\n3,f,1,8,0\n"), (5, DoubleFree { id: 1 }));
    assert_eq!(failure_in("0,a,1,8,0\n1,c,1,8,0\n"), (3, CompletedBeforeFree { id: 1 }));
    assert_eq!(failure_in("0,a,1,8,0\n1,f,1,8,0\n2,c,1,8,0\n3,c,1,8,0\n"), (5, CompletedTwice { id: 1 }));
    assert_eq!(failure_in("5,a,1,8,0\n4,a,2,8,0\n"), (3, TimeGoesBack { time_us: 4, previous_us: 5 }));
}

#[test]
fn live_bytes_overflow() {
    let max = u64::MAX;
    let kind = TraceErrorKind::LiveBytesOverflow { id: 2 };
    assert_eq!(failure_in(&format!("0,a,1,{max},0\n1,a,2,1,0\n")), (3, kind));
    let freed = read(format!("{HEADER}0,a,1,{max},0\n1,f,1,0,0\n2,a,2,{max},0\n")).unwrap();
    assert_eq!(freed.summary().live_bytes_peak, max);
}

#[test]
fn too_many_events() {
    let mut checker = Checker::with_event_count_max(2);
    checker.check(event(0, Allocate, 1, 8, 0)).unwrap();
    checker.check(event(0, Free, 1, 8, 0)).unwrap();
    let kind = checker.check(event(0, Allocate, 2, 8, 0)).unwrap_err();
    assert_eq!(kind, TraceErrorKind::TooManyEvents { count_max: 2 });
}

#[test]
fn lines_have_a_limit() {
    let zeros = |count| format!("{HEADER}0,a,1,8,0\n1,a,2,8,{}\n2,a,3,8,0\n", "0".repeat(count));
    let room = TRACE_LINE_BYTES_MAX - "1,a,2,8,".len();
    assert_eq!(read(zeros(room)).unwrap().events().len(), 3);
    assert_eq!(failure(zeros(room + 1)), (Some(3), TraceErrorKind::LineTooLong));
    assert_eq!(failure(gzip(zeros(100_000).as_bytes())), (Some(3), TraceErrorKind::LineTooLong));
    let slow = zeros(room + 1);
    let error = Trace::read("test", Trickle(slow.as_bytes(), false)).unwrap_err();
    assert_eq!((error.line(), error.kind()), (Some(3), &TraceErrorKind::LineTooLong));
    assert_eq!(failure("0".repeat(2000)), (Some(1), TraceErrorKind::LineTooLong));
    assert_eq!(failure(format!("{HEADER}{}", ",".repeat(2000))), (Some(2), TraceErrorKind::LineTooLong));
}

#[test]
fn an_error_before_a_long_line_comes_first() {
    let text = format!("{HEADER}0,b,1,8,0\n{}", "0".repeat(2000));
    assert_eq!(failure(text), (Some(2), TraceErrorKind::UnknownOp { text: "b".to_owned() }));
}

#[test]
fn an_endless_line_ends() {
    let quotes = [b"t_us,op,id,bytes,stream\n0,\"".as_slice()].concat();
    for endless in [io::repeat(b'0'), io::repeat(b','), io::repeat(b'"'), io::repeat(b'\r'), io::repeat(0)] {
        let error = Trace::read("test", quotes.chain(endless)).unwrap_err();
        assert_eq!((error.line(), error.kind()), (Some(2), &TraceErrorKind::LineTooLong));
    }
}

#[test]
fn events_from_code_are_checked_the_same() {
    let events = [event(0, Allocate, 1, 8, 0), event(1, Free, 1, 0, 0), event(2, Free, 1, 8, 0)];
    let error = Trace::from_events("made", events).unwrap_err();
    assert_eq!((error.name(), error.line()), ("made", Some(4)));
    assert_eq!(error.kind(), &TraceErrorKind::DoubleFree { id: 1 });
    let trace = Trace::from_events("made", events[..2].iter().copied()).unwrap();
    assert_eq!(trace.events()[1].bytes, 8);
}

#[test]
fn summarises() {
    let text = "5,a,1,100,0\n6,a,2,10,1\n7,f,1,100,0\n7,a,3,100,0\n8,c,1,100,2\n9,a,4,30,0\n12,f,3,100,0\n";
    let summary = read(format!("{HEADER}{text}")).unwrap().summary();
    let expected = TraceSummary {
        event_count: 7,
        allocation_count: 4,
        free_count: 2,
        completion_count: 1,
        live_bytes_peak: 140,
        live_bytes_peak_time_us: 9,
        live_count_peak: 3,
        live_bytes_end: 40,
        live_count_end: 2,
        stream_count: 3,
        size_bytes_min: 10,
        size_bytes_median: 30,
        size_bytes_p90: 100,
        size_bytes_max: 100,
        distinct_size_count: 3,
        duration_us: 7,
    };
    assert_eq!(summary, expected);
}

#[test]
fn summarises_one_event() {
    let summary = read(format!("{HEADER}5,a,1,100,0\n")).unwrap().summary();
    assert_eq!((summary.size_bytes_min, summary.size_bytes_median, summary.size_bytes_p90), (100, 100, 100));
    assert_eq!((summary.live_bytes_peak_time_us, summary.duration_us), (5, 0));
}

/// The real trace that lies in the repository, in `traces/`.
#[test]
fn reads_the_recorded_trace() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../traces/moe_train_start.csv.gz");
    let trace = Trace::open(path).unwrap();
    assert_eq!(trace.name(), "moe_train_start");
    let expected = TraceSummary {
        event_count: 10_000,
        allocation_count: 5164,
        free_count: 4836,
        completion_count: 0,
        live_bytes_peak: 6_101_516_760,
        live_bytes_peak_time_us: 2_069_917,
        live_count_peak: 558,
        live_bytes_end: 4_671_430_168,
        live_count_end: 328,
        stream_count: 1,
        size_bytes_min: 1,
        size_bytes_median: 786_432,
        size_bytes_p90: 11_255_808,
        size_bytes_max: 300_544_000,
        distinct_size_count: 90,
        duration_us: 2_157_157,
    };
    assert_eq!(trace.summary(), expected);
}

fn write(trace: &Trace, compression: TraceCompression) -> Vec<u8> {
    let mut writer = TraceWriter::new("out", Vec::new(), compression).unwrap();
    for event in trace.events() {
        writer.write(event).unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn writes_what_other_tools_read() {
    let text = format!("{HEADER}0,a,1,100,0\n1,f,1,100,5\n18446744073709551615,c,1,100,0\n");
    let trace = read(&text).unwrap();
    assert_eq!(write(&trace, TraceCompression::None), text.as_bytes());
}

#[test]
fn a_dropped_writer_has_written_everything() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["dropped.csv", "dropped.csv.gz"] {
        let path = folder.path().join(file);
        let mut writer = TraceWriter::create(&path).unwrap();
        for id in 1..=5000 {
            writer.write(&event(id, Allocate, id, id * 7919 % 1009 + 1, 0)).unwrap();
        }
        drop(writer);
        assert_eq!(Trace::open(&path).unwrap().events().len(), 5000);
    }
}

/// Takes so many bytes and then fails.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.0);
        if count == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0 -= count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_reported_wherever_it_comes() {
    for compression in [TraceCompression::None, TraceCompression::Gzip] {
        for room in [0, 1, 30, 5000, 8500] {
            let run = || {
                let mut writer = TraceWriter::new("out", Full(room), compression)?;
                for id in 1..=5000 {
                    writer.write(&event(id * 1000, Allocate, id, id * 7919 % 1009 + 1, 0))?;
                }
                writer.finish()
            };
            let error = run().map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), &TraceErrorKind::Unwritable(io::ErrorKind::StorageFull), "{room}");
            assert_eq!((error.name(), error.line()), ("out", None));
            assert!(error.source().is_some());
        }
    }
}

#[test]
fn a_file_that_cannot_be_created() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("no/such/folder.csv");
    let error = TraceWriter::create(&path).unwrap_err();
    assert_eq!(error.kind(), &TraceErrorKind::Unwritable(io::ErrorKind::NotFound));
    assert_eq!(error.name(), path.to_str().unwrap());
}

/// Any valid trace: each step allocates, or lets the `pick`-th allocation that is not done go one step further.
fn any_trace() -> impl Strategy<Value = Trace> {
    let step = (0_u64..1 << 40, any::<bool>(), any::<u64>(), 1_u64..=u64::MAX >> 8, any::<u64>());
    (vec(step, 0..200), any::<u64>()).prop_map(|(steps, first_id)| {
        let mut pending = BTreeMap::from([(first_id, TraceOp::Allocate)]);
        let mut events = vec![event(0, Allocate, first_id, 1, 0)];
        let (mut time_us, mut next_id) = (0, first_id);
        for (pause_us, allocates, pick, bytes, stream) in steps {
            time_us += pause_us;
            if allocates || pending.is_empty() {
                // An odd step visits every id before it repeats one.
                next_id = next_id.wrapping_add(0x9e37_79b9_7f4a_7c15);
                pending.insert(next_id, Allocate);
                events.push(event(time_us, Allocate, next_id, bytes, stream));
            } else {
                let (&id, &done) = pending.iter().nth(pick as usize % pending.len()).unwrap();
                pending.remove(&id);
                if done == Allocate {
                    pending.insert(id, Free);
                    events.push(event(time_us, Free, id, bytes, stream));
                } else {
                    events.push(event(time_us, FreeCompleted, id, bytes, stream));
                }
            }
        }
        Trace::from_events("test", events).unwrap()
    })
}

/// One change to a byte string, at a place taken modulo its length.
#[derive(Debug, Clone)]
enum Mutation {
    Set(usize, u8),
    Flip(usize, u8),
    Insert(usize, u8),
    Remove(usize),
    Truncate(usize),
    Repeat(usize, usize),
}

fn any_mutation() -> impl Strategy<Value = Mutation> {
    let byte = || prop_oneof![any::<u8>(), prop::sample::select(b"0123456789,\n\r\"-.afc# ".to_vec())];
    prop_oneof![
        (any::<usize>(), byte()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (any::<usize>(), 0_u8..8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        (any::<usize>(), byte()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        any::<usize>().prop_map(Mutation::Remove),
        any::<usize>().prop_map(Mutation::Truncate),
        (any::<usize>(), 1_usize..2000).prop_map(|(at, count)| Mutation::Repeat(at, count)),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutations: &[Mutation]) {
    for mutation in mutations {
        if bytes.is_empty() {
            return;
        }
        let length = bytes.len();
        match *mutation {
            Mutation::Set(at, byte) => bytes[at % length] = byte,
            Mutation::Flip(at, bit) => bytes[at % length] ^= 1 << bit,
            Mutation::Insert(at, byte) => bytes.insert(at % length, byte),
            Mutation::Remove(at) => drop(bytes.remove(at % length)),
            Mutation::Truncate(at) => bytes.truncate(at % length),
            Mutation::Repeat(at, count) => {
                let at = at % length;
                let byte = bytes[at];
                bytes.splice(at..at, std::iter::repeat_n(byte, count));
            }
        }
    }
}

/// Reading answers something, and what it answers can be used.
fn survives(bytes: &[u8]) -> Result<(), TestCaseError> {
    match read(bytes) {
        Ok(trace) => {
            prop_assert!(trace.summary().size_bytes_min > 0);
            let again = read(write(&trace, TraceCompression::None)).unwrap();
            prop_assert_eq!(&again, &trace);
        }
        Err(error) => {
            let lines = 1 + bytes.iter().filter(|&&byte| byte == b'\n').count() as u64;
            if !bytes.starts_with(&[0x1f, 0x8b]) {
                prop_assert!(error.line().is_none_or(|line| (1..=lines).contains(&line)));
            }
            prop_assert!(!error.to_string().contains(|c: char| c.is_control()));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn what_was_written_is_read(trace in any_trace()) {
        for compression in [TraceCompression::None, TraceCompression::Gzip] {
            let read = read(write(&trace, compression)).unwrap();
            prop_assert_eq!(&read, &trace);
            prop_assert_eq!(read.summary(), trace.summary());
        }
    }

    #[test]
    fn damaged_traces_do_not_panic(trace in any_trace(), mutations in vec(any_mutation(), 1..6)) {
        let mut text = write(&trace, TraceCompression::None);
        mutate(&mut text, &mutations);
        survives(&text)?;
        survives(&gzip(&text))?;
        let mut data = write(&trace, TraceCompression::Gzip);
        mutate(&mut data, &mutations);
        survives(&data)?;
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..300)) {
        survives(&bytes)?;
        survives(&[HEADER.as_bytes(), &bytes].concat())?;
        survives(&[&[0x1f, 0x8b, 8, 0], bytes.as_slice()].concat())?;
    }
}
