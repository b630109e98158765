//! The result as a picture: latency by percentile, then throughput and loss over time.

use std::fmt::Write as _;

use hdrhistogram::Histogram;

use super::series::{SLOT_NS, Slot};

const WIDTH: f64 = 860.0;
const PANEL: f64 = 300.0;
/// Left, right, above and below a panel's axes.
const MARGIN: [f64; 4] = [90.0, 30.0, 50.0, 50.0];
const FONT: &str = "font-family=\"sans-serif\" font-size=\"12\"";

/// Well-formed SVG; `title` may hold any text.
pub fn svg(title: &str, latency: &Histogram<u64>, series: &[Slot]) -> String {
    let mut out = String::new();
    let height = 3.0 * PANEL;
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
    );
    latency_panel(&mut out, title, latency);
    let per_second = 1e9 / SLOT_NS as f64;
    let line = |of: &dyn Fn(&Slot) -> f64| -> Vec<(f64, f64)> {
        series.iter().enumerate().map(|(at, slot)| (at as f64 / per_second, of(slot))).collect()
    };
    let sent = line(&|slot| slot.sent as f64 * per_second);
    let arrived = line(&|slot| slot.arrived as f64 * per_second);
    let panel = Panel::over_time(PANEL, &[&sent, &arrived], 1.0);
    panel.frame(&mut out, "packets per second over time (grey: sent, blue: arrived)", "s", &count);
    panel.line(&mut out, &sent, "gray");
    panel.line(&mut out, &arrived, "steelblue");
    // Packets in flight at a slot's end arrive in the next one: only the sum so far tells loss.
    let (mut all_sent, mut all_arrived) = (0, 0);
    let missing = series.iter().enumerate().map(|(at, slot)| {
        (all_sent, all_arrived) = (all_sent + slot.sent, all_arrived + slot.arrived);
        (at as f64 / per_second, 100.0 * all_sent.saturating_sub(all_arrived) as f64 / all_sent.max(1) as f64)
    });
    let missing: Vec<(f64, f64)> = missing.collect();
    let panel = Panel::over_time(2.0 * PANEL, &[&missing], 0.1);
    panel.frame(&mut out, "lost or still in flight, % of all sent so far", "s", &|value| format!("{value:.2} %"));
    panel.line(&mut out, &missing, "firebrick");
    out.push_str("</svg>\n");
    out
}

/// Nines to the right, as tails are read: 90, 99, 99.9 % at even distances.
fn latency_panel(out: &mut String, title: &str, latency: &Histogram<u64>) {
    let nines = (latency.len().max(10) as f64).log10();
    let points: Vec<(f64, f64)> = (0..=200)
        .map(|step| {
            let x = nines * f64::from(step) / 200.0;
            (x, latency.value_at_quantile(1.0 - 10f64.powf(-x)) as f64 / 1e3)
        })
        .collect();
    let panel = Panel { top: 0.0, x_max: nines, y_max: points.iter().fold(1.0, |max: f64, point| max.max(point.1)) };
    panel.axes(out, &format!("{title}: latency by percentile"), &micros);
    for whole in 0..=nines as u32 {
        let label = match whole {
            0 => "0 %".into(),
            _ => format!("{} %", 100.0 - 10f64.powi(2 - whole as i32)),
        };
        panel.tick(out, f64::from(whole), &label);
    }
    panel.line(out, &points, "steelblue");
}

struct Panel {
    top: f64,
    x_max: f64,
    y_max: f64,
}

impl Panel {
    fn over_time(top: f64, lines: &[&[(f64, f64)]], least: f64) -> Self {
        let points = || lines.iter().flat_map(|line| line.iter());
        let x_max = points().fold(0.1, |max: f64, point| max.max(point.0));
        Self { top, x_max, y_max: points().fold(least, |max: f64, point| max.max(point.1)) }
    }

    fn frame(&self, out: &mut String, title: &str, unit: &str, label: &dyn Fn(f64) -> String) {
        self.axes(out, title, label);
        for part in 0..=5 {
            let x = self.x_max * f64::from(part) / 5.0;
            self.tick(out, x, &format!("{x:.1} {unit}"));
        }
    }

    fn axes(&self, out: &mut String, title: &str, label: &dyn Fn(f64) -> String) {
        let [left, right, ..] = MARGIN;
        let _ = writeln!(
            out,
            "<text x=\"{left}\" y=\"{}\" {FONT} font-weight=\"bold\">{}</text>",
            self.top + 30.0,
            escape(title)
        );
        for part in 0..=4 {
            let value = self.y_max * f64::from(part) / 4.0;
            let y = self.y(value);
            let _ = writeln!(
                out,
                "<line x1=\"{left}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"lightgray\"/>\n\
                 <text x=\"{}\" y=\"{:.1}\" {FONT} text-anchor=\"end\">{}</text>",
                WIDTH - right,
                left - 8.0,
                y + 4.0,
                escape(&label(value))
            );
        }
    }

    fn tick(&self, out: &mut String, x: f64, label: &str) {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" {FONT} text-anchor=\"middle\">{}</text>",
            self.x(x),
            self.y(0.0) + 20.0,
            escape(label)
        );
    }

    fn line(&self, out: &mut String, points: &[(f64, f64)], colour: &str) {
        let place = |(x, y): &(f64, f64)| format!("{:.1},{:.1}", self.x(*x), self.y(*y));
        let places: Vec<String> = points.iter().map(place).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
            places.join(" ")
        );
    }

    fn x(&self, x: f64) -> f64 {
        let [left, right, ..] = MARGIN;
        left + x / self.x_max * (WIDTH - left - right)
    }

    fn y(&self, y: f64) -> f64 {
        let [.., above, below] = MARGIN;
        self.top + PANEL - below - y / self.y_max * (PANEL - above - below)
    }
}

fn micros(us: f64) -> String {
    if us < 1_000.0 { format!("{us:.0} us") } else { format!("{:.1} ms", us / 1e3) }
}

fn count(value: f64) -> String {
    if value < 10_000.0 { format!("{value:.0}") } else { format!("{:.1} k", value / 1e3) }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn higher_latency_is_drawn_higher_and_text_is_escaped() {
        let mut latency = super::super::histogram();
        (1..=1_000).for_each(|us| latency.saturating_record(us * 1_000));
        let series = [Slot { sent: 100, arrived: 90 }, Slot { sent: 100, arrived: 110 }];
        let text = svg("http://x/?a<b&c", &latency, &series);
        assert!(text.contains("http://x/?a&lt;b&amp;c: latency"));
        assert!(text.contains(">99.9 %</text>"), "a thousand samples have three nines");
        let lines: Vec<Vec<f64>> = text
            .lines()
            .filter_map(|line| line.strip_prefix("<polyline points=\""))
            .map(|line| line.split('"').next().unwrap().split([' ', ',']).map(|n| n.parse().unwrap()).collect())
            .collect();
        assert_eq!(lines.len(), 4);
        let heights: Vec<f64> = lines[0].iter().skip(1).step_by(2).copied().collect();
        assert!(heights.is_sorted_by(|a, b| a >= b), "a percentile is never below a smaller one: {heights:?}");
        assert!(heights[0] - heights[200] > 150.0, "and the tail is far above");
        assert_eq!(lines[3].len(), 4, "two slots, two points");
        assert!(lines[3][1] < lines[3][3], "loss is first 10 %, then none");
    }

    #[test]
    fn nothing_measured_is_still_a_picture() {
        let text = svg("empty", &super::super::histogram(), &[]);
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }
}
