//! The cache of compiled components: what it gives back, what it does not
//! trust, and that nothing that happens to its folder stops it from answering.

use std::time::Duration;

use tempfile::TempDir;
use wasmtime::Config;

use super::*;

/// One for small things.
const MANY: usize = 1 << 20;

fn open(data: &TempDir) -> CompiledCache {
    CompiledCache::open(data.path(), &Engine::default(), MANY).unwrap()
}

fn digest(of: &str) -> Digest {
    Digest::of(of.as_bytes())
}

/// The files of the folder, without the key.
fn files(cache: &CompiledCache) -> Vec<PathBuf> {
    let files = cache.folder.read_dir().unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.retain(|path| !path.ends_with(KEY));
    files.sort();
    files
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn what_was_kept_is_there_after_a_restart_and_is_nobodys_elses() {
    let data = tempfile::tempdir().unwrap();
    let cache = open(&data);
    assert_eq!(cache.get(digest("a")), None);
    cache.put(digest("a"), b"code of a");
    cache.put(digest("empty"), b"");
    assert_eq!(cache.get(digest("a")).unwrap(), b"code of a");
    let cache = open(&data);
    assert_eq!(cache.get(digest("a")).unwrap(), b"code of a");
    assert_eq!(cache.get(digest("empty")).unwrap(), b"");
    assert_eq!(cache.get(digest("b")), None);
    assert_eq!(mode(&cache.folder), 0o700);
    assert_eq!(mode(&cache.folder.join(KEY)), 0o600);
    for file in files(&cache) {
        assert_eq!(mode(&file), 0o600);
    }
}

#[test]
fn a_damaged_file_is_not_trusted_and_is_replaced() {
    let data = tempfile::tempdir().unwrap();
    let cache = open(&data);
    let path = cache.path(digest("a"));
    cache.put(digest("a"), b"code of a");
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(cache.get(digest("a")), None, "byte {at} changed");
        std::fs::write(&path, &whole[..at]).unwrap();
        assert_eq!(cache.get(digest("a")), None, "cut after {at}");
    }
    std::fs::write(&path, [&whole[..], b"more"].concat()).unwrap();
    assert_eq!(cache.get(digest("a")), None);
    cache.put(digest("a"), b"code of a");
    assert_eq!(cache.get(digest("a")).unwrap(), b"code of a");
    assert_eq!(files(&cache), [path]);
}

#[test]
fn a_file_is_only_for_its_component_its_engine_and_its_host() {
    let data = tempfile::tempdir().unwrap();
    let cache = open(&data);
    cache.put(digest("a"), b"code of a");
    // Another component's.
    std::fs::copy(cache.path(digest("a")), cache.path(digest("b"))).unwrap();
    assert_eq!(cache.get(digest("b")), None);
    // Another engine's: it is not found, and not trusted under this one's name.
    let engine = Engine::new(Config::new().epoch_interruption(true)).unwrap();
    let other = CompiledCache::open(data.path(), &engine, MANY).unwrap();
    assert_ne!(other.path(digest("a")), cache.path(digest("a")));
    assert_eq!(other.get(digest("a")), None);
    std::fs::copy(cache.path(digest("a")), other.path(digest("a"))).unwrap();
    assert_eq!(other.get(digest("a")), None);
    // Another host's.
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = open(&elsewhere);
    std::fs::copy(cache.path(digest("a")), foreign.path(digest("a"))).unwrap();
    assert_eq!(foreign.get(digest("a")), None);
    // Here it still is what it was.
    assert_eq!(cache.get(digest("a")).unwrap(), b"code of a");
}

