//! The reader of fat binaries on any bytes: an error, or what lies in the image.

#![no_main]

use libfuzzer_sys::fuzz_target;
use softcuda::fatbin;
use softcuda::ptx::Module;

const CAPABILITIES: [u32; 3] = [75, 90, u32::MAX];

fuzz_target!(|image: &[u8]| {
    let size = fatbin::total_size(image);
    if image.len() < fatbin::HEADER {
        assert!(size.is_err());
    }
    for capability in CAPABILITIES {
        let Ok(contents) = fatbin::read(image, capability) else {
            continue;
        };
        // What is returned lies in the image, so that a damaged one takes no more memory than a
        // sound one.
        assert!(contents.ptx.len() <= image.len());
        let names: usize = contents.registers.keys().map(String::len).sum();
        // Bytes that are not UTF-8 are replaced, by three each.
        assert!(names <= 3 * image.len(), "{names} bytes of names");
        // The next to read it.
        let _ = Module::parse(&contents.ptx);
    }
});
