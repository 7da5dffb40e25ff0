//! Tables and charts of the records: a short one to print where they were made, a page for the
//! repository.
//!
//! [`figures`] tells what the records amount to, and is the same for both; the rest is words and
//! lines.

mod charts;
mod figures;
mod folder;
mod numbers;
mod page;
#[cfg(test)]
mod samples;
mod summary;
mod table;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use ala_loss_gpu::Failure;
use output_file::OutputFile;

use folder::Folder;

/// What a page and a chart of a dry run say of themselves.
const DRY: &str = "dry run: no measurement";

/// Prints what a folder's records amount to, whatever stages are there.
///
/// # Errors
/// Where there is no such folder, and those of `output`.
pub(crate) fn summary(folder: &Path, output: &mut impl Write) -> Result<(), Failure> {
    let text = summary::of(&Folder::read(folder)?);
    Ok(output.write_all(text.as_bytes())?)
}

/// Writes `gpu.md`, its charts and the records of each folder into `docs`, and their names to
/// `output`.
///
/// What an earlier report wrote is replaced when all of the new one is complete.
///
/// # Errors
/// Before anything is written: where a folder holds a dry run's records and `dry` is not asked for,
/// where it does not name its device, and where it cannot be read. Then those of writing.
pub(crate) fn write(
    folders: &[PathBuf],
    docs: &Path,
    dry: bool,
    output: &mut impl Write,
) -> Result<(), Failure> {
    let mut measured = Vec::new();
    for folder in folders {
        let folder = Folder::read(folder)?;
        folder.check(dry)?;
        measured.push(folder);
    }
    let files = files(&measured, dry)?;
    // The records' folder, and so the page's.
    let data = docs.join("gpu");
    std::fs::create_dir_all(&data)
        .map_err(|error| format!("cannot make the folder {}: {error}", data.display()))?;
    let mut outputs = Vec::with_capacity(files.len());
    for (name, text) in &files {
        outputs.push((OutputFile::at(docs.join(name))?, text));
    }
    let complete: Vec<_> = outputs.iter().map(|(file, text)| (file, text)).collect();
    output_file::write_all(&complete)?;
    for (file, _) in &outputs {
        writeln!(output, "{}", file.path().display())?;
    }
    Ok(())
}

/// Names under `docs`, and what goes there.
fn files(folders: &[Folder], dry: bool) -> Result<Vec<(String, String)>, Failure> {
    let mut files = Vec::new();
    let mut sections = Vec::new();
    let mut taken = BTreeSet::new();
    for folder in folders {
        let id = unused(&format!("{}-{}", folder.slug(), folder.date()), &mut taken);
        let data = format!("gpu/{id}.json");
        let infix = match folders.len() {
            1 => String::new(),
            _ => format!("{id}_"),
        };
        let mut charts = Vec::new();
        for (name, svg) in charts::of(&folder.lines, dry)? {
            let file = format!("gpu_{infix}{name}.svg");
            charts.push((name, file.clone()));
            files.push((file, svg));
        }
        sections.push(page::Section {
            folder,
            charts,
            data: data.clone(),
        });
        files.push((data, folder.json(dry)?));
    }
    files.push(("gpu.md".into(), page::of(&sections, dry)));
    Ok(files)
}

