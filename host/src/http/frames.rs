//! Which of the bytes that a server writes are of an answer. In HTTP/1.1 all are;
//! in HTTP/2 also a client that takes no answer makes the server write, as every
//! PING and SETTINGS of it is replied to. Frames are followed by their heads only
//! (RFC 9113, section 4.1).

/// Bytes of a frame's head: the length of what follows in three, its type, and
/// what does not matter here.
const HEAD_BYTES: usize = 9;

/// The types of frames that an answer consists of (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

/// Follows what one connection writes.
#[derive(Debug, Default)]
pub(super) enum Written {
    /// Nothing yet.
    #[default]
    Nothing,
    /// HTTP/1.1.
    Text,
    /// HTTP/2.
    Frames(Frame),
}

/// How far the present frame is.
#[derive(Debug, Default)]
pub(super) struct Frame {
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    payload_left: usize,
}

impl Written {
    /// Follows the next bytes; whether any of them is of an answer.
    pub(super) fn answers(&mut self, bytes: &[u8]) -> bool {
        let Some(first) = bytes.first() else {
            return false;
        };
        if let Written::Nothing = self {
            // A server begins with `HTTP/1.1`, or with SETTINGS, whose length has a
            // first byte of zero.
            *self = match first {
                0 => Written::Frames(Frame::default()),
                _ => Written::Text,
            };
        }
        match self {
            Written::Frames(frame) => frame.answers(bytes),
            Written::Nothing | Written::Text => true,
        }
    }
}

impl Frame {
    fn answers(&mut self, mut bytes: &[u8]) -> bool {
        let mut found = false;
        while !bytes.is_empty() {
            if self.payload_left == 0 && self.head_bytes == HEAD_BYTES {
                self.head_bytes = 0;
            }
            if self.head_bytes < HEAD_BYTES {
                let taken = bytes.len().min(HEAD_BYTES - self.head_bytes);
                let (head, rest) = bytes.split_at(taken);
                self.head[self.head_bytes..][..taken].copy_from_slice(head);
                self.head_bytes += taken;
                bytes = rest;
                if self.head_bytes < HEAD_BYTES {
                    break;
                }
                let [high, middle, low, ..] = self.head;
                self.payload_left =
                    usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            }
            // The head of such a frame counts too: it is of an answer.
            found |= matches!(self.head[3], DATA | HEADERS | CONTINUATION);
            let taken = bytes.len().min(self.payload_left);
            self.payload_left -= taken;
            bytes = &bytes[taken..];
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 6;
    const SETTINGS: u8 = 4;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([kind, 0, 0, 0, 0, 1]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn every_byte_of_http_1_is_of_an_answer() {
        let mut written = Written::default();
        assert!(!written.answers(b""));
        assert!(written.answers(b"HTTP/1.1 200 OK\r\n"));
        assert!(written.answers(b"\0"));
    }

    #[test]
    fn of_http_2_only_the_frames_of_answers_are() {
        let mut written = Written::default();
        assert!(!written.answers(&frame(SETTINGS, &[])));
        assert!(!written.answers(&frame(PING, &[HEADERS; 8])));
        assert!(written.answers(&frame(HEADERS, b"x")));
        assert!(!written.answers(&frame(PING, &[0; 8])));
        assert!(written.answers(&frame(CONTINUATION, b"x")));
        assert!(written.answers(&frame(DATA, &[PING; 70_000])));
        // One of several.
        let some = [frame(PING, &[0; 8]), frame(DATA, b""), frame(PING, &[0; 8])];
        assert!(written.answers(&some.concat()));
        assert!(!written.answers(&frame(PING, &[0; 8])));
    }

    #[test]
    fn frames_are_followed_however_they_are_cut() {
        for size in 1..40 {
            let mut written = Written::default();
            let frames = [
                (SETTINGS, vec![DATA; 30]),
                (DATA, vec![PING; 20]),
                (PING, vec![HEADERS; 8]),
            ];
            for (kind, payload) in frames {
                let bytes = frame(kind, &payload);
                let mut pieces = bytes.chunks(size).map(|piece| written.answers(piece));
                assert_eq!(pieces.any(|of_answer| of_answer), kind == DATA, "{size}");
                pieces.for_each(drop);
            }
        }
    }
}
