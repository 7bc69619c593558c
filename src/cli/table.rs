//! Tables for people: columns as wide as they must be, two spaces between.

/// Prints a heading and rows; cells are cleaned, so that no terminal obeys what they quote.
pub fn print(heading: &[&str], rows: &[Vec<String>]) {
    let clean = |cell: &String| crate::report::clean(cell);
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(clean).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([heading[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        say!("{}", padded.join("  ").trim_end());
    };
    line(&heading.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>());
    for row in &rows {
        line(row);
    }
}

/// How long ago, or until when: `42s`, `5m`, `3h`, `12d`.
pub fn span(span: std::time::Duration) -> String {
    match span.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..86400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86400),
    }
}
