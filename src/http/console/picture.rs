//! Pictures for people who would rather look than read: bars, drawn here as SVG, with the same in words and as a table.
//!
//! Whole numbers only, in tenths of the picture's own units: nothing that is counted can make a coordinate that is none.

use maud::{Markup, html};

/// The picture's size, in its own units.
const WIDTH: u64 = 720;
const HEIGHT: u64 = 200;
/// What is left of the bars and right of them, above and below.
const LEFT: u64 = 52;
const RIGHT: u64 = 8;
const ABOVE: u64 = 10;
const BELOW: u64 = 24;
/// One row of a picture whose bars lie, and the space for names before them.
const ROW: u64 = 24;
const NAMES: u64 = 180;

/// Figures that belong together.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    /// Names the picture in its page.
    pub(super) id: &'static str,
    /// What it is about.
    pub(super) title: String,
    /// What is counted, in the order in which it is stacked; at most four.
    pub(super) series: Vec<&'static str>,
    /// What stands at the head of the first column of the table.
    pub(super) first: &'static str,
    /// The bars.
    pub(super) bars: Vec<Bar>,
}

/// One bar of a picture.
#[derive(Clone, Debug, Default)]
pub(super) struct Bar {
    /// What it is, in the table and when it is pointed at.
    pub(super) name: String,
    /// What stands at the axis; nothing where that would be too much.
    pub(super) label: String,
    /// As many figures as there are series.
    pub(super) counts: Vec<u64>,
}

