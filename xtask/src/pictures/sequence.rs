//! Who says what to whom, from a part of Mermaid's language for sequence diagrams: `accTitle`, `participant A as Name`,
//! `A->>B: text`, `A-->>B: text` for an answer, `Note over A,B: text`, and `<br/>` for a new line in a text.

use anyhow::{Context, Result, bail, ensure};

use super::{LINE, arrow, picture, rectangle, text, width_of};

const MARGIN: usize = 24;
const HEAD: usize = 36;
const LEAST_GAP: usize = 96;

struct Participant {
    key: String,
    name: String,
}

enum Step {
    Message { from: usize, to: usize, is_answer: bool, lines: Vec<String> },
    Note { first: usize, last: usize, lines: Vec<String> },
}

pub(super) fn draw(source: &str) -> Result<String> {
    let (title, participants, steps) = read(source)?;
    let centers = centers(&participants, &steps);
    let mut y = MARGIN + HEAD + 12;
    let mut body = String::new();
    for step in &steps {
        match step {
            Step::Message { from, to, is_answer, lines } => {
                let (from, to) = (centers[*from], centers[*to]);
                for line in lines {
                    y += LINE;
                    body.push_str(&text("middle halo", (from + to) / 2, y, line));
                }
                y += 8;
                let class = if *is_answer { "line dashed" } else { "line" };
                let end = if to > from { to - 2 } else { to + 2 };
                body.push_str(&arrow(class, (from, y), (end, y)));
                y += 10;
            }
            Step::Note { first, last, lines } => {
                let width = lines.iter().map(|line| width_of(line)).max().unwrap_or(0) + 24;
                let width = width.max(centers[*last] - centers[*first] + 60);
                let middle = (centers[*first] + centers[*last]) / 2;
                let height = lines.len() * LINE + 12;
                y += 8;
                body.push_str(&rectangle("note", middle - width / 2, y, width, height));
                for (index, line) in lines.iter().enumerate() {
                    body.push_str(&text("middle", middle, y + 19 + index * LINE, line));
                }
                y += height + 4;
            }
        }
    }
    let bottom = y + 12;
    let mut poles = String::new();
    for (Participant { name, .. }, center) in participants.iter().zip(&centers) {
        let half = head_width(name) / 2;
        poles.push_str(&format!("<path class=\"line\" d=\"M{center} {}V{bottom}\"/>\n", MARGIN + HEAD));
        poles.push_str(&rectangle("main", center - half, MARGIN, 2 * half, HEAD));
        poles.push_str(&text("bold middle", *center, MARGIN + 23, name));
    }
    let right = participants.last().map_or(0, |p| head_width(&p.name) / 2);
    let width = centers.last().copied().unwrap_or(0) + right.max(overhang(&steps, &participants)) + MARGIN;
    Ok(picture(width, bottom + MARGIN, &title, &(poles + &body)))
}

fn head_width(name: &str) -> usize {
    width_of(name) + 36
}

/// How far notes over one end of the picture reach beyond it.
fn overhang(steps: &[Step], participants: &[Participant]) -> usize {
    let ends = [0, participants.len().saturating_sub(1)];
    let widths = steps.iter().filter_map(|step| match step {
        Step::Note { first, last, lines } if first == last && ends.contains(first) => {
            lines.iter().map(|line| width_of(line) / 2 + 12).max()
        }
        _ => None,
    });
    widths.max().unwrap_or(0)
}

/// The middle of each participant: far enough apart for the names, and for the texts between them.
fn centers(participants: &[Participant], steps: &[Step]) -> Vec<usize> {
    let halves: Vec<usize> = participants.iter().map(|p| head_width(&p.name) / 2).collect();
    let mut gaps: Vec<usize> = halves.windows(2).map(|pair| (pair[0] + pair[1] + 16).max(LEAST_GAP)).collect();
    let mut spans: Vec<(usize, usize, usize)> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Message { from, to, lines, .. } => {
                let needed = lines.iter().map(|line| width_of(line)).max().unwrap_or(0) + 24;
                Some((*from.min(to), *from.max(to), needed))
            }
            Step::Note { .. } => None,
        })
        .collect();
    spans.sort_by_key(|(first, last, _)| last - first);
    for (first, last, needed) in spans {
        let room: usize = gaps[first..last].iter().sum();
        let missing = needed.saturating_sub(room).div_ceil((last - first).max(1));
        gaps[first..last].iter_mut().for_each(|gap| *gap += missing);
    }
    for step in steps {
        let Step::Note { first, last, lines } = step else { continue };
        let half = lines.iter().map(|line| width_of(line)).max().unwrap_or(0) / 2 + 24;
        if first == last {
            let left = first.checked_sub(1);
            for gap in left.into_iter().chain([*first]).filter(|gap| *gap < gaps.len()).collect::<Vec<_>>() {
                gaps[gap] = gaps[gap].max(half);
            }
        }
    }
    let left = halves.first().copied().unwrap_or(0).max(overhang(steps, participants));
    let mut centers = vec![MARGIN + left];
    for gap in gaps {
        centers.push(centers[centers.len() - 1] + gap);
    }
    centers
}

