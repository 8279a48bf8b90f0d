//! Whom the admin plane believes: its certificate, failed authentications, and
//! the signatures of components.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tidepool_tests::{Ran, Server, Setup, built, command, within};

/// An authority, whose certificate is in a file for clients.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
    file: PathBuf,
}

impl Authority {
    fn new(folder: &Path, name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let file = folder.join(format!("{name}.pem"));
        std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        Authority { params, key, file }
    }

    /// A certificate for loopback, and its key.
    fn issue(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &issuer).unwrap();
        (cert.pem(), key.serialize_pem())
    }
}

/// A set-up whose admin plane has the certificate in these two files.
fn with_tls(setup: Setup) -> (Setup, PathBuf, PathBuf) {
    let (cert, key) = (
        setup.folder().join("cert.pem"),
        setup.folder().join("key.pem"),
    );
    let settings = [
        format!("admin.tls_cert={}", cert.display()),
        format!("admin.tls_key={}", key.display()),
    ];
    let setup = settings.iter().fold(setup, |setup, it| setup.set(it));
    (setup, cert, key)
}

/// `tidepool handlers` over https, trusting this authority.
async fn handlers(server: &Server, authority: &Authority) -> Ran {
    let admin = format!("https://{}", server.admin().address());
    let file = authority.file.to_string_lossy();
    command::run(["handlers", "--admin", &admin, "--ca-file", &file]).await
}

/// Waits until a certificate of this authority is served: the files are looked
/// at at most once a second, when somebody connects.
async fn serves(server: &Server, authority: &Authority) {
    let asked = async { while handlers(server, authority).await.code != Some(0) {} };
    within("the new certificate", asked).await;
}

#[tokio::test]
async fn the_admin_plane_over_tls_follows_its_files() {
    let (setup, cert, key) = with_tls(Setup::new());
    let first = Authority::new(setup.folder(), "first");
    let second = Authority::new(setup.folder(), "second");
    let write = |(new_cert, new_key): (String, String)| {
        std::fs::write(&cert, new_cert).unwrap();
        std::fs::write(&key, new_key).unwrap();
    };
    write(first.issue());
    let server = setup.start().await;
    assert!(
        handlers(&server, &first)
            .await
            .success()
            .contains("hydrate")
    );
    let ran = handlers(&server, &second).await;
    let line = ran.refused(3);
    assert!(
        line.contains("no secure connection") && line.contains("--ca-file"),
        "{line}"
    );

    write(second.issue());
    serves(&server, &second).await;
    assert_eq!(handlers(&server, &first).await.code, Some(3));

    // A pair that does not fit: the old one stays, and that is said.
    std::fs::write(&key, first.issue().1).unwrap();
    let asked = async {
        while server
            .log()
            .count(&["keeps its old certificate", "admin.tls_key"])
            == 0
        {
            handlers(&server, &second).await.success();
        }
    };
    within("the warning", asked).await;
    handlers(&server, &second).await.success();
    write(first.issue());
    serves(&server, &first).await;
    assert_eq!(server.log().count(&["keeps its old certificate"]), 1);
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn http_in_clear_to_a_plane_with_a_certificate_gets_no_answer() {
    let (setup, cert, key) = with_tls(Setup::new());
    let authority = Authority::new(setup.folder(), "authority");
    let (new_cert, new_key) = authority.issue();
    std::fs::write(&cert, new_cert).unwrap();
    std::fs::write(&key, new_key).unwrap();
    let server = setup.start().await;
    let ran = server.cli(&["handlers"]).await;
    let line = ran.refused(3);
    assert!(line.contains("https://"), "{line}");
    handlers(&server, &authority).await.success();

    // The other way round, to a data plane.
    let region = server.region("us-east-1").address();
    let ran = command::run(["handlers", "--admin", &format!("https://{region}")]).await;
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.stderr.contains("write http://"), "{ran:?}");
}

#[tokio::test]
async fn a_certificate_that_cannot_be_served_is_refused_at_the_start() {
    let (setup, cert, _) = with_tls(Setup::new());
    let ran = setup.run().await;
    let line = ran.refused(1);
    assert!(
        line.contains("admin.tls_cert = ") && line.contains(&*cert.to_string_lossy()),
        "{line}"
    );
    let half = Setup::new().set("admin.tls_key=key.pem").run().await;
    assert!(half.refused(1).contains("set admin.tls_cert too"));
}

