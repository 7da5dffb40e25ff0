//! Reads what ptxas says of each kernel (`-Xptxas=-v`).

/// One kernel on one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The kernel's name.
    pub kernel: String,
    /// `sm_90` for one.
    pub architecture: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of a thread's stack frame.
    pub stack: u32,
    /// Bytes that spill stores and loads move.
    pub spills: u32,
    /// Bytes of static shared memory of a block.
    pub smem: u32,
}

/// All kernels of a report, in its order.
///
/// A figure that the report does not give is `u32::MAX`, so that no bound holds for it; shared
/// memory and barriers are left out by ptxas where there are none, so for shared memory that is 0.
pub fn parse(report: &str) -> Vec<Usage> {
    let mut usages: Vec<Usage> = Vec::new();
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let mut quoted = rest.split('\'');
            usages.push(Usage {
                kernel: quoted.next().unwrap_or_default().into(),
                architecture: quoted.nth(1).unwrap_or_default().into(),
                registers: u32::MAX,
                stack: u32::MAX,
                spills: u32::MAX,
                smem: 0,
            });
        } else if let Some(usage) = usages.last_mut() {
            if let Some(stack) = number_before(line, " bytes stack frame") {
                usage.stack = stack;
                let moved = |what| number_before(line, what).unwrap_or(u32::MAX);
                usage.spills = moved(" bytes spill stores").saturating_add(moved(" bytes spill loads"));
            }
            if line.contains("Used ") {
                usage.registers = number_before(line, " registers").unwrap_or(u32::MAX);
                usage.smem = number_before(line, " bytes smem").unwrap_or(0);
            }
        }
    }
    usages
}

fn number_before(line: &str, words: &str) -> Option<u32> {
    let (before, _) = line.split_once(words)?;
    before.split_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of ptxas 13.0, with a spill added.
    const REPORT: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'ala_warp8_f32_uniform' for 'sm_75'
ptxas info    : Function properties for ala_warp8_f32_uniform
    8 bytes stack frame, 12 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 40 registers, used 0 barriers, 8 bytes cumulative stack size, 520 bytes cmem[0]
ptxas info    : Compile time = 20.500 ms
ptxas info    : Compiling entry function 'ala_count' for 'sm_90'
ptxas info    : Function properties for ala_count
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 24 registers, used 1 barriers, 2048 bytes smem
";

    fn usage(kernel: &str, architecture: &str, figures: [u32; 4]) -> Usage {
        let [registers, stack, spills, smem] = figures;
        Usage { kernel: kernel.into(), architecture: architecture.into(), registers, stack, spills, smem }
    }

    #[test]
    fn every_figure_is_read() {
        let expected =
            [usage("ala_warp8_f32_uniform", "sm_75", [40, 8, 16, 0]), usage("ala_count", "sm_90", [24, 0, 0, 2048])];
        assert_eq!(parse(REPORT), expected);
    }

    #[test]
    fn a_missing_figure_breaks_every_bound() {
        let cut = "ptxas info    : Compiling entry function 'k' for 'sm_90'";
        assert_eq!(parse(cut), [usage("k", "sm_90", [u32::MAX, u32::MAX, u32::MAX, 0])]);
    }
}
