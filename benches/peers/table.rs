//! A table, for a terminal and for the repository.

pub struct Table {
    pub title: String,
    /// What a reader must know to read it.
    pub note: String,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<'h>(title: &str, note: &str, head: impl IntoIterator<Item = &'h str>) -> Self {
        let head = head.into_iter().map(str::to_owned).collect();
        Self { title: title.to_owned(), note: note.to_owned(), head, rows: Vec::new() }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// In columns; the first to the left, numbers to the right.
    pub fn plain(&self) -> String {
        let all = || std::iter::once(&self.head).chain(&self.rows);
        let width = |column: usize| all().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..self.head.len()).map(|column| width(column).unwrap_or(0)).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).enumerate().map(|(at, (cell, width))| match at {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let lines: Vec<String> = all().map(line).collect();
        format!("{}\n{}\n", self.title, lines.join("\n"))
    }

    pub fn markdown(&self) -> String {
        let line = |row: &Vec<String>| format!("| {} |", row.join(" | "));
        let rule = format!("|---|{}", "---:|".repeat(self.head.len() - 1));
        let rows: Vec<String> = self.rows.iter().map(line).collect();
        let note = if self.note.is_empty() { String::new() } else { format!("{}\n\n", self.note) };
        format!("## {}\n\n{note}{}\n{rule}\n{}\n", self.title, line(&self.head), rows.join("\n"))
    }
}

/// Three figures that count, or a dash.
pub fn figure(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if !value.is_finite() => "-".to_owned(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

/// A ratio beside its target.
pub fn verdict(value: Option<f64>, target: Option<f64>) -> String {
    match (value, target) {
        (Some(value), Some(target)) if value <= target => "met".to_owned(),
        (Some(_), Some(_)) => "MISSED".to_owned(),
        _ => "-".to_owned(),
    }
}