/// `name`, or where that is taken, with a number after it: two runs on one device on one day.
fn unused(name: &str, taken: &mut BTreeSet<String>) -> String {
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    let free = names.find(|name| taken.insert(name.clone()));
    free.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use samples::{Scratch, device, large, line};

    fn written(docs: &Path) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(docs) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .map(|entry| {
                entry
                    .expect("a folder")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_dry_run_is_refused_unless_asked_for_and_then_says_so() {
        let scratch = Scratch::new("dry");
        let mut lines = vec![line("facts", device("Some GPU"))];
        lines.extend(large("f32", 1000, 67_109, [10.0, 20.0, 9.0]));
        lines[1].dry = true;
        let out = scratch.folder("out", &lines);
        let docs = scratch.path("docs");
        let error = write(
            std::slice::from_ref(&out),
            &docs,
            false,
            &mut std::io::sink(),
        )
        .expect_err("dry");
        let error = error.to_string();
        assert!(
            error.contains("times.jsonl") && error.contains("dry run"),
            "{error}"
        );
        assert_eq!(written(&docs), [""; 0], "nothing is written");

        write(&[out], &docs, true, &mut std::io::sink()).expect("asked for");
        let page = std::fs::read_to_string(docs.join("gpu.md")).expect("a page");
        let title = page.lines().next().expect("a title");
        assert!(title.contains(DRY), "{title}");
        let chart = std::fs::read_to_string(docs.join("gpu_rates.svg")).expect("a chart");
        assert!(chart.contains(DRY));
        assert!(
            page.matches(DRY).count() >= 2,
            "the chart's caption too: {page}"
        );
    }

    #[test]
    fn softcuda_is_no_device_and_no_device_is_refused() {
        let scratch = Scratch::new("device");
        let soft = scratch.folder("soft", &[line("facts", device("softcuda"))]);
        let docs = scratch.path("docs");
        let error = write(&[soft], &docs, false, &mut std::io::sink())
            .expect_err("software")
            .to_string();
        assert!(
            error.contains("facts.jsonl") && error.contains("softcuda"),
            "{error}"
        );
        let none = scratch.folder("nameless", &large("f32", 1000, 67_109, [10.0, 20.0, 9.0]));
        for dry in [false, true] {
            let error = write(
                std::slice::from_ref(&none),
                &docs,
                dry,
                &mut std::io::sink(),
            )
            .expect_err("no device");
            let error = error.to_string();
            assert!(
                error.contains("nameless") && error.contains("facts"),
                "{error}"
            );
        }
        assert_eq!(written(&docs), [""; 0], "nothing is written");
    }

    /// The last of its files cannot be written: of the others none is replaced.
    #[test]
    fn a_report_that_fails_leaves_the_earlier_one_whole() {
        let scratch = Scratch::new("fails");
        let docs = scratch.path("docs");
        let mut lines = vec![line("facts", device("Some GPU"))];
        lines.extend(large("f32", 1000, 67_109, [10.0, 20.0, 9.0]));
        let out = scratch.folder("out", &lines);
        let report = || {
            write(
                std::slice::from_ref(&out),
                &docs,
                false,
                &mut std::io::sink(),
            )
        };
        report().expect("written");
        let (page, earlier) = (docs.join("gpu.md"), written(&docs));
        let files: Vec<_> = earlier
            .iter()
            .filter(|name| name.ends_with("svg"))
            .collect();
        for file in &files {
            std::fs::write(docs.join(file), "earlier").expect("writable");
        }
        std::fs::remove_file(&page).expect("the report wrote it");
        std::fs::create_dir(&page).expect("writable");
        let error = report().expect_err("a folder is in the way").to_string();
        assert!(error.contains("gpu.md"), "{error}");
        let text = |file: &String| std::fs::read_to_string(docs.join(file)).expect("it is there");
        assert!(files.iter().all(|file| text(file) == "earlier"));
        std::fs::remove_dir(&page).expect("empty");
        report().expect("nothing is in the way");
        assert!(files.iter().all(|file| text(file).starts_with("<svg")));
        assert_eq!(written(&docs), earlier, "nothing is left beside");
    }

    #[test]
    fn each_device_has_its_own_charts_and_data() {
        let scratch = Scratch::new("several");
        let docs = scratch.path("docs");
        let folder = |name: &str, gpu: &str| {
            let mut lines = vec![line("facts", device(gpu))];
            lines.extend(large("f32", 1000, 67_109, [10.0, 20.0, 9.0]));
            scratch.folder(name, &lines)
        };
        let folders = [
            folder("a", "Big GPU"),
            folder("b", "Small GPU"),
            folder("c", "Big GPU"),
        ];
        write(&folders, &docs, false, &mut std::io::sink()).expect("written");
        let (files, data) = (written(&docs), written(&docs.join("gpu")));
        assert_eq!(
            files
                .iter()
                .filter(|name| name.ends_with("_rates.svg"))
                .count(),
            3,
            "{files:?}"
        );
        assert_eq!(
            data.iter()
                .filter(|name| name.starts_with("big-gpu-"))
                .count(),
            2,
            "{data:?}"
        );
        let page = std::fs::read_to_string(docs.join("gpu.md")).expect("a page");
        for file in files.iter().filter(|file| file.ends_with("svg")) {
            assert!(page.contains(file), "{file}");
        }
        for file in &data {
            assert!(page.contains(&format!("gpu/{file}")), "{file}");
        }
    }
}
