//! Units, tables and lines: how results look.

use std::io::{self, Write};

use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

/// A budget that never binds.
pub(crate) const NO_LIMIT: u64 = aquifer::BUDGET_BYTES_MAX;

/// The narrowest terminal that a table is fitted to, in columns.
const WIDTH_MIN: u16 = 60;

/// On which side a column's cells are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A size as people read it: `1.50 GiB`.
pub(crate) fn bytes_in_words(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = bytes.max(1).ilog2() / 10;
    if unit == 0 {
        return format!("{bytes} B");
    }
    format!("{:.2} {}", bytes as f64 / (1_u64 << (10 * unit)) as f64, UNITS[unit as usize])
}

/// A power of two without digits that say nothing: `256 KiB`.
pub(crate) fn bucket_in_words(bytes: u64) -> String {
    bytes_in_words(bytes).replace(".00", "")
}

/// A count with its digits in groups: `814,069`.
pub(crate) fn count_in_words(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A share of one: `99.31 %`.
pub(crate) fn percent_in_words(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// Where a table goes: its terminal's width bounds it, and only a terminal gets bold type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Output,
    Error,
}

/// An empty table with a header.
pub(crate) fn table<'a>(
    stream: Stream,
    header: impl IntoIterator<Item = &'a str>,
    align_of_column: impl Fn(usize) -> Align,
) -> Table {
    let mut table = Table::new();
    if stream == Stream::Error {
        table.use_stderr();
    }
    table.load_style(presets::UTF8_FULL_CONDENSED);
    // A terminal that narrow, or one that does not know its width, would get a letter to a line.
    if table.width().is_some_and(|columns| columns >= WIDTH_MIN) {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    table.set_header(header.into_iter().map(|name| match Cell::new(name) {
        cell if is_plain => cell,
        cell => cell.add_attribute(Attribute::Bold),
    }));
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_cell_alignment(match align_of_column(index) {
            Align::Left => CellAlignment::Left,
            Align::Right => CellAlignment::Right,
        });
    }
    table
}

/// Names to the left, figures to the right.
pub(crate) fn first_left(column: usize) -> Align {
    if column == 0 { Align::Left } else { Align::Right }
}

/// How many results stand side by side.
const RESULTS_ABREAST: usize = 4;

/// Tables with a column for each result and a row for each figure.
pub(crate) fn side_by_side<T>(
    results: &[T],
    name: impl Fn(&T) -> &str,
    figures: impl Fn(&T) -> Vec<(&'static str, String)>,
) -> Vec<Table> {
    let one = |results: &[T]| {
        let header = std::iter::once("trace").chain(results.iter().map(&name));
        let mut table = table(Stream::Output, header, first_left);
        let columns: Vec<_> = results.iter().map(&figures).collect();
        for (row, (name, _)) in columns[0].iter().enumerate() {
            let cells = columns.iter().map(|column| column[row].1.as_str());
            table.add_row(std::iter::once(*name).chain(cells));
        }
        table
    };
    results.chunks(RESULTS_ABREAST).map(one).collect()
}

/// Writes text and a line's end.
pub(crate) fn line(text: impl std::fmt::Display) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{text}")?;
    output.flush()
}

/// Writes one JSON object on a line of its own.
pub(crate) fn json_line(value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string(value)?;
    line(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts_are_readable() {
        let sizes = [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (u64::MAX, "16.00 EiB")];
        for (bytes, expected) in sizes {
            assert_eq!(bytes_in_words(bytes), expected);
        }
        assert_eq!(bucket_in_words(256 << 20), "256 MiB");
        assert_eq!([0, 999, 1000, 814_069].map(count_in_words), ["0", "999", "1,000", "814,069"]);
        assert_eq!(percent_in_words(0.99306), "99.31 %");
    }
}
