//! Ours beside the peers, and wherever one of them is ahead.

use std::fmt::Write;

use ala_loss_gpu::record::{Kind, Line, Peer};
use serde_json::Value;

use super::super::figures::of_kind;
use super::super::figures::peers::{Case, FAMILIES, ahead_of_ours, cases, device, names};
use super::super::numbers::{percent, us};
use super::super::table::Table;

pub(super) fn section(lines: &[Line]) -> Option<String> {
    let cases = cases(lines);
    if cases.is_empty() {
        return None;
    }
    let mut text = String::from(
        "All on the same card and in one run, with labels of 64 bits; every result was held against float64 before it was \
         timed. ALA takes cosines; CE, the plain cross entropy, takes logits. Per cent are of the copy kernel's rate. Small \
         batches are in graphs of many steps; a star marks a time between two events, without a graph. What is \"in place\" \
         writes the gradient over the logits.\n",
    );
    if let Some(machine) = of_kind!(lines, Machine).next_back() {
        let _ = writeln!(text, "\nVersions: {}.", versions(machine));
    }
    text += &absent(lines);
    for family in FAMILIES
        .map(|(family, _)| family)
        .into_iter()
        .chain(["copy"])
    {
        for (kind, title) in [(Kind::Large, "large"), (Kind::Small, "small")] {
            let table = table(lines, &cases, family, kind);
            if !table.is_empty() {
                let _ = write!(text, "\n{family}, {title} batches:\n\n{}", table.markdown());
            }
        }
    }
    text += &ahead(&cases);
    Some(text)
}

/// Of what the peers are made of.
fn versions(machine: &serde_json::Map<String, Value>) -> String {
    let packages = machine.get("versions").and_then(Value::as_object);
    let packages = packages.into_iter().flatten();
    let cuda = machine.get_key_value("cuda");
    let all = packages.chain(cuda).filter_map(|(name, version)| {
        let version = version.as_str()?;
        Some(format!("{name} {version}"))
    });
    all.collect::<Vec<_>>().join(", ")
}

fn nowhere(lines: &[Line], name: &str) -> bool {
    let mut runs = of_kind!(lines, Peer).filter(|peer| peer.op == name);
    runs.all(|peer| peer.status == "absent")
}

/// Those that are nowhere, which have no column.
fn absent(lines: &[Line]) -> String {
    let names = FAMILIES
        .into_iter()
        .flat_map(|(family, _)| names(lines, family));
    let names = names.filter(|name| nowhere(lines, name)).map(|name| {
        let why = of_kind!(lines, Peer).find(|peer| peer.op == name);
        let why = why
            .and_then(|peer| peer.reason.as_deref())
            .unwrap_or("no reason given");
        format!("{name} ({why})")
    });
    let names: Vec<_> = names.collect();
    match names.is_empty() {
        true => String::new(),
        false => format!("\nNot there: {}.\n", names.join("; ")),
    }
}

fn table(lines: &[Line], cases: &[Case], family: &str, kind: Kind) -> Table {
    let mut names = names(lines, family);
    names.retain(|name| !nowhere(lines, name));
    let mut table = Table::new(["N x C", "type"].into_iter().chain(names.iter().copied()));
    let cases = cases.iter().filter(|case| case.batch() == kind);
    for case in cases.filter(|case| case.family(family).next().is_some()) {
        let shape = [
            format!("{} x {}", case.rows(), case.classes()),
            case.dtype().to_owned(),
        ];
        let cells = names.iter().map(|name| {
            case.op(name)
                .map_or_else(|| "-".into(), |peer| cell(case, peer))
        });
        table.row(shape.into_iter().chain(cells));
    }
    table
}

fn cell(case: &Case, peer: &Peer) -> String {
    let Some(between_events) = device(peer) else {
        return match peer.status.as_str() {
            "refused" => "refuses".into(),
            "absent" => "not there".into(),
            other => other.to_owned(),
        };
    };
    match (case.batch(), peer.graph_us) {
        (Kind::Large, _) => match case.percent_of_copy(peer) {
            Some(of_copy) => format!("{} us, {of_copy:.0} %", us(between_events)),
            None => format!("{} us", us(between_events)),
        },
        (Kind::Small, Some(graph)) => format!("{} us", us(graph.median)),
        (Kind::Small, None) => format!("{} us*", us(between_events)),
    }
}

/// Every case where a peer is ahead, and every one where ours has no time though a peer has.
fn ahead(cases: &[Case]) -> String {
    let duels = ahead_of_ours(cases);
    let mut text = match duels.is_empty() {
        true => "\nNo peer is ahead of ours in any case.\n".to_owned(),
        false => format!(
            "\nA peer is ahead of ours in {} cases, by medians:\n\n",
            duels.len()
        ),
    };
    for duel in duels {
        let (peer, [theirs, ours]) = (duel.peer, duel.us);
        let _ = writeln!(
            text,
            "- {}, {} {} x {}: {} us against {} us, {} less",
            peer.op,
            peer.dtype,
            peer.n,
            peer.c,
            us(theirs),
            us(ours),
            percent(100.0 * (1.0 - duel.ahead)),
        );
    }
    for ours in cases.iter().flat_map(Case::ours_without_time) {
        let why = ours.reason.as_deref().unwrap_or(&ours.status);
        let _ = writeln!(
            text,
            "\n{} has no time at {} {} x {}: {why}.",
            ours.op, ours.dtype, ours.n, ours.c
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::super::samples::peer;
    use super::*;
    use ala_loss_gpu::record::Record;

    #[test]
    fn who_is_not_there_or_refuses_is_told_apart() {
        let mut lines = vec![
            peer("copy (ours)", 10, Some(9.0)),
            peer("ours CE", 10, Some(10.0)),
            peer("Liger CE", 10, None),
            peer("flash-attn CE", 10, None),
        ];
        if let Record::Peer(flash) = &mut lines[3].record {
            flash.status = "absent".into();
            flash.reason = Some("no flash_attn".into());
        }
        let text = section(&lines).expect("peers");
        assert!(
            text.contains("Not there: flash-attn CE (no flash_attn)."),
            "{text}"
        );
        assert!(
            text.contains("| N x C | type | ours CE | Liger CE |"),
            "{text}"
        );
        assert!(
            text.contains("| 100 x 10 | f32 | 10.0 us, 90 % | refuses |"),
            "{text}"
        );
        assert!(text.contains("No peer is ahead of ours"), "{text}");
        lines.push(peer("flash-attn CE", 20, Some(10.0)));
        let text = section(&lines).expect("peers");
        assert!(text.contains("| refuses | not there |"), "{text}");
    }
}
