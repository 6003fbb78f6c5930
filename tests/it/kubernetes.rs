//! A service account's token, as Kubernetes makes it, by the configuration that the documents show.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    thread,
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_SHA256},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign::clock::Clock;
use serde_json::{Value, json};

use crate::{
    house::{House, http_upstream, kind_of},
    recorder::Recorder,
};

/// The issuer of a cluster: its metadata and its keys.
struct Cluster {
    at: SocketAddr,
    key: KeyPair,
}

impl Cluster {
    fn start() -> Self {
        let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let public = key.public_key();
        let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let keys = json!({"keys": [{"use": "sig", "kty": "RSA", "kid": "cluster", "alg": "RS256",
            "n": number(public.modulus().big_endian_without_leading_zero()),
            "e": number(public.exponent().big_endian_without_leading_zero())}]});
        let metadata = json!({"issuer": format!("http://{at}"), "jwks_uri": format!("http://{at}/openid/v1/jwks"),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"]});
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                    head.push(byte[0]);
                }
                let body = if head.starts_with(b"GET /openid") { &keys } else { &metadata }.to_string();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                let _gone = stream.write_all(format!("{head}{body}").as_bytes());
            }
        });
        Self { at, key }
    }

    fn sign(&self, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        // without a `typ`
        let signed = format!("{}.{}", part(&json!({"alg": "RS256", "kid": "cluster"})), part(claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The block of the documents that says what is configured for a cluster.
fn documented() -> String {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/workloads.md")).unwrap();
    let blocks = document.split("```toml\n").skip(1).filter_map(|block| block.split("```").next());
    blocks.into_iter().find(|block| block.contains("[identity.issuers.k8s]")).unwrap().to_owned()
}

#[test]
fn a_service_accounts_token_is_a_credential_by_the_documented_configuration() {
    let (cluster, upstream) = (Cluster::start(), Recorder::usual());
    let documented = documented();
    let line = documented.lines().find(|line| line.starts_with("issuer = ")).unwrap();
    let own = documented.replace(line, &format!("issuer = \"http://{}\"\nallow_private = true", cluster.at));
    let agent = "k8s/system:serviceaccount:agents:bot";
    let grants =
        format!("@id(\"k8s\")\npermit (principal == Agent::\"{agent}\", action in Action::\"call\", resource);\n");
    let house = House::open(&format!("{}{own}", http_upstream("up", &upstream.url(), "")), &grants);
    let now = Clock::System.now().as_second();
    let claims = |audience: &str, name: &str| {
        json!({
            "aud": [audience],
            "exp": now + 600, "iat": now, "nbf": now,
            "iss": format!("http://{}", cluster.at),
            "jti": "1b1fd4ac-2d3a-4d3f-a1c5-6c1b0f6b8a11",
            "kubernetes.io": {
                "namespace": "agents",
                "node": {"name": "node-1", "uid": "5a1c7c0a-0b0e-4c43-8f0d-6f0b2d1b1c11"},
                "pod": {"name": "bot-7c9d", "uid": "0c7b7b7e-9d55-4c1a-8a55-1f0c9d1b1c11"},
                "serviceaccount": {"name": name, "uid": "7e2f3f0c-66a4-4a37-8d3e-2b1b1c110c7b"}
            },
            "sub": format!("system:serviceaccount:agents:{name}")
        })
    };
    let endpoint = format!("http://{}/mcp", house.mcp);
    let token = cluster.sign(&claims(&endpoint, "bot"));
    let answer = house.call(&token, "up__bare", "{}");
    assert!(answer.is_success(), "{answer:?}");
    let entries = house.entries();
    let intended = entries.iter().rfind(|entry| kind_of(entry) == "call.intended").unwrap().to_string();
    assert!(intended.contains(agent) && intended.contains("k8s:1b1fd4ac-2d3a-4d3f-a1c5-6c1b0f6b8a11"), "{intended}");

    // the token that every pod has for the cluster itself
    let for_the_cluster = cluster.sign(&claims("https://kubernetes.default.svc.cluster.local", "bot"));
    assert_eq!(house.call(&for_the_cluster, "up__bare", "{}").status, 401);
    // another account: known, and without grants
    let other = house.call(&cluster.sign(&claims(&endpoint, "other")), "up__bare", "{}");
    assert!(other.status == 200 && !other.is_success(), "{other:?}");
}
