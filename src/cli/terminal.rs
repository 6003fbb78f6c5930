//! The terminal in front of a person: what decides is shown on it, and passphrases are typed there and nowhere else.
//!
//! It is opened by its own name, so that neither a pipe in place of standard input nor a file in place of standard output
//! can stand between a person and what they say yes to.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
};

use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use zeroize::Zeroizing;

use super::outcome::{Exit, Failure};

/// Bytes of one answer: more than a passphrase may have.
const LONGEST: usize = 2048;

/// The terminal that this process belongs to.
pub(super) struct Terminal {
    tty: File,
}

/// Echo is off until this is dropped.
struct Silence<'t> {
    tty: &'t File,
    before: Termios,
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        // a terminal that is gone needs nothing more
        let _restored = tcsetattr(self.tty, OptionalActions::Flush, &self.before);
    }
}

impl Terminal {
    /// Opens it.
    ///
    /// # Errors
    /// [`Failure`] when there is none.
    pub(super) fn open() -> Result<Self, Failure> {
        let none = || {
            Failure::new(Exit::Cannot, "there is no terminal to ask for the passphrase").hint(
                "run this in a terminal: a passphrase is typed there, never given by argument, environment or pipe",
            )
        };
        let tty = OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(|_| none())?;
        // one whose echo cannot be turned off is none
        tcgetattr(&tty).map_err(|_| none())?;
        Ok(Self { tty })
    }

    /// Columns of a line.
    pub(super) fn columns(&self) -> usize {
        match tcgetwinsize(&self.tty).map_or(0, |size| usize::from(size.ws_col)) {
            // one that does not know
            0 => 100,
            columns => columns.clamp(40, 400),
        }
    }

    /// Shows text; what is in it of others has been made visible.
    ///
    /// # Errors
    /// [`Failure`] when it cannot be shown: nobody decides on what they did not see.
    pub(super) fn show(&mut self, text: &str) -> Result<(), Failure> {
        let shown = self.tty.write_all(text.as_bytes()).and_then(|()| self.tty.flush());
        shown.map_err(|error| Failure::io("the terminal cannot be written to", &error))
    }

    /// Asks for something that is not shown while it is typed; what was typed before the question does not count.
    ///
    /// # Errors
    /// [`Failure`] when it is broken off, or nothing was typed.
    pub(super) fn secret(&mut self, question: &str) -> Result<Zeroizing<String>, Failure> {
        let typed = self.read(question);
        self.show("\n")?;
        let typed = typed?;
        if typed.is_empty() { Err(broken_off()) } else { Ok(typed) }
    }

    fn read(&mut self, question: &str) -> Result<Zeroizing<String>, Failure> {
        let failed = |error: rustix::io::Errno| Failure::io("the terminal cannot be read", &error.into());
        let before = tcgetattr(&self.tty).map_err(failed)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON);
        silent.local_modes.remove(LocalModes::ISIG | LocalModes::IEXTEN);
        silent.input_modes.insert(InputModes::ICRNL);
        // a read waits for one byte, however long that takes
        silent.special_codes[SpecialCodeIndex::VMIN] = 1;
        silent.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(&self.tty, OptionalActions::Flush, &silent).map_err(failed)?;
        let silence = Silence { tty: &self.tty, before };
        let mut tty = silence.tty;
        let asked = tty.write_all(question.as_bytes()).and_then(|()| tty.flush());
        asked.map_err(|error| Failure::io("the terminal cannot be written to", &error))?;
        let mut typed = Zeroizing::new(Vec::with_capacity(LONGEST));
        loop {
            let mut byte = Zeroizing::new([0]);
            let read = tty.read(&mut *byte).map_err(|error| Failure::io("the terminal cannot be read", &error))?;
            match (read, *byte) {
                (0, _) | (_, [0x03]) => return Err(broken_off()),
                (_, [0x04]) if typed.is_empty() => return Err(broken_off()),
                (_, [b'\n' | b'\r']) => break,
                (_, [0x15]) => typed.clear(),
                (_, [0x08 | 0x7f]) => {
                    // a character may have several bytes: those that go on one begin with the bits 10
                    while typed.pop().is_some_and(|last| last & 0xc0 == 0x80) {}
                }
                (_, [byte]) if typed.len() < LONGEST => typed.push(byte),
                _ => return Err(Failure::new(Exit::Cannot, "that is too long for a passphrase")),
            }
        }
        drop(silence);
        let text = std::str::from_utf8(&typed);
        let text =
            text.map_err(|_| Failure::new(Exit::Cannot, "what was typed is no UTF-8: check the terminal's locale"))?;
        let mut whole = Zeroizing::new(String::with_capacity(text.len()));
        whole.push_str(text);
        Ok(whole)
    }
}

fn broken_off() -> Failure {
    Failure::new(Exit::No, "broken off: nothing was done")
}
