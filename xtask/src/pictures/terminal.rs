//! What a command printed, as in a terminal's window. Colours come from the escape sequences in it.

use super::{escape, picture};

const LINE: usize = 17;
const COLUMNS: usize = 104;
/// The widest character of the fonts in use, in tenths of a pixel.
const LETTER: usize = 73;
const TOP: usize = 44;
const LEFT: usize = 18;

/// The picture of a command and what it printed. Lines that are too long end in `…`.
pub(crate) fn draw(command: &str, output: &str) -> String {
    let mut body = String::new();
    for (index, class) in ["red", "yellow", "green"].into_iter().enumerate() {
        body.push_str(&format!("<circle class=\"{class}\" cx=\"{}\" cy=\"20\" r=\"5\"/>\n", LEFT + 5 + index * 18));
    }
    let prompt = format!("\x1b[2m$\x1b[22m \x1b[1m{command}\x1b[22m");
    let lines: Vec<&str> = [prompt.as_str()].into_iter().chain(output.trim_end().lines()).collect();
    let mut style = Style::default();
    for (index, line) in lines.iter().enumerate() {
        let spans = spans(line, &mut style);
        let y = TOP + 12 + index * LINE;
        body.push_str(&format!("<text class=\"code\" xml:space=\"preserve\" x=\"{LEFT}\" y=\"{y}\">"));
        for (style, words) in cut(spans) {
            match style.classes() {
                classes if classes.is_empty() => body.push_str(&escape(&words)),
                classes => body.push_str(&format!("<tspan class=\"{classes}\">{}</tspan>", escape(&words))),
            }
        }
        body.push_str("</text>\n");
    }
    let height = TOP + lines.len() * LINE + 14;
    picture(2 * LEFT + COLUMNS * LETTER / 10, height, &format!("What {command} prints"), &body)
}

/// How a character looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Style {
    is_bold: bool,
    is_faint: bool,
    colour: &'static str,
}

impl Style {
    fn classes(self) -> String {
        let faint = if self.is_faint { "soft" } else { "" };
        let bold = if self.is_bold { "bold" } else { "" };
        [faint, bold, self.colour].into_iter().filter(|class| !class.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// The style after one parameter of SGR, the escape sequence for colours.
    fn after(self, parameter: &str) -> Self {
        const COLOURS: [&str; 8] = ["soft", "red", "green", "yellow", "blue", "purple", "cyan", ""];
        match parameter.parse().unwrap_or(0_usize) {
            0 => Self::default(),
            1 => Self { is_bold: true, ..self },
            2 => Self { is_faint: true, ..self },
            22 => Self { is_bold: false, is_faint: false, ..self },
            39 => Self { colour: "", ..self },
            number @ (30..=37 | 90..=97) => Self { colour: COLOURS[number % 10], ..self },
            _ => self,
        }
    }
}

/// The parts of a line that look alike. The style goes on into the next line.
fn spans(line: &str, style: &mut Style) -> Vec<(Style, String)> {
    let mut spans = Vec::new();
    for (index, part) in line.split("\x1b[").enumerate() {
        let words = match (index, part.find(|c: char| c.is_ascii_alphabetic())) {
            (0, _) => part,
            (_, Some(end)) => {
                let (sequence, words) = part.split_at(end + 1);
                if let Some(parameters) = sequence.strip_suffix('m') {
                    *style = parameters.split(';').fold(*style, Style::after);
                }
                words
            }
            (_, None) => "",
        };
        if !words.is_empty() {
            spans.push((*style, words.to_owned()));
        }
    }
    spans
}

/// The same, but no longer than a line.
fn cut(spans: Vec<(Style, String)>) -> Vec<(Style, String)> {
    if spans.iter().map(|(_, words)| words.chars().count()).sum::<usize>() <= COLUMNS {
        return spans;
    }
    let mut left = COLUMNS - 1;
    let mut cut: Vec<(Style, String)> = Vec::new();
    for (style, words) in spans {
        let words: String = words.chars().take(left).collect();
        left -= words.chars().count();
        cut.push((style, words));
    }
    cut.retain(|(_, words)| !words.is_empty());
    if let Some((_, words)) = cut.last_mut() {
        words.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_become_classes() {
        let picture = draw("make run", "plain\n\x1b[1;32m+ <new>\x1b[0m end\n\x1b[31m- old\n- older\x1b[39m\n");
        for part in [
            ">plain</text>",
            "<tspan class=\"bold green\">+ &lt;new&gt;</tspan> end</text>",
            "<tspan class=\"red\">- old</tspan></text>",
            "<tspan class=\"red\">- older</tspan></text>",
            "<tspan class=\"soft\">$</tspan> <tspan class=\"bold\">make run</tspan>",
        ] {
            assert!(picture.contains(part), "{part}: {picture}");
        }
        assert!(!picture.contains('\x1b'), "{picture}");
    }

    #[test]
    fn a_line_that_is_too_long_is_cut() {
        let long = "y".repeat(COLUMNS + 1);
        let picture = draw("a", &format!("\x1b[32m{long}\x1b[0m\n{}\n", &long[1..]));
        assert!(picture.contains(&format!(">{}…</tspan>", &long[2..])), "{picture}");
        assert!(picture.contains(&format!(">{}</text>", &long[1..])), "{picture}");
    }
}
