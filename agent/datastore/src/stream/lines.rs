//! Cuts bytes into lines of bounded length.

/// Longest line. A record of 66,000 networks takes about 1.5 MiB.
pub(super) const MAX_LINE: usize = 16 << 20;
/// How much of a longer line is kept, to tell what it is about.
const HEAD: usize = 64 << 10;

/// One line, with its number, from 1.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StreamLine {
    /// The line without its end.
    Whole(usize, Vec<u8>),
    /// The line is too long to be read; its beginning.
    TooLong(usize, Vec<u8>),
}

/// The bytes of a line that is not complete yet.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
    /// The rest of the line is dropped: it is too long.
    dropping: bool,
    count: usize,
}

impl Lines {
    /// Takes bytes; the lines that they complete. Blank lines are left out.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<StreamLine> {
        let mut lines = Vec::new();
        let mut pieces = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            self.extend(piece);
            if pieces.peek().is_some() {
                lines.extend(self.end());
            }
        }
        lines
    }

    fn extend(&mut self, piece: &[u8]) {
        if self.dropping {
            return;
        }
        if self.partial.len() + piece.len() > MAX_LINE {
            let room = HEAD.saturating_sub(self.partial.len());
            self.partial.extend(piece.iter().take(room));
            self.partial.truncate(HEAD);
            self.partial.shrink_to_fit();
            self.dropping = true;
        } else {
            self.partial.extend_from_slice(piece);
        }
    }

    fn end(&mut self) -> Option<StreamLine> {
        self.count += 1;
        let line = std::mem::take(&mut self.partial);
        if std::mem::take(&mut self.dropping) {
            return Some(StreamLine::TooLong(self.count, line));
        }
        let blank = line.iter().all(u8::is_ascii_whitespace);
        (!blank).then_some(StreamLine::Whole(self.count, line))
    }

    /// The end of the input: what stands behind the last line end, with the number of its line.
    pub(super) fn take_rest(&mut self) -> Option<StreamLine> {
        self.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(number: usize, text: &str) -> StreamLine {
        StreamLine::Whole(number, text.as_bytes().to_vec())
    }

    #[test]
    fn lines_come_in_pieces() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"on"), []);
        assert_eq!(lines.push(b"e\ntwo\n\n  \nfi"), [whole(1, "one"), whole(2, "two")]);
        assert_eq!(lines.push(b"ve"), []);
        assert_eq!(lines.take_rest(), Some(whole(5, "five")));
        assert_eq!(lines.take_rest(), None);
    }

    #[test]
    fn a_line_without_end_takes_no_memory_without_end() {
        let mut lines = Lines::default();
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..40 {
            assert_eq!(lines.push(&piece), []);
            assert!(lines.partial.capacity() <= 2 * MAX_LINE);
        }
        assert!(lines.partial.len() <= HEAD);
        assert_eq!(
            lines.push(b"\nnext\n"),
            [StreamLine::TooLong(1, vec![b'x'; HEAD]), whole(2, "next")]
        );
    }
}
