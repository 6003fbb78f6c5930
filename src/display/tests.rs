//! Nothing hides: letters, words, hosts, rows, differences.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::json::Canonical;

fn text(text: &str) -> Value {
    parse(text.as_bytes(), &Limits::RESPONSE).unwrap()
}

fn shown(value: Json) -> Display {
    Display::of(Canonical::of(Value::from(&value)).unwrap().bytes()).unwrap()
}

fn flags(value: &str) -> Vec<&'static str> {
    shown(json!({ "a": value })).rows[0].flags.iter().map(|flag| flag.word()).collect()
}

/// What `visible` says a text was.
fn undone(shown: &str) -> String {
    let mut parts = shown.split("<U+");
    let mut out = parts.next().unwrap().to_owned();
    for part in parts {
        let (hex, rest) = part.split_once('>').unwrap();
        out.push(char::from_u32(u32::from_str_radix(hex, 16).unwrap()).unwrap());
        out.push_str(rest);
    }
    out
}

// ---- letters

#[test]
fn hidden_characters_are_written_out() {
    let hidden = "\u{0}\u{7}\u{1b}\n\u{7f}\u{9b}\u{a0}\u{ad}\u{34f}\u{61c}\u{115f}\u{180e}\u{2000}\u{200a}\u{200b}\u{200d}\
                  \u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{202f}\u{205f}\u{2060}\u{2066}\u{2069}\u{2800}\u{3000}\
                  \u{3164}\u{378}\u{e000}\u{fe0f}\u{feff}\u{ffa0}\u{fffc}\u{ffff}\u{1d159}\u{e0041}\u{e0100}\u{10fffd}";
    for letter in hidden.chars() {
        assert_eq!(visible(&letter.to_string()), format!("<U+{:04X}>", u32::from(letter)));
    }
    for plain in ["plain, naïve, 日本語", "Grüße", "a < b <u+1>", "Việt", "हिन्दी", "100 € – “so”", "👍"]
    {
        assert_eq!(visible(plain), plain);
    }
}

#[test]
fn marks_in_heaps_or_on_nothing_are_written_out() {
    assert_eq!(visible("e\u{301}"), "e\u{301}");
    assert_eq!(visible("\"\u{301}"), "\"<U+0301>");
    assert_eq!(visible("1\u{336}0\u{336}"), "1<U+0336>0<U+0336>");
    assert_eq!(visible("s\u{336}"), "s<U+0336>");
    let heap = visible(&format!("a{}", "\u{301}".repeat(10)));
    assert_eq!(heap.matches("<U+0301>").count(), 7, "{heap}");
}

#[test]
fn what_looks_like_our_own_escapes_is_written_out() {
    assert_eq!(visible("<U+202E>"), "<U+003C>U+202E>");
    assert_ne!(visible("<U+202E>"), visible("\u{202e}"));
    assert_eq!(visible("<<U+"), "<<U+003C>U+");
}

#[test]
fn words_that_are_not_what_they_seem_are_flagged() {
    let table: &[(&str, &[&str])] = &[
        ("alice", &[]),
        ("naïve café, Zoë", &[]),
        ("日本語とカタカナ", &[]),
        ("Hello 日本", &[]),
        ("p\u{430}ypal", &["mixed_script", "confusable"]),
        ("\u{430}\u{440}\u{440}\u{4cf}\u{435}", &["confusable"]),
        ("\u{1d41a}dmin", &["confusable"]),
        ("/srv\u{2215}app", &["confusable"]),
        (".\u{2024}/x", &["confusable"]),
        ("host\u{2236}22", &["confusable"]),
        ("rm \u{2212}rf", &["confusable"]),
        ("rm \u{2013}rf", &["confusable"]),
        ("\u{201c}she\u{2019}ll pay \u{2013} later\u{201d}, 3\u{2013}4 \u{20ac}\u{2026}", &[]),
        ("\u{4f60}\u{597d}\u{3002}", &[]),
        ("１００", &["confusable"]),
        ("\u{444}oo", &["mixed_script"]),
        ("привет", &[]),
        ("pay\u{200b}pal", &["confusable", "invisible"]),
        ("a\u{202e}b", &["confusable", "bidi"]),
        ("שלום", &["bidi"]),
        ("a\tb\nc", &[]),
        ("a\u{1b}[2J", &["control"]),
        ("a\rb", &["control"]),
        ("\u{9b}31m", &["control"]),
        ("\u{e0041}", &["invisible"]),
    ];
    for (value, expected) in table {
        assert_eq!(&flags(value), expected, "{}", visible(value));
    }
}

