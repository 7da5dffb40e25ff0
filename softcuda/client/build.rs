//! Leaves the driver's calls out: softcuda's own build script puts them in.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(driver)");
}
