//! A table, in Markdown or in columns of plain text.

/// Heads and rows of cells.
#[derive(Debug)]
pub(crate) struct Table {
    heads: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With no rows yet.
    pub(crate) fn new<Head: Into<String>>(heads: impl IntoIterator<Item = Head>) -> Self {
        Self {
            heads: heads.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row of as many cells as there are heads.
    pub(crate) fn row<Cell: Into<String>>(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        debug_assert_eq!(cells.len(), self.heads.len(), "{cells:?}");
        self.rows.push(cells);
    }

    /// Whether it has rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// As Markdown, numbers to the right; nothing where there are no rows.
    pub(crate) fn markdown(&self) -> String {
        if self.is_empty() {
            return String::new();
        }
        let line = |cells: &[String]| {
            let cells: Vec<_> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let mut text = line(&self.heads) + "|---|";
        text += &"---:|".repeat(self.heads.len().saturating_sub(1));
        text.push('\n');
        self.rows.iter().for_each(|row| text += &line(row));
        text
    }

    /// In columns; nothing where there are no rows.
    pub(crate) fn plain(&self) -> String {
        if self.is_empty() {
            return String::new();
        }
        let all = || std::iter::once(&self.heads).chain(&self.rows);
        let width = |column: usize| {
            let cells = all().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let mut text = String::new();
        for row in all() {
            let cells = row.iter().enumerate();
            let cells: Vec<_> = cells
                .map(|(column, cell)| format!("{cell:<0$}", width(column)))
                .collect();
            text += cells.join("  ").trim_end();
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_keeps_its_columns() {
        let mut table = Table::new(["what", "us"]);
        assert_eq!(
            (table.markdown(), table.plain()),
            (String::new(), String::new())
        );
        table.row(["a|b", "1"]);
        table.row(["c", "23"]);
        assert_eq!(
            table.markdown(),
            "| what | us |\n|---|---:|\n| a\\|b | 1 |\n| c | 23 |\n"
        );
        assert_eq!(table.plain(), "what  us\na|b   1\nc     23\n");
    }
}
