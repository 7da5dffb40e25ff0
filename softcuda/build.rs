//! Gives the crate the driver's calls, and names the cdylib as the driver is named, so that a later
//! search for the driver finds it already loaded.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Not a feature: those unify, and `client` must go without.
    println!("cargo:rustc-check-cfg=cfg(driver)");
    println!("cargo:rustc-cfg=driver");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    }
}
