//! The tree that [`parse`](super::parse()) makes: members in the order they came, number text as sent.

use std::{cmp::Ordering, ops::Range};

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, by its text.
    Number(Number),
    /// A string, unescaped.
    String(String),
    /// An array.
    Array(Vec<Value>),
    /// An object.
    Object(Object),
}

/// A number as it was written. Two numbers are equal when their texts are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Number(pub(super) Box<str>);

/// An object: its members in the order they came, no name twice.
#[derive(Clone, Debug, Default)]
pub struct Object {
    members: Vec<Member>,
    /// Where to look a name up, once there are more than [`FEW`] members.
    order: Option<Box<Order>>,
}

/// Up to this many members, looking at each is as fast as an index.
pub(super) const FEW: usize = 16;

/// Places of the members, sorted by name, so that a look-up in a large hostile object is a binary
/// search and no hash can be attacked.
#[derive(Clone, Debug)]
struct Order(Vec<u32>);

/// One member, and where its value stood in the text that was parsed (empty when it was made here).
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) value: Value,
    pub(super) span: Range<usize>,
}

impl PartialEq for Object {
    /// Order and place do not count: two objects are equal when they have the same members.
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(name, value)| other.get(name) == Some(value))
    }
}

impl Number {
    /// The text, exactly as sent.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The value when the text is a plain integer (no fraction, no exponent) that fits.
    pub fn as_i64(&self) -> Option<i64> {
        self.0.parse().ok()
    }

    /// The nearest double; infinite where the text is out of range.
    pub fn as_f64(&self) -> f64 {
        self.0.parse().unwrap_or(f64::NAN)
    }
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        Self(value.to_string().into_boxed_str())
    }
}

impl Value {
    /// The object, if it is one.
    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The items, if it is an array.
    pub fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The text, if it is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(truth) => Some(*truth),
            _ => None,
        }
    }

    /// The number, if it is one.
    pub fn as_number(&self) -> Option<&Number> {
        match self {
            Self::Number(number) => Some(number),
            _ => None,
        }
    }

    /// The member of that name, if it is an object that has one.
    pub fn get(&self, name: &str) -> Option<&Self> {
        self.as_object()?.get(name)
    }

    /// Appends the compact text: order, number text and every member kept, no line break in it.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Bool(true) => out.extend_from_slice(b"true"),
            Self::Bool(false) => out.extend_from_slice(b"false"),
            Self::Number(number) => out.extend_from_slice(number.0.as_bytes()),
            Self::String(text) => write_string(text, out),
            Self::Array(items) => {
                out.push(b'[');
                for (place, item) in items.iter().enumerate() {
                    if place > 0 {
                        out.push(b',');
                    }
                    item.write(out);
                }
                out.push(b']');
            }
            Self::Object(object) => object.write(out),
        }
    }

    /// The compact text, as [`Value::write`] makes it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        self.write(&mut out);
        out
    }

    /// Whether the tree takes more than `bytes` of text, roughly; looks no further than that.
    pub fn is_heavier_than(&self, bytes: usize) -> bool {
        let (mut weight, mut waiting) = (0_usize, vec![self]);
        while let Some(value) = waiting.pop() {
            weight += 8;
            match value {
                Self::String(text) => weight += text.len(),
                Self::Array(items) => waiting.extend(items.iter().take(bytes)),
                Self::Object(object) => {
                    for (name, value) in object.iter().take(bytes) {
                        weight += name.len();
                        waiting.push(value);
                    }
                }
                _ => {}
            }
            if weight > bytes {
                return true;
            }
        }
        false
    }

    /// The same tree for libraries that want serde_json's; numbers that a double or a 64-bit integer
    /// cannot hold come out as the nearest double, so nothing is decided on such a copy.
    pub fn to_serde(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(truth) => (*truth).into(),
            Self::Number(number) => match (number.as_i64(), number.0.parse::<u64>()) {
                (Some(integer), _) => integer.into(),
                (None, Ok(integer)) => integer.into(),
                (None, Err(_)) => serde_json::Number::from_f64(number.as_f64())
                    .map_or(serde_json::Value::Null, serde_json::Value::Number),
            },
            Self::String(text) => text.as_str().into(),
            Self::Array(items) => items.iter().map(Self::to_serde).collect::<Vec<_>>().into(),
            Self::Object(object) => serde_json::Value::Object(
                object.iter().map(|(name, value)| (name.to_owned(), value.to_serde())).collect(),
            ),
        }
    }
}

