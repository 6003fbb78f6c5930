//! Peers that dawdle, and peers that are not let in.

use std::os::unix::fs::PermissionsExt as _;

use tokio::time::Instant;

use super::*;
use crate::config::TlsFiles;

fn certificate(folder: &std::path::Path) -> Arc<Certificate> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let files = TlsFiles { cert: folder.join("cert.pem"), key: folder.join("key.pem") };
    std::fs::write(&files.cert, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o600)).unwrap();
    Arc::new(Certificate::open(files).unwrap())
}

async fn listener(folder: &std::path::Path, handshakes: usize, patience: Duration) -> (Arc<Listener>, SocketAddr) {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut listener = Listener::new(tcp, Some(certificate(folder)), Vec::new());
    let tls = listener.tls.as_mut().unwrap();
    (tls.handshakes, tls.patience) = (Arc::new(Semaphore::new(handshakes)), patience);
    let at = listener.local_addr().unwrap();
    (Arc::new(listener), at)
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let (listener, at) = listener(folder.path(), 8, Duration::from_millis(50)).await;
    for begun in [&b""[..], &[22], &[22, 3, 1, 2, 0, 1], b"GET / HTTP/1.1\r\n"] {
        let mut client = TcpStream::connect(at).await.unwrap();
        client.write_all(begun).await.unwrap();
        let opened = timeout(Duration::from_secs(20), listener.accept().await.unwrap().open()).await.unwrap();
        assert!(opened.is_err(), "{begun:?}");
        drop(client);
    }
}

#[tokio::test]
async fn only_so_many_handshakes_are_under_way_and_the_next_waits_for_its_turn() {
    let folder = tempfile::tempdir().unwrap();
    let (listener, at) = listener(folder.path(), 2, Duration::from_millis(300)).await;
    let _clients = [TcpStream::connect(at).await.unwrap(), TcpStream::connect(at).await.unwrap()];
    let mut third = TcpStream::connect(at).await.unwrap();
    third.write_all(b"G").await.unwrap();
    let began = Instant::now();
    let (one, two) = (listener.accept().await.unwrap(), listener.accept().await.unwrap());
    let waiting = tokio::spawn(async move { (one.open().await.is_err(), two.open().await.is_err()) });
    // the third is accepted once one of them is given up
    listener.accept().await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(290), "{:?}", began.elapsed());
    assert_eq!(waiting.await.unwrap(), (true, true));
}

#[tokio::test]
async fn who_is_not_trusted_is_not_accepted() {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = tcp.local_addr().unwrap();
    let listener = Listener::new(tcp, None, vec![Network::read("10.0.0.0/8").unwrap()]);
    let mut client = TcpStream::connect(at).await.unwrap();
    let end = async {
        let mut rest = Vec::new();
        let _reset_or_end = client.read_to_end(&mut rest).await;
        rest
    };
    tokio::select! {
        _ = listener.accept() => panic!("it was let in"),
        rest = end => assert!(rest.is_empty()),
    }
}

#[tokio::test]
async fn whoever_asks_for_localhost_meets_nobody_else() {
    let (here, there) = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
    let mut listener = Listener::from(TcpListener::bind((here, 0)).await.unwrap());
    let port = listener.local_addr().unwrap().port();
    if listener.take_localhost().await.is_err() {
        // a port of this machine's own choosing, which somebody else has at the other address: as it should be then
        return assert!(TcpListener::bind((there, port)).await.is_err());
    }
    for address in [IpAddr::from(here), IpAddr::from(there)] {
        let had = TcpListener::bind((address, port)).await.expect_err("nobody else gets it");
        if nobody_has(&had) {
            continue;
        }
        assert_eq!(had.kind(), io::ErrorKind::AddrInUse, "{address}");
        let client = tokio::spawn(TcpStream::connect((address, port)));
        assert!(matches!(listener.accept().await.unwrap().open().await.unwrap(), Either::Left(_)), "{address}");
        client.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_localhost_that_is_half_taken_is_not_ours() {
    // port by port, until one is free at both addresses for the two of us
    for _ in 0..20 {
        let Ok(other) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await else { return };
        let port = other.local_addr().unwrap().port();
        let Ok(tcp) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await else { continue };
        let refused = Listener::from(tcp).take_localhost().await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        return;
    }
    panic!("no port is free");
}

proptest::proptest! {
    /// A certificate with bytes changed is read or is not, and never vouched for, whoever signed the one it was.
    #[test]
    fn a_certificate_that_was_tampered_with_is_nobodys(at in 0_usize.., with in 1_u8.., cut in 0_usize..) {
        let signer = signer::Signer::new("example.org");
        let authorities = Authorities::open(Vec::new(), &["example.org".to_owned()]).unwrap();
        authorities.take("example.org", std::slice::from_ref(&signer.der), None).unwrap();
        let mut der = signer.svid("spiffe://example.org/bot").chain[0].to_vec();
        let now = tokio_rustls::rustls::pki_types::UnixTime::now();
        let judge = |der: &[u8]| authorities.judge(&[der.to_vec().into()], now).is_ok();
        assert!(judge(&der));
        let at = at % der.len();
        der[at] ^= with;
        proptest::prop_assert!(!judge(&der), "byte {at} ^ {with}");
        proptest::prop_assert!(!judge(&der[..cut % der.len()]));
    }
}

#[test]
fn what_is_known_of_an_authority_is_believed_until_its_time() {
    let signer = signer::Signer::new("example.org");
    let authorities = Authorities::open(Vec::new(), &["example.org".to_owned()]).unwrap();
    let svid = signer.svid("spiffe://example.org/bot");
    let now = tokio_rustls::rustls::pki_types::UnixTime::now();
    assert_eq!(authorities.judge(&svid.chain, now).err(), Some(NotVouched::NoAuthority));
    let soon = std::time::Instant::now() + Duration::from_secs(3_600);
    authorities.take("example.org", std::slice::from_ref(&signer.der), Some(soon)).unwrap();
    authorities.judge(&svid.chain, now).unwrap();
    authorities.take("example.org", std::slice::from_ref(&signer.der), Some(std::time::Instant::now())).unwrap();
    assert_eq!(authorities.judge(&svid.chain, now).err(), Some(NotVouched::NoAuthority));
    // an authority that has ended itself
    let later = tokio_rustls::rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(80_000_000_000));
    authorities.take("example.org", std::slice::from_ref(&signer.der), None).unwrap();
    assert_eq!(authorities.judge(&svid.chain, later).err(), Some(NotVouched::NoAuthority));
    assert!(authorities.judge(&vec![svid.chain[0].clone(); 17], now).is_err());
    assert!(authorities.judge(&[], now).is_err());
}
