//! Tables of text.

use std::fmt;

/// A table whose columns are as wide as their longest cells.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.iter().map(|cell| plain(cell)).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:width$}  "));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Returns a text for a terminal: what users wrote must not move the cursor.
pub(crate) fn plain(text: &str) -> String {
    text.replace(char::is_control, "?")
}

/// Returns a number of bytes in the largest unit in which it is a whole number.
pub(crate) fn size(bytes: u64) -> String {
    let mut units = "KMGTPE".chars();
    let (mut number, mut unit) = (bytes, None);
    while number >= 1024 && number.is_multiple_of(1024) {
        number /= 1024;
        unit = units.next();
    }
    format!("{number}{}", unit.map(String::from).unwrap_or_default())
}

/// Returns a number of seconds in the two longest units of which it has any.
pub(crate) fn time(seconds: u64) -> String {
    let parts = [
        (seconds / 86_400, 'd'),
        (seconds / 3600 % 24, 'h'),
        (seconds / 60 % 60, 'm'),
        (seconds % 60, 's'),
    ];
    let first = parts.iter().position(|&(number, _)| number > 0).unwrap_or(3);
    let shown = parts[first..].iter().take(2).filter(|&&(number, _)| number > 0 || first == 3);
    shown.map(|(number, unit)| format!("{number}{unit}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["NAME", "N"]);
        table.row(["a".into(), "1".into()]);
        table.row(["longer\n".into(), "2".into()]);
        assert_eq!(table.to_string(), "NAME     N\na        1\nlonger?  2\n");
    }

    #[test]
    fn times_have_two_units() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (61, "1m1s"), (3600, "1h"), (90_061, "1d1h")]
        {
            assert_eq!(time(seconds), text);
        }
    }

    #[test]
    fn sizes_are_exact() {
        for (bytes, text) in
            [(0, "0"), (1023, "1023"), (1024, "1K"), (1 << 30, "1G"), ((1 << 30) + 1, "1073741825")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
