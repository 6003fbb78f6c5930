//! Lines of a child process, bounded.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::display;

/// Reads lines of at most `most` bytes; memory never grows beyond that and one read.
#[derive(Debug)]
pub(super) struct Lines<R> {
    from: R,
    buffer: BytesMut,
    scanned: usize,
    most: usize,
}

/// Why there is no further line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoLine {
    /// The stream ended, or broke.
    Ended,
    /// A line is longer than allowed. What was read of it is gone, the rest is still to come.
    TooLong,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(from: R, most: usize) -> Self {
        Self { from, buffer: BytesMut::new(), scanned: 0, most }
    }

    #[cfg(test)]
    pub(super) fn into_inner(self) -> R {
        self.from
    }

    /// The next line, without its end. A last line without an end is none.
    pub(super) async fn next(&mut self) -> Result<Bytes, NoLine> {
        loop {
            let fresh = self.buffer.get(self.scanned..).unwrap_or_default();
            if let Some(end) = memchr::memchr(b'\n', fresh) {
                let mut line = self.buffer.split_to(self.scanned + end + 1).freeze();
                self.scanned = 0;
                line.truncate(line.len() - 1);
                if line.last() == Some(&b'\r') {
                    line.truncate(line.len() - 1);
                }
                return if line.len() > self.most { Err(NoLine::TooLong) } else { Ok(line) };
            }
            self.scanned = self.buffer.len();
            if self.scanned > self.most {
                self.buffer = BytesMut::new();
                self.scanned = 0;
                return Err(NoLine::TooLong);
            }
            self.buffer.reserve(16 << 10);
            match self.from.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return Err(NoLine::Ended),
                Ok(_) => {}
            }
        }
    }
}

/// A text that somebody else wrote, for a log line: at most `most` characters, nothing hidden in it but tabs.
pub(super) fn visible(text: &[u8], most: usize) -> String {
    let text = String::from_utf8_lossy(text.get(..most.saturating_mul(4)).unwrap_or(text));
    let end = text.char_indices().nth(most).map_or(text.len(), |(at, _)| at);
    let parts = text.get(..end).unwrap_or_default().split('\t').map(display::visible);
    parts.collect::<Vec<_>>().join("\t")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_come_whole_and_long_ones_do_not_grow() {
        let text = [b"one\r\ntwo\n\n".to_vec(), vec![b'x'; 300_000], b"\nlast\nrest".to_vec()].concat();
        let mut lines = Lines::new(&text[..], 1000);
        assert_eq!(lines.next().await.unwrap(), "one");
        assert_eq!(lines.next().await.unwrap(), "two");
        assert_eq!(lines.next().await.unwrap(), "");
        assert_eq!(lines.next().await, Err(NoLine::TooLong));
        assert!(lines.buffer.capacity() <= 64 << 10);
        loop {
            match lines.next().await {
                Ok(line) if line == "last" => break,
                Ok(_) | Err(NoLine::TooLong) => {}
                Err(NoLine::Ended) => panic!("ended early"),
            }
        }
        assert_eq!(lines.next().await, Err(NoLine::Ended));
    }

    #[test]
    fn control_characters_are_made_visible() {
        assert_eq!(visible(b"a\x1b[31m\r\nb", 100), "a<U+001B>[31m<U+000D><U+000A>b");
        assert_eq!(visible("x\u{202e}y".as_bytes(), 100), "x<U+202E>y");
        assert_eq!(visible(b"abcdef", 3), "abc");
    }
}
