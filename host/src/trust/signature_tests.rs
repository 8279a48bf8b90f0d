//! Tests of `signature`, with signatures of the real `ssh-keygen`.

use std::process::{Command, Stdio};

use proptest::prelude::*;
use ssh_key::PrivateKey;
use ssh_key::private::Ed25519Keypair;
use tempfile::TempDir;

use super::*;

const COMPONENT: &[u8] = b"\0asm and more";

/// A folder of keys and signed files.
struct Keys(TempDir);

impl Keys {
    fn new() -> Keys {
        Keys(TempDir::new().unwrap())
    }

    fn ssh_keygen(&self, arguments: &[&str]) {
        let run = Command::new("ssh-keygen")
            .args(arguments)
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output()
            .expect("ssh-keygen is needed: scripts/setup --tests installs it");
        assert!(run.status.success(), "{arguments:?}: {run:?}");
    }

    /// Makes a key; its public line.
    fn make(&self, name: &str, kind: &str) -> String {
        let comment = format!("{name} of the tests");
        let arguments = ["-q", "-t", kind, "-N", "", "-C", &comment, "-f", name];
        self.ssh_keygen(&arguments);
        std::fs::read_to_string(self.0.path().join(format!("{name}.pub"))).unwrap()
    }

    fn sign(&self, key: &str, namespace: &str, bytes: &[u8]) -> Vec<u8> {
        let file = self.0.path().join("component.wasm");
        let signature = self.0.path().join("component.wasm.sig");
        let _ = std::fs::remove_file(&signature);
        std::fs::write(&file, bytes).unwrap();
        self.ssh_keygen(&[
            "-q",
            "-Y",
            "sign",
            "-f",
            key,
            "-n",
            namespace,
            "component.wasm",
        ]);
        std::fs::read(signature).unwrap()
    }
}

fn trust(keys: &[&str]) -> Trust {
    Trust {
        keys: keys.iter().map(|line| (*line).to_owned()).collect(),
        ..Trust::default()
    }
}

fn open(keys: &[&str]) -> TrustedKeys {
    TrustedKeys::open(&trust(keys)).unwrap()
}

/// A signature made here, of any shape that the format has.
fn forge(seed: u8, namespace: &str, bytes: &[u8]) -> SshSig {
    let pair = PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]));
    SshSig::sign(&pair, namespace, HashAlg::Sha512, bytes).unwrap()
}

fn pem(signature: &SshSig) -> Vec<u8> {
    signature
        .to_pem(ssh_key::LineEnding::LF)
        .unwrap()
        .into_bytes()
}

#[test]
fn what_ssh_keygen_signs_is_known_by_its_key() {
    let keys = Keys::new();
    let (ann, ben) = (keys.make("ann", "ed25519"), keys.make("ben", "ed25519"));
    let trusted = open(&[&ben, &ann]);
    let signature = keys.sign("ann", NAMESPACE, COMPONENT);
    assert!(signature.len() < MAX_SIGNATURE_BYTES / 4);
    let signer = trusted
        .verify(COMPONENT, Some(&signature))
        .unwrap()
        .unwrap();
    assert_eq!(signer.comment, "ann of the tests");
    let listed = Command::new("ssh-keygen")
        .args(["-l", "-f", "ann.pub"])
        .current_dir(keys.0.path())
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains(&signer.fingerprint), "{listed}: {signer:?}");
    let large = vec![7; 3_000_000];
    let signature = keys.sign("ben", NAMESPACE, &large);
    assert!(trusted.verify(&large, Some(&signature)).unwrap().is_some());
}

#[test]
fn every_way_to_be_wrong_has_its_own_name() {
    let keys = Keys::new();
    let ann = keys.make("ann", "ed25519");
    let eve = keys.make("eve", "ed25519");
    keys.make("rsa", "rsa");
    keys.make("ecdsa", "ecdsa");
    let trusted = open(&[&ann]);
    let verify = |signature: &[u8]| trusted.verify(COMPONENT, Some(signature)).unwrap_err();

    let error = verify(&keys.sign("ann", NAMESPACE, b"other bytes"));
    assert!(
        matches!(error, SignatureError::OtherBytes { .. }),
        "{error}"
    );
    let error = verify(&keys.sign("ann", "git", COMPONENT));
    assert!(error.to_string().contains("made for `git`"), "{error}");
    let error = verify(&keys.sign("eve", NAMESPACE, COMPONENT));
    let eve = PublicKey::from_openssh(&eve).unwrap();
    let fingerprint = eve.fingerprint(HashAlg::Sha256).to_string();
    assert!(matches!(error, SignatureError::UnknownKey { .. }));
    assert!(error.to_string().contains(&fingerprint), "{error}");
    for kind in ["rsa", "ecdsa"] {
        let error = verify(&keys.sign(kind, NAMESPACE, COMPONENT));
        assert!(
            matches!(error, SignatureError::NotEd25519 { .. }),
            "{error}"
        );
    }
    let whole = keys.sign("ann", NAMESPACE, COMPONENT);
    let cut = &whole[..whole.len() / 2];
    let long = vec![b'A'; MAX_SIGNATURE_BYTES + 1];
    for wrong in [&b""[..], b"hello", cut, &long, &COMPONENT[..4]] {
        let error = verify(wrong);
        assert!(matches!(error, SignatureError::Malformed(_)), "{error}");
    }
}