fn read(source: &str) -> Result<(String, Vec<Participant>, Vec<Step>)> {
    let mut title = String::new();
    let mut participants: Vec<Participant> = Vec::new();
    let mut steps = Vec::new();
    let mut lines = source.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("%%"));
    ensure!(lines.next() == Some("sequenceDiagram"), "the first line is not sequenceDiagram");
    for line in lines {
        if let Some(words) = line.strip_prefix("accTitle: ") {
            title = words.to_owned();
        } else if let Some(rest) = line.strip_prefix("participant ") {
            let (key, name) = rest.split_once(" as ").with_context(|| format!("{line:?} has no name"))?;
            participants.push(Participant { key: key.to_owned(), name: name.to_owned() });
        } else {
            steps.push(read_step(line, &participants).with_context(|| format!("{line:?}"))?);
        }
    }
    ensure!(!title.is_empty(), "the picture has no accTitle");
    ensure!(!participants.is_empty(), "the picture has no participant");
    Ok((title, participants, steps))
}

fn read_step(line: &str, participants: &[Participant]) -> Result<Step> {
    let place = |key: &str| {
        let found = participants.iter().position(|participant| participant.key == key);
        found.with_context(|| format!("there is no participant {key}"))
    };
    let (ends, words) = line.split_once(": ").context("there is no text after a colon")?;
    let lines = words.split("<br/>").map(str::to_owned).collect();
    if let Some(over) = ends.strip_prefix("Note over ") {
        let (first, last) = over.split_once(',').unwrap_or((over, over));
        return Ok(Step::Note { first: place(first)?, last: place(last)?, lines });
    }
    let (from, to, is_answer) = match (ends.split_once("-->>"), ends.split_once("->>")) {
        (Some((from, to)), _) => (place(from)?, place(to)?, true),
        (None, Some((from, to))) => (place(from)?, place(to)?, false),
        (None, None) => bail!("this is neither a message nor a note"),
    };
    ensure!(from != to, "nobody talks to oneself; write a note");
    Ok(Step::Message { from, to, is_answer, lines })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "sequenceDiagram\n accTitle: T\n %% a comment\n participant A as One\n participant B as Two\n A->>B: ask\n B-->>A: yes<br/>or no\n Note over A,B: done\n";

    #[test]
    fn messages_notes_and_participants_are_drawn() {
        let picture = draw(SOURCE).unwrap();
        assert_eq!(picture.matches("class=\"head\"").count(), 2, "{picture}");
        assert_eq!(picture.matches("class=\"line dashed\"").count(), 1, "{picture}");
        assert_eq!(picture.matches("<rect class=\"note\"").count(), 1, "{picture}");
        for words in ["One", "Two", "ask", "yes", "or no", "done"] {
            assert!(picture.contains(&format!(">{words}</text>")), "{words}: {picture}");
        }
    }

    #[test]
    fn a_long_text_moves_the_participants_apart() {
        let long = "x".repeat(60);
        let (_, participants, steps) = read(&SOURCE.replace("ask", &long)).unwrap();
        let centers = centers(&participants, &steps);
        assert!(centers[1] - centers[0] >= width_of(&long), "{centers:?}");
    }

    #[test]
    fn what_cannot_be_drawn_is_an_error() {
        for line in ["A->>C: ask", "A->>A: ask", "A ask", "loop: x", "participant C"] {
            assert!(draw(&format!("{SOURCE}{line}\n")).is_err(), "{line}");
        }
        assert!(draw("flowchart LR").is_err());
    }
}
