//! Checks that every sentence that a user can read has a row in `docs/troubleshooting.md`.

use std::fs;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, ExprStruct, ItemConst, Lit, Macro, Meta};

use crate::files::root;
use crate::messages::sources;

/// The string literals that the policy may print. They are parsed as the compiler parses them.
#[derive(Default)]
struct Literals(Vec<String>);

/// Visits nodes of these types, except those whose attributes exclude them from the module.
macro_rules! visit_what_is_kept {
    ($($visit:ident($node:ident),)+) => {
        $(fn $visit(&mut self, node: &'ast syn::$node) {
            if !node.attrs.iter().any(leaves_out) {
                visit::$visit(self, node);
            }
        })+
    };
}

impl<'ast> Visit<'ast> for Literals {
    visit_what_is_kept! {
        visit_arm(Arm),
        visit_field(Field),
        visit_field_value(FieldValue),
        visit_impl_item_fn(ImplItemFn),
        visit_impl_item_const(ImplItemConst),
        visit_item_enum(ItemEnum),
        visit_item_fn(ItemFn),
        visit_item_impl(ItemImpl),
        visit_item_macro(ItemMacro),
        visit_item_mod(ItemMod),
        visit_item_static(ItemStatic),
        visit_item_struct(ItemStruct),
        visit_item_trait(ItemTrait),
        visit_local(Local),
        visit_stmt_macro(StmtMacro),
        visit_trait_item_const(TraitItemConst),
        visit_trait_item_fn(TraitItemFn),
        visit_variant(Variant),
    }

    /// Skips declarations that only the reference uses.
    fn visit_expr_struct(&mut self, node: &'ast ExprStruct) {
        const TYPES: [&str; 3] = ["Reference", "OptionReference", "Access"];
        let name = node.path.segments.last().map(|segment| segment.ident.to_string());
        if !name.is_some_and(|name| TYPES.contains(&name.as_str())) {
            visit::visit_expr_struct(self, node);
        }
    }

    /// Skips the constant that several references share.
    fn visit_item_const(&mut self, node: &'ast ItemConst) {
        if node.ident != "WORDS" && !node.attrs.iter().any(leaves_out) {
            visit::visit_item_const(self, node);
        }
    }

    /// Reads the text of an error. Documentation is skipped: its attribute is not a list.
    fn visit_attribute(&mut self, node: &'ast Attribute) {
        if let Meta::List(list) = &node.meta {
            self.read(list.tokens.clone());
        }
    }

    /// Skips the declarations of settings, whose labels appear only in the form.
    fn visit_macro(&mut self, node: &'ast Macro) {
        if !node.path.is_ident("section") {
            self.read(node.tokens.clone());
        }
    }

    fn visit_lit(&mut self, node: &'ast Lit) {
        match node {
            Lit::Str(text) => self.0.push(text.value()),
            Lit::ByteStr(bytes) => self.0.push(String::from_utf8_lossy(&bytes.value()).into_owned()),
            _ => {}
        }
    }
}

impl Literals {
    fn of(code: &str) -> Vec<String> {
        let mut literals = Self::default();
        literals.visit_file(&syn::parse_file(code).unwrap());
        literals.0
    }

    /// Reads the tokens of a macro or an attribute, except documentation.
    fn read(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => {
                    let mut inner = group.stream().into_iter();
                    let is_documentation = group.delimiter() == Delimiter::Bracket
                        && matches!(inner.next(), Some(TokenTree::Ident(first)) if first == "doc");
                    if !is_documentation {
                        self.read(group.stream());
                    }
                }
                TokenTree::Literal(literal) => self.visit_lit(&Lit::new(literal)),
                TokenTree::Ident(_) | TokenTree::Punct(_) => {}
            }
        }
    }
}

/// Whether the attribute excludes something from the module.
fn leaves_out(attribute: &Attribute) -> bool {
    match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => list.tokens.to_string() == "test",
        _ => false,
    }
}

/// The longest part of a format string between its placeholders, if it belongs to a sentence. A shorter part is a name,
/// or belongs to another sentence.
fn sentence(literal: &str) -> Option<&str> {
    let parts = literal.split('{').flat_map(|part| part.rsplit('}').take(1));
    let part = parts.max_by_key(|part| part.len())?.trim_matches([' ', ';', ':', ',']);
    let words = literal.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| word.len() > 1);
    (words.count() >= 4 && part.contains(' ') && part.len() >= 12).then_some(part)
}

/// The sentences in all files, each with the file that contains it.
fn sentences() -> Vec<(String, String)> {
    let mut sentences = Vec::new();
    for file in sources(&root().join("src")).unwrap() {
        let literals = Literals::of(&fs::read_to_string(&file).unwrap());
        let found = literals.iter().filter_map(|literal| sentence(literal));
        sentences.extend(found.map(|part| (file.display().to_string(), part.to_owned())));
    }
    sentences
}

fn guide() -> String {
    fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap()
}

#[test]
fn every_message_is_in_the_troubleshooting_guide() {
    let (guide, sentences) = (guide(), sentences());
    let missing: Vec<_> = sentences.iter().filter(|(_, part)| !guide.contains(part)).collect();
    assert!(sentences.len() > 120, "only {} messages found", sentences.len());
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn a_row_that_the_guide_loses_is_noticed() {
    let (guide, sentences) = (guide(), sentences());
    for words in ["has no effect without the directive", "which is not a multiple of the page size"] {
        let rows: Vec<&str> = guide.lines().filter(|line| !line.contains(words)).collect();
        let rest = rows.join("\n");
        assert!(sentences.iter().any(|(_, part)| !rest.contains(part)), "{words}");
    }
}

#[test]
fn literals_are_read_as_the_compiler_reads_them() {
    let code = r####"
        const A: &str = "one \
            two {x}"; // "no"
        static B: (char, &[u8], &str) = ('"', br##"r"# {y}"##, "\"q\" é");
    "####;
    assert_eq!(Literals::of(code), ["one two {x}", "r\"# {y}", "\"q\" é"]);
}

#[test]
fn literals_are_found_in_macros_and_attributes() {
    let code = r#"
        #[derive(thiserror::Error)]
        enum E { #[error("a {}", f("b"))] A }
        choice! { /// no
            C { #[doc = "no"] D = "c", } }
        fn f() { write!(to, "{} {}", vec![format!("d"), "e"], { let x = ["f"]; x }); g(|| match "g" { "h" => "i", _ => j }) }
    "#;
    assert_eq!(Literals::of(code), ["a {}", "b", "c", "{} {}", "d", "e", "f", "g", "h", "i"]);
}

#[test]
fn what_no_user_reads_is_left_out() {
    let code = r#"
        //! no
        /// no
        #[cfg(test)]
        mod tests { const A: &str = "no"; }
        section! { S("no") { } }
        const C: Access = access::Access { what: "no", needed: &[On("no")] };
        const WORDS: &str = "no";
        static F: Feature = Feature {
            name: "a",
            reference: Reference { options: &[OptionReference { name: "no" }] },
            rest: Plan { word: "b" },
        };
        fn f() { #[cfg(test)] let x = "no"; #[cfg(unix)] let y = "c"; }
    "#;
    assert_eq!(Literals::of(code), ["a", "b", "c"]);
}

#[test]
fn a_sentence_is_the_longest_part_of_several_words() {
    assert_eq!(sentence("{a} is not {b}, ever and ever; {c}"), Some("ever and ever"));
    assert_eq!(sentence("three words only"), None);
    assert_eq!(sentence("the {} of a {} in {}"), None);
}
