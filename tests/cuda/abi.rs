//! `src/cuda/abi.rs` is what bindgen makes of `kernels/abi.h`, and lays its structs out without
//! gaps.
//!
//! `ALA_BLESS=1 cargo test --features cuda --test cuda abi` rewrites it. bindgen needs libclang
//! (`LIBCLANG_PATH`), which `scripts/test` fetches where there is none; users of the crate do not
//! need it.

use std::path::Path;

const HEADER: &str = "kernels/abi.h";
const BINDINGS: &str = "src/cuda/abi.rs";

fn generate() -> String {
    let bindings = bindgen::Builder::default()
        .header(HEADER)
        .allowlist_file(".*abi\\.h")
        .use_core()
        .layout_tests(true)
        .derive_debug(true)
        .derive_partialeq(false)
        .disable_header_comment()
        .raw_line(
            "//! Made from `kernels/abi.h` by bindgen; `tests/abi.rs` says how and catches drift.",
        )
        .raw_line(
            "#![allow(missing_docs, non_camel_case_types, non_upper_case_globals, dead_code)]",
        )
        .raw_line("")
        .formatter(bindgen::Formatter::Rustfmt)
        .generate()
        .expect("abi.h is valid C");
    format!("{}\n", bindings.to_string().trim_end())
}

#[test]
fn the_committed_bindings_are_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::env::set_current_dir(root).expect("the package's folder is there");
    let generated = generate();
    if std::env::var_os("ALA_BLESS").is_some() {
        output_file::OutputFile::at(BINDINGS)
            .and_then(|bindings| bindings.write(&generated))
            .expect("the bindings are writable");
    }
    let committed = std::fs::read_to_string(BINDINGS).expect("the bindings are committed");
    assert_eq!(
        committed, generated,
        "kernels/abi.h and {BINDINGS} differ: bless and review"
    );
}
