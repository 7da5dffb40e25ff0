//! Numbers for tests, on the CPU and on devices.

/// Values in [-1, 1] without pattern; `salt` makes another tensor.
pub(crate) fn values(count: usize, salt: u64) -> Vec<f64> {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ salt.wrapping_mul(0xd134_2543_de82_ef95);
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect()
}
