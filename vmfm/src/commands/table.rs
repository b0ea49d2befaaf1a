//! Prints a table as kubectl does.

use vmfm::paint::{Paint, Part};
use vmfm::visible;

/// A cell, and its color if it has one.
pub struct Cell(pub String, pub Option<Part>);

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self(text.to_owned(), None)
    }
}

/// The rows under their heading, in columns. A cell is one line.
pub fn table(heading: &[&str], rows: &[Vec<Cell>], paint: Paint) -> String {
    let line = |text: &str| visible::text(text).replace('\n', " ");
    let heading: Vec<Cell> = heading.iter().map(|text| Cell((*text).to_owned(), Some(Part::Heading))).collect();
    let all: Vec<&Vec<Cell>> = std::iter::once(&heading).chain(rows).collect();
    let width = |column: usize| all.iter().filter_map(|row| Some(line(&row.get(column)?.0).chars().count())).max();
    let widths: Vec<usize> = (0..heading.len()).map(|column| width(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in all {
        let mut cells = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let shown = line(&cell.0);
            let gap = " ".repeat(width + 3 - shown.chars().count());
            let shown = cell.1.map_or_else(|| shown.clone(), |part| paint.paint(part, &shown));
            cells.push_str(&(shown + &gap));
        }
        text.push_str(cells.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".into(), "failed".into(), "two\nlines".into()], vec!["long".into(), "".into(), "".into()]];
        let text = table(&["NAME", "STATE", "MESSAGE"], &rows, Paint(false));
        assert_eq!(text, "NAME   STATE    MESSAGE\na      failed   two lines\nlong\n");
    }
}
