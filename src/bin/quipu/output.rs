//! Standard output and standard error: escaped on a terminal, raw for a pipe; tables or JSON.

use std::borrow::Cow;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::escape;
use crate::failure::{Failure, Result};
use crate::table::Table;

/// Options of every command.
#[derive(Args)]
pub(crate) struct Common {
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
    /// Whether control characters in names and values are escaped: on a terminal by default
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = false)]
    escape: When,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum When {
    Auto,
    Always,
    Never,
}

/// The output of one command.
pub(crate) struct Output {
    to: BufWriter<StdoutLock<'static>>,
    is_json: bool,
    /// Names and values on standard output are escaped.
    escapes: bool,
    is_terminal: bool,
    has_color: bool,
    has_damage: bool,
}

impl Output {
    pub(crate) fn new(common: &Common) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let asked_for = |when| common.escape == when;
        // https://no-color.org: set, and not empty.
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Output {
            to: BufWriter::with_capacity(1 << 16, io::stdout().lock()),
            is_json: common.json,
            escapes: asked_for(When::Always) || (asked_for(When::Auto) && is_terminal),
            is_terminal,
            has_color: is_terminal && !no_color,
            has_damage: false,
        }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.is_json
    }

    /// Damage was found: the exit code says so, whatever else is done.
    pub(crate) fn damage_found(&mut self) {
        self.has_damage = true;
    }

    pub(crate) fn has_damage(&self) -> bool {
        self.has_damage
    }

    /// A name or another text that is not the program's own.
    pub(crate) fn name<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.escapes { escape::text(text).into() } else { text.into() }
    }

    /// A line of the program's own.
    pub(crate) fn line(&mut self, text: &str) -> Result<()> {
        writeln!(self.to, "{text}").map_err(Failure::Output)
    }

    /// Bytes that go out unchanged: delimiters, and documents for other programs.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes).map_err(Failure::Output)
    }

    /// A key or a value.
    pub(crate) fn value(&mut self, bytes: &[u8]) -> Result<()> {
        if self.escapes { self.raw(escape::bytes(bytes).as_bytes()) } else { self.raw(bytes) }
    }

    /// A line of JSON. Serde escapes the control characters below 32; the rest is escaped here if
    /// it must be.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(value).map_err(|e| Failure::Other(e.to_string()))?;
        let line = if self.escapes { escaped_json(&line) } else { line };
        self.line(&line)
    }

    pub(crate) fn table(&mut self, table: &Table) -> Result<()> {
        let text = table.text(|cell| self.name(cell).into_owned());
        let (head, rows) = text.split_once('\n').unwrap_or((&text, ""));
        if self.has_color {
            self.line(&format!("\u{1b}[1m{head}\u{1b}[0m"))?;
        } else {
            self.line(head)?;
        }
        if rows.is_empty() { Ok(()) } else { self.line(rows) }
    }

    /// Something that was done, for a person: not printed where another program reads along.
    pub(crate) fn done(&mut self, text: &str) -> Result<()> {
        if self.is_terminal { self.line(&escape::text(text)) } else { Ok(()) }
    }

    /// A line on standard error.
    pub(crate) fn warn(&self, text: &str) {
        let mut errors = io::stderr().lock();
        let text = if errors.is_terminal() { escape::text(text).into() } else { Cow::from(text) };
        // There is no other place to report to.
        let _ = writeln!(errors, "quipu: {text}");
    }

    /// Everything so far is on its way.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.to.flush().map_err(Failure::Output)
    }
}

/// Escapes the characters that JSON leaves unchanged, in the way of JSON.
fn escaped_json(line: &str) -> String {
    let mut escaped = String::with_capacity(line.len());
    for c in line.chars() {
        let mut shown = [0; 4];
        if escape::text(c.encode_utf8(&mut shown)).starts_with('\\') && c != '\\' {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            escaped.push(c);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    #[test]
    fn escaped_json_is_the_same_json() {
        let line = "{\"a\":\"\u{9b}31m\u{e0001} \\n ok\"}";
        let escaped = super::escaped_json(line);
        assert_eq!(escaped, r#"{"a":"\u009b31m\udb40\udc01 \n ok"}"#);
        let (before, after): (serde_json::Value, serde_json::Value) =
            (serde_json::from_str(line).unwrap(), serde_json::from_str(&escaped).unwrap());
        assert_eq!(before, after);
    }
}
