//! The figures as a drawing: rate over size, both in powers, a line for each route and a dashed one for its reference.

use std::io;

use aquifer::Route;
use aquifer::bandwidth::{Memory, Row};
use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;

use super::{Measured, name, title};
use crate::output::bucket_in_words;

/// The most labels that have room below.
const LABELS_MAX: usize = 12;

/// In pixels, as all that follows.
const SIZE: (u32, u32) = (1160, 660);
const LEGEND_WIDTH: u32 = 270;
const LEGEND_LINE: i32 = 26;
const SAMPLE_WIDTH: i32 = 44;

const TITLE_TEXT: i32 = 20;
const TEXT: i32 = 15;

/// Told apart by people who see some colours alike, too: M. Okabe and K. Ito's palette, with grey in place of its yellow.
const COLORS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(0, 0, 0),
    RGBColor(120, 120, 120),
];

/// One route: points of size and GB/s.
struct Line {
    name: String,
    color: RGBColor,
    transfers: Vec<(f64, f64)>,
    references: Vec<(f64, f64)>,
}

/// The drawing, as SVG.
///
/// # Errors
///
/// If the library cannot draw it.
pub(super) fn draw(measured: &Measured) -> io::Result<String> {
    let lines = lines(&measured.outcome.rows);
    let mut svg = String::new();
    draw_to(&mut svg, &title(measured), &lines).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(svg)
}

fn lines(rows: &[Row]) -> Vec<Line> {
    let mut lines: Vec<((Route, Memory), Line)> = Vec::new();
    for row in rows {
        let key = (row.route, row.memory);
        let index = lines.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
            let color = COLORS[lines.len() % COLORS.len()];
            let name = name(row.route, row.memory);
            lines.push((key, Line { name, color, transfers: Vec::new(), references: Vec::new() }));
            lines.len() - 1
        });
        let point =
            |bytes_per_second: f64| Some((row.bytes as f64, bytes_per_second / 1e9)).filter(is_drawable);
        let line = &mut lines[index].1;
        line.transfers.extend(point(row.bytes_per_second()));
        line.references.extend(point(row.reference_bytes_per_second()));
    }
    lines.into_iter().map(|(_, line)| line).collect()
}

/// Whether a point has a place on axes of powers. What took no time by its clock has none.
fn is_drawable(&(x, y): &(f64, f64)) -> bool {
    x > 0.0 && y > 0.0 && y.is_finite()
}

/// The least and the greatest of some values, with room on both sides; something if there are none.
fn range(values: impl Iterator<Item = f64>, room: f64) -> std::ops::Range<f64> {
    let (least, most) =
        values.fold((f64::INFINITY, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)));
    if most > 0.0 { least / room..most * room } else { 1.0..10.0 }
}

/// The values 1, 2 and 5 times the powers of ten that lie in a range.
fn decades(range: &std::ops::Range<f64>) -> Vec<f64> {
    let powers = range.start.log10().floor() as i32..=range.end.log10().ceil() as i32;
    // As text, since products would be rounded, and long to read.
    let values = powers.flat_map(|power| [1, 2, 5].map(|digit| format!("{digit}e{power}").parse().ok()));
    values.flatten().filter(|value| range.contains(value)).collect()
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type DrawError = DrawingAreaErrorKind<io::Error>;

fn draw_to(svg: &mut String, title: &str, lines: &[Line]) -> Result<(), DrawError> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let body = root.titled(title, ("sans-serif", TITLE_TEXT))?;
    let (width, _) = body.dim_in_pixel();
    let (chart, legend) = body.split_horizontally(width - LEGEND_WIDTH);
    draw_chart(&chart, lines)?;
    draw_legend(&legend, lines)?;
    root.present()
}

fn draw_chart(area: &Area<'_>, lines: &[Line]) -> Result<(), DrawError> {
    let points = || lines.iter().flat_map(|line| line.transfers.iter().chain(&line.references));
    let mut sizes: Vec<f64> = points().map(|point| point.0).collect();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    let x = range(sizes.iter().copied(), 1.5);
    let labels = sizes.iter().copied().step_by(sizes.len().div_ceil(LABELS_MAX).max(1)).collect();
    let y = range(points().map(|point| point.1), 1.3);
    let rates = decades(&y);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(x.log_scale().with_key_points(labels), y.log_scale().with_key_points(rates))?;
    chart
        .configure_mesh()
        .x_desc("size")
        .y_desc("GB/s")
        .x_label_formatter(&|bytes| bucket_in_words(*bytes as u64))
        .y_label_formatter(&|rate| format!("{rate}"))
        .label_style(("sans-serif", TEXT))
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .draw()?;
    for line in lines {
        let style = line.color.stroke_width(1);
        chart.draw_series(DashedLineSeries::new(line.references.iter().copied(), 7, 5, style))?;
    }
    for line in lines {
        let points = line.transfers.iter().copied();
        chart.draw_series(LineSeries::new(points.clone(), line.color.stroke_width(2)))?;
        chart.draw_series(points.map(|point| Circle::new(point, 3, line.color.filled())))?;
    }
    Ok(())
}

