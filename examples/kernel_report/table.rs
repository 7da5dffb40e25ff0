//! The report as text.

use std::collections::BTreeMap;

use ala_loss::cuda::instruments::TIERS;
use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::model::{GPUS, Gpu};
use crate::row::Row;

/// Elements of the batch whose time is modelled.
const MODELLED: f64 = 67_108_864.0;

fn table(heads: &[String], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_header(heads);
    for row in rows {
        table.add_row(
            row.into_iter()
                .map(|text| Cell::new(text).set_alignment(CellAlignment::Right)),
        );
    }
    table.to_string()
}

/// A line for each case: which it is, and behind that its `cells`.
fn table_of_cases<const COUNT: usize>(
    rows: &[Row],
    heads: [&str; COUNT],
    cells: impl Fn(&Row) -> [String; COUNT],
) -> String {
    let heads: Vec<String> = ["tier", "dtype", "N", "C", "aligned"]
        .into_iter()
        .chain(heads)
        .map(str::to_owned)
        .collect();
    table(
        &heads,
        rows.iter().map(|row| {
            let case = [
                row.tier.into(),
                row.dtype.into(),
                row.n.to_string(),
                row.c.to_string(),
                if row.aligned { "yes" } else { "no" }.into(),
            ];
            case.into_iter().chain(cells(row)).collect()
        }),
    )
}

/// What was counted. Sectors stand against the least possible; counts of instructions are for each
/// element.
pub(crate) fn counts(rows: &[Row]) -> String {
    let heads = [
        "launches",
        "sectors\n/ least",
        "requests\n/ least",
        "lane instr.\n/ element",
        "wavefronts\n/ row",
        "barriers\n/ row",
        "shuffles\n/ row",
        "registers",
        "spills",
        "shared\nbytes",
        "occupancy\nsm_90 (%)",
        "unfused\nlaunches",
        "unfused sectors\n/ least",
    ];
    table_of_cases(rows, heads, |row| {
        let a_row = |count: u64| format!("{:.1}", count as f64 / row.n as f64);
        [
            row.launches.to_string(),
            format!("{:.3}", row.against_least(row.distinct_sectors)),
            format!("{:.3}", row.against_least(row.sector_requests)),
            format!("{:.2}", row.lane_instructions_per_element),
            a_row(row.shared_wavefronts),
            a_row(row.barriers),
            a_row(row.shuffles),
            row.registers.to_string(),
            row.spill_bytes.to_string(),
            row.shared_bytes.to_string(),
            format!("{:.0}", 100.0 * row.occupancy),
            row.unfused_launches.to_string(),
            format!("{:.2}", row.against_least(row.unfused_sectors)),
        ]
    })
}

/// What a row waits for in each tier that a case went to: the chain that bounds small batches.
pub(crate) fn waits(rows: &[Row]) -> String {
    let heads = [
        "tier",
        "lanes\n/ row",
        "reductions\nin a chain",
        "barriers\nin a chain",
    ]
    .map(str::to_owned);
    let tiers = TIERS
        .iter()
        .filter(|tier| rows.iter().any(|row| row.tier == tier.name));
    let table = table(
        &heads,
        tiers.map(|tier| {
            let numbers =
                [tier.lanes, tier.reductions, tier.barriers].map(|number| number.to_string());
            [tier.name.to_owned()].into_iter().chain(numbers).collect()
        }),
    );
    format!("Between a row's loads and its stores:\n{table}")
}

/// The longest chains of dependent operations: what a launch of few rows waits for.
pub(crate) fn chains(rows: &[Row]) -> String {
    let heads = [
        "cycles to the\nlast gradient",
        "round trips",
        "cycles to\nthe end",
        "round trips",
    ];
    let table = table_of_cases(rows, heads, |row| {
        let known = |count: Option<u64>| count.map_or("-".into(), |count| count.to_string());
        [
            known(row.cycles_to_gradient),
            known(row.round_trips_to_gradient),
            known(row.cycles_to_end),
            known(row.round_trips_to_end),
        ]
    });
    format!(
        "Longest chain of dependent operations of the tier's launch, by the latencies of an H100's model; no time: it knows \
         no throughput. -: blocks wait for one another.\n{table}"
    )
}

/// The model's times of the aligned cases, scaled to one size; an `i` marks those that instructions
/// bind.
pub(crate) fn model(rows: &[Row]) -> String {
    let heads: Vec<String> = ["dtype", "C"]
        .map(str::to_owned)
        .into_iter()
        .chain(GPUS.map(microseconds_on))
        .collect();
    let aligned = rows.iter().filter(|row| row.aligned);
    let table = table(
        &heads,
        aligned.map(|row| {
            let work = row.work_an_element().scaled(MODELLED);
            let times = GPUS.map(|gpu| {
                let mark = if gpu.is_bound_by_issue(work) {
                    " i"
                } else {
                    "  "
                };
                format!("{:.0}{mark}", 1e6 * gpu.seconds(work))
            });
            [row.dtype.to_owned(), row.c.to_string()]
                .into_iter()
                .chain(times)
                .collect()
        }),
    );
    format!(
        "Model, not a measurement: microseconds for 2^26 elements, max(bytes / DRAM bandwidth, warp instructions / issue \
         rate); i: instructions bind.\n{table}"
    )
}

/// The PTX operations that were executed, by name.
pub(crate) fn operations(counts: &BTreeMap<String, u64>) -> String {
    let heads = ["operation", "warp instr."].map(str::to_owned);
    let table = table(
        &heads,
        counts
            .iter()
            .map(|(name, count)| vec![name.clone(), count.to_string()]),
    );
    format!("PTX operations executed:\n{table}")
}

fn microseconds_on(gpu: Gpu) -> String {
    format!("{} (µs)", gpu.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::tests::row;

    #[test]
    fn sectors_stand_against_the_least() {
        let text = counts(&[row()]);
        for expected in ["1.010", "1.200", "12.00", "5.00", " 75 ", " no "] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
    }

    #[test]
    fn only_tiers_that_ran_are_said_to_wait() {
        let text = waits(&[Row {
            tier: "packed",
            ..row()
        }]);
        assert!(
            text.contains("packed") && !text.contains("streamed"),
            "{text}"
        );
    }

    #[test]
    fn chains_are_told_where_they_are_known() {
        let waiting = Row {
            cycles_to_end: None,
            ..row()
        };
        for (row, expected) in [(row(), [" 2100 ", " 4500 "]), (waiting, [" 2100 ", " - "])] {
            let text = chains(&[row]);
            for expected in expected {
                assert!(text.contains(expected), "{expected} in\n{text}");
            }
        }
    }

    #[test]
    fn operations_are_listed_with_their_counts() {
        let text = operations(&BTreeMap::from([("fma.rn.f32".to_owned(), 12)]));
        assert!(
            text.contains("fma.rn.f32") && text.contains(" 12 "),
            "{text}"
        );
    }

    #[test]
    fn modelled_times_are_called_a_model() {
        let aligned = Row {
            aligned: true,
            ..row()
        };
        let text = model(&[row(), aligned]);
        assert!(text.starts_with("Model, not a measurement"));
        assert_eq!(
            text.matches("bf16").count(),
            1,
            "unaligned cases are left out"
        );
        // 4.04 bytes an element over 3.35 TB/s, the H100's bandwidth.
        assert!(text.contains(" 81   "), "{text}");
    }
}