#[test]
fn names_are_looked_at_as_values_are() {
    let display = shown(json!({"to": "alice", "\u{202e}ot": {"p\u{430}y": 1}}));
    let row = display.rows.iter().find(|row| row.path.starts_with("/<U+202E>ot")).unwrap();
    assert_eq!(row.flags.iter().map(|flag| flag.word()).collect::<Vec<_>>(), ["mixed_script", "confusable", "bidi"]);
    assert!(display.lines(1_000_000).contains("mixed_script: a word mixes letters of several scripts"));
}

// ---- hosts

#[test]
fn hosts_are_named_as_a_resolver_is_asked() {
    type Hosts<'a> = &'a [(&'a str, Option<&'a str>)];
    let table: &[(&str, Hosts<'_>)] = &[
        ("https://bank.example/pay", &[("bank.example", None)]),
        ("see https://bank.example@evil.example/ now", &[("evil.example", None)]),
        ("https://b\u{430}nk.example/", &[("xn--bnk-6cd.example", Some("b\u{430}nk.example"))]),
        ("xn--bcher-kva.example", &[("xn--bcher-kva.example", Some("bücher.example"))]),
        ("mail me@bücher.example, or not", &[("xn--bcher-kva.example", Some("bücher.example"))]),
        ("http://0x7f.1/", &[("127.0.0.1", None)]),
        ("http://[::1]:80/", &[("[::1]", None)]),
        ("https://evil.example\\@bank.example/", &[("evil.example", None)]),
        ("bank\u{3002}example", &[("bank.example", None)]),
        ("report.txt version 1.2.3", &[]),
        ("no host: at all", &[]),
    ];
    for (value, expected) in table {
        let display = shown(json!([value]));
        let hosts = &display.rows[0].hosts;
        let found: Vec<_> = hosts.iter().map(|host| (host.ascii.as_str(), host.unicode.as_deref())).collect();
        assert_eq!(&found, expected, "{value}");
    }
}

// ---- rows

#[test]
fn there_is_a_row_for_each_value_and_numbers_stay_as_they_are_sent() {
    let display = shown(json!({"z": [], "o": {}, "a": [1, 2.5, 1e-7], "s": "x", "n": null, "t": true, "a/b~": "y"}));
    let rows: Vec<_> = display.rows.iter().map(|row| (row.path.as_str(), row.value.as_str())).collect();
    assert_eq!(
        rows,
        [
            ("/a/0", "1"),
            ("/a/1", "2.5"),
            ("/a/2", "1e-7"),
            ("/a~1b~0", "\"y\""),
            ("/n", "null"),
            ("/o", "{}"),
            ("/s", "\"x\""),
            ("/t", "true"),
            ("/z", "[]"),
        ]
    );
    assert_eq!(shown(json!("x")).lines(1_000_000), "(the whole)  \"x\"\n");
    let exact = Display::of(br#"{"a":9007199254740991,"b":0.1}"#).unwrap();
    assert_eq!(exact.rows.iter().map(|row| row.value.as_str()).collect::<Vec<_>>(), ["9007199254740991", "0.1"]);
}

#[test]
fn a_value_cannot_pass_for_a_row_of_its_own() {
    let display = shown(json!({
        "note": "hello\"\n/amount  1\n\u{2028}/to  \"bob\"",
        "note  \"x\"\n/amount": 5,
        "amount": 9000,
    }));
    assert_eq!(
        display.lines(1_000_000).lines().filter(|line| !line.starts_with(' ')).count(),
        3,
        "{}",
        display.lines(1_000_000)
    );
    assert!(
        display.lines(1_000_000).lines().all(|line| !line.starts_with("/amount  1")),
        "{}",
        display.lines(1_000_000)
    );
    assert!(display.lines(1_000_000).contains("\"/note  \\\"x\\\"<U+000A>~1amount\""), "{}", display.lines(1_000_000));
    assert!(!display.text.contains(['\n', '\u{2028}']));
}

#[test]
fn what_a_terminal_would_wrap_begins_no_line_at_its_edge() {
    let display = shown(json!({"note": format!("hello{}/amount  1 日本語日本語日本語日本語日本語", " ".repeat(52))}));
    for columns in [1, 20, 60, 64, 80, 100] {
        let lines = display.lines(columns);
        let edge = lines.lines().filter(|line| !line.starts_with("    | ")).count();
        assert_eq!(edge, 1, "{lines}");
        for line in lines.lines() {
            let wide: usize = line.chars().map(|letter| if letter.is_ascii() { 1 } else { 2 }).sum();
            assert!(wide <= columns.max(30), "{lines}");
        }
    }
}

#[test]
fn what_is_not_shown_is_counted_and_the_text_is_whole() {
    let long = "é".repeat(10_000);
    let display = shown(json!({"long": long, "many": vec![7; 3_000], "last": "\u{202e}"}));
    let row = display.rows.iter().find(|row| row.path == "/long").unwrap();
    assert_eq!(row.value.len() + row.cut, 20_002);
    assert!(display.lines(1_000_000).contains(&format!("{} bytes not shown", row.cut)));
    assert_eq!((display.rows.len(), display.more), (1_000, 2_002));
    assert!(display.lines(1_000_000).contains("2002 more values"));
    assert!(display.text.contains(&long) && display.text.matches('7').count() == 3_000);
    assert!(display.flags.contains(&Flag::Bidi), "a flag of what has no row is told all the same");
    // a long name is not repeated for each value below it
    let name = "n".repeat(1 << 20);
    let display = shown(json!({ name: vec![1; 2_000] }));
    assert_eq!(display.rows[0].path.len(), 1024);
    assert_eq!(display.rows[0].path_cut, (1 << 20) + 3 - 1024);
}

// ---- differences

#[test]
fn differences_are_shown_with_what_hides_in_them() {
    let before = text(r#"{"name":"t","description":"reads","inputSchema":{"type":"object","required":["a"]}}"#);
    let after = text(
        "{\"description\":\"reads\u{202e} and \u{200b}sends\\nname: x\",\"name\":\"t\",\"inputSchema\":{\"type\":\"object\",\"required\":[\"a\",\"b\"]},\"new\":1}",
    );
    let rows = changes(&before, &after);
    let pointers: Vec<&str> = rows.iter().map(|row| row.pointer.as_str()).collect();
    assert_eq!(pointers, ["/description", "/inputSchema/required/1", "/new"]);
    assert_eq!(rows[0].after.as_deref(), Some(r#""reads<U+202E> and <U+200B>sends\nname: x""#));
    assert_eq!((rows[1].before.as_deref(), rows[1].after.as_deref()), (None, Some("\"b\"")));
    assert_eq!(
        render(&rows),
        "/description\n  - \"reads\"\n  + \"reads<U+202E> and <U+200B>sends\\nname: x\"\n/inputSchema/required/1\n  + \"b\"\n/new\n  + 1\n"
    );
    assert_eq!(changes(&before, &before), []);
}

#[test]
fn a_long_text_does_not_hide_its_difference() {
    let filler = "word ".repeat(5_000);
    let of = |inner: &str| Value::from(&json!({ "description": format!("{filler}{inner}{filler}") }));
    let rows = changes(&of("read"), &of("send"));
    let shown = rows[0].after.as_deref().unwrap();
    assert!(shown.contains("send") && shown.len() < 400, "{shown}");
}

#[test]
fn a_document_is_told_apart_from_the_last_one() {
    let now = shown(json!({"amount": 500, "from": "alice", "to": "bob"}));
    let last = br#"{"amount":200,"from":"alice","memo":"x","to":"bob"}"#;
    let difference = now.same_but_for(last).unwrap();
    let rows: Vec<_> = difference
        .changes
        .iter()
        .map(|change| (change.pointer.as_str(), change.before.as_deref(), change.after.as_deref()))
        .collect();
    assert_eq!(rows, [("/amount", Some("200"), Some("500")), ("/memo", Some("\"x\""), None)]);
    let many = shown(json!(vec![1; 3_000])).same_but_for(b"[]").unwrap();
    assert_eq!((many.changes.len(), many.more), (1_000, 2_000));
    assert!(now.same_but_for(b"no JSON").is_err());
    let long = shown(json!({"a": "x".repeat(10_000)})).same_but_for(b"{}").unwrap();
    assert!(long.changes[0].after.as_deref().unwrap().ends_with("… (5906 bytes not shown)"), "{long:?}");
}

// ---- properties

fn any_letter() -> impl Strategy<Value = char> {
    prop_oneof![
        any::<char>(),
        Just('<'),
        Just('U'),
        Just('+'),
        Just('>'),
        Just('0'),
        Just('\u{202e}'),
        Just('\u{301}'),
        Just('a')
    ]
}

fn any_text() -> impl Strategy<Value = String> {
    proptest::collection::vec(any_letter(), 0..24).prop_map(|letters| letters.into_iter().collect())
}

fn any_value() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Json::from),
        (-1_000_000_i64..1_000_000).prop_map(Json::from),
        any_text().prop_map(Json::from)
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            proptest::collection::btree_map(any_text(), inner, 0..4)
                .prop_map(|members| Json::Object(members.into_iter().collect())),
        ]
    })
}

