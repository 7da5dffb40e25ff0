//! The guide's code is that of the files that it names, which are compiled and tested.

use std::fs;
use std::path::Path;

/// Indentation does not count.
fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).collect()
}

#[test]
fn the_guide_s_code_is_that_of_the_files_it_names() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = fs::read_to_string(root.join("docs/trainers.md")).expect("it is there");
    let mut fenced = guide.split("```");
    let mut before = fenced.next().expect("a text has a beginning");
    let mut blocks = 0;
    while let (Some(block), Some(after)) = (fenced.next(), fenced.next()) {
        let (language, code) = block.split_once('\n').expect("a block has a first line");
        if language == "rust" || language == "c" {
            let (_, link) = before.rsplit_once("](../").expect("a link before it");
            let (path, _) = link.split_once(')').expect("the link ends");
            let file = fs::read_to_string(root.join(path)).expect(path);
            let (code, file) = (lines(code), lines(&file));
            assert!(
                file.windows(code.len()).any(|part| part == code),
                "{path} has no such lines:\n{block}"
            );
            blocks += 1;
        }
        before = after;
    }
    assert!(blocks >= 9, "{blocks}");
}
