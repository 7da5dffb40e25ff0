//! What ptxas says of every kernel on every architecture.

/// ptxas' report from the build of the kernels that these tests run.
fn report() -> String {
    let Some(file) = option_env!("ALA_PTXAS_REPORT") else {
        panic!("the build found no nvcc: run scripts/test, which fetches one");
    };
    std::fs::read_to_string(file).expect("the build wrote it")
}

struct Usage {
    kernel: String,
    architecture: String,
    stack: u32,
    spills: u32,
    registers: u32,
}

/// Reads `Compiling entry function`, `bytes stack frame, .. spill ..` and `Used .. registers` for each kernel.
fn usages() -> Vec<Usage> {
    let mut usages: Vec<Usage> = Vec::new();
    for line in report().lines() {
        let number_before = |word: &str| -> Option<u32> {
            let (before, _) = line.split_once(word)?;
            before.split_whitespace().next_back()?.parse().ok()
        };
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let mut names = rest.split('\'');
            usages.push(Usage {
                kernel: names.next().unwrap_or_default().into(),
                architecture: names.nth(1).unwrap_or_default().into(),
                stack: u32::MAX,
                spills: u32::MAX,
                registers: u32::MAX,
            });
        } else if let Some(usage) = usages.last_mut() {
            if let Some(stack) = number_before(" bytes stack frame") {
                usage.stack = stack;
                usage.spills = number_before(" bytes spill stores").unwrap_or(u32::MAX)
                    + number_before(" bytes spill loads").unwrap_or(u32::MAX);
            }
            if let Some(registers) = line
                .split_once("Used ")
                .and_then(|(_, rest)| rest.split_whitespace().next())
            {
                usage.registers = registers.parse().unwrap_or(u32::MAX);
            }
        }
    }
    usages
}

#[test]
fn no_kernel_spills_or_has_a_stack() {
    let usages = usages();
    assert!(
        usages.len() >= 52,
        "the report names {} kernels",
        usages.len()
    );
    for usage in &usages {
        let what = format!("{} on {}", usage.kernel, usage.architecture);
        assert_eq!((usage.stack, usage.spills), (0, 0), "{what}");
    }
}

/// Four blocks of 256 threads an SM: half of what an H100 holds, all that an sm_75 does.
#[test]
fn registers_allow_half_occupancy() {
    for usage in usages() {
        assert!(
            usage.registers <= 64,
            "{} on {}: {} registers",
            usage.kernel,
            usage.architecture,
            usage.registers
        );
    }
}
