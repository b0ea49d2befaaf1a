//! Boxes in a grid and arrows between neighbours, from lines such as
//!
//! ```text
//! title What happens
//! box vm 1,1: A virtual machine
//!   nested-virt: enabled
//! main policy 2,1: The policy
//! arrow vm -> policy: create
//! arrow policy <-> cluster: look up
//! ```
//!
//! `main` is a box that stands out. A place is a column and a row. Lines that are indented stand in the box before them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use super::{LINE, arrow, picture, rectangle, text, width_of};

const MARGIN: usize = 24;
const PADDING: usize = 14;
/// The room between two rows, where an arrow has its label beside it.
const ROW_GAP: usize = 64;

struct Block {
    class: &'static str,
    column: usize,
    row: usize,
    title: String,
    lines: Vec<String>,
}

struct Arrow {
    from: String,
    to: String,
    is_double: bool,
    label: String,
}

pub(super) fn draw(source: &str) -> Result<String> {
    let mut title = String::new();
    let mut boxes: BTreeMap<String, Block> = BTreeMap::new();
    let mut arrows: Vec<Arrow> = Vec::new();
    let mut last = String::new();
    for line in source.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        if let Some(inner) = line.strip_prefix("  ") {
            boxes.get_mut(&last).with_context(|| format!("{line:?} stands in no box"))?.lines.push(inner.to_owned());
            continue;
        }
        let (word, rest) = line.split_once(' ').with_context(|| format!("{line:?} is one word"))?;
        match word {
            "title" => title = rest.to_owned(),
            "box" | "main" => {
                let class = if word == "main" { "main" } else { "box" };
                let (name, block) = read_box(class, rest).with_context(|| format!("{line:?}"))?;
                last.clone_from(&name);
                boxes.insert(name, block);
            }
            "arrow" => arrows.push(read_arrow(rest).with_context(|| format!("{line:?}"))?),
            _ => bail!("{line:?} begins with no known word"),
        }
    }

    let columns = boxes.values().map(|block| block.column).max().unwrap_or(1);
    let rows = boxes.values().map(|block| block.row).max().unwrap_or(1);
    let widest = |column| boxes.values().filter(|b| b.column == column).map(Block::width).max().unwrap_or(0);
    let highest = |row| boxes.values().filter(|b| b.row == row).map(Block::height).max().unwrap_or(0);
    let gap = |column| {
        let crossing = arrows.iter().filter(|a| {
            let ends = [&a.from, &a.to].map(|name| boxes.get(name).map_or(0, |block| block.column));
            ends[0] != ends[1] && ends.contains(&column) && ends.contains(&(column + 1))
        });
        crossing.map(|a| width_of(&a.label)).max().unwrap_or(0) + 30
    };
    let lefts = starts((1..=columns).map(|column| widest(column) + gap(column)));
    let tops = starts((1..=rows).map(|row| highest(row) + ROW_GAP));

    let mut body = String::new();
    for block in boxes.values() {
        let (x, y) = (lefts[block.column - 1], tops[block.row - 1]);
        body.push_str(&rectangle(block.class, x, y, widest(block.column), highest(block.row)));
        body.push_str(&text("bold", x + PADDING, y + 24, &block.title));
        for (index, line) in block.lines.iter().enumerate() {
            let words = line.trim_start();
            let indent = width_of(line) - width_of(words);
            body.push_str(&text("code", x + PADDING + indent, y + 46 + index * LINE, words));
        }
    }
    for Arrow { from, to, is_double, label } in &arrows {
        let block = |name: &String| boxes.get(name).with_context(|| format!("there is no box {name}"));
        let (a, b) = (block(from)?, block(to)?);
        let (ends, place, class) = if a.row == b.row && a.column + 1 == b.column {
            let y = tops[a.row - 1] + highest(a.row) / 2;
            let ends = [(lefts[a.column - 1] + widest(a.column) + 4, y), (lefts[b.column - 1] - 4, y)];
            (ends, ((ends[0].0 + ends[1].0) / 2, y - 10), "soft middle")
        } else if a.column == b.column && a.row + 1 == b.row {
            let x = lefts[a.column - 1] + widest(a.column) / 2;
            let ends = [(x, tops[a.row - 1] + highest(a.row) + 4), (x, tops[b.row - 1] - 4)];
            (ends, (x + 12, (ends[0].1 + ends[1].1) / 2 + 5), "soft")
        } else {
            bail!("the boxes {from} and {to} are not neighbours");
        };
        if *is_double {
            let middle = ((ends[0].0 + ends[1].0) / 2, (ends[0].1 + ends[1].1) / 2);
            body.push_str(&arrow("line", middle, ends[0]));
            body.push_str(&arrow("line", middle, ends[1]));
        } else {
            body.push_str(&arrow("line", ends[0], ends[1]));
        }
        body.push_str(&text(class, place.0, place.1, label));
    }
    let labels = arrows.iter().filter(|a| boxes.get(&a.to).is_some_and(|block| block.column == columns));
    let label = labels.map(|a| width_of(&a.label) + 12).max().unwrap_or(0);
    let width = lefts[columns - 1] + widest(columns).max(widest(columns) / 2 + label) + MARGIN;
    let height = tops[rows - 1] + highest(rows) + MARGIN;
    ensure!(!title.is_empty(), "the picture has no title");
    Ok(picture(width, height, &title, &body))
}