#[test]
fn a_forged_signature_in_the_name_of_a_trusted_key_is_refused() {
    let ann = Ed25519Keypair::from_seed(&[1; 32]);
    let line = PublicKey::from(ann.public).to_openssh().unwrap();
    let trusted = open(&[&line]);
    let good = forge(1, NAMESPACE, COMPONENT);
    assert!(
        trusted
            .verify(COMPONENT, Some(&pem(&good)))
            .unwrap()
            .is_some()
    );
    // Eve's signature, said to be Ann's; and Ann's, said to be for us.
    let eve = forge(2, NAMESPACE, COMPONENT);
    let other = forge(1, "git", COMPONENT);
    for signature in [eve.signature(), other.signature()] {
        let claimed = SshSig::new(
            good.public_key().clone(),
            NAMESPACE,
            HashAlg::Sha512,
            signature.clone(),
        );
        let error = trusted
            .verify(COMPONENT, Some(&pem(&claimed.unwrap())))
            .unwrap_err();
        assert!(
            matches!(error, SignatureError::OtherBytes { .. }),
            "{error}"
        );
    }
    let hash = SshSig::new(
        good.public_key().clone(),
        NAMESPACE,
        HashAlg::Sha256,
        good.signature().clone(),
    );
    assert!(
        trusted
            .verify(COMPONENT, Some(&pem(&hash.unwrap())))
            .is_err()
    );
}

#[test]
fn a_signature_is_needed_where_it_is_required_and_judged_where_a_key_is_trusted() {
    let line = PublicKey::from(Ed25519Keypair::from_seed(&[1; 32]).public)
        .to_openssh()
        .unwrap();
    assert_eq!(open(&[]).verify(COMPONENT, Some(b"junk")).unwrap(), None);
    assert_eq!(open(&[&line]).verify(COMPONENT, None).unwrap(), None);
    assert!(open(&[&line]).verify(COMPONENT, Some(b"junk")).is_err());
    let required = Trust {
        require_signature: true,
        ..trust(&[&line])
    };
    let trusted = TrustedKeys::open(&required).unwrap();
    let error = trusted.verify(COMPONENT, None).unwrap_err();
    assert!(matches!(error, SignatureError::Missing));
}

#[test]
fn the_file_of_keys_is_read_for_every_signature() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("keys");
    let line = |seed| {
        let mut key = PublicKey::from(Ed25519Keypair::from_seed(&[seed; 32]).public);
        key.set_comment(format!("number {seed}"));
        key.to_openssh().unwrap()
    };
    let settings = Trust {
        keys_file: Some(file.clone()),
        ..Trust::default()
    };
    let error = TrustedKeys::open(&settings).unwrap_err().to_string();
    assert!(error.contains("trust.keys_file"), "{error}");
    std::fs::write(&file, format!("# ours\n\n  {}\n", line(1))).unwrap();
    let trusted = TrustedKeys::open(&settings).unwrap();
    let signed_by = |seed| pem(&forge(seed, NAMESPACE, COMPONENT));
    let verify = |seed| trusted.verify(COMPONENT, Some(&signed_by(seed)));
    assert_eq!(verify(1).unwrap().unwrap().comment, "number 1");
    assert!(verify(2).is_err());
    std::fs::write(&file, line(2)).unwrap();
    assert_eq!(verify(2).unwrap().unwrap().comment, "number 2");
    assert!(verify(1).is_err());
    // Without its file nobody is trusted.
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(verify(2).unwrap_err(), SignatureError::Keys(_)));
    std::fs::write(&file, vec![b'#'; 256 * 1024 + 1]).unwrap();
    assert!(verify(2).unwrap_err().to_string().contains("262144"));
}

#[test]
fn a_line_that_is_no_ed25519_key_is_refused_by_its_place() {
    let keys = Keys::new();
    let good = keys.make("good", "ed25519");
    let rsa = keys.make("rsa", "rsa");
    let optional = format!("restrict {good}");
    for wrong in ["", "hello", "ssh-ed25519 AAAA", &rsa, &optional] {
        let error = TrustedKeys::open(&trust(&[&good, wrong])).unwrap_err();
        let error = error.to_string();
        assert!(error.starts_with("trust.keys, key 2: "), "{error}");
    }
    let file = keys.0.path().join("rsa.pub");
    let settings = Trust {
        keys_file: Some(file),
        ..Trust::default()
    };
    let error = TrustedKeys::open(&settings).unwrap_err().to_string();
    assert!(
        error.contains("rsa.pub, line 1: a key of the kind ssh-rsa"),
        "{error}"
    );
}

proptest! {
    #[test]
    fn no_signature_makes_it_panic(at in 0usize..400, byte: u8, junk: Vec<u8>) {
        let line = PublicKey::from(Ed25519Keypair::from_seed(&[1; 32]).public)
            .to_openssh()
            .unwrap();
        let trusted = open(&[&line]);
        let good = pem(&forge(1, NAMESPACE, COMPONENT));
        let mut changed = good.clone();
        let at = at % changed.len();
        changed[at] = byte;
        let _ = trusted.verify(COMPONENT, Some(&changed));
        prop_assert!(trusted.verify(COMPONENT, Some(&junk)).is_err());
    }
}
