//! PTX text cut into statements.
use std::ops::Range;

/// What a statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Label,
    Open,
    Close,
    Directive,
    Instruction,
}

/// A piece of the source, without the `;` or `:` that ends it.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub(crate) kind: Kind,
    pub(crate) text: Range<usize>,
}

/// Blanks comments and the line directives that have no `;`, so that positions and lines stay what
/// they are.
pub(super) fn strip_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_block = false;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim_start();
        let mut rest = if matches!(trimmed.split_whitespace().next(), Some(".loc" | ".file")) {
            out.extend(line.chars().map(|c| if c == '\n' { c } else { ' ' }));
            continue;
        } else {
            line
        };
        while !rest.is_empty() {
            let mark =
                if in_block { rest.find("*/") } else { rest.find("//").into_iter().chain(rest.find("/*")).min() };
            let (keep, blank) = match (mark, in_block) {
                (None, false) => (rest.len(), 0),
                (None, true) => (0, rest.len()),
                (Some(at), true) => (0, at + 2),
                (Some(at), false) if rest[at..].starts_with("//") => (at, rest.len() - at),
                (Some(at), false) => (at, 2),
            };
            in_block ^= mark.is_some_and(|at| in_block || rest[at..].starts_with("/*"));
            out.push_str(&rest[..keep]);
            out.extend(rest[keep..keep + blank].bytes().map(|c| if c == b'\n' { '\n' } else { ' ' }));
            rest = &rest[keep + blank..];
        }
    }
    out
}

impl Statement {
    /// The statements of a body at `span` of `source`.
    pub(crate) fn split(source: &str, span: Range<usize>) -> Vec<Self> {
        let mut statements = Vec::new();
        let mut begin = span.start;
        let mut push = |kind, range: Range<usize>| {
            let text = &source[range.clone()];
            let start = range.start + (text.len() - text.trim_start().len());
            statements.push(Statement { kind, text: start..start + text.trim().len() });
        };
        for (at, c) in source[span.clone()].bytes().enumerate().map(|(at, c)| (span.start + at, c)) {
            let so_far = || source[begin..at].trim();
            match c {
                b'{' if so_far().is_empty() => push(Kind::Open, at..at),
                b'}' if so_far().is_empty() => push(Kind::Close, at..at),
                b':' if is_name(so_far()) => push(Kind::Label, begin..at),
                b';' if so_far().is_empty() => {}
                b';' => push(if so_far().starts_with('.') { Kind::Directive } else { Kind::Instruction }, begin..at),
                _ => continue,
            }
            begin = at + 1;
        }
        statements
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"_$%".contains(&c))
}
