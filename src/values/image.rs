//! References to container images.

use std::fmt;
use std::str::FromStr;

use super::pattern::{self, Pattern};
use super::{is_lower_case, is_word};

/// A reference to a container image, such as `registry.example.com:5000/path/name:tag@sha256:...`.
///
/// Follows the grammar in `github.com/distribution/reference`, which container runtimes use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReference(String);

/// Why a text is not an image reference.
///
/// Cause: a typing mistake
/// Cure: write the reference as for `docker pull`
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ImageReferenceError {
    /// The name is empty, or has more than 255 characters.
    #[error("its name must have 1 to 255 characters")]
    Length,
    /// The registry is not a host name with an optional port.
    #[error("its registry is not a host name with an optional port")]
    Registry,
    /// A part of the path has a character that is not allowed.
    #[error("its path must consist of lower-case letters and digits, with . _ or - between them")]
    Path,
    /// The tag has a character that is not allowed, or too many characters.
    #[error("its tag must be 1 to 128 letters, digits, _, . and -")]
    Tag,
    /// The digest is not an algorithm followed by hexadecimal digits.
    #[error("its digest must be sha256: and 64 hexadecimal digits, or the like")]
    Digest,
}

impl ImageReference {
    /// The default of the setting `vbiosInjection.defaultSidecarImage`.
    pub(crate) fn sidecar_shim() -> Self {
        Self("quay.io/kubevirt/sidecar-shim:v1.4.0".to_owned())
    }

    /// The same repository with another tag; `None` if the image is pinned by a digest, or the tag is invalid.
    pub(crate) fn with_tag(&self, tag: &str) -> Option<Self> {
        if self.0.contains('@') {
            return None;
        }
        format!("{}:{tag}", split_tag(&self.0).0).parse().ok()
    }

    /// Whether the pattern admits the image. Repository, tag and digest are compared each, so that no `*` reaches from one into
    /// another. A pattern with neither tag nor digest admits all of both. A pattern with a tag and no digest admits no
    /// image with a digest, because container runtimes then ignore the tag.
    pub(crate) fn is_admitted_by(&self, pattern: &Pattern) -> bool {
        let (name, tag, digest) = parts(&self.0);
        let (names, tags, digests) = parts(pattern.as_str());
        let tag = tag.unwrap_or(if digest.is_some() { "" } else { "latest" });
        is_name_admitted(names, name)
            && tags.is_none_or(|tags| pattern::matches(tags, tag))
            && match (digests, digest) {
                (Some(digests), digest) => digest.is_some_and(|digest| pattern::matches(digests, digest)),
                (None, Some(_)) => tags.is_none(),
                (None, None) => true,
            }
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ImageReference {
    type Err = ImageReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, tag, digest) = parts(text);
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(ImageReferenceError::Digest);
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(ImageReferenceError::Tag);
        }
        if name.is_empty() || name.len() > 255 {
            return Err(ImageReferenceError::Length);
        }
        let path = match name.split_once('/') {
            Some((registry, path)) if registry.contains(['.', ':']) || registry == "localhost" => {
                is_registry(registry).then_some(path).ok_or(ImageReferenceError::Registry)?
            }
            _ => name,
        };
        if path.split('/').all(is_path_part) { Ok(Self(text.to_owned())) } else { Err(ImageReferenceError::Path) }
    }
}

/// The name, the tag and the digest of a reference, or of a pattern.
fn parts(text: &str) -> (&str, Option<&str>, Option<&str>) {
    let (rest, digest) = split_optional(text, '@');
    let (name, tag) = split_tag(rest);
    (name, tag, digest)
}

/// Whether a pattern admits the name of a repository. What is before the first slash, the registry, is compared by itself:
/// otherwise, `*.example.com/shim` would admit `evil.example.org/a.example.com/shim`. After it, `*` also matches slashes.
fn is_name_admitted(pattern: &str, name: &str) -> bool {
    match (pattern.split_once('/'), name.split_once('/')) {
        _ if pattern == "*" => true,
        (Some((registries, paths)), Some((registry, path))) => {
            pattern::matches(registries, registry) && pattern::matches(paths, path)
        }
        (None, None) => pattern::matches(pattern, name),
        _ => false,
    }
}

