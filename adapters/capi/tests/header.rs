//! `include/ala_loss.h` is what cbindgen makes of the sources, and compiles as C and as C++ without
//! a warning.
//!
//! `ALA_BLESS=1 cargo test -p ala-loss-capi --test header` rewrites it.

use std::path::Path;
use std::process::Command;

const HEADER: &str = "include/ala_loss.h";
/// In the header's order.
const SOURCES: [&str; 6] = ["version", "status", "numbers", "loss", "cpu", "cuda"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn generate() -> String {
    let config = root().join("cbindgen.toml");
    let config = cbindgen::Config::from_file(config).expect("cbindgen.toml is valid");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(root().join(format!("src/{source}.rs")));
    }
    let mut header = Vec::new();
    let bindings = builder.generate().expect("the sources are valid");
    bindings.write(&mut header);
    String::from_utf8(header).expect("UTF-8")
}

#[test]
fn the_committed_header_is_current() {
    let generated = generate();
    let header = root().join(HEADER);
    if std::env::var_os("ALA_BLESS").is_some() {
        output_file::OutputFile::at(&header)
            .and_then(|file| file.write(&generated))
            .expect("the header is writable");
    }
    let committed = std::fs::read_to_string(header).expect("the header is committed");
    assert!(
        committed == generated,
        "{HEADER} is not of the sources: ALA_BLESS=1 writes it; review what has changed"
    );
}

/// What is exported and not in the header nobody can call, and the reverse does not link.
#[test]
fn every_entry_is_in_the_header_and_documented() {
    let header = generate();
    let mut entries = 0;
    for source in SOURCES {
        let source = root().join(format!("src/{source}.rs"));
        let source = std::fs::read_to_string(source).expect("it is there");
        let mut lines = source.lines();
        while let Some(line) = lines.next() {
            if line.trim() != "#[unsafe(no_mangle)]" {
                continue;
            }
            let name = lines.next().and_then(|line| line.split_once("fn "));
            let name = name.and_then(|(_, rest)| rest.split_once('('));
            let name = name.expect("a function").0;
            let declared: Vec<usize> = header
                .match_indices(&format!("{name}("))
                .map(|(place, _)| header[..place].rfind('\n').expect("not the first line"))
                .collect();
            let [line] = declared[..] else {
                panic!("{name} is declared at {declared:?}")
            };
            assert!(header[..line].ends_with("*/"), "{name} has no comment");
            entries += 1;
        }
    }
    assert!(entries >= 15, "{entries} entries");
}

#[test]
fn the_header_is_c_and_cpp_without_a_warning() {
    for language in [["-x", "c", "-std=c99"], ["-x", "c++", "-std=c++11"]] {
        let output = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
            .args(language)
            .args(["-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Werror"])
            .arg(root().join(HEADER))
            .output()
            .expect("there is a C compiler");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{language:?}: {said}");
    }
}
