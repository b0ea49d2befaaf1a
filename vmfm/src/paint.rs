//! Colours, where they are wanted.

use anstyle::{AnsiColor, Style};

/// Whether texts are coloured.
#[derive(Debug, Clone, Copy)]
pub struct Paint(pub bool);

/// The parts of a report that have colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What was added, what is allowed.
    Good,
    /// What was removed, what is denied.
    Bad,
    /// What deserves a look.
    Warning,
    /// Where in a text something is.
    Place,
    /// A heading.
    Heading,
}

impl Paint {
    /// The text in the part's colour.
    pub fn paint(self, part: Part, text: &str) -> String {
        if !self.0 || text.is_empty() {
            return text.to_owned();
        }
        let style = match part {
            Part::Good => Style::new().fg_color(Some(AnsiColor::Green.into())),
            Part::Bad => Style::new().fg_color(Some(AnsiColor::Red.into())),
            Part::Warning => Style::new().fg_color(Some(AnsiColor::Yellow.into())),
            Part::Place => Style::new().fg_color(Some(AnsiColor::Cyan.into())),
            Part::Heading => Style::new().bold(),
        };
        format!("{style}{text}{style:#}")
    }
}