#[test]
fn a_key_that_is_damaged_or_known_is_replaced() {
    let data = tempfile::tempdir().unwrap();
    let mut before = open(&data).key;
    let key = data.path().join(FOLDER).join(KEY);
    let damages: [&dyn Fn(); 4] = [
        &|| std::fs::write(&key, [0; 31]).unwrap(),
        &|| std::fs::write(&key, [0; 33]).unwrap(),
        &|| std::fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap(),
        &|| std::fs::remove_file(&key).unwrap(),
    ];
    for damage in damages {
        open(&data).put(digest("a"), b"code of a");
        damage();
        let cache = open(&data);
        assert_ne!(cache.key, before);
        assert_eq!(mode(&key), 0o600);
        assert_eq!(cache.get(digest("a")), None);
        assert_eq!(open(&data).key, cache.key);
        before = cache.key;
    }
}

#[test]
fn a_folder_that_others_may_read_is_closed() {
    let data = tempfile::tempdir().unwrap();
    let folder = data.path().join(FOLDER);
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    open(&data);
    assert_eq!(mode(&folder), 0o700);
}

#[test]
fn the_longest_unused_go_when_it_is_full() {
    let data = tempfile::tempdir().unwrap();
    let room = 3 * (100 + PROOF);
    let cache = CompiledCache::open(data.path(), &Engine::default(), room).unwrap();
    let code = [7; 100];
    let old = SystemTime::now() - Duration::from_secs(1000);
    for (age, name) in ["a", "b", "c"].into_iter().enumerate() {
        cache.put(digest(name), &code);
        let file = File::open(cache.path(digest(name))).unwrap();
        file.set_modified(old + Duration::from_secs(age as u64))
            .unwrap();
    }
    // The oldest is used, so the next oldest goes.
    assert!(cache.get(digest("a")).is_some());
    cache.put(digest("d"), &code);
    let there = ["a", "b", "c", "d"].map(|name| cache.get(digest(name)).is_some());
    assert_eq!(there, [true, false, true, true]);
    // Written again it takes no more room, and never is there more than may be.
    for name in ["d", "d", "d", "e", "f", "g"] {
        cache.put(digest(name), &code);
        let bytes: u64 = files(&cache)
            .iter()
            .map(|f| f.metadata().unwrap().len())
            .sum();
        assert!(bytes <= room as u64, "{bytes}");
        assert!(cache.get(digest(name)).is_some());
    }
    // What is too large for all of it removes nothing.
    cache.put(digest("large"), &[7; 1000]);
    assert_eq!(cache.get(digest("large")), None);
    assert_eq!(files(&cache).len(), 3);
    // A smaller bound holds from the next one on.
    let small = CompiledCache::open(data.path(), &Engine::default(), 100 + PROOF).unwrap();
    small.put(digest("h"), &code);
    assert_eq!(files(&small), [small.path(digest("h"))]);
}

#[test]
fn a_folder_that_cannot_be_used_costs_only_the_cache() {
    let data = tempfile::tempdir().unwrap();
    assert!(CompiledCache::open(data.path(), &Engine::default(), 0).is_none());
    let cache = open(&data);
    cache.put(digest("a"), b"code");
    // Taken away while it runs.
    std::fs::remove_dir_all(&cache.folder).unwrap();
    assert_eq!(cache.get(digest("a")), None);
    cache.put(digest("a"), b"code");
    assert_eq!(cache.get(digest("a")), None);
    // No folder at the start.
    std::fs::write(data.path().join(FOLDER), b"a file").unwrap();
    assert!(CompiledCache::open(data.path(), &Engine::default(), MANY).is_none());
}

#[test]
fn a_read_only_folder_is_still_read() {
    let data = tempfile::tempdir().unwrap();
    let cache = open(&data);
    cache.put(digest("a"), b"code");
    let set = |mode| std::fs::set_permissions(&cache.folder, Permissions::from_mode(mode));
    set(0o500).unwrap();
    let again = open(&data);
    assert_eq!(again.get(digest("a")).unwrap(), b"code");
    // Refused to all but root.
    again.put(digest("b"), b"code");
    assert_eq!(again.get(digest("a")).unwrap(), b"code");
    set(0o700).unwrap();
}