/// The text before the separator, and the text after it, if there is one.
fn split_optional(text: &str, separator: char) -> (&str, Option<&str>) {
    text.split_once(separator).map_or((text, None), |(before, after)| (before, Some(after)))
}

/// The name and the tag. A colon after the last slash starts the tag; a colon before it starts the registry's port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = split_optional(text, ':');
    host.split('.').all(|part| is_word(part, char::is_ascii_alphanumeric, &['-']))
        && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn is_path_part(text: &str) -> bool {
    let mut separators = text.split(|c| is_lower_case(&c));
    is_word(text, is_lower_case, &['.', '_', '-'])
        && separators.all(|s| matches!(s, "." | "_" | "__") || s.chars().all(|c| c == '-'))
}

fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= 128 && text.starts_with(word) && text.chars().all(|c| word(c) || c == '.' || c == '-')
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else {
        return false;
    };
    let algorithm_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.chars().all(|c| c.is_ascii_alphanumeric())
    };
    let is_hex = hex.len() >= 32 && hex.chars().all(|c| c.is_ascii_hexdigit());
    is_hex && algorithm.split(['+', '.', '-', '_']).all(algorithm_part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[rstest]
    #[case::name("sidecar-shim")]
    #[case::registry("quay.io/kubevirt/sidecar-shim:v1.4.0")]
    #[case::port("registry.example.com:5000/a/b")]
    #[case::port_and_tag("localhost:5000/shim:1")]
    #[case::localhost("localhost/shim")]
    #[case::separators("a/b_c/d__e/f---g.h")]
    fn valid(#[case] text: &str) {
        assert_eq!(text.parse::<ImageReference>().map(|i| i.to_string()), Ok(text.to_owned()));
        let with_digest = format!("{text}@{DIGEST}");
        assert_eq!(with_digest.parse::<ImageReference>().map(|i| i.to_string()), Ok(with_digest));
    }

    #[rstest]
    #[case::tag("quay.io/a/b:v1", "v2", Some("quay.io/a/b:v2"))]
    #[case::no_tag("quay.io/a/b", "v2", Some("quay.io/a/b:v2"))]
    #[case::port("localhost:5000/b", "v2", Some("localhost:5000/b:v2"))]
    #[case::bad_tag("a", "v 2", None)]
    fn another_tag(#[case] image: &str, #[case] tag: &str, #[case] expected: Option<&str>) {
        let image: ImageReference = image.parse().unwrap();
        assert_eq!(image.with_tag(tag).map(|i| i.to_string()).as_deref(), expected);
        let pinned: ImageReference = format!("{image}@{DIGEST}").parse().unwrap();
        assert_eq!(pinned.with_tag(tag), None);
    }

    #[rstest]
    // A pattern with neither tag nor digest.
    #[case::repository("quay.io/a/shim", "quay.io/a/shim", true)]
    #[case::repository_any_tag("quay.io/a/shim", "quay.io/a/shim:v1", true)]
    #[case::repository_any_digest("quay.io/a/shim", "quay.io/a/shim:v1@DIGEST", true)]
    #[case::repository_not_its_children("quay.io/a/shim", "quay.io/a/shim/evil", false)]
    #[case::repository_not_its_namesakes("quay.io/a/shim", "quay.io/a/shim-evil:v1", false)]
    #[case::all("*", "evil.example.org:5000/a/b:v1@DIGEST", true)]
    // A pattern with a tag.
    #[case::tag("quay.io/a/shim:v1.*", "quay.io/a/shim:v1.4.0", true)]
    #[case::another_tag("quay.io/a/shim:v1.*", "quay.io/a/shim:v2.0.0", false)]
    #[case::no_tag_is_latest("quay.io/a/shim:latest", "quay.io/a/shim", true)]
    #[case::no_tag_is_not_another("quay.io/a/shim:v1.*", "quay.io/a/shim", false)]
    #[case::any_tag("quay.io/a/shim:*", "quay.io/a/shim", true)]
    #[case::tag_that_a_digest_overrides("quay.io/a/shim:v1.4.0", "quay.io/a/shim:v1.4.0@DIGEST", false)]
    #[case::any_tag_that_a_digest_overrides("quay.io/a/shim:*", "quay.io/a/shim:v1@DIGEST", false)]
    #[case::digest_instead_of_any_tag("quay.io/a/shim:*", "quay.io/a/shim@DIGEST", false)]
    #[case::port_instead_of_tag("sidecar-shim:*", "sidecar-shim:5000/evil/image:v1", false)]
    #[case::port_instead_of_tag_without_one("sidecar-shim:*", "sidecar-shim:5000/evil/image", false)]
    #[case::another_repository("quay.io/a/shim:*", "quay.io/b/shim:v1", false)]
    #[case::child_of_the_repository("quay.io/a/shim:*", "quay.io/a/shim/evil:v1", false)]
    #[case::another_registry("quay.io/a/shim:*", "evil.example.org/quay.io/a/shim:v1", false)]
    // A pattern with a digest.
    #[case::digest("quay.io/a/shim@DIGEST", "quay.io/a/shim@DIGEST", true)]
    #[case::digest_with_any_tag("quay.io/a/shim@DIGEST", "quay.io/a/shim:v1@DIGEST", true)]
    #[case::digest_is_missing("quay.io/a/shim@*", "quay.io/a/shim:v1", false)]
    #[case::another_digest("quay.io/a/shim@sha256:1*", "quay.io/a/shim@DIGEST", false)]
    #[case::tag_and_digest("quay.io/a/shim:v1@sha256:*", "quay.io/a/shim:v1@DIGEST", true)]
    #[case::another_tag_and_digest("quay.io/a/shim:v1@sha256:*", "quay.io/a/shim:v2@DIGEST", false)]
    #[case::no_tag_and_digest("quay.io/a/shim:v1@sha256:*", "quay.io/a/shim@DIGEST", false)]
    #[case::any_tag_and_digest("quay.io/a/shim:*@*", "quay.io/a/shim@DIGEST", true)]
    // A `*` in the repository.
    #[case::deep_path("quay.io/a/*", "quay.io/a/b/c:v1", true)]
    #[case::path_of_another("quay.io/a/*", "quay.io/ab/c:v1", false)]
    #[case::registry_with_port("registry.example.com:5000/*", "registry.example.com:5000/a/b:v1@DIGEST", true)]
    #[case::registry_with_another_port("registry.example.com:5000/*", "registry.example.com:5001/a", false)]
    #[case::registries("*.example.com/shim", "mirror.example.com/shim:v1", true)]
    #[case::registry_in_the_path("*.example.com/shim", "evil.example.org/a.example.com/shim:v1", false)]
    #[case::registry_in_the_name("shim*", "shim.example.org/evil:v1", false)]
    #[case::any_port("registry.example.com:*/shim:v1", "registry.example.com:5000/shim:v1", true)]
    #[case::any_port_only("registry.example.com:*/shim:v1", "registry.example.com:5000/evil/shim:v1", false)]
    fn patterns(#[case] pattern: &str, #[case] image: &str, #[case] is_admitted: bool) {
        let image: ImageReference = image.replace("DIGEST", DIGEST).parse().unwrap();
        let pattern = Pattern::parse(&pattern.replace("DIGEST", DIGEST)).unwrap();
        assert_eq!(image.is_admitted_by(&pattern), is_admitted);
    }

    #[rstest]
    #[case::empty("", ImageReferenceError::Length)]
    #[case::long(&"a".repeat(256), ImageReferenceError::Length)]
    #[case::space("a b", ImageReferenceError::Path)]
    #[case::upper_case("quay.io/KubeVirt/shim", ImageReferenceError::Path)]
    #[case::three_underscores("a___b", ImageReferenceError::Path)]
    #[case::empty_part("quay.io//shim", ImageReferenceError::Path)]
    #[case::url("https://quay.io/shim", ImageReferenceError::Registry)]
    #[case::port("quay.io:port/shim", ImageReferenceError::Registry)]
    #[case::empty_tag("quay.io/shim:", ImageReferenceError::Tag)]
    #[case::tag_of_two_words("quay.io/shim:a b", ImageReferenceError::Tag)]
    #[case::digest("quay.io/shim@sha256:12", ImageReferenceError::Digest)]
    #[case::two_digests("a@sha256:1@sha256:2", ImageReferenceError::Digest)]
    fn invalid(#[case] text: &str, #[case] error: ImageReferenceError) {
        assert_eq!(text.parse::<ImageReference>(), Err(error));
    }
}