/// Where each of several things in a row starts, from the room that each takes.
fn starts(rooms: impl Iterator<Item = usize>) -> Vec<usize> {
    let ends = rooms.scan(MARGIN, |end, room| {
        *end += room;
        Some(*end)
    });
    [MARGIN].into_iter().chain(ends).collect()
}

impl Block {
    fn width(&self) -> usize {
        let lines = self.lines.iter().map(|line| width_of(line) + line.chars().count() / 4);
        lines.chain([width_of(&self.title) + 8]).max().unwrap_or(0) + 2 * PADDING
    }

    fn height(&self) -> usize {
        let lines = if self.lines.is_empty() { 0 } else { 8 + self.lines.len() * LINE };
        36 + lines
    }
}

/// Reads `name column,row: title`.
fn read_box(class: &'static str, text: &str) -> Result<(String, Block)> {
    let (place, title) = text.split_once(": ").context("a box has a title after a colon")?;
    let (name, place) = place.split_once(' ').context("a box has a name and a place")?;
    let (column, row) = place.split_once(',').context("a place has a column and a row")?;
    let (column, row) = (column.parse()?, row.parse()?);
    ensure!(column > 0 && row > 0, "columns and rows count from 1");
    Ok((name.to_owned(), Block { class, column, row, title: title.to_owned(), lines: Vec::new() }))
}

/// Reads `from -> to: label`, or with `<->`.
fn read_arrow(text: &str) -> Result<Arrow> {
    let (ends, label) = text.split_once(": ").unwrap_or((text, ""));
    let (from, way, to) = match ends.split(' ').collect::<Vec<_>>()[..] {
        [from, way @ ("->" | "<->"), to] => (from, way, to),
        _ => bail!("an arrow goes from one box to another, -> or <->"),
    };
    Ok(Arrow { from: from.to_owned(), to: to.to_owned(), is_double: way == "<->", label: label.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str =
        "title T\nbox a 1,1: A\n  one: 1\nmain b 2,1: B\nbox c 2,2: C\narrow a -> b: go\narrow b <-> c: ask\n";

    #[test]
    fn boxes_stand_in_their_columns_and_rows() {
        let picture = draw(SOURCE).unwrap();
        assert_eq!(picture.matches("<rect class=\"box\"").count(), 2, "{picture}");
        assert_eq!(picture.matches("<rect class=\"main\"").count(), 1, "{picture}");
        assert_eq!(picture.matches("class=\"head\"").count(), 3, "{picture}");
        assert!(picture.contains(">one: 1</text>") && picture.contains(">ask</text>"), "{picture}");
    }

    #[test]
    fn what_cannot_be_drawn_is_an_error() {
        for (change, words) in [
            ("arrow a -> c: go", "not neighbours"),
            ("arrow a -> d: go", "no box d"),
            ("arrow a to b", "from one box"),
            ("box d 0,1: D", "count from 1"),
            ("circle d", "no known word"),
        ] {
            let error = format!("{:#}", draw(&format!("{SOURCE}{change}\n")).unwrap_err());
            assert!(error.contains(words), "{change}: {error}");
        }
        assert!(draw("box a 1,1: A\n").is_err());
    }
}
