//! The launcher's table of tiers says what `kernels/tiers.h` does: which there are, in which order,
//! and what rows they take.

use ala_loss::cuda::instruments::{TIERS, Tier};

const HEADER: &str = include_str!("../../kernels/tiers.h");
const MAPS: [&str; 2] = ["uniform", "per_class"];

/// A line of the header, one tier with one map.
#[derive(Debug)]
struct Line<'a> {
    name: &'a str,
    lanes: u32,
    /// Of a row, a lane; none where it is any number.
    elements: Option<u32>,
    threads: u32,
    per_class: bool,
}

impl<'a> Line<'a> {
    /// `X(kernel, name, lanes, elements, threads, map)`, and what else is on its line.
    fn parse(line: &'a str) -> Option<Self> {
        let arguments = line.trim().strip_prefix("X(")?.split_once(')')?.0;
        let arguments: Vec<&str> = arguments.split(',').map(str::trim).collect();
        let &[_, name, lanes, elements, threads, map] = &arguments[..] else {
            panic!("{line:?} has other arguments than a tier");
        };
        let number = |text: &str| {
            text.parse()
                .unwrap_or_else(|_| panic!("{text:?}: {line:?}"))
        };
        assert!(MAPS.contains(&map), "{line:?}");
        Some(Self {
            name,
            lanes: number(lanes),
            elements: (elements != "ANY").then(|| number(elements)),
            threads: number(threads),
            per_class: map == MAPS[1],
        })
    }

    /// The tier of the table that it is a kernel of.
    fn tier(&self) -> Option<&'static Tier> {
        TIERS.iter().find(|tier| tier.name == self.name)
    }
}

fn lines() -> Vec<Line<'static>> {
    // Comments come before it.
    let list = HEADER
        .split_once("#define ALA_TIERS(X)")
        .expect("the list")
        .1;
    let lines: Vec<_> = list.lines().filter_map(Line::parse).collect();
    assert!(!lines.is_empty(), "kernels/tiers.h has no list");
    lines
}

#[test]
fn every_line_of_the_list_is_in_the_table() {
    for line in lines() {
        let tier = line
            .tier()
            .unwrap_or_else(|| panic!("{line:?}: TIERS has no such tier"));
        assert_eq!(
            (tier.lanes, tier.threads),
            (line.lanes, line.threads),
            "{line:?}: {tier:?}"
        );
        let most = tier.most_classes(line.per_class);
        match line.elements {
            Some(elements) => assert_eq!(most, line.lanes * elements, "{line:?}: {tier:?}"),
            // As many as the kernels' indices hold.
            None => assert!(most >= 1 << 31, "{line:?}: {tier:?}"),
        }
    }
}

/// Of what the limit is made; with four lanes, which take as many elements as they can, the lanes
/// alone.
#[test]
fn names_of_register_tiers_say_their_lanes_and_elements() {
    for line in lines() {
        let Some(numbers) = line.name.strip_prefix("row") else {
            continue;
        };
        let elements = line.elements.expect("registers hold a number of elements");
        let both = format!("{}x{elements}", line.lanes);
        assert!(
            numbers == both || numbers == "4" && line.lanes == 4,
            "{line:?}"
        );
    }
}

/// Where rows fit into several tiers the first takes them, by either list.
#[test]
fn the_table_has_nothing_else_in_the_same_order() {
    let lines = lines();
    for per_class in [false, true] {
        let listed = lines.iter().filter(|line| line.per_class == per_class);
        let listed: Vec<&str> = listed.map(|line| line.name).collect();
        let table = TIERS.iter().filter(|tier| tier.most_classes(per_class) > 0);
        let table: Vec<&str> = table.map(|tier| tier.name).collect();
        assert_eq!(listed, table, "{}", MAPS[usize::from(per_class)]);
    }
    let mut names: Vec<&str> = lines.iter().map(|line| line.name).collect();
    names.dedup();
    let table: Vec<&str> = TIERS.iter().map(|tier| tier.name).collect();
    assert_eq!(
        names, table,
        "tiers of both maps are listed in the table's order"
    );
}
