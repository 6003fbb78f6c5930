//! The body of a token request: `application/x-www-form-urlencoded`, read strictly.

/// Parameters of one request.
const MOST: usize = 32;
/// Bytes of one value. Tokens are the longest.
const LONGEST: usize = 32 << 10;

/// The parameters of one request, each once.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Form {
    parameters: Vec<(String, String)>,
}

impl std::fmt::Debug for Form {
    /// The names alone: values are tokens.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.parameters.iter().map(|(name, _)| name)).finish()
    }
}

/// Why a body is no form, for whoever sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoForm(pub &'static str);

impl Form {
    /// Reads a body. A parameter without a value counts as one that is not there, and one that is not known is passed over
    /// (RFC 6749, section 3.2); one that is there twice is refused, since nobody could say which was meant.
    ///
    /// # Errors
    /// [`NoForm`]
    pub fn read(body: &[u8]) -> Result<Self, NoForm> {
        let body = std::str::from_utf8(body).map_err(|_| NoForm("the body is not UTF-8"))?;
        let mut parameters: Vec<(String, String)> = Vec::new();
        for pair in body.split('&').filter(|pair| !pair.is_empty()) {
            if parameters.len() >= MOST {
                return Err(NoForm("there are too many parameters"));
            }
            let (name, value) = pair.split_once('=').ok_or(NoForm("a parameter has no `=`"))?;
            let (name, value) = (decoded(name)?, decoded(value)?);
            if parameters.iter().any(|(known, _)| *known == name) {
                return Err(NoForm("a parameter is there twice"));
            }
            if value.len() > LONGEST {
                return Err(NoForm("a parameter is too long"));
            }
            parameters.push((name, value));
        }
        Ok(Self { parameters })
    }

    /// The value of a parameter, if it has one.
    pub fn text(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// The words of a parameter, in order and each once.
    pub(super) fn words(&self, name: &str) -> Option<Vec<String>> {
        let text = self.text(name)?;
        let mut words: Vec<String> = text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        words.sort();
        words.dedup();
        Some(words)
    }
}

fn decoded(text: &str) -> Result<String, NoForm> {
    let malformed = NoForm("a parameter is not percent-encoded as it has to be");
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let digit =
                    |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                let (high, low) = (digit(bytes.next()).ok_or(malformed)?, digit(bytes.next()).ok_or(malformed)?);
                out.push(high << 4 | low);
            }
            byte => out.push(byte),
        }
    }
    let text = String::from_utf8(out).map_err(|_| malformed)?;
    if text.chars().any(char::is_control) {
        return Err(NoForm("a parameter has a control character in it"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_once_and_strictly() {
        let form = Form::read(b"grant_type=x&scope=b+a%20b&empty=&r=https%3A%2F%2Fa%2Fmcp").unwrap();
        assert_eq!(form.text("grant_type"), Some("x"));
        assert_eq!(form.words("scope"), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!((form.text("empty"), form.text("none")), (None, None));
        assert_eq!(form.text("r"), Some("https://a/mcp"));
        assert_eq!(Form::read(b"").unwrap(), Form::default());
        let long = format!("a={}", "x".repeat(LONGEST + 1));
        let many: String = (0..=MOST).map(|at| format!("a{at}=1&")).collect();
        for (body, says) in [
            (&b"a=1&a=1"[..], "twice"),
            (b"a=1&%61=2", "twice"),
            (b"a=&a=1", "twice"),
            (b"a", "no `=`"),
            (b"a=%", "percent"),
            (b"a=%4", "percent"),
            (b"a=%zz", "percent"),
            (b"a=%ff", "percent"),
            (b"a=\xff", "UTF-8"),
            (b"a=%00", "control"),
            (b"a=x%0d%0ay", "control"),
            (long.as_bytes(), "too long"),
            (many.as_bytes(), "too many"),
        ] {
            let refused = Form::read(body).unwrap_err();
            assert!(refused.0.contains(says), "{}: {refused:?}", String::from_utf8_lossy(body));
        }
        assert!(!format!("{:?}", Form::read(b"subject_token=hunter2").unwrap()).contains("hunter2"));
    }
}
