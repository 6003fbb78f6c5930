//! Authenticators that say the truth, and every way in which what they say can be something else.

use proptest::prelude::*;

use super::{
    authenticator::{Authenticator, Keys, MADE, Made, Signed, VERIFIED, bytes, text},
    *,
};

const CHALLENGE: [u8; 32] = [9; 32];
const RP: &str = "console.example";
const ORIGIN: &str = "https://console.example";
/// The order of P-256, with room for a borrow.
const ORDER_OF_P256: [u8; 33] = [
    0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad,
    0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

fn authenticator() -> Authenticator {
    Authenticator::new(1, RP, ORIGIN)
}

fn made(made: &Made) -> Result<Passkey, Flaw> {
    Passkey::made(&made.client_data, &made.attestation, &CHALLENGE, RP, "my key")
}

fn assertion(signed: Signed) -> Assertion {
    let Signed { authenticator_data, client_data, signature } = signed;
    Assertion { authenticator_data, client_data, signature }
}

/// The flaw of an assertion by an authenticator that was changed after its passkey was made.
fn after(change: impl FnOnce(&mut Authenticator)) -> Result<(), Flaw> {
    let mut authenticator = authenticator();
    let passkey = made(&authenticator.make(&CHALLENGE)).unwrap();
    change(&mut authenticator);
    assertion(authenticator.sign(&CHALLENGE)).check(&passkey, &CHALLENGE)
}

#[test]
fn each_kind_of_key_makes_a_passkey_that_signs() {
    for (number, keys) in (1..).zip([Keys::es256(), Keys::rs256()]) {
        let authenticator = Authenticator::with(keys, number, RP, ORIGIN);
        for answer in [authenticator.make(&CHALLENGE), authenticator.make_vouched(&CHALLENGE)] {
            let passkey = made(&answer).unwrap();
            assert_eq!((passkey.id(), passkey.rp(), passkey.label()), (&[number; 32][..], RP, "my key"));
            assert!(!passkey.synced());
            assertion(authenticator.sign(&[3; 32])).check(&passkey, &[3; 32]).unwrap();
            let read = Passkey::read(&passkey.entry()).unwrap();
            assert_eq!((&read, read.digest()), (&passkey, passkey.digest()));
        }
    }
}

#[test]
fn an_assertion_comes_back_from_its_entry_as_it_was() {
    let signed = assertion(authenticator().sign(&CHALLENGE));
    assert_eq!(Assertion::read(&signed.entry()).unwrap(), signed);
}

#[test]
fn a_signature_that_is_written_otherwise_has_the_same_mark_and_a_new_one_another() {
    let authenticator = authenticator();
    let passkey = made(&authenticator.make(&CHALLENGE)).unwrap();
    let genuine = assertion(authenticator.sign(&CHALLENGE));
    let (order, ints) = (ORDER_OF_P256, genuine.signature[2..].to_vec());
    let (r, s) = ints.split_at(2 + usize::from(ints[1]));
    // n - s, byte by byte from behind
    let s: Vec<u8> = [vec![0; 33 - usize::from(s[1])], s[2..].to_vec()].concat();
    let mut other = [0_u8; 33];
    let mut borrowed = false;
    for place in (0..33).rev() {
        let (first, one) = order[place].overflowing_sub(s[place]);
        let (whole, two) = first.overflowing_sub(u8::from(borrowed));
        (other[place], borrowed) = (whole, one || two);
    }
    let mut other = other.to_vec();
    while other.len() > 1 && other[0] == 0 && other[1] < 0x80 {
        other.remove(0);
    }
    let s = [vec![2, u8::try_from(other.len()).unwrap()], other].concat();
    let signature = [vec![0x30, u8::try_from(r.len() + s.len()).unwrap()], r.to_vec(), s].concat();
    let rewritten = Assertion { signature, ..genuine.clone() };
    rewritten.check(&passkey, &CHALLENGE).unwrap();
    assert_ne!(rewritten.signature, genuine.signature);
    assert_eq!(rewritten.mark(), genuine.mark());
    assert_ne!(assertion(authenticator.sign(&CHALLENGE)).mark(), genuine.mark());
}

#[test]
fn an_assertion_that_is_about_something_else_does_not_count() {
    type Change = fn(&mut Authenticator);
    let table: &[(&str, Change, Flaw)] = &[
        ("another type", |it| it.kind = Some("webauthn.create"), Flaw::Type),
        ("a payment", |it| it.kind = Some("payment.get"), Flaw::Type),
        ("another site", |it| it.rp = "other.example".to_owned(), Flaw::RelyingParty),
        ("another origin", |it| it.origin = "https://other.example".to_owned(), Flaw::Origin),
        ("an origin that ends alike", |it| it.origin = "https://evilconsole.example".to_owned(), Flaw::Origin),
        ("an origin that begins alike", |it| it.origin = "https://console.example.evil.test".to_owned(), Flaw::Origin),
        ("somebody's name before it", |it| it.origin = "https://console.example@evil.test".to_owned(), Flaw::Origin),
        ("a path behind it", |it| it.origin = "https://console.example/x".to_owned(), Flaw::Origin),
        ("a port that is none", |it| it.origin = "https://console.example:x".to_owned(), Flaw::Origin),
        ("two ports", |it| it.origin = "https://console.example:1:2".to_owned(), Flaw::Origin),
        ("without TLS", |it| it.origin = "http://console.example".to_owned(), Flaw::Origin),
        ("an app's origin", |it| it.origin = "android:apk-key-hash:x".to_owned(), Flaw::Origin),
        ("no origin", |it| it.origin = "null".to_owned(), Flaw::Origin),
        ("inside another page", |it| it.added = r#","crossOrigin":true"#.to_owned(), Flaw::Origin),
        ("below another page", |it| it.added = r#","topOrigin":"https://x.test""#.to_owned(), Flaw::Origin),
        ("nobody there", |it| it.flags = 0b100, Flaw::Verification),
        ("somebody there, who is not told", |it| it.flags = 0b001, Flaw::Verification),
        ("nothing", |it| it.flags = 0, Flaw::Verification),
        ("a copy that cannot be", |it| it.flags = VERIFIED | 1 << 4, Flaw::Malformed),
        ("a byte too many", |it| it.behind = vec![0], Flaw::Malformed),
        ("extensions that are not there", |it| it.flags = VERIFIED | 1 << 7, Flaw::Malformed),
        ("extensions that are no map", |it| (it.flags, it.behind) = (VERIFIED | 1 << 7, vec![0x80]), Flaw::Malformed),
        ("a passkey that is not there", |it| it.flags = VERIFIED | MADE, Flaw::Malformed),
        ("a member twice", |it| it.added = r#","type":"webauthn.get""#.to_owned(), Flaw::Malformed),
        ("another key", |it| it.keys = Keys::es256(), Flaw::Signature),
        ("another kind of key", |it| it.keys = Keys::rs256(), Flaw::Signature),
    ];
    for (what, change, flaw) in table {
        assert_eq!(after(*change), Err(*flaw), "{what}");
    }
    let fine: &[(&str, Change)] = &[
        ("a host below it", |it| it.origin = "https://a.b.console.example".to_owned()),
        ("a port", |it| it.origin = "https://console.example:8443".to_owned()),
        ("nothing said of frames", |it| it.added = String::new()),
        ("a member that nobody knows", |it| {
            it.added = r#","other_keys_can_be_added_here":"do not compare""#.to_owned()
        }),
        ("a passkey that is synced", |it| it.flags = VERIFIED | 0b1_1000),
        ("extensions", |it| (it.flags, it.behind) = (VERIFIED | 1 << 7, [&[0xa1][..], &text("x"), &[1]].concat())),
    ];
    for (what, change) in fine {
        assert_eq!(after(*change), Ok(()), "{what}");
    }
}

#[test]
fn this_machine_needs_no_tls() {
    for (rp, origin, fine) in [
        ("localhost", "http://localhost:7401", true),
        ("localhost", "https://localhost", true),
        ("localhost", "http://console.localhost", true),
        ("localhost", "http://127.0.0.1:7401", false),
        ("localhost", "http://localhost.evil.test", false),
        ("localhost", "http://notlocalhost", false),
    ] {
        let authenticator = Authenticator::new(1, rp, origin);
        let answer = authenticator.make(&CHALLENGE);
        let passkey = Passkey::made(&answer.client_data, &answer.attestation, &CHALLENGE, rp, "x");
        assert_eq!(passkey.is_ok(), fine, "{origin}");
    }
}

#[test]
fn an_assertion_for_one_challenge_is_none_for_another() {
    let authenticator = authenticator();
    let passkey = made(&authenticator.make(&CHALLENGE)).unwrap();
    let signed = assertion(authenticator.sign(&CHALLENGE));
    assert_eq!(signed.check(&passkey, &[8; 32]), Err(Flaw::Challenge));
    for challenge in [&[][..], &[9; 31], &[9; 33]] {
        let signed = assertion(authenticator.sign(challenge));
        assert_eq!(signed.check(&passkey, &CHALLENGE), Err(Flaw::Challenge));
    }
}

#[test]
fn making_a_passkey_is_as_strict() {
    type Change = fn(&mut Authenticator);
    let table: &[(&str, Change, Flaw)] = &[
        ("another type", |it| it.kind = Some("webauthn.get"), Flaw::Type),
        ("another site", |it| it.rp = "other.example".to_owned(), Flaw::RelyingParty),
        ("another origin", |it| it.origin = "https://other.example".to_owned(), Flaw::Origin),
        ("nobody verified", |it| it.flags = 1, Flaw::Verification),
        ("an id too short", |it| it.id = vec![1; 15], Flaw::Malformed),
        ("an id too long", |it| it.id = vec![1; 1_024], Flaw::Malformed),
        ("a byte too many", |it| it.behind = vec![0], Flaw::Malformed),
    ];
    for (what, change, flaw) in table {
        let mut authenticator = authenticator();
        change(&mut authenticator);
        assert_eq!(made(&authenticator.make(&CHALLENGE)), Err(*flaw), "{what}");
    }
    let answer = authenticator().make(&[8; 32]);
    assert_eq!(made(&answer), Err(Flaw::Challenge));
    let answer = authenticator().make(&CHALLENGE);
    for label in ["", "  ", "a\nb", &"x".repeat(65)] {
        let labelled = Passkey::made(&answer.client_data, &answer.attestation, &CHALLENGE, RP, label);
        assert_eq!(labelled, Err(Flaw::Label), "{label:?}");
    }
    // browsers ask for `credProtect` of their own accord
    let mut authenticator = authenticator();
    (authenticator.flags, authenticator.behind) =
        (VERIFIED | 1 << 7, [&[0xa1][..], &text("credProtect"), &[2]].concat());
    made(&authenticator.make(&CHALLENGE)).unwrap();
}

#[test]
fn attestation_is_none_or_the_passkeys_own() {
    let authenticator = authenticator();
    let (data, client_data) = (authenticator.made(), authenticator.make(&CHALLENGE).client_data);
    let wrapped = |format: &str, statement: &[u8]| {
        let parts =
            [&[0xa3][..], &text("fmt"), &text(format), &text("attStmt"), statement, &text("authData"), &bytes(&data)];
        Made { client_data: client_data.clone(), attestation: parts.concat() }
    };
    made(&wrapped("none", &[0xa0])).unwrap();
    let forged = [&[0xa2][..], &text("alg"), &[0x26], &text("sig"), &bytes(&[1; 70])].concat();
    assert_eq!(made(&wrapped("packed", &forged)), Err(Flaw::Signature));
    let certified =
        [&[0xa3][..], &text("alg"), &[0x26], &text("sig"), &bytes(&[1; 70]), &text("x5c"), &[0x80]].concat();
    for (format, statement) in
        [("none", &forged[..]), ("packed", &[0xa0]), ("packed", &certified), ("tpm", &[0xa0]), ("none", &[0x80])]
    {
        assert_eq!(made(&wrapped(format, statement)), Err(Flaw::Malformed), "{format}");
    }
    let two = [&[0xa2][..], &text("fmt"), &text("none"), &text("authData"), &bytes(&data)].concat();
    assert_eq!(made(&Made { client_data: client_data.clone(), attestation: two }), Err(Flaw::Malformed));
    let mut longer = wrapped("none", &[0xa0]);
    longer.attestation.push(0);
    assert_eq!(made(&longer), Err(Flaw::Malformed));
}

#[test]
fn a_key_has_the_members_of_its_kind_and_no_others() {
    let es256 = Keys::es256().cose();
    let rsa = Keys::rs256().cose();
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let read = |cose: &[u8]| Key::read(&Cbor::read_all(cose)?);
    let edited = |cose: &[u8], place: usize, byte: u8| {
        let mut cose = cose.to_vec();
        cose[place] = byte;
        cose
    };
    assert!(read(&es256).is_ok() && read(&rsa).is_ok());
    for (what, cose, flaw) in [
        ("another algorithm", edited(&es256, 4, 0x28), Flaw::Algorithm),
        ("another kind", edited(&es256, 2, 1), Flaw::Key),
        ("another curve", edited(&es256, 6, 2), Flaw::Key),
        ("a member too many", [&edited(&es256, 0, 0xa6)[..], &[0x18, 99, 1]].concat(), Flaw::Key),
        ("a point beside the curve", edited(&es256, 12, es256[12] ^ 1), Flaw::Key),
        ("no map", vec![1], Flaw::Key),
        ("an even modulus", edited(&rsa, rsa.len() - 6, rsa[rsa.len() - 6] & 0xfe), Flaw::Key),
        ("another exponent", edited(&rsa, rsa.len() - 1, 3), Flaw::Key),
        (
            "a short modulus",
            [&[0xa4, 1, 3, 3, 0x39, 1, 0, 0x20][..], &bytes(&[0xff; 128]), &[0x21], &bytes(&[1, 0, 1])].concat(),
            Flaw::Key,
        ),
        // under the point of order one anybody can sign: no Ed25519 key is taken
        ("an Ed25519 key", Keys::ed25519().cose(), Flaw::Algorithm),
        ("the neutral point", [&[0xa4, 1, 1, 3, 0x27, 0x20, 6, 0x21][..], &bytes(&neutral)].concat(), Flaw::Algorithm),
    ] {
        assert_eq!(read(&cose).err(), Some(flaw), "{what}");
    }
}

#[test]
fn cbor_is_canonical_shallow_and_narrow() {
    let table: &[(&str, &[u8])] = &[
        ("nothing", &[]),
        ("a number longer than it needs", &[0x18, 23]),
        ("two bytes for one", &[0x19, 0, 255]),
        ("four for two", &[0x1a, 0, 0, 1, 0]),
        ("eight for four", &[0x1b, 0, 0, 0, 0, 0, 0, 1, 0]),
        ("a number beyond i64", &[0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("a reserved length", &[0x1c]),
        ("bytes of indefinite length", &[0x5f, 0x41, 1, 0xff]),
        ("bytes that are not there", &[0x42, 1]),
        ("a length beyond memory", &[0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("text that is not UTF-8", &[0x61, 0xff]),
        ("an array without items", &[0x81]),
        ("an array too wide", &[0x98, 33]),
        ("a map without values", &[0xa1, 1]),
        ("a name twice", &[0xa2, 1, 1, 1, 2]),
        ("a name that is a map", &[0xa1, 0xa0, 1]),
        ("a name that is bytes", &[0xa1, 0x41, 1, 1]),
        ("a tag", &[0xc0, 1]),
        ("a float", &[0xf9, 0, 0]),
        ("undefined", &[0xf7]),
        ("too deep", &[0x81, 0x81, 0x81, 0x81, 0x81, 1]),
        ("a second value", &[1, 1]),
    ];
    for (what, cbor) in table {
        assert_eq!(Cbor::read_all(cbor), Err(Flaw::Malformed), "{what}");
    }
    assert_eq!(Cbor::read_all(&[0x39, 1, 0]), Ok(Cbor::Integer(-257)));
    assert_eq!(Cbor::read_all(&[0xf5]), Ok(Cbor::Bool(true)));
    assert!(Cbor::read_all(&[0x81, 0x81, 0x81, 0x81, 1]).is_ok());
}

#[test]
fn only_the_name_of_a_host_is_one() {
    for host in ["localhost", "console.example", "a-b.c1", "xn--bcher-kva.example", "1.example"] {
        assert!(is_rp(host), "{host}");
    }
    let long = "a".repeat(64);
    for host in [
        "",
        ".",
        "127.0.0.1",
        "[::1]",
        "::1",
        "Console.example",
        "a..b",
        "a.",
        ".a",
        "a b",
        "a/b",
        "a:1",
        "é.fr",
        &long,
    ] {
        assert!(!is_rp(host), "{host}");
    }
}

proptest! {
    #[test]
    fn no_bit_of_an_assertion_can_be_changed(place in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let authenticator = authenticator();
        let passkey = made(&authenticator.make(&CHALLENGE)).unwrap();
        let genuine = assertion(authenticator.sign(&CHALLENGE));
        genuine.check(&passkey, &CHALLENGE).unwrap();
        let mut changed = genuine.clone();
        let (data, client) = (changed.authenticator_data.len(), changed.client_data.len());
        let place = place.index(data + client + changed.signature.len());
        let mut parts = changed.authenticator_data.iter_mut().chain(&mut changed.client_data).chain(&mut changed.signature);
        *parts.nth(place).unwrap() ^= 1 << bit;
        prop_assert!(changed.check(&passkey, &CHALLENGE).is_err());
    }

    #[test]
    fn whatever_comes_is_read_or_refused(
        client in proptest::collection::vec(any::<u8>(), 0..200),
        attestation in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let passkey = made(&authenticator().make(&CHALLENGE)).unwrap();
        prop_assert!(Passkey::made(&client, &attestation, &CHALLENGE, RP, "x").is_err());
        let genuine = authenticator().make(&CHALLENGE);
        prop_assert!(Passkey::made(&genuine.client_data, &attestation, &CHALLENGE, RP, "x").is_err());
        let signed = authenticator().sign(&CHALLENGE);
        let said = Assertion {
            authenticator_data: attestation.clone(), client_data: signed.client_data, signature: client.clone(),
        };
        prop_assert!(said.check(&passkey, &CHALLENGE).is_err());
        if let Ok(value) = Cbor::read_all(&attestation) {
            // what is read has no more values than bytes
            fn count(value: &Cbor<'_>) -> usize {
                1 + match value {
                    Cbor::Array(items) => items.iter().map(count).sum(),
                    Cbor::Map(members) => members.iter().map(|(name, value)| count(name) + count(value)).sum(),
                    _ => 0,
                }
            }
            prop_assert!(count(&value) <= attestation.len());
        }
    }

    #[test]
    fn a_changed_bit_of_a_new_passkey_is_refused_or_makes_another_one(place in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let authenticator = authenticator();
        let mut answer = authenticator.make_vouched(&CHALLENGE);
        let genuine = made(&answer).unwrap();
        let place = place.index(answer.attestation.len());
        answer.attestation[place] ^= 1 << bit;
        // it vouches for all of itself
        if let Ok(other) = made(&answer) {
            prop_assert_eq!(other, genuine);
        }
    }
}
