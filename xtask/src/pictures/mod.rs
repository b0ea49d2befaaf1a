//! The pictures of the documentation: SVG, drawn from short texts beside them, the same bytes on every machine. They have a
//! light and a dark look, which the reader's browser chooses.

mod flow;
mod sequence;

use std::fs;

use anyhow::{Context, Result};

use crate::root;

/// The picture of what happens to a virtual machine.
pub(crate) fn flow(_: &str) -> Result<String> {
    flow::draw(&source("docs/pictures/flow.txt")?)
}

/// The picture of a vBIOS from the directive to the guest.
pub(crate) fn vbios(_: &str) -> Result<String> {
    sequence::draw(&source("docs/pictures/vbios.mmd")?)
}

fn source(path: &str) -> Result<String> {
    fs::read_to_string(root().join(path)).with_context(|| format!("{path} cannot be read"))
}

/// The width of a character, near enough for any font of the size that the pictures use.
const LETTER: usize = 7;
/// The distance of two lines of text.
const LINE: usize = 18;

/// How the parts of a picture look, by light and in the dark. The colours are those of GitHub's pages.
const LOOK: [(&str, &str, &str); 15] = [
    (".paper", "fill:#ffffff;stroke:#d1d9e0", "fill:#0d1117;stroke:#3d444d"),
    (".box", "fill:#f6f8fa;stroke:#8c959f", "fill:#151b23;stroke:#656c76"),
    (".main", "fill:#ddf4ff;stroke:#0969da", "fill:#0c2d4b;stroke:#4493f8"),
    (".note", "fill:#fff8c5;stroke:#d4a72c", "fill:#2e2509;stroke:#9e6a03"),
    (".line", "fill:none;stroke:#59636e", "fill:none;stroke:#9198a1"),
    (".head", "fill:#59636e", "fill:#9198a1"),
    ("text", "fill:#1f2328", "fill:#f0f6fc"),
    (".halo", "stroke:#ffffff", "stroke:#0d1117"),
    (".soft", "fill:#59636e", "fill:#9198a1"),
    (".red", "fill:#cf222e", "fill:#ff7b72"),
    (".green", "fill:#116329", "fill:#7ee787"),
    (".yellow", "fill:#7d4e00", "fill:#e3b341"),
    (".blue", "fill:#0550ae", "fill:#79c0ff"),
    (".purple", "fill:#8250df", "fill:#d2a8ff"),
    (".cyan", "fill:#1b7c83", "fill:#76e3ea"),
];

/// A picture with a title for readers who do not see it.
fn picture(width: usize, height: usize, title: &str, body: &str) -> String {
    let rules = |pick: fn(&(&str, &str, &str)) -> String| LOOK.iter().map(pick).collect::<String>();
    let light = rules(|(name, light, _)| format!("{name}{{{light}}}\n"));
    let dark = rules(|(name, _, dark)| format!("{name}{{{dark}}}\n"));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\" aria-labelledby=\"title\">\n\
         <!-- Written by cargo xtask. -->\n<title id=\"title\">{}</title>\n<style>\n\
         text{{font:13px ui-sans-serif,system-ui,-apple-system,\"Segoe UI\",\"Noto Sans\",Helvetica,Arial,sans-serif}}\n\
         .code{{font:12px ui-monospace,SFMono-Regular,\"DejaVu Sans Mono\",Menlo,Consolas,monospace;white-space:pre}}\n\
         .bold{{font-weight:600}}\n.middle{{text-anchor:middle}}\n.dashed{{stroke-dasharray:5 4}}\n\
         .halo{{paint-order:stroke;stroke-width:6px;stroke-linejoin:round}}\n\
         {light}@media (prefers-color-scheme:dark){{\n{dark}}}\n</style>\n\
         <rect class=\"paper\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\"/>\n{body}</svg>\n",
        escape(title),
        width - 1,
        height - 1,
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn text(class: &str, x: usize, y: usize, words: &str) -> String {
    format!("<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{}</text>\n", escape(words))
}

fn rectangle(class: &str, x: usize, y: usize, width: usize, height: usize) -> String {
    format!("<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>\n")
}

/// A line that ends in an arrowhead, along one axis.
fn arrow(class: &str, (x1, y1): (usize, usize), (x2, y2): (usize, usize)) -> String {
    let (head, end) = if y1 == y2 {
        let (back, short) = if x2 > x1 { (x2 - 9, x2 - 6) } else { (x2 + 9, x2 + 6) };
        (format!("M{x2} {y2}L{back} {}V{}Z", y2 - 5, y2 + 5), (short, y2))
    } else {
        let (back, short) = if y2 > y1 { (y2 - 9, y2 - 6) } else { (y2 + 9, y2 + 6) };
        (format!("M{x2} {y2}L{} {back}H{}Z", x2 - 5, x2 + 5), (x2, short))
    };
    format!("<path class=\"{class}\" d=\"M{x1} {y1}L{} {}\"/>\n<path class=\"head\" d=\"{head}\"/>\n", end.0, end.1)
}

fn width_of(text: &str) -> usize {
    text.chars().count() * LETTER
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_well_formed_and_has_two_looks() {
        let picture = picture(100, 50, "a < b", &text("code", 1, 2, "\"&\""));
        assert!(picture.contains("<title id=\"title\">a &lt; b</title>"), "{picture}");
        assert!(picture.contains(">&quot;&amp;&quot;</text>"), "{picture}");
        assert!(picture.contains("@media (prefers-color-scheme:dark){"), "{picture}");
    }

    #[test]
    fn an_arrow_ends_where_it_points() {
        assert!(arrow("line", (10, 5), (50, 5)).contains("M50 5L41 0V10Z"));
        assert!(arrow("line", (50, 5), (10, 5)).contains("M10 5L19 0V10Z"));
        assert!(arrow("line", (5, 10), (5, 50)).contains("M5 50L0 41H10Z"));
    }
}
