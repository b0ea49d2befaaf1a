//! Colors the output if that is wanted.

use anstyle::{AnsiColor, Style};

use crate::visible;

/// Whether texts are colored.
#[derive(Debug, Clone, Copy)]
pub struct Paint(pub bool);

/// The parts of a report that have their own color.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Something that was added, or is allowed.
    Good,
    /// Something that was removed, or is denied.
    Bad,
    /// Something that deserves attention.
    Warning,
    /// The place of something in a text.
    Place,
    /// A heading.
    Heading,
}

impl Paint {
    /// The text in the color of the part. Hidden characters in it are escaped, so it can have no color of its own.
    pub fn paint(self, part: Part, text: &str) -> String {
        let text = visible::text(text);
        if !self.0 || text.is_empty() {
            return text;
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