impl From<&serde_json::Value> for Value {
    fn from(value: &serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(truth) => Self::Bool(*truth),
            serde_json::Value::Number(number) => Self::Number(Number(number.to_string().into_boxed_str())),
            serde_json::Value::String(text) => Self::String(text.clone()),
            serde_json::Value::Array(items) => Self::Array(items.iter().map(Self::from).collect()),
            serde_json::Value::Object(members) => {
                Self::Object(members.iter().map(|(name, value)| (name.clone(), Self::from(value))).collect())
            }
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Bool(truth)
    }
}

impl From<i64> for Value {
    fn from(integer: i64) -> Self {
        Self::Number(integer.into())
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Self::Object(object)
    }
}

impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Self {
        Self::Array(items)
    }
}

impl Object {
    /// An object without members.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many members it has.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The member of that name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.member(name).map(|member| &member.value)
    }

    /// Where the value of that member stood in the parsed text; `None` when there is no such member or
    /// it was not parsed from text.
    pub fn span(&self, name: &str) -> Option<Range<usize>> {
        let member = self.member(name)?;
        (!member.span.is_empty()).then(|| member.span.clone())
    }

    /// Name and value of each member, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.members()
    }

    /// The same as a type that can be named.
    pub(super) fn members(&self) -> Iter<'_> {
        Iter(self.members.iter())
    }

    /// Sets a member, in its old place if there is one, else at the end.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        let (name, value) = (name.into(), value.into());
        let member = Member { name, value, span: 0..0 };
        match self.find(&member.name) {
            Ok(place) => {
                if let Some(old) = self.members.get_mut(place) {
                    *old = member;
                }
            }
            Err(slot) => {
                if let Some(order) = &mut self.order {
                    order.0.insert(slot, place_of(self.members.len()));
                }
                self.members.push(member);
                if self.order.is_none() {
                    self.order = Order::of(&self.members);
                }
            }
        }
    }

    /// The object with one more member: for building in one expression.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.insert(name, value);
        self
    }

    /// Takes the member out.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        let place = self.find(name).ok()?;
        let member = self.members.remove(place);
        if let Some(order) = &mut self.order {
            let gone = place_of(place);
            order.0.retain(|&place| place != gone);
            order.0.iter_mut().filter(|place| **place > gone).for_each(|place| *place -= 1);
        }
        Some(member.value)
    }

    /// The members as read, in order. The caller has compared the names of the first [`FEW`]; among more,
    /// the error is where the value of the later of two members of one name stands.
    pub(super) fn of_members(members: Vec<Member>) -> Result<Self, Range<usize>> {
        let order = Order::of(&members);
        match order.as_ref().and_then(|order| order.repeated(&members)) {
            Some(member) => Err(member.span.clone()),
            None => Ok(Self { members, order }),
        }
    }

    /// Changes each value in place, then sorts the members by `compare` on their names.
    pub(super) fn rearrange<E>(
        &mut self,
        mut change: impl FnMut(&str, &mut Value) -> Result<(), E>,
        compare: impl Fn(&str, &str) -> Ordering,
    ) -> Result<(), E> {
        for member in &mut self.members {
            change(&member.name, &mut member.value)?;
        }
        if !self.members.is_sorted_by(|left, right| compare(&left.name, &right.name).is_le()) {
            self.members.sort_by(|left, right| compare(&left.name, &right.name));
            self.order = Order::of(&self.members);
        }
        Ok(())
    }

    fn member(&self, name: &str) -> Option<&Member> {
        self.members.get(self.find(name).ok()?)
    }

    /// The place of the member of that name; without one, where in the order its place would belong.
    fn find(&self, name: &str) -> Result<usize, usize> {
        match &self.order {
            None => self.members.iter().position(|member| member.name == name).ok_or(0),
            Some(order) => {
                let slot = order.0.binary_search_by(|&place| {
                    self.members.get(place as usize).map_or(Ordering::Less, |member| member.name.as_str().cmp(name))
                })?;
                order.0.get(slot).map(|&place| place as usize).ok_or(slot)
            }
        }
    }

    /// Appends the compact text.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (place, member) in self.members.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            write_string(&member.name, out);
            out.push(b':');
            member.value.write(out);
        }
        out.push(b'}');
    }
}

