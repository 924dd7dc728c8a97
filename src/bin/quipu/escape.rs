//! Text from records and names, made harmless for a terminal: it can neither move the cursor, nor
//! change colors, nor show letters in another order than they have.

use std::fmt::Write;

/// The text with everything escaped that a terminal would obey. A backslash is not escaped: raw
/// bytes are there for the asking (`--escape never`).
pub(crate) fn text(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    push(&mut escaped, text);
    escaped
}

/// As [`text`], for bytes of any kind: those that are no UTF-8 become `\xff`.
pub(crate) fn bytes(bytes: &[u8]) -> String {
    let mut escaped = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        push(&mut escaped, chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(escaped, "\\x{byte:02x}");
        }
    }
    escaped
}

fn push(escaped: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            c if c.is_control() || is_invisible(c) => escaped.extend(c.escape_unicode()),
            c => escaped.push(c),
        }
    }
}

/// Characters without a shape of their own: those that change the direction of text, join or hide
/// other characters, or separate lines.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
        || matches!(c, '\u{e0000}'..='\u{e007f}')
}

/// Reads the escapes of a delimiter or a format: `\t`, `\n`, `\r`, `\0`, `\\` and `\x1f`.
pub(crate) fn unescaped(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut unescaped = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let (meant, length) = match (byte, bytes.get(at + 1)) {
            (b'\\', Some(b't')) => (b'\t', 2),
            (b'\\', Some(b'n')) => (b'\n', 2),
            (b'\\', Some(b'r')) => (b'\r', 2),
            (b'\\', Some(b'0')) => (0, 2),
            (b'\\', Some(b'\\')) => (b'\\', 2),
            (b'\\', Some(b'x')) => match text.get(at + 2..at + 4).map(|hex| u8::from_str_radix(hex, 16)) {
                Some(Ok(byte)) => (byte, 4),
                _ => (byte, 1),
            },
            _ => (byte, 1),
        };
        unescaped.push(meant);
        at += length;
    }
    unescaped
}

/// The delimiter of `-K`. The parser of arguments drops a `=` after the letter, and an empty
/// delimiter separates nothing: so `-K=` means `=`.
pub(crate) fn delimiter(text: &str) -> Vec<u8> {
    if text.is_empty() { b"=".to_vec() } else { unescaped(text) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        assert_eq!(super::text("\u{1b}[2J red\u{7}\n\u{9b}31m"), r"\u{1b}[2J red\u{7}\n\u{9b}31m");
        assert_eq!(super::text("a\u{202e}b\u{200b}c\u{2028}d"), r"a\u{202e}b\u{200b}c\u{2028}d");
        assert_eq!(super::bytes(b"ok \xff\xc3\xa9 \x00"), "ok \\xff\u{e9} \\u{0}");
        assert_eq!(super::text("Grüße, 世界 \\ {}"), "Grüße, 世界 \\ {}");
    }

    #[test]
    fn escapes_of_delimiters_are_read() {
        assert_eq!(super::unescaped(r"a\tb\x1f\\n\x"), b"a\tb\x1f\\n\\x");
    }
}
