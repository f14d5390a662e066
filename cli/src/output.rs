//! Results on standard output: tables and fields for people, JSON for programs.

use crate::terminal::clean;
use clap::ValueEnum;
use comfy_table::{ColumnConstraint, Table, Width, presets};
use serde_json::Value;
use std::io::{self, BufWriter, Write};

/// How results are written. The values have no help of their own: it would make every help page long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    // Tables and lines for people; the layout may change.
    #[default]
    Human,
    // One JSON document with the field names of the API; stable.
    Json,
}

/// The option that every verb with a result has.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct OutputArgs {
    /// How to write the result: for people, or as stable JSON
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

impl OutputArgs {
    /// Writes one result in the asked form; only that form is made.
    ///
    /// # Errors
    /// Those of standard output.
    pub fn result(self, json: impl FnOnce() -> Value, human: impl FnOnce() -> String) -> io::Result<()> {
        match self.output {
            Format::Human => text(&human()),
            Format::Json => text(&format!("{:#}\n", json())),
        }
    }

    /// Begins a list on standard output.
    pub fn list(self, key: &'static str, header: &'static [&'static str]) -> List<BufWriter<io::Stdout>> {
        List::new(BufWriter::new(io::stdout()), self.output, key, header)
    }
}

/// Writes text to standard output as it is.
///
/// # Errors
/// Those of standard output.
pub fn text(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Named values below each other; those without a value are left out.
pub fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    fields
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name:width$}  {}\n", clean(value)))
        .collect()
}

/// A list that is written while its pages arrive, so that it need not fit into memory.
///
/// JSON: `{"<key>": [...], "truncated": false}`, one element a line.
pub struct List<W: Write> {
    out: W,
    format: Format,
    key: &'static str,
    header: &'static [&'static str],
    widths: Vec<u16>,
    count: u64,
}

impl<W: Write> List<W> {
    /// A list of `key`, with the column headings for people.
    pub fn new(out: W, format: Format, key: &'static str, header: &'static [&'static str]) -> Self {
        Self { out, format, key, header, widths: Vec::new(), count: 0 }
    }

    /// Writes one page.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn page<T>(
        &mut self,
        items: &[T],
        json: impl Fn(&T) -> Value,
        row: impl Fn(&T) -> Vec<String>,
    ) -> io::Result<()> {
        if items.is_empty() {
            return Ok(());
        }
        match self.format {
            Format::Json => {
                for item in items {
                    let before = if self.count == 0 { format!("{{{:?}:[\n", self.key) } else { ",\n".to_owned() };
                    write!(self.out, "{before}{}", json(item))?;
                    self.count += 1;
                }
            }
            Format::Human => {
                let mut table = Table::new();
                table.load_preset(presets::NOTHING);
                if self.count == 0 {
                    table.set_header(self.header.to_vec());
                }
                for item in items {
                    table.add_row(row(item).iter().map(|cell| if cell.is_empty() { "-".into() } else { clean(cell) }));
                }
                // Later pages keep at least the columns of those before.
                let mut widths = table.column_max_content_widths();
                for (width, before) in widths.iter_mut().zip(&self.widths) {
                    *width = (*width).max(*before);
                }
                for (column, width) in table.column_iter_mut().zip(&widths) {
                    // One space on each side belongs to the column.
                    column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(width.saturating_add(2))));
                    column.set_padding((0, 2));
                }
                self.widths = widths;
                self.count += items.len() as u64;
                writeln!(self.out, "{}", table.trim_fmt())?;
            }
        }
        self.out.flush()
    }

    /// Ends the list; `truncated` says that there may be more than was asked for.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn end(mut self, truncated: bool) -> io::Result<()> {
        match self.format {
            Format::Json => {
                if self.count == 0 {
                    write!(self.out, "{{{:?}:[", self.key)?;
                }
                writeln!(self.out, "\n],\"truncated\":{truncated}}}")?;
            }
            Format::Human if self.count == 0 => eprintln!("No {}.", self.key),
            Format::Human if truncated => {
                eprintln!("Only the first {} {}; --limit N or --all gives more.", self.count, self.key);
            }
            Format::Human => {}
        }
        self.out.flush()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use serde_json::json;

    fn listed(format: Format, pages: &[&[&str]], truncated: bool) -> String {
        let mut bytes = Vec::new();
        let mut list = List::new(&mut bytes, format, "devices", &["DEVICE", "N"]);
        for page in pages {
            list.page(page, |d| json!({ "device_id": d }), |d| vec![(*d).to_owned(), "1".to_owned()]).unwrap();
        }
        list.end(truncated).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_lists_are_one_document_over_all_pages() {
        let parsed: Value = serde_json::from_str(&listed(Format::Json, &[&["a", "b"], &[], &["c"]], true)).unwrap();
        assert_eq!(
            parsed,
            json!({ "devices": [{"device_id": "a"}, {"device_id": "b"}, {"device_id": "c"}], "truncated": true })
        );
        let empty: Value = serde_json::from_str(&listed(Format::Json, &[], false)).unwrap();
        assert_eq!(empty, json!({ "devices": [], "truncated": false }));
    }

    #[test]
    fn tables_align_over_pages_and_are_clean() {
        let text = listed(Format::Human, &[&["long-device-name"], &["a\x1b[1m", ""]], false);
        assert_eq!(text, "DEVICE            N\nlong-device-name  1\na\\u{1b}[1m        1\n-                 1\n");
    }

    #[test]
    fn fields_align_and_leave_out_what_is_empty() {
        let text = fields(&[("Serial", "4f".into()), ("Revoked by", "x\ny".into()), ("Comment", String::new())]);
        assert_eq!(text, "Serial      4f\nRevoked by  x\\u{a}y\n");
    }
}
