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

#[test]
fn collected_members_have_one_name_each() {
    for count in [3, 16, 17, 40] {
        let members = (0..count).map(|n| (format!("k{n}"), Value::from(n)));
        let object: Object = members.chain([("k1".to_owned(), Value::from(-1))]).collect();
        assert_eq!(object.len() as i64, count);
        assert_eq!(object.get("k1"), Some(&Value::from(-1)));
        assert_eq!(object.iter().nth(1).map(|(name, _)| name), Some("k1"));
    }
}

/// The deepest text that is read is also walked by everything else on a small stack.
#[test]
fn the_deepest_value_fits_a_small_stack() {
    let walk = || {
        let deepest = Limits { bytes: usize::MAX, depth: usize::MAX, nodes: usize::MAX };
        let text = r#"{"a":["#.repeat(128) + &"]}".repeat(128);
        let value = parse(text.as_bytes(), &deepest).unwrap();
        let canonical = Canonical::of(value.clone()).unwrap();
        assert_eq!(canonical.bytes(), &text);
        let serde =
            serde_json::json!({"items": {"$ref": "#"}, "additionalProperties": {"$ref": "#"}, "uniqueItems": true});
        assert_eq!(first_error(&options().build(&serde).unwrap(), &value), None);
        let serde = serde_json::json!({"anyOf": [{"const": canonical.tree().to_serde()}, {"type": "null"}]});
        assert_eq!(first_error(&options().build(&serde).unwrap(), &value), None);
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(walk).unwrap().join().unwrap();
}

#[test]
fn a_digest_reads_as_it_prints() {
    let digest = Digest::of(b"{}");
    let text = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    assert_eq!(digest.to_string(), text);
    assert_eq!(text.parse(), Ok(digest));
    for bad in ["", "sha256:", &text[7..], &text.to_uppercase(), &format!("{text}0"), &text.replace('4', "+")] {
        assert_eq!(bad.parse::<Digest>(), Err(NotADigest), "{bad}");
    }
}

fn verdict(schema: serde_json::Value, text: &str) -> Option<(String, String)> {
    let validator = options().build(&schema).unwrap();
    first_error(&validator, &read(text).unwrap())
}

#[test]
fn a_problem_is_told_with_its_place_and_without_the_value() {
    use serde_json::json;
    let schema = json!({
        "type": "object",
        "required": ["amount"],
        "additionalProperties": false,
        "properties": {
            "amount": {"type": "integer", "minimum": 1, "exclusiveMaximum": 100, "multipleOf": 5},
            "to": {"type": "string", "minLength": 2, "maxLength": 5, "pattern": "^[a-z]+$"},
            "kind": {"enum": ["a", "b"]},
            "one": {"const": 1},
            "when": {"type": "string", "format": "date"},
            "tags": {"type": "array", "uniqueItems": true, "minItems": 1, "maxItems": 3, "items": {"type": "string"}},
            "either": {"type": ["string", "null"]},
            "optional": {"anyOf": [{"type": "integer", "maximum": 9}, {"type": "null"}]},
            "shape": {"oneOf": [{"type": "object", "required": ["x"], "properties": {"x": {"type": "boolean"}}}, {"type": "string"}]},
            "never": false,
            "a/b": {"type": "object", "propertyNames": {"maxLength": 2}, "maxProperties": 2},
        }
    });
    for (text, pointer, problem) in [
        (r#""secret""#, "", "must be an object"),
        (r#"{}"#, "/amount", "is required"),
        (r#"{"amount":5,"sec~/ret":"x"}"#, "/sec~0~1ret", "is not declared"),
        (r#"{"amount":"secret"}"#, "/amount", "must be an integer"),
        (r#"{"amount":5.5}"#, "/amount", "must be an integer"),
        (r#"{"amount":0}"#, "/amount", "must be at least 1"),
        (r#"{"amount":100}"#, "/amount", "must be less than 100"),
        (r#"{"amount":7}"#, "/amount", "must be a multiple of 5"),
        (r#"{"amount":5,"to":"s"}"#, "/to", "must have at least 2 characters"),
        (r#"{"amount":5,"to":"secret"}"#, "/to", "must have at most 5 characters"),
        (r#"{"amount":5,"to":"SEC"}"#, "/to", "must match the pattern `^[a-z]+$`"),
        (r#"{"amount":5,"kind":"secret"}"#, "/kind", r#"must be one of `"a"`, `"b"`"#),
        (r#"{"amount":5,"one":2}"#, "/one", "must be `1`"),
        (r#"{"amount":5,"when":"secret"}"#, "/when", "must have the format `date`"),
        (r#"{"amount":5,"tags":["x","secret",1]}"#, "/tags/2", "must be a string"),
        (r#"{"amount":5,"tags":["secret","secret"]}"#, "/tags", "must not have the same item twice"),
        (r#"{"amount":5,"tags":[]}"#, "/tags", "must have at least 1 items"),
        (r#"{"amount":5,"either":5}"#, "/either", "must be null or a string"),
        (r#"{"amount":5,"optional":"secret"}"#, "/optional", "must be an integer or null"),
        (r#"{"amount":5,"optional":10}"#, "/optional", "must be at most 9"),
        (r#"{"amount":5,"shape":{"x":"secret"}}"#, "/shape/x", "must be true or false"),
        (r#"{"amount":5,"shape":{}}"#, "/shape/x", "is required"),
        (r#"{"amount":5,"shape":[]}"#, "/shape", "must be an object or a string"),
        (r#"{"amount":5,"never":"secret"}"#, "/never", "is not allowed"),
        (r#"{"amount":5,"a/b":{"secret":1}}"#, "/a~1b", "has a member whose name must have at most 2 characters"),
        (r#"{"amount":5,"a/b":{"x":1,"y":1,"z":1}}"#, "/a~1b", "must have at most 2 members"),
        (r#"{"amount":5,"__proto__":1}"#, "/__proto__", "is not declared"),
        (r#"{"amount":5,"constructor":1}"#, "/constructor", "is not declared"),
    ] {
        assert_eq!(verdict(schema.clone(), text), Some((pointer.to_owned(), problem.to_owned())), "{text}");
    }
    for text in [
        r#"{"amount":5}"#,
        r#"{"amount":5.0}"#,
        r#"{"amount":1e1}"#,
        r#"{"amount":5,"to":"éé"}"#.replace("éé", "ab").as_str(),
        r#"{"amount":5,"one":1.0,"tags":["x"],"optional":null,"shape":{"x":true}}"#,
    ] {
        assert_eq!(verdict(schema.clone(), text), None, "{text}");
    }
}

#[test]
fn a_large_invalid_value_is_refused_without_a_report_on_each_part() {
    let schema = serde_json::json!({"anyOf": [{"items": {"type": "string"}}, {"items": {"type": "null"}}]});
    let text = format!("[{}]", vec!["1"; 100_000].join(","));
    assert_eq!(verdict(schema, &text), Some((String::new(), "does not match its schema".to_owned())));
}

#[test]
fn schemas_compare_numbers_by_value() {
    use serde_json::json;
    for (schema, text, valid) in [
        (json!({"type": "integer"}), "1.0", true),
        (json!({"type": "integer"}), "1e2", true),
        (json!({"type": "integer"}), "123e-2", false),
        (json!({"type": "integer"}), "1230e-1", true),
        (json!({"type": "integer"}), "9007199254740993.5", false),
        (json!({"type": "integer"}), "-0", true),
        (json!({"type": "number"}), "1", true),
        (json!({"$schema": "http://json-schema.org/draft-04/schema#", "type": "integer"}), "1.0", false),
        (json!({"const": 1}), "1.0", true),
        (json!({"const": 1.5}), "15e-1", true),
        (json!({"const": 9007199254740992_u64}), "9007199254740993", false),
        (json!({"const": [0.1]}), "[0.10000000000000000555]", false),
        (json!({"const": {"a": [1, {"b": null}]}}), r#"{"a":[1.0,{"b":null}]}"#, true),
        (json!({"const": {"a": 1}}), r#"{"a":1,"b":2}"#, false),
        (json!({"enum": [0]}), "-0.0", true),
        (json!({"uniqueItems": true}), "[1,1.0]", false),
        (json!({"uniqueItems": true}), r#"[{"a":1,"b":2},{"b":2e0,"a":10e-1}]"#, false),
        (json!({"uniqueItems": true}), r#"[1,"1",[1],["1"],{"1":1},true,"true",null,"null",-1]"#, true),
        (json!({"uniqueItems": true}), "[9007199254740992,9007199254740993]", true),
        (json!({"uniqueItems": true}), "[[],{},[[]],[{}],0,0.1]", true),
        (json!({"maximum": 9007199254740992_u64}), "9007199254740993", false),
        (json!({"minimum": 18446744073709551615_u64}), "18446744073709551614", false),
        (json!({"multipleOf": 0.01}), "4.35", true),
        (json!({"multipleOf": 3}), "9007199254740990", true),
        (json!({"multipleOf": 3}), "9007199254740991", false),
        (json!({"maxLength": 1}), r#""😀""#, true),
        (json!({"propertyNames": {"pattern": "^k"}}), r#"{"k1":1,"j":2}"#, false),
    ] {
        assert_eq!(verdict(schema.clone(), text).is_none(), valid, "{schema} {text}");
    }
}

#[test]
fn a_schema_cannot_reach_out_of_its_document() {
    for reference in ["https://example.com/schema.json", "file:///etc/passwd", "other.json"] {
        assert!(options().build(&serde_json::json!({"$ref": reference})).is_err(), "{reference}");
    }
    assert!(options().build(&serde_json::json!({"pattern": "("})).is_err());
    assert!(options().build(&serde_json::json!({"pattern": "(?=x)"})).is_err());
    assert!(options().build(&serde_json::json!({"type": "strnig"})).is_err());
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    /// JSON text of any shape, with the odd spellings that RFC 8259 allows.
    fn text() -> impl Strategy<Value = String> {
        let number = prop_oneof![
            any::<i64>().prop_map(|n| n.to_string()),
            any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(|n| format!("{n:e}")),
            "-?(0|[1-9][0-9]{0,3})(\\.[0-9]{1,4})?([eE][+-]?[0-9]{1,2})?",
        ];
        let string = prop_oneof![
            any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
            r#""(\\\\|\\/|\\u00[0-9a-f]{2}|\\ud83d\\ude0[0-9]|[a-z é€]){0,12}""#,
        ];
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            Just("false".to_owned()),
            number,
            string.clone()
        ];
        let space = "[ \t\r\n]{0,2}";
        leaf.prop_recursive(6, 64, 24, move |inner| {
            let item = (space, inner.clone(), space).prop_map(|(a, b, c)| a + &b + &c);
            let member = (space, string.clone(), space, item.clone()).prop_map(|(a, b, c, d)| a + &b + &c + ":" + &d);
            prop_oneof![
                prop::collection::vec(item, 0..8).prop_map(|items| format!("[{}]", items.join(","))),
                prop::collection::vec(member, 0..24).prop_map(|members| format!("{{{}}}", members.join(","))),
            ]
        })
    }

    /// What a strict reader may do to text that others accept: refuse it, for one of these.
    const STRICTER: [ParseErrorKind; 1] = [DuplicateName];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = read(&bytes);
        }

        #[test]
        fn any_json_like_bytes_are_read_or_refused(text in r#"[\[\]{}:,"\\u0-9eE+.\- \x00-\x1fa-fnrtl\u{d7ff}\u{fffd}]{0,64}"#) {
            if let Ok(value) = read(&text) {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
                prop_assert_eq!(read(value.to_bytes()), Ok(value));
            }
        }

        /// Byte by byte damage: never a panic, and never accepted when serde_json refuses.
        #[test]
        fn damaged_text_is_read_or_refused(
            text in text(), place in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()
        ) {
            let mut bytes = text.into_bytes();
            let place = place.index(bytes.len());
            if cut { bytes.truncate(place) } else { bytes[place] = byte }
            let ours = read(&bytes);
            let theirs = serde_json::from_slice::<serde_json::Value>(&bytes);
            match ours {
                Ok(value) => prop_assert!(jsonschema::json::cmp::equal(&value.to_serde(), &theirs.unwrap())),
                Err(kind) => prop_assert!(theirs.is_err() || STRICTER.contains(&kind), "{:?}", kind),
            }
        }

        #[test]
        fn ordinary_text_means_what_serde_json_says(text in text()) {
            match read(&text) {
                Ok(value) => {
                    let theirs = serde_json::from_str(&text).unwrap();
                    prop_assert!(jsonschema::json::cmp::equal(&value.to_serde(), &theirs));
                    prop_assert_eq!(read(value.to_bytes()), Ok(value));
                }
                Err(kind) => prop_assert_eq!(kind, DuplicateName),
            }
        }

        #[test]
        fn the_canonical_form_is_its_own(text in text()) {
            if let Some(first) = read(&text).ok().and_then(|value| Canonical::of(value).ok()) {
                let again = Canonical::of(read(first.bytes()).unwrap()).unwrap();
                prop_assert_eq!(again.bytes(), first.bytes());
                prop_assert_eq!(again.tree(), first.tree());
                prop_assert_eq!(again.digest(), first.digest());
                prop_assert_eq!(first.tree().to_bytes(), first.bytes().to_vec());
                let names = first.tree().as_object().map(|object| {
                    object.iter().map(|(name, _)| name.encode_utf16().collect::<Vec<_>>()).collect::<Vec<_>>()
                });
                prop_assert!(names.unwrap_or_default().is_sorted());
            }
        }

        #[test]
        fn order_space_and_spelling_do_not_change_the_digest(
            members in prop::collection::btree_map(any::<String>(), -999_999_i64..999_999, 0..40),
            seed in any::<u64>(), decimals in 0_usize..4,
        ) {
            let scale = 10_i64.pow(decimals as u32);
            let plain: Object =
                members.iter().map(|(name, n)| (name.clone(), Value::from(n * scale))).collect();
            let plain = Canonical::of(plain.into()).unwrap();
            let mut members: Vec<_> = members.into_iter().collect();
            members.sort_by_key(|(name, n)| seed.rotate_left(name.len() as u32) ^ (*n as u64).wrapping_mul(seed));
            let members: Vec<_> = members
                .iter()
                .map(|(name, n)| {
                    let escaped: String = name.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
                    format!(" \"{escaped}\" :\t{n}.0E{decimals}\n")
                })
                .collect();
            let other = Canonical::of(read(format!("{{{}}}", members.join(","))).unwrap()).unwrap();
            prop_assert_eq!(other.digest(), plain.digest());
            prop_assert_eq!(other.tree(), plain.tree());
        }

        /// The bytes that pass are never another number than the one sent.
        #[test]
        fn a_canonical_number_is_exactly_the_one_sent(double in any::<f64>(), digits in 1_usize..25) {
            prop_assume!(double.is_finite());
            for text in [format!("{double:e}"), format!("{double:.digits$e}")] {
                let Ok(sent) = read(&text) else { continue };
                if let Ok(canonical) = Canonical::of(sent) {
                    let kept = canonical.tree().as_number().unwrap().text();
                    prop_assert_eq!(decimal::Decimal::of(kept), decimal::Decimal::of(&text));
                    prop_assert_eq!(kept.parse::<f64>().unwrap(), text.parse::<f64>().unwrap());
                }
            }
        }

        /// Both ways of validating, on our tree and on serde_json's, agree.
        #[test]
        fn schemas_judge_our_tree_as_they_judge_others(text in text(), other in text()) {
            let (Ok(value), Ok(other)) = (read(&text), read(&other)) else { return Ok(()) };
            let other = other.to_serde();
            for schema in [
                serde_json::json!({"const": other}),
                serde_json::json!({"const": value.to_serde()}),
                serde_json::json!({"uniqueItems": true}),
                serde_json::json!({"type": ["integer", "object"], "minProperties": 2}),
                serde_json::json!({"propertyNames": {"maxLength": 3}, "additionalProperties": {"type": "string"}}),
                serde_json::json!({"items": {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "minLength": 2}]}}),
            ] {
                let ours = first_error(&options().build(&schema).unwrap(), &value).is_none();
                let theirs = jsonschema::is_valid(&schema, &value.to_serde());
                prop_assert_eq!(ours, theirs, "{} {}", schema, text);
            }
        }

        #[test]
        fn a_string_is_written_as_it_was_read(text in "[a-z\"\\\\\\x00-\\x1f\\x7fé😀\u{d7ff}]{0,40}") {
            let written = Value::from(text.as_str()).to_bytes();
            prop_assert_eq!(std::str::from_utf8(&written).unwrap(), &serde_json::to_string(&text).unwrap());
            prop_assert_eq!(read(written), Ok(Value::from(text)));
        }

        #[test]
        fn an_object_is_a_map(steps in prop::collection::vec((0_u8..40, any::<Option<i64>>()), 0..120)) {
            let (mut object, mut map) = (Object::new(), std::collections::BTreeMap::new());
            for (name, step) in steps {
                let name = format!("n{name}");
                match step {
                    Some(n) => {
                        object.insert(name.clone(), n);
                        map.insert(name, Value::from(n));
                    }
                    None => assert_eq!(object.remove(&name), map.remove(&name)),
                }
                prop_assert_eq!(object.len(), map.len());
                for n in 0..40 {
                    let name = format!("n{n}");
                    prop_assert_eq!(object.get(&name), map.get(&name));
                }
            }
        }
    }
}
