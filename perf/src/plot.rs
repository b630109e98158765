//! Ratios as a drawing: a dot at the median, a line from the least to the greatest, a mark at the goal.

use std::fmt::Write as _;

use crate::stats::Spread;
use crate::summary::number;

pub struct Row {
    pub label: String,
    pub spread: Spread,
    pub goal: f64,
    pub met: bool,
}

const LEFT: f64 = 300.0;
const WIDTH: f64 = 520.0;
const RIGHT: f64 = 80.0;
const ROW: f64 = 22.0;
const TOP: f64 = 46.0;

pub fn svg(title: &str, rows: &[Row]) -> String {
    let end = axis_end(rows);
    let x = |value: f64| LEFT + WIDTH * (value / end).clamp(0.0, 1.0);
    let (width, height) = (LEFT + WIDTH + RIGHT, TOP + ROW * rows.len() as f64 + 30.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"15\">{}</text>\n",
        escaped(title)
    );
    let bottom = height - 22.0;
    for tick in 0..=4 {
        let value = end * f64::from(tick) / 4.0;
        let at = x(value);
        let _ = writeln!(out, "<line x1=\"{at}\" y1=\"{TOP}\" x2=\"{at}\" y2=\"{bottom}\" stroke=\"#ddd\"/>");
        let y = height - 8.0;
        let _ = writeln!(out, "<text x=\"{at}\" y=\"{y}\" text-anchor=\"middle\">{}</text>", number(value));
    }
    for (at, row) in rows.iter().enumerate() {
        draw(&mut out, row, TOP + ROW * (at as f64 + 0.5), &x);
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, row: &Row, y: f64, x: &dyn Fn(f64) -> f64) {
    let Spread { median, least, greatest, .. } = row.spread;
    let color = if row.met { "#2a7" } else { "#c33" };
    let (label_x, text_y) = (LEFT - 8.0, y + 4.0);
    let (from, to, dot, goal) = (x(least), x(greatest), x(median), x(row.goal));
    let (goal_top, goal_bottom, value_x) = (y - 7.0, y + 7.0, LEFT + WIDTH + 8.0);
    let _ = write!(
        out,
        "<text x=\"{label_x}\" y=\"{text_y}\" text-anchor=\"end\">{}</text>\n\
         <line x1=\"{from}\" y1=\"{y}\" x2=\"{to}\" y2=\"{y}\" stroke=\"{color}\" stroke-width=\"2\"/>\n\
         <line x1=\"{goal}\" y1=\"{goal_top}\" x2=\"{goal}\" y2=\"{goal_bottom}\" stroke=\"black\" \
         stroke-width=\"2\"/>\n\
         <circle cx=\"{dot}\" cy=\"{y}\" r=\"4\" fill=\"{color}\"/>\n\
         <text x=\"{value_x}\" y=\"{text_y}\">{}</text>\n",
        escaped(&row.label),
        number(median)
    );
}

/// A whole multiple of a power of ten or its half, so that the marks are readable; one wild round does not squeeze all.
fn axis_end(rows: &[Row]) -> f64 {
    let most = rows.iter().map(|row| row.spread.greatest.min(3.0 * row.spread.median).max(row.goal));
    let most = most.fold(0.0_f64, f64::max).max(1e-3);
    let step = 10f64.powf(most.log10().floor()) / 2.0;
    (most / step).ceil() * step
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(median: f64, greatest: f64, goal: f64) -> Row {
        let spread = Spread { median, least: median / 2.0, greatest, rounds: 3 };
        Row { label: "a & b".into(), spread, goal, met: median <= goal }
    }

    #[test]
    fn the_axis_holds_every_median_and_goal() {
        for (median, greatest, goal) in [(0.15, 0.2, 0.286), (1.2, 90.0, 1.6), (0.5, 0.6, 7.0)] {
            let end = axis_end(&[row(median, greatest, goal)]);
            assert!(end >= median && end >= goal && end <= 2.0 * (3.0 * median).max(goal), "{end}");
        }
    }

    #[test]
    fn met_and_missed_differ_and_text_is_escaped() {
        let text = svg("<title>", &[row(1.0, 1.5, 2.0), row(3.0, 4.0, 2.0)]);
        assert_eq!((text.matches("#2a7").count(), text.matches("#c33").count()), (2, 2));
        assert!(text.contains("a &amp; b") && text.contains("&lt;title&gt;") && text.ends_with("</svg>\n"));
        assert_eq!(text.matches("<circle").count(), 2);
    }
}