fn draw_legend(area: &Area<'_>, lines: &[Line]) -> Result<(), DrawError> {
    let text = ("sans-serif", TEXT).into_font();
    let mut top = 30;
    let mut entry = |name: &str, color: RGBColor, is_dashed: bool| {
        let ends = [(0, top), (SAMPLE_WIDTH, top)];
        if is_dashed {
            area.draw(&DashedPathElement::new(ends, 7, 5, color.stroke_width(1)))?;
        } else {
            area.draw(&PathElement::new(ends, color.stroke_width(2)))?;
        }
        area.draw(&Text::new(name.to_owned(), (SAMPLE_WIDTH + 10, top - TEXT / 2), text.clone()))?;
        top += LEGEND_LINE;
        Ok(())
    };
    for line in lines {
        entry(&line.name, line.color, false)?;
    }
    entry("its reference", BLACK, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aquifer::bandwidth::{Outcome, Reference};
    use roxmltree::Document;
    use std::time::Duration;

    fn row(route: Route, memory: Memory, bytes: u64, seconds: f64) -> Row {
        let reference = Reference::Memcpy;
        let reference_seconds = seconds / 2.0;
        Row {
            route,
            memory,
            bytes,
            seconds,
            reference,
            reference_threads: None,
            reference_seconds,
            repetitions: 3,
        }
    }

    fn measured(device: &str, rows: Vec<Row>) -> Measured {
        let outcome = Outcome { rows, left_out: Vec::new(), thread_count: 1 };
        Measured {
            backend: "host",
            device: device.to_owned(),
            is_virtual: true,
            copy_threads: 1,
            span: Duration::ZERO,
            outcome,
        }
    }

    fn hex(RGBColor(red, green, blue): RGBColor) -> String {
        format!("#{red:02X}{green:02X}{blue:02X}")
    }

    /// The lines of a colour and width that have so many points.
    fn count(svg: &Document<'_>, color: RGBColor, width: &str, point_count: usize) -> usize {
        let is_it = |node: &roxmltree::Node<'_, '_>| {
            node.tag_name().name() == "polyline"
                && node.attribute("stroke") == Some(&hex(color))
                && node.attribute("stroke-width") == Some(width)
                && node
                    .attribute("points")
                    .is_some_and(|points| points.split_whitespace().count() == point_count)
        };
        svg.descendants().filter(is_it).count()
    }

    #[test]
    fn each_route_has_a_line_with_a_point_for_each_size_and_a_dashed_one() {
        let routes = [(Route::HostToDevice, Memory::Plain), (Route::Fill, Memory::Device)];
        let sizes = [4096, 65_536, 1 << 20];
        let rows = routes
            .into_iter()
            .flat_map(|(route, memory)| sizes.map(|bytes| row(route, memory, bytes, bytes as f64 / 5e9)));
        let svg = draw(&measured("CPU <of> \"A & B\"", rows.collect())).unwrap();
        let svg = Document::parse(&svg).unwrap();
        for color in &COLORS[..2] {
            assert_eq!(count(&svg, *color, "2", 3), 1, "one through all points");
            assert!(count(&svg, *color, "1", 2) > 5, "dashes");
            let is_dot = |node: &roxmltree::Node<'_, '_>| {
                node.tag_name().name() == "circle" && node.attribute("fill") == Some(&hex(*color))
            };
            assert_eq!(svg.descendants().filter(is_dot).count(), 3);
        }
        let texts: Vec<_> = svg.descendants().filter_map(|node| node.text()).map(str::trim).collect();
        for expected in [
            "host: CPU <of> \"A & B\", 1 copy thread, in virtual time",
            "host to device, plain",
            "fill",
            "its reference",
            "4 KiB",
            "1 MiB",
            "GB/s",
            "10",
        ] {
            assert!(texts.contains(&expected), "no {expected:?} in {texts:?}");
        }
    }

    #[test]
    fn odd_figures_are_drawn_too() {
        for rows in [
            vec![row(Route::Fill, Memory::Device, 3, 1e-6)],
            // No time at all, or no end.
            vec![
                row(Route::Fill, Memory::Device, 4096, 0.0),
                row(Route::Fill, Memory::Device, u64::MAX, 1e300),
            ],
            Vec::new(),
        ] {
            let svg = draw(&measured("x", rows)).unwrap();
            Document::parse(&svg).unwrap();
        }
    }

    #[test]
    fn ticks_are_at_one_two_and_five() {
        assert_eq!(decades(&(0.4..12.0)), [0.5, 1.0, 2.0, 5.0, 10.0]);
        assert_eq!(decades(&(3e-5..6e-5)).iter().map(f64::to_string).collect::<Vec<_>>(), ["0.00005"]);
        assert_eq!(range([].into_iter(), 2.0), 1.0..10.0);
        assert_eq!(range([4.0, 2.0].into_iter(), 2.0), 1.0..8.0);
    }
}
