//! Tables: columns with two spaces between them, as Kafka's tools print them, and no lines.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement};

/// Where a column's cells stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

pub(crate) use Align::{Left, Right};

pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Self {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row, with a cell for each column.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().collect();
        debug_assert_eq!(cells.len(), self.columns.len(), "a row has a cell for each column");
        self.rows.push(cells);
    }

    /// The lines, the heading first. `shown` makes a cell fit for the output.
    pub(crate) fn text(&self, shown: impl Fn(&str) -> String) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(self.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| shown(cell)).collect::<Vec<_>>());
        }
        for (column, (_, align)) in table.column_iter_mut().zip(&self.columns) {
            column.set_padding((0, 2));
            if *align == Right {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.trim_fmt()
    }
}

/// Bytes in the largest unit of 1024 in which they are at least one.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = "B";
    let mut amount = bytes as f64;
    for larger in UNITS {
        // An amount that would be rounded to 1024 is one of the next unit.
        if amount < 1023.95 {
            break;
        }
        (amount, unit) = (amount / 1024.0, larger);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{amount:.1} {unit}") }
}

/// The value, or a dash where there is none.
pub(crate) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_string(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::{Left, Right, Table, bytes};

    #[test]
    fn columns_are_aligned_and_no_line_ends_with_spaces() {
        let mut table = Table::new(&[("TOPIC", Left), ("BYTES", Right), ("STATE", Left)]);
        table.row(["a", "1", "ok"].map(String::from));
        table.row(["a-long-name", "1000", ""].map(String::from));
        let text = table.text(str::to_string);
        assert_eq!(text, "TOPIC        BYTES  STATE\na                1  ok\na-long-name   1000");
    }

    #[test]
    fn bytes_have_the_unit_that_fits() {
        let all = [0, 1023, 1024, 1_048_575, 1 << 20, 5 << 40].map(bytes);
        assert_eq!(all, ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "1.0 MiB", "5.0 TiB"]);
    }
}
