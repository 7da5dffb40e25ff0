//! Has the linker keep PyTorch's CUDA library, which no symbol of tch asks for. Without it
//! `tch::Cuda::is_available` is false on a machine with a GPU.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_CFG_TARGET_OS").is_some_and(|os| os == "linux") {
        println!("cargo::rustc-link-arg=-Wl,--no-as-needed");
        println!("cargo::rustc-link-arg=-ltorch");
    }
}