fn leaves(value: &Value) -> usize {
    match value {
        Value::Object(object) if !object.is_empty() => object.iter().map(|(_, value)| leaves(value)).sum(),
        Value::Array(items) if !items.is_empty() => items.iter().map(leaves).sum(),
        _ => 1,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn what_is_shown_can_be_read_back(text in any_text()) {
        prop_assert_eq!(undone(&visible(&text)), text);
    }

    #[test]
    fn two_texts_never_look_the_same(left in any_text(), right in any_text()) {
        prop_assert_eq!(visible(&left) == visible(&right), left == right);
    }

    #[test]
    fn nothing_that_is_shown_hides(text in any_text()) {
        let shown = visible(&text);
        prop_assert!(!shown.chars().any(|letter| letter.is_control() || letters::is_bidi_control(letter)));
        // what has nothing to hide is shown as it is
        let again = shown.replace("<U+", "[");
        prop_assert_eq!(visible(&again), again);
    }

    #[test]
    fn a_document_is_shown_whole_in_text_and_rows(value in any_value()) {
        let canonical = Canonical::of(Value::from(&value)).unwrap();
        let display = Display::of(canonical.bytes()).unwrap();
        let whole = undone(&display.text);
        prop_assert_eq!(whole.as_bytes(), &canonical.bytes()[..]);
        prop_assert_eq!(display.rows.len() + display.more, leaves(canonical.tree()));
        let lines = display.lines(1_000_000);
        prop_assert_eq!(lines.lines().filter(|line| !line.starts_with(' ')).count(), display.rows.len());
        let none = display.same_but_for(canonical.bytes()).unwrap();
        prop_assert_eq!(none, Difference::default());
    }

    #[test]
    fn a_document_of_others_never_breaks_the_display(left in any_value(), right in any_value()) {
        let left = shown(left);
        let right = Canonical::of(Value::from(&right)).unwrap();
        let same = left.tree == *right.tree();
        let difference = left.same_but_for(right.bytes()).unwrap();
        prop_assert_eq!(difference.changes.is_empty(), same);
        for change in &difference.changes {
            let all = format!("{}{:?}{:?}", change.pointer, change.before, change.after);
            prop_assert!(!all.chars().any(|letter| letter.is_control()));
        }
    }
}
