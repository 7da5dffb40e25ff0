//! The version of header and library.

/// The version of this header: 10000 times the major number, 100 times the minor, and the patch.
pub const ALA_VERSION: u32 = 100;

/// The version of the library, as ALA_VERSION is of the header.
#[unsafe(no_mangle)]
pub extern "C" fn ala_version() -> u32 {
    ALA_VERSION
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_is_the_package_s() {
        let parts: Vec<u32> = env!("CARGO_PKG_VERSION")
            .split('.')
            .map(|part| part.parse().expect("a number"))
            .collect();
        assert_eq!(
            super::ala_version(),
            10000 * parts[0] + 100 * parts[1] + parts[2]
        );
    }
}