impl Bar {
    fn sum(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

impl Figures {
    /// The total of each series.
    fn totals(&self) -> Vec<u64> {
        let total = |place: usize| {
            let counts = self.bars.iter().filter_map(|bar| bar.counts.get(place));
            counts.fold(0, |sum: u64, count| sum.saturating_add(*count))
        };
        (0..self.series.len()).map(total).collect()
    }

    fn longest(&self) -> u64 {
        self.bars.iter().map(Bar::sum).max().unwrap_or(0)
    }

    fn is_empty(&self) -> bool {
        self.longest() == 0
    }

    /// The picture in words.
    fn sentence(&self) -> String {
        if self.is_empty() {
            return "Nothing to show.".to_owned();
        }
        let totals = self.totals();
        let parts: Vec<String> =
            self.series.iter().zip(&totals).map(|(name, total)| format!("{} {name}", grouped(*total))).collect();
        let most = self.bars.iter().max_by_key(|bar| bar.sum());
        let most = most.map(|bar| format!(" Most: {}, {} in all.", bar.name, grouped(bar.sum()))).unwrap_or_default();
        format!("In all: {}.{most}", parts.join(", "))
    }

    /// Bars that stand beside each other, as over time.
    pub(super) fn standing(&self) -> Markup {
        let top = round(self.longest());
        let (across, up) = (WIDTH - LEFT - RIGHT, HEIGHT - ABOVE - BELOW);
        let ground = HEIGHT - BELOW;
        let bars = self.bars.len().max(1) as u64;
        let at = |place: usize| tenths(LEFT * 10 + across * 10 * place as u64 / bars);
        let wide = (across * 10 / bars).saturating_mul(8) / 10;
        self.whole(HEIGHT, &html! {
            @for tick in ticks(top) {
                @let y = ground * 10 - part(tick, top, up);
                line class="tick" x1=(LEFT) x2=(WIDTH - RIGHT) y1=(tenths(y)) y2=(tenths(y)) {}
                text class="scale" x=(LEFT - 6) y=(tenths(y + 40)) text-anchor="end" { (short(tick)) }
            }
            @for (place, bar) in self.bars.iter().enumerate() {
                g {
                    title { (self.told(bar)) }
                    @for (series, (from, count)) in stacked(&bar.counts).into_iter().enumerate() {
                        @let end = part(from.saturating_add(count), top, up);
                        @let start = part(from, top, up);
                        @if count > 0 {
                            // what is there is seen, however little it is
                            @let high = (end - start).max(10);
                            rect class=(format!("series s{series}")) x=(at(place)) y=(tenths(ground * 10 - start - high))
                                width=(tenths(wide.max(10))) height=(tenths(high)) {}
                        }
                    }
                }
                @if !bar.label.is_empty() {
                    text class="scale" x=(at(place)) y=(HEIGHT - 6) { (bar.label) }
                }
            }
        })
    }

    /// Bars that lie below each other, each with its name before it.
    pub(super) fn lying(&self) -> Markup {
        let top = self.longest().max(1);
        let across = WIDTH - NAMES - RIGHT - 60;
        let height = ROW * self.bars.len().max(1) as u64;
        self.whole(
            height,
            &html! {
                @for (place, bar) in self.bars.iter().enumerate() {
                    @let y = ROW * place as u64;
                    g {
                        title { (self.told(bar)) }
                        text class="scale" x=(NAMES - 8) y=(y + 16) text-anchor="end" { (bar.label) }
                        @for (series, (from, count)) in stacked(&bar.counts).into_iter().enumerate() {
                            @let start = part(from, top, across);
                            @let end = part(from.saturating_add(count), top, across);
                            @if count > 0 {
                                rect class=(format!("series s{series}")) x=(tenths(NAMES * 10 + start)) y=(y + 4)
                                    width=(tenths((end - start).max(10))) height=(ROW - 8) {}
                            }
                        }
                        text class="scale" x=(tenths(NAMES * 10 + part(bar.sum(), top, across) + 60)) y=(y + 16) {
                            (short(bar.sum()))
                        }
                    }
                }
            },
        )
    }

    /// The drawing with its title, what it says in words, and the table beneath.
    fn whole(&self, height: u64, drawing: &Markup) -> Markup {
        let (title, words) = (format!("{}-title", self.id), format!("{}-words", self.id));
        html! {
            figure class="picture" data-picture=(self.id) {
                figcaption id=(title) { (self.title) }
                @if self.is_empty() {
                    p class="none" { "Nothing to show yet." }
                } @else {
                    ul class="legend" {
                        @for (place, (name, total)) in self.series.iter().zip(self.totals()).enumerate() {
                            li {
                                svg class="swatch" viewBox="0 0 12 12" aria-hidden="true" {
                                    rect class=(format!("series s{place}")) width="12" height="12" {}
                                }
                                " " (name) ": " (grouped(total))
                            }
                        }
                    }
                    svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-labelledby=(format!("{title} {words}")) {
                        desc id=(words) { (self.sentence()) }
                        (drawing)
                    }
                    details {
                        summary { "The same as a table" }
                        (self.table())
                    }
                }
            }
        }
    }

    fn table(&self) -> Markup {
        html! {
            div class="wide" tabindex="0" role="region" aria-label=(self.title) {
                table {
                    thead {
                        tr {
                            th scope="col" { (self.first) }
                            @for name in &self.series { th scope="col" class="number" { (name) } }
                        }
                    }
                    tbody {
                        @for bar in &self.bars {
                            tr {
                                th scope="row" { (bar.name) }
                                @for count in &bar.counts { td class="number" { (grouped(*count)) } }
                            }
                        }
                    }
                }
            }
        }
    }

    /// One bar in words.
    fn told(&self, bar: &Bar) -> String {
        let parts: Vec<String> =
            self.series.iter().zip(&bar.counts).map(|(name, count)| format!("{} {name}", grouped(*count))).collect();
        format!("{}: {}", bar.name, parts.join(", "))
    }
}

/// Where each count begins when they are put on top of each other.
fn stacked(counts: &[u64]) -> Vec<(u64, u64)> {
    let mut from = 0_u64;
    let place = |count: &u64| {
        let placed = (from, *count);
        from = from.saturating_add(*count);
        placed
    };
    counts.iter().map(place).collect()
}

/// So much of `length` as `count` is of `top`, in tenths.
fn part(count: u64, top: u64, length: u64) -> u64 {
    let part = u128::from(count.min(top)) * u128::from(length) * 10 / u128::from(top.max(1));
    u64::try_from(part).unwrap_or(0)
}

/// A coordinate: tenths, written as what they are tenths of.
fn tenths(tenths: u64) -> String {
    if tenths.is_multiple_of(10) { (tenths / 10).to_string() } else { format!("{}.{}", tenths / 10, tenths % 10) }
}

/// The next number that reads well: 1, 2 or 5 with zeros.
fn round(most: u64) -> u64 {
    let mut power = 1_u64;
    loop {
        for step in [1, 2, 5] {
            match power.checked_mul(step) {
                Some(top) if top >= most => return top,
                Some(_) => {}
                None => return u64::MAX,
            }
        }
        match power.checked_mul(10) {
            Some(next) => power = next,
            None => return u64::MAX,
        }
    }
}

fn ticks(top: u64) -> Vec<u64> {
    if top.is_multiple_of(2) { vec![0, top / 2, top] } else { vec![0, top] }
}

/// A number with its thousands set apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number in at most five letters.
fn short(number: u64) -> String {
    if number < 10_000 {
        return number.to_string();
    }
    let (mut unit, mut name) = (1_000_u64, "k");
    for (larger, its) in
        [(1_000_000, "M"), (1_000_000_000, "G"), (1_000_000_000_000, "T"), (1_000_000_000_000_000, "P")]
    {
        if number >= larger {
            (unit, name) = (larger, its);
        }
    }
    let tenth = number / (unit / 10);
    if tenth < 1_000 && !tenth.is_multiple_of(10) {
        format!("{}.{}{name}", tenth / 10, tenth % 10)
    } else {
        format!("{}{name}", tenth / 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(counts: &[&[u64]]) -> Figures {
        let bar =
            |counts: &&[u64]| Bar { name: "<b>a</b>".to_owned(), label: "09".to_owned(), counts: counts.to_vec() };
        Figures {
            id: "test",
            title: "calls".to_owned(),
            series: vec!["permitted", "held", "refused"],
            first: "hour",
            bars: counts.iter().map(bar).collect(),
        }
    }

    /// Every number in an attribute that says where something is drawn.
    fn coordinates(drawn: &str) -> Vec<f64> {
        let mut found = Vec::new();
        for name in [" x=\"", " y=\"", " width=\"", " height=\"", " x1=\"", " x2=\"", " y1=\"", " y2=\""] {
            for (at, _) in drawn.match_indices(name) {
                let text = drawn[at + name.len()..].split('"').next().unwrap();
                found.push(text.parse::<f64>().unwrap_or_else(|_| panic!("{name}{text}")));
            }
        }
        found
    }

    #[test]
    fn whatever_is_counted_is_drawn_within_the_picture() {
        let many = vec![[7, 1, 0].as_slice(); 168];
        let table: &[&[&[u64]]] = &[
            &[],
            &[&[0, 0, 0]],
            &[&[1, 0, 0]],
            &[&[0, 0, 1]],
            &[&[u64::MAX, u64::MAX, u64::MAX], &[1, 2, 3]],
            &[&[u64::MAX, 0, 0], &[0, 0, 0]],
            &[&[1, 1_000_000_000_000, 1]],
            &[&[]],
            &many,
        ];
        for counts in table {
            let figures = figures(counts);
            for drawn in [figures.standing().into_string(), figures.lying().into_string()] {
                assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
                for coordinate in coordinates(&drawn) {
                    let most = (WIDTH.max(ROW * figures.bars.len() as u64) + 1) as f64;
                    assert!((0.0..=most).contains(&coordinate), "{coordinate} in {drawn}");
                }
                assert!(!drawn.contains("<b>"), "a name became markup: {drawn}");
            }
        }
    }

    #[test]
    fn a_picture_is_told_in_words_and_in_a_table() {
        let figures = figures(&[&[1_200, 3, 0], &[1, 0, 4]]);
        assert_eq!(figures.sentence(), "In all: 1,201 permitted, 3 held, 4 refused. Most: <b>a</b>, 1,203 in all.");
        let drawn = figures.standing().into_string();
        for part in [
            "role=\"img\"",
            "aria-labelledby=\"test-title test-words\"",
            "id=\"test-title\"",
            "id=\"test-words\"",
            "<th scope=\"row\">&lt;b&gt;a&lt;/b&gt;</th>",
            "<td class=\"number\">1,200</td>",
        ] {
            assert!(drawn.contains(part), "{part}: {drawn}");
        }
        assert!(!drawn.contains("style="), "{drawn}");
        let nothing = self::figures(&[&[0, 0, 0]]).standing().into_string();
        assert!(nothing.contains("Nothing to show") && !nothing.contains("<rect"), "{nothing}");
    }

    #[test]
    fn what_is_there_is_seen_however_little_it_is() {
        let drawn = figures(&[&[1_000_000, 1, 0]]).standing().into_string();
        let heights: Vec<&str> =
            drawn.split(" height=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        assert!(heights.contains(&"1"), "{heights:?}");
    }

    #[test]
    fn numbers_read_well() {
        for (number, expected) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(grouped(number), expected);
        }
        for (number, expected) in [
            (9_999, "9999"),
            (10_000, "10k"),
            (12_345, "12.3k"),
            (999_999, "999k"),
            (1_000_000, "1M"),
            (2_500_000, "2.5M"),
            (u64::MAX, "18446P"),
        ] {
            assert_eq!(short(number), expected);
        }
        for (most, top) in [(0, 1), (1, 1), (3, 5), (5, 5), (6, 10), (101, 200), (u64::MAX, u64::MAX)] {
            assert_eq!(round(most), top, "{most}");
        }
        assert_eq!((ticks(1), ticks(10)), (vec![0, 1], vec![0, 5, 10]));
    }
}
