//! Server-sent events (WHATWG HTML, section 9.2), bounded.

use bytes::Bytes;

/// Takes a stream apart into events. Holds at most one event and one chunk.
#[derive(Debug)]
pub(super) struct Events {
    waiting: Vec<u8>,
    read: usize,
    data: Vec<u8>,
    any: bool,
    id: Option<String>,
    retry: Option<u64>,
    began: bool,
    most: usize,
}

/// One event with data.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Its data.
    pub(super) data: Bytes,
}

/// An event is beyond the bound.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

impl Events {
    /// Events of at most `most` bytes each.
    pub(super) fn new(most: usize) -> Self {
        Self { waiting: Vec::new(), read: 0, data: Vec::new(), any: false, id: None, retry: None, began: false, most }
    }

    /// Takes the next bytes of the stream.
    pub(super) fn feed(&mut self, chunk: &[u8]) {
        if self.read > 0 {
            self.waiting.drain(..self.read);
            self.read = 0;
        }
        self.waiting.extend_from_slice(chunk);
    }

    /// Forgets a half-read event: the stream begins anew, its place in it stays.
    pub(super) fn restart(&mut self) {
        self.waiting.clear();
        self.data.clear();
        (self.read, self.any, self.began) = (0, false, false);
    }

    /// The last event id, for resuming.
    pub(super) fn last_id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// How long to wait before resuming, milliseconds, if the server said.
    pub(super) fn retry(&self) -> Option<u64> {
        self.retry
    }

    /// The next whole event with data, if it has arrived.
    pub(super) fn next(&mut self) -> Result<Option<Event>, TooLarge> {
        loop {
            let rest = self.waiting.get(self.read..).unwrap_or_default();
            let Some(end) = memchr::memchr2(b'\n', b'\r', rest) else {
                return if rest.len() + self.data.len() > self.most { Err(TooLarge) } else { Ok(None) };
            };
            let feed = rest.get(end..end + 2);
            let width = match (rest.get(end), feed) {
                // the line feed of this carriage return may still be on its way
                (Some(b'\r'), None) => return Ok(None),
                (Some(b'\r'), Some(b"\r\n")) => 2,
                _ => 1,
            };
            let line = self.read..self.read + end;
            self.read += end + width;
            if let Some(event) = self.line(line)? {
                return Ok(Some(event));
            }
        }
    }

    fn line(&mut self, line: std::ops::Range<usize>) -> Result<Option<Event>, TooLarge> {
        let mut line = self.waiting.get(line).unwrap_or_default();
        if !std::mem::replace(&mut self.began, true) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            let any = std::mem::take(&mut self.any);
            return Ok((any && !data.is_empty()).then(|| Event { data: data.into() }));
        }
        let (name, value) = match memchr::memchr(b':', line) {
            Some(colon) => (line.get(..colon).unwrap_or_default(), line.get(colon + 1..).unwrap_or_default()),
            None => (line, &b""[..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" => {
                if self.data.len() + value.len() > self.most {
                    return Err(TooLarge);
                }
                if self.any {
                    self.data.push(b'\n');
                }
                self.any = true;
                self.data.extend_from_slice(value);
            }
            b"id" if value.len() <= 1024 && !value.contains(&0) => {
                self.id = std::str::from_utf8(value).ok().map(str::to_owned).filter(|id| !id.is_empty());
            }
            b"retry" => self.retry = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()),
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(text: &[u8], width: usize) -> Vec<String> {
        let mut events = Events::new(1000);
        let mut out = Vec::new();
        for chunk in text.chunks(width) {
            events.feed(chunk);
            while let Some(event) = events.next().unwrap() {
                out.push(String::from_utf8(event.data.to_vec()).unwrap());
            }
        }
        out
    }

    #[test]
    fn lines_end_in_any_of_three_ways_and_events_split_anywhere() {
        let text = b"\xef\xbb\xbf: hello\r\nid: 4\r\ndata: {\"a\":\r\ndata:1}\r\n\r\nevent: x\ndata: two\n\ndata\n\nid: 5\n\ndata: three\r\rdata: never\n";
        for width in 1..text.len() {
            assert_eq!(all(text, width), ["{\"a\":\n1}", "two", "three"], "{width}");
        }
    }

    #[test]
    fn an_event_without_end_is_too_large() {
        let mut events = Events::new(1000);
        for _ in 0..200 {
            events.feed(b"data: 0123456789\n");
            if events.next() == Err(TooLarge) {
                return;
            }
        }
        panic!("grew to {}", events.data.len());
    }

    #[test]
    fn a_line_without_end_is_too_large() {
        let mut events = Events::new(1000);
        events.feed(&[b'x'; 1001]);
        assert_eq!(events.next(), Err(TooLarge));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text in proptest::collection::vec(any::<u8>(), 0..300), width in 1usize..40) {
            let mut events = Events::new(100);
            for chunk in text.chunks(width) {
                events.feed(chunk);
                while let Ok(Some(event)) = events.next() {
                    prop_assert!(event.data.len() <= 200);
                }
            }
        }
    }
}