/// Name and value of each member, in order.
#[derive(Clone, Debug)]
pub struct Iter<'a>(std::slice::Iter<'a, Member>);

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a Value);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|member| (member.name.as_str(), &member.value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl FromIterator<(String, Value)> for Object {
    /// Of members of one name the last counts, in the place of the first.
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(members: I) -> Self {
        let mut object = Self::new();
        let members: Vec<_> = members.into_iter().map(|(name, value)| Member { name, value, span: 0..0 }).collect();
        if members.len() > FEW {
            let order = Order::of(&members);
            if order.as_ref().is_some_and(|order| order.repeated(&members).is_none()) {
                return Self { members, order };
            }
        }
        for Member { name, value, .. } in members {
            object.insert(name, value);
        }
        object
    }
}

impl Order {
    /// The order of more than [`FEW`] members.
    fn of(members: &[Member]) -> Option<Box<Self>> {
        if members.len() <= FEW {
            return None;
        }
        let name = |place: u32| members.get(place as usize).map(|member| member.name.as_str());
        let mut places: Vec<u32> = (0..place_of(members.len())).collect();
        places.sort_unstable_by(|&left, &right| name(left).cmp(&name(right)));
        Some(Box::new(Self(places)))
    }

    /// The later of two members of one name.
    fn repeated<'m>(&self, members: &'m [Member]) -> Option<&'m Member> {
        let name = |place: &u32| members.get(*place as usize).map(|member| &member.name);
        let pair = self.0.windows(2).find(|pair| matches!(pair, [left, right] if name(left) == name(right)))?;
        members.get(*pair.iter().max()? as usize)
    }
}

/// A place as the order keeps it. No document within any limit has four thousand million members.
fn place_of(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

/// Appends a string literal in the form of RFC 8785, section 3.2.2.2: the two-character escapes where
/// there is one, `\u00xx` for the other control characters, all else as it is.
pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some((clean, [byte, after @ ..])) = rest.split_at_checked(plain(rest)) {
        out.extend_from_slice(clean);
        let nibble = |n: u8| HEX.get(usize::from(n)).copied().unwrap_or(b'0');
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            0x08 => out.extend_from_slice(b"\\b"),
            0x09 => out.extend_from_slice(b"\\t"),
            0x0a => out.extend_from_slice(b"\\n"),
            0x0c => out.extend_from_slice(b"\\f"),
            0x0d => out.extend_from_slice(b"\\r"),
            _ => out.extend_from_slice(&[b'\\', b'u', b'0', b'0', nibble(byte >> 4), nibble(byte & 15)]),
        }
        rest = after;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// How many bytes come before the first quote, backslash or control character: what a string literal
/// carries as it is.
pub(super) fn plain(text: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let (words, tail) = text.as_chunks::<8>();
    let mut passed = 0;
    for word in words {
        let word = u64::from_le_bytes(*word);
        let quote = word ^ (ONES * 0x22);
        let slash = word ^ (ONES * 0x5c);
        // A byte is zero when taking one from it borrows; the lowest such byte is always a true one.
        let stop = (quote.wrapping_sub(ONES) & !quote
            | slash.wrapping_sub(ONES) & !slash
            | word.wrapping_sub(ONES * 0x20) & !word)
            & HIGH;
        if stop != 0 {
            return passed + stop.trailing_zeros() as usize / 8;
        }
        passed += 8;
    }
    passed + tail.iter().take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..=0x1f)).count()
}
