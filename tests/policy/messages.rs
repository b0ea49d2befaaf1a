//! Every sentence that a user can read has its row in `docs/troubleshooting.md`.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let mut sources: Vec<PathBuf> = folders.iter().flat_map(|folder| sources(folder)).collect();
    sources.extend(files.into_iter().filter(|file| file.extension().is_some_and(|e| e == "rs")));
    sources
}

/// The string literals of Rust code without its unit tests, as the program has them.
fn literals(code: &str) -> Vec<String> {
    let code = code.split("#[cfg(test)]\nmod tests").next().unwrap();
    let mut literals = Vec::new();
    let mut rest = code;
    while let Some(start) = rest.find(['"', '/', '\'', 'r']) {
        let tail = &rest[start..];
        let marks = tail[1..].find(|c| c != '#').unwrap_or_default();
        rest = if tail.starts_with("//") {
            tail.split_once('\n').map_or("", |(_, after)| after)
        } else if tail.starts_with("'\"'") || tail.starts_with("'\\''") {
            &tail[3..]
        } else if tail.starts_with('r') && marks > 0 && tail[1 + marks..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(marks));
            let (literal, after) = tail[2 + marks..].split_once(&end).unwrap();
            literals.push(literal.to_owned());
            after
        } else if let Some(text) = tail.strip_prefix('"') {
            let mut end = 0;
            while !text[end..].starts_with('"') {
                end += if text[end..].starts_with('\\') { 2 } else { 1 };
                while end < text.len() && !text.is_char_boundary(end) {
                    end += 1;
                }
            }
            let mut lines = text[..end].split("\\\n");
            let mut literal = lines.next().unwrap().to_owned();
            lines.for_each(|line| literal.push_str(line.trim_start()));
            literals.push(literal.replace("\\\"", "\""));
            &text[end + 1..]
        } else {
            &tail[1..]
        };
    }
    literals
}

/// The code without the declarations of settings: their labels are the form's.
fn without_settings(code: &str) -> String {
    let mut parts = code.split("\nsection! {");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |kept, part| kept + part.split_once("\n}\n").map_or("", |(_, rest)| rest))
}

/// The code without what is declared for `cargo xtask generate` alone.
fn without_descriptions(code: &str) -> String {
    const MARK: &str = "#[cfg(feature = \"describe\")]";
    let mut kept = String::new();
    let mut indent = None;
    for line in code.lines() {
        let start = line.len() - line.trim_start().len();
        if line.trim() == MARK {
            indent = Some(start);
        }
        if indent.is_none() {
            kept.push_str(line);
            kept.push('\n');
        }
        if indent == Some(start) && line.ends_with(['}', ',', ';']) {
            indent = None;
        }
    }
    kept
}

/// The longest part of a format string between its placeholders.
fn longest_part(literal: &str) -> &str {
    let parts = literal.split('{').flat_map(|part| part.rsplit('}').take(1).chain(None));
    parts.max_by_key(|part| part.len()).unwrap_or_default().trim_matches([' ', ';', ':', ','])
}

#[test]
fn every_message_is_in_the_troubleshooting_guide() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = fs::read_to_string(root.join("docs/troubleshooting.md")).unwrap();
    let mut found = 0;
    let mut missing = Vec::new();
    for file in sources(&root.join("src")) {
        let code = fs::read_to_string(&file).unwrap();
        if code.lines().next().is_some_and(|line| line.ends_with("Not in the module.")) {
            continue;
        }
        let code = without_descriptions(&without_settings(&code));
        for literal in literals(&code) {
            let words = literal.split(|c: char| !c.is_ascii_alphabetic()).filter(|w| w.len() > 1);
            let part = longest_part(&literal);
            // What is shorter is a name, or a part of a sentence.
            if words.count() < 4 || !part.contains(' ') || part.len() < 12 {
                continue;
            }
            found += 1;
            if !guide.contains(part) {
                missing.push(format!("{}: {part}", file.display()));
            }
        }
    }
    assert!(found > 120, "only {found} messages found");
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn only_descriptions_are_left_out() {
    let mark = "#[cfg(feature = \"describe\")]";
    let code = format!("a {{\n    b,\n    {mark}\n    c: C {{\n        d,\n    }},\n}};\n{mark}\nuse e;\nf\n");
    assert_eq!(without_descriptions(&code), "a {\n    b,\n};\nf\n");
}

#[test]
fn literals_are_read_as_the_compiler_reads_them() {
    let code = "let a = \"one \\\n    two {x}\"; // \"no\"\nlet b = '\"'; let r = br##\"r\"# {y}\"##; let c = \"\\\"q\\\" é\";\n#[cfg(test)]\nmod tests { \"no\" }";
    assert_eq!(literals(code), ["one two {x}", "r\"# {y}", "\"q\" é"]);
    assert_eq!(longest_part("{a} is not {b}, ever and ever; {c}"), "ever and ever");
}