#[tokio::test]
async fn tokens_over_a_network_in_clear_are_warned_of() {
    let setup = Setup::new().admin_at("0.0.0.0:0");
    let setup = setup.environment("TIDEPOOL_ADMIN_TOKEN", "a-token-of-the-tests");
    let server = setup.start().await;
    server.log().line(&["WARN", "tokens travel in clear"]).await;
}

#[tokio::test]
async fn who_keeps_failing_is_told_to_wait_and_the_right_token_is_let_in() {
    const TOKEN: &str = "a-token-of-the-tests";
    let setup = Setup::new().environment("TIDEPOOL_ADMIN_TOKEN", TOKEN);
    let server = setup.start().await;
    let ask = |token: &str| {
        let call = server.admin().get("/v1/handlers");
        call.header("authorization", format!("Bearer {token}"))
            .send()
    };
    for _ in 0..10 {
        ask("wrong").await.problem(401, "unauthorized");
    }
    let answer = ask("wrong").await;
    answer.problem(429, "too-many-failures");
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    ask(TOKEN).await.expect(200);
    ask("wrong").await.problem(429, "too-many-failures");
}

/// Signs a file as a user does.
async fn ssh_keygen(folder: &Path, arguments: &[&str]) {
    let mut command = command::command(Path::new("ssh-keygen"));
    let ran = command::run_to_end(command.args(arguments).current_dir(folder)).await;
    assert_eq!(ran.code, Some(0), "{arguments:?}: {ran:?}");
}

#[tokio::test]
async fn only_what_a_trusted_key_has_signed_is_deployed_where_that_is_required() {
    let setup = Setup::new().arguments(&["--require-signature"]);
    let folder = setup.folder().to_owned();
    for name in ["ann", "eve"] {
        ssh_keygen(
            &folder,
            &["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", name],
        )
        .await;
    }
    let public = std::fs::read_to_string(folder.join("ann.pub")).unwrap();
    let refused = setup.clone().run().await;
    assert!(refused.refused(1).contains("trust.keys"));
    let setup = setup.set(&format!("trust.keys={}", public.trim()));
    let server = setup.start().await;

    let component = folder.join("get.wasm");
    std::fs::write(&component, built::bytes(&built::fixture("tagged-a"))).unwrap();
    let file = component.to_string_lossy();
    let deploy = ["deploy", "get", &*file, "--region", "eu-west-1"];
    let unsigned = server.cli(&deploy).await;
    assert!(
        unsigned.refused(1).contains("ssh-keygen -Y sign"),
        "{unsigned:?}"
    );
    // Refused before there is a line of it, and told as its last line would be.
    let ran = server.cli(&[&deploy[..], &["--json"]].concat()).await;
    ran.refused(1);
    let told: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(told["problem"]["type"], "/problems/forbidden", "{told}");
    let call = server
        .admin()
        .post("/v1/handlers/get")
        .body(built::bytes(&component));
    call.send().await.problem(403, "forbidden");

    let signature = folder.join("get.wasm.sig");
    let sign = async |key, namespace| {
        let sign = ["-q", "-Y", "sign", "-f", key, "-n", namespace, "get.wasm"];
        ssh_keygen(&folder, &sign).await;
    };
    for (key, namespace, says) in [
        ("eve", "tidepool", "not trusted here"),
        ("ann", "git", "made for `git`"),
    ] {
        sign(key, namespace).await;
        let ran = server.cli(&deploy).await;
        assert!(ran.refused(1).contains(says), "{ran:?}");
        std::fs::remove_file(&signature).unwrap();
    }
    sign("ann", "tidepool").await;
    let other = folder.join("other.wasm");
    std::fs::write(&other, built::bytes(&built::fixture("tagged-b"))).unwrap();
    let (other, sig) = (other.to_string_lossy(), signature.to_string_lossy());
    let ran = server
        .cli(&["deploy", "get", &*other, "--signature", &*sig])
        .await;
    assert!(ran.refused(1).contains("not for these bytes"), "{ran:?}");
    assert_eq!(server.active("eu-west-1", "get").await, 1);

    server.cli(&deploy).await.success();
    assert_eq!(server.active("eu-west-1", "get").await, 2);
    let revisions = server.revisions("eu-west-1", "get").await;
    let note = revisions[0]["note"].as_str().unwrap_or_default();
    assert!(
        note.starts_with("signed by SHA256:") && note.ends_with("(ann)"),
        "{note}"
    );
}
