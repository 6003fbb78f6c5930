//! What the one reader takes, refuses and makes of hostile text.

use super::{ParseErrorKind::*, *};

fn read(text: impl AsRef<[u8]>) -> Result<Value, ParseErrorKind> {
    parse(text.as_ref(), &Limits::REQUEST).map_err(|error| error.kind)
}

fn canonical(text: &str) -> Result<String, NotCanonical> {
    let canonical = Canonical::of(read(text).unwrap())?;
    Ok(String::from_utf8(canonical.bytes().to_vec()).unwrap())
}

#[test]
fn a_name_comes_once_however_it_is_written() {
    for text in [
        r#"{"name":1,"name":1}"#,
        r#"{"params":{"name":1,"x":2,"name":1}}"#,
        r#"{"params":{"arguments":{"a":{"b":1,"b":1}}}}"#,
        r#"{"_meta":{"k":1,"k":2}}"#,
        r#"{"name":1,"\u006eame":2}"#,
        r#"{"\ud83d\ude00":1,"😀":2}"#,
        r#"{"":1,"":2}"#,
    ] {
        assert_eq!(read(text), Err(DuplicateName), "{text}");
    }
}

#[test]
fn a_name_comes_once_among_many() {
    let members = |names: Vec<String>| format!("{{{}}}", names.join(","));
    let many: Vec<_> = (0..20_000).map(|n| format!(r#""k{n}":{n}"#)).collect();
    let object = read(members(many.clone())).unwrap();
    assert_eq!(object.get("k19999"), Some(&Value::from(19_999)));
    assert_eq!(object.get("k20000"), None);
    for twice in [0, 3, 16, 17, 9_999, 19_999] {
        let mut names = many.clone();
        names.push(format!(r#""\u006b{twice}":0"#));
        let text = members(names);
        let error = parse(text.as_bytes(), &Limits::REQUEST).unwrap_err();
        assert_eq!(error, ParseError { kind: DuplicateName, at: text.len() - 2 });
    }
}

#[test]
fn text_is_utf8_and_nothing_else() {
    for text in [
        &b"\"\xc0\xaf\""[..],
        b"\"\xe0\x80\xaf\"",
        b"\"\xed\xa0\x80\"",
        b"\"\xf4\x90\x80\x80\"",
        b"\"\xff\"",
        b"\"\xe2\x82\"",
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{\0}\0",
        b"{}\xff",
    ] {
        assert_eq!(read(text), Err(NotUtf8), "{text:x?}");
    }
    assert!(read(b"{\0}\0").is_err());
    assert!(read(b"\0{\0}").is_err());
}

#[test]
fn half_a_surrogate_pair_is_refused() {
    for text in [
        r#""\ud800""#,
        r#""\udc00""#,
        r#""\ud800x""#,
        r#""\ud800\n""#,
        r#""\ud800\ud800""#,
        r#""\udc00\ud800""#,
        r#""\ud800\u0041""#,
        r#"{"\udfff":1}"#,
    ] {
        assert_eq!(read(text), Err(LoneSurrogate), "{text}");
    }
    assert_eq!(read(r#""\ud83d\ude00\uD834\uDD1E""#), Ok("😀𝄞".into()));
}

#[test]
fn strings_are_escaped_as_json_asks() {
    for text in [
        "\"a\nb\"",
        "\"\0\"",
        "\"\u{1f}\"",
        "\"abcdefgh\tijklmnop\"",
        r#""\x41""#,
        r#""\u12""#,
        r#""\u12g4""#,
        r#""\u+123""#,
        r#""\"#,
        r#"""#,
        r#""abc"#,
        r#""\u"#,
        r#""\'""#,
        r#""\U0041""#,
    ] {
        assert_eq!(read(text), Err(BadString), "{text}");
    }
    let text = r#""\"\\\/\b\f\n\r\t\u0000\u00e9é\u007f""#;
    assert_eq!(read(text), Ok("\"\\/\u{8}\u{c}\n\r\t\0éé\u{7f}".into()));
}

#[test]
fn numbers_are_written_as_json_asks_and_finite() {
    for text in [
        "01",
        "-01",
        "00",
        "+1",
        ".5",
        "1.",
        "-",
        "-.5",
        "1.e5",
        "1e",
        "1e+",
        "1E-",
        "1.5.5",
        "0x10",
        "1_000",
        "1f",
        "NaN",
        "Infinity",
        "-Infinity",
        "1e400",
        "-1e400",
        "1e309",
        "1e99999999999999999999",
        "--1",
        "1e5.5",
        "1-1",
        "-NaN",
        "[01]",
        "[1,+1]",
    ] {
        assert_eq!(read(text), Err(BadNumber), "{text}");
    }
    assert_eq!(read("9".repeat(400)), Err(BadNumber));
    assert!(read("9".repeat(309)).is_err_and(|kind| kind == BadNumber));
    for text in [
        "0",
        "-0",
        "1",
        "-1.50",
        "1e400000000000000000000".trim_end_matches('0'),
        "0e99999999999999999999",
        "1E+2",
        "1e-400",
    ] {
        let value = read(text);
        if text == "1e4" {
            assert!(value.is_ok());
        }
        assert_eq!(value.unwrap().as_number().map(Number::text), Some(text));
    }
    assert!(read("9".repeat(300)).is_ok());
}

#[test]
fn one_document_and_nothing_after_it() {
    for text in ["{}{}", "{} {}", "{}\0", "{}//", "{}/**/", "1 2", "{},", "[]]", "nullx", "true1"] {
        assert_eq!(read(text), Err(Trailing), "{text}");
    }
    for text in [
        "",
        " ",
        "//\n{}",
        "/**/{}",
        "{a:1}",
        "{'a':1}",
        "[1,]",
        "{\"a\":1,}",
        "[,1]",
        "[1 2]",
        "{\"a\" 1}",
        "{\"a\":}",
        "{",
        "[",
        "{\"a\":1",
        "tru",
        "nul",
        "True",
        "undefined",
        "\u{feff}1".trim_start_matches('\u{feff}').trim_end_matches('1'),
        "\u{a0}1",
        "{\"a\":1/**/}",
        "\u{c}1",
        "}",
    ] {
        assert_eq!(read(text), Err(Syntax), "{text}");
    }
    assert_eq!(read(" \t\r\n null \t\r\n "), Ok(Value::Null));
}

#[test]
fn limits_refuse_what_is_beyond_and_take_what_is_at_them() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert!(read(nested(128)).is_ok());
    assert_eq!(read(nested(129)), Err(TooDeep));
    assert_eq!(read("[".repeat(100_000)), Err(TooDeep));
    assert_eq!(read("{\"a\":".repeat(100_000)), Err(TooDeep));
    let deepest = Limits { bytes: usize::MAX, depth: usize::MAX, nodes: usize::MAX };
    assert_eq!(parse(nested(100_000).as_bytes(), &deepest).map_err(|error| error.kind), Err(TooDeep));

    let tight = |bytes, depth, nodes| Limits { bytes, depth, nodes };
    let kind = |text: &str, limits| parse(text.as_bytes(), &limits).map_err(|error| error.kind).err();
    assert_eq!(kind("[1,2]", tight(5, 1, 3)), None);
    assert_eq!(kind("[1,2]", tight(4, 1, 3)), Some(TooLong));
    assert_eq!(kind("[1,2]", tight(5, 0, 3)), Some(TooDeep));
    assert_eq!(kind("[1,2]", tight(5, 1, 2)), Some(TooMany));
    assert_eq!(kind("{\"a\":{}}", tight(9, 2, 2)), None);
    assert_eq!(kind("{\"a\":{}}", tight(9, 1, 2)), Some(TooDeep));
    assert_eq!(kind("[[],[],[]]", tight(10, 2, 4)), None);
    assert_eq!(read(format!("[{}]", vec!["0"; 1_000_000].join(","))), Err(TooMany));
    assert_eq!(read(format!("\"{}\"", "x".repeat(10 << 20))), Err(TooLong));
}

#[test]
fn a_span_is_where_the_value_stands() {
    let text = r#" {"a" : [1, {"b":2}] ,"\u0063":"x", "d":null} "#;
    let value = read(text).unwrap();
    let object = value.as_object().unwrap();
    let cut = |name| &text[object.span(name).unwrap()];
    assert_eq!((cut("a"), cut("c"), cut("d")), (r#"[1, {"b":2}]"#, r#""x""#, "null"));
    assert_eq!(object.span("e"), None);
    let mut object = object.clone();
    object.insert("a", 1);
    assert_eq!(object.span("a"), None);
}

#[test]
fn names_that_javascript_gives_meaning_are_names_like_others() {
    let text =
        r#"{"__proto__":{"constructor":1},"$serde_json::private::RawValue":"{}","$serde_json::private::Number":"1"}"#;
    assert_eq!(String::from_utf8(read(text).unwrap().to_bytes()).unwrap(), text);
}

#[test]
fn a_twin_of_a_protocol_name_is_found() {
    let names = ["name", "method", "params", "task", "_meta"];
    for twinned in [
        "Name",
        "METHOD",
        "param\u{17f}",
        "tas\u{212a}",
        "name\0",
        "name\0x",
        "method\u{1}",
        "Task\u{7f}",
        "_META",
        "name\u{85}",
    ] {
        let object = Object::new().with("name", 1).with(twinned, 2);
        assert_eq!(twin(&object, &names), Some(twinned), "{twinned:?}");
    }
    for other in ["name", "names", "nam", "title", "", "\0", "x\0name", "_Meta2", "ｎame"] {
        let object = Object::new().with("method", 1).with(other, 2);
        assert_eq!(twin(&object, &names), None, "{other:?}");
    }
}

#[test]
fn objects_find_keep_and_lose_members_at_any_size() {
    let mut object = Object::new();
    for n in (0..200).rev() {
        object.insert(format!("k{n}"), n);
        object.insert(format!("k{n}"), n + 1);
        assert_eq!(object.len() as i64, 200 - n);
    }
    for n in 0..200 {
        assert_eq!(object.get(&format!("k{n}")), Some(&Value::from(n + 1)), "{n}");
    }
    for n in (0..200).step_by(2) {
        assert_eq!(object.remove(&format!("k{n}")), Some(Value::from(n + 1)));
        assert_eq!(object.remove(&format!("k{n}")), None);
    }
    for n in 0..200 {
        assert_eq!(object.get(&format!("k{n}")).is_some(), n % 2 == 1);
    }
    let names: Vec<_> = object.iter().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names.first().map(String::as_str), Some("k199"));
    let backwards: Object = object
        .iter()
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect();
    assert_eq!(object, backwards);
}

/// RFC 8785, section 3.2.2 and 3.2.3, and the order of appendix tests of JCS implementations.
#[test]
fn the_canonical_form_is_that_of_rfc_8785() {
    let text = "{\"\\u20ac\": \"Euro Sign\", \"\\r\": \"Carriage Return\", \"\\ufb33\": \"Hebrew Letter Dalet With Dagesh\", \
                \"1\": \"One\", \"\\ud83d\\ude00\": \"Emoji: Grinning Face\", \"\\u0080\": \"Control\", \
                \"\\u00f6\": \"Latin Small Letter O With Diaeresis\"}";
    assert_eq!(
        canonical(text).unwrap(),
        "{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u{80}\":\"Control\",\"ö\":\"Latin Small Letter O With Diaeresis\",\
         \"€\":\"Euro Sign\",\"😀\":\"Emoji: Grinning Face\",\"\u{fb33}\":\"Hebrew Letter Dalet With Dagesh\"}"
    );
    let text = r#"{"numbers": [4.50, 2e-3, 0.000000000000000000000000001], "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}"#;
    assert_eq!(
        canonical(text).unwrap(),
        r#"{"literals":[null,true,false],"numbers":[4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}"#
    );
}

/// RFC 8785, appendix B.
#[test]
fn doubles_are_written_as_ecmascript_does() {
    for (bits, text) in [
        (0x0000000000000000, "0"),
        (0x8000000000000000, "0"),
        (0x0000000000000001, "5e-324"),
        (0x8000000000000001, "-5e-324"),
        (0x7fefffffffffffff, "1.7976931348623157e+308"),
        (0xffefffffffffffff, "-1.7976931348623157e+308"),
        (0x4340000000000000, "9007199254740992"),
        (0xc340000000000000, "-9007199254740992"),
        (0x4430000000000000, "295147905179352830000"),
        (0x44b52d02c7e14af5, "9.999999999999997e+22"),
        (0x44b52d02c7e14af6, "1e+23"),
        (0x44b52d02c7e14af7, "1.0000000000000001e+23"),
        (0x444b1ae4d6e2ef4e, "999999999999999700000"),
        (0x444b1ae4d6e2ef4f, "999999999999999900000"),
        (0x444b1ae4d6e2ef50, "1e+21"),
        (0x3eb0c6f7a0b5ed8c, "9.999999999999997e-7"),
        (0x3eb0c6f7a0b5ed8d, "0.000001"),
        (0x41b3de4355555553, "333333333.3333332"),
        (0x41b3de4355555554, "333333333.33333325"),
        (0x41b3de4355555555, "333333333.3333333"),
        (0x41b3de4355555556, "333333333.3333334"),
        (0x41b3de4355555557, "333333333.33333343"),
        (0xbecbf647612f3696, "-0.0000033333333333333333"),
        (0x43143ff3c1cb0959, "1424953923781206.2"),
    ] {
        let double = f64::from_bits(bits);
        assert_eq!(decimal::Decimal::shortest(double).unwrap().to_ecmascript(), text, "{bits:x}");
    }
    assert_eq!(decimal::Decimal::shortest(f64::NAN), None);
    assert_eq!(decimal::Decimal::shortest(f64::INFINITY), None);
}

#[test]
fn a_number_has_one_spelling() {
    for (text, expected) in [
        ("-0", "0"),
        ("0.0", "0"),
        ("-0.0e5", "0"),
        ("0e99999999999999999999", "0"),
        ("0E-99999999999999999999", "0"),
        ("1.0", "1"),
        ("1E0", "1"),
        ("10e-1", "1"),
        ("-1.50", "-1.5"),
        ("1e2", "100"),
        ("0.1", "0.1"),
        ("1e-1", "0.1"),
        ("100e-3", "0.1"),
        ("0.10000", "0.1"),
        ("9007199254740991", "9007199254740991"),
        ("-9007199254740991", "-9007199254740991"),
        ("9007199254740991.000", "9007199254740991"),
        ("9.007199254740991e15", "9007199254740991"),
        ("9007199254740991000e-3", "9007199254740991"),
        ("1e-7", "1e-7"),
        ("0.00000123", "0.00000123"),
        ("0.000000123", "1.23e-7"),
        ("5e-324", "5e-324"),
        ("1e15", "1000000000000000"),
        ("123456789012345.6", "123456789012345.6"),
    ] {
        assert_eq!(canonical(text).as_deref(), Ok(expected), "{text}");
    }
    let padded = format!("1{}e-{}", "0".repeat(5_000), 5_000);
    assert_eq!(canonical(&padded).as_deref(), Ok("1"));
}

#[test]
fn a_number_outside_i_json_is_refused_where_it_stands() {
    for text in [
        "9007199254740992",
        "-9007199254740992",
        "9007199254740993",
        "9007199254740992.0",
        "1e16",
        "1e30",
        "1e308",
        "18446744073709551616",
        "0.1000000000000000055511151231257827",
        "1e-400",
        "-1e-400",
        "4e-324",
        "3e-324",
        "0.30000000000000004441",
        "9007199254740990.5",
        "1.00000000000000000001",
        "1e-99999999999999999999",
        "1.7976931348623157081e308",
        "0.1234567890123456789",
        "9007199254740991.1",
    ] {
        let refused = canonical(&format!(r#"{{"a":[0,{{"b/~":{text}}}]}}"#)).unwrap_err();
        assert_eq!(refused.pointer, "/a/1/b~1~0", "{text}");
        assert_eq!(canonical(text).unwrap_err().pointer, "", "{text}");
    }
}
