//! Standard output: lines, one JSON document, tables. A reader that went away is no error (see [`Error::Closed`]).

use std::io::Write;

use serde::Serialize;

use super::error::Error;

/// Writes one line (or several) and flushes: readers of a pipe want it now.
pub fn line(text: impl AsRef<str>) -> Result<(), Error> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_ref().as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()?;
    Ok(())
}

/// Writes text as it is and flushes.
pub fn raw(text: &str) -> Result<(), Error> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// Writes the one JSON document of a `--json` answer.
pub fn json(document: &impl Serialize) -> Result<(), Error> {
    line(serde_json::to_string_pretty(document).map_err(Error::no)?)
}

/// Writes to standard error what goes on beside the answer. If nobody reads it, it is lost.
pub fn note(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
}

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows under their titles, two spaces apart, without trailing blanks. Ends without a newline.
pub fn table(columns: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = columns.iter().map(|(title, _)| title.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let titles = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    let lines = std::iter::once(&titles).chain(rows).map(|row: &Vec<String>| {
        let mut text = String::new();
        for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(columns) {
            let blanks = " ".repeat(width.saturating_sub(cell.chars().count()));
            let (before, after) = if *align == Align::Right { (blanks.as_str(), "") } else { ("", blanks.as_str()) };
            let gap = if text.is_empty() { "" } else { "  " };
            text.push_str(&format!("{gap}{before}{cell}{after}"));
        }
        text.trim_end().to_owned()
    });
    lines.collect::<Vec<String>>().join("\n")
}

/// Rows and columns of the terminal that standard output is; a common one where it does not say.
pub fn terminal_size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (usize::from(size.ws_row), usize::from(size.ws_col)),
        _ => (40, 120),
    }
}

/// Text drawn from the top of a terminal of this size over what was there: each line is cut to fit and cleared to its
/// end, and so is the rest of the screen. Nothing scrolls, so the next drawing lands on this one.
pub fn screen(text: &str, (rows, columns): (usize, usize)) -> String {
    let cut = |line: &str| line.chars().take(columns).collect::<String>();
    let lines: String =
        text.lines().take(rows.saturating_sub(1)).map(|line| format!("{}\x1b[K\n", cut(line))).collect();
    format!("\x1b[H{lines}\x1b[J")
}

/// Breaks a line at blanks so that it fits; what follows is indented as the line was. Longer words stay whole.
pub fn wrap(line: &str, columns: usize) -> Vec<String> {
    let indent = " ".repeat(line.len() - line.trim_start_matches(' ').len());
    let mut lines: Vec<String> = Vec::new();
    for word in line.split(' ').filter(|word| !word.is_empty()) {
        match lines.last_mut() {
            Some(last) if last.chars().count() + 1 + word.chars().count() <= columns => {
                last.push(' ');
                last.push_str(word);
            }
            _ => lines.push(format!("{indent}{word}")),
        }
    }
    if lines.is_empty() { vec![String::new()] } else { lines }
}

/// 1234567 as `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 event`, `2 events`.
pub fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(number))
}

/// A time span as people read it: `0.8 ms`, `12 ms`, `3.4 s`, `5m20s`.
pub fn span(seconds: f64) -> String {
    match seconds {
        seconds if !seconds.is_finite() || seconds < 0.0 => "-".to_owned(),
        0.0 => "0 s".to_owned(),
        seconds if seconds < 0.001 => format!("{:.0} us", seconds * 1e6),
        seconds if seconds < 0.01 => format!("{:.1} ms", seconds * 1e3),
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        seconds if seconds < 120.0 => format!("{seconds:.1} s"),
        seconds => crate::config::format_duration(std::time::Duration::from_secs(seconds.min(1e12) as u64)),
    }
}

/// A number of bytes as people read it: `3.4 MiB`.
pub fn bytes(bytes: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, scale)| bytes >= *scale) {
        Some((unit, scale)) => format!("{:.1} {unit}", bytes as f64 / *scale as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_blanks() {
        let rows = vec![vec!["a".to_owned(), "1,000".to_owned()], vec!["longer".to_owned(), "2".to_owned()]];
        let text = table(&[("link", Align::Left), ("n", Align::Right)], &rows);
        assert_eq!(text, "link        n\na       1,000\nlonger      2");
    }

    #[test]
    fn a_screen_fits_and_clears_what_was_there() {
        assert_eq!(screen("ab\nc", (10, 1)), "\x1b[Ha\x1b[K\nc\x1b[K\n\x1b[J");
        assert_eq!(screen("a\nb\nc", (3, 9)).matches('\n').count(), 2);
    }

    #[test]
    fn a_long_line_is_broken_at_blanks_and_keeps_its_indent() {
        assert_eq!(wrap("  one two three", 10), ["  one two", "  three"]);
        assert_eq!(wrap("", 10), [""]);
        assert_eq!(wrap("unbreakable", 4), ["unbreakable"]);
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([counted(1, "event"), counted(1_500, "event")], ["1 event", "1,500 events"]);
        let spans = [0.0, 0.0008, 0.0042, 0.25, 3.44, 320.0, f64::NAN];
        assert_eq!(spans.map(span), ["0 s", "800 us", "4.2 ms", "250 ms", "3.4 s", "5m20s", "-"]);
        assert_eq!([bytes(12), bytes(3_565_158)], ["12 B", "3.4 MiB"]);
    }
}
