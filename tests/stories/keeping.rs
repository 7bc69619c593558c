//! What is stored lies on disk as well: it outlives the edge, and more of it is kept than the memory holds.

use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ::http::{Method, Request, StatusCode};
use http_body_util::Full;

use crate::full_disk::SmallDisk;
use crate::http::{self, Answer};
use crate::world::{Prime, World};

/// Read at once, and read as they leave.
const LENGTHS: [usize; 4] = [0, 1000, 100_000, 3_000_000];

#[test]
fn an_edge_that_is_killed_finds_what_it_had_stored() {
    let (world, app) = (World::new(), App::start());
    let prime = world.prime().project("shop", &app.project()).start();
    for length in LENGTHS {
        assert_eq!(get(&prime, &path(length)).header("cache-status"), "opri; fwd=miss; stored");
    }
    until_written(&prime, LENGTHS.iter().sum());
    kill(&prime);
    for length in LENGTHS {
        let whole = get(&prime, &path(length));
        assert!(whole.header("cache-status").starts_with("opri; hit; ttl="), "{length}: {:?}", whole.headers);
        assert_eq!((whole.status, &whole.body), (StatusCode::OK, &body(length)), "{length}");
        assert!(!whole.header("age").is_empty());
        let head = ask(&prime, Method::HEAD, &path(length), &[]);
        assert_eq!(
            (head.status, head.header("content-length"), head.body.len()),
            (StatusCode::OK, &*length.to_string(), 0)
        );
        let same = ask(&prime, Method::GET, &path(length), &[("if-none-match", &format!("\"{length}\""))]);
        assert_eq!((same.status, same.body.len()), (StatusCode::NOT_MODIFIED, 0));
    }
    for (first, last) in [(0, 0), (65_535, 65_536), (1_000_000, 2_500_000), (2_999_999, 2_999_999)] {
        let part = ask(&prime, Method::GET, &path(3_000_000), &[("range", &format!("bytes={first}-{last}"))]);
        assert_eq!(part.header("content-range"), format!("bytes {first}-{last}/3000000"));
        assert_eq!((part.status, &part.body[..]), (StatusCode::PARTIAL_CONTENT, &body(3_000_000)[first..=last]));
    }
    assert_eq!(app.asked(), LENGTHS.len(), "and the app was not asked again");
}

#[test]
fn over_http2_it_is_found_as_well() {
    let (world, app) = (World::new(), App::start());
    let prime = world.prime().project("shop", &app.project()).start();
    for length in LENGTHS {
        get2(&prime, &path(length));
    }
    until_written(&prime, LENGTHS.iter().sum());
    kill(&prime);
    for length in LENGTHS {
        let whole = get2(&prime, &path(length));
        assert!(whole.header("cache-status").starts_with("opri; hit; ttl="), "{length}: {:?}", whole.headers);
        assert!((whole.status, &whole.body) == (StatusCode::OK, &body(length)), "{length}");
    }
    assert_eq!(app.asked(), LENGTHS.len());
}

#[test]
fn what_the_memory_cannot_hold_is_found_on_disk() {
    for memory in ["0", "2MiB"] {
        let (world, app) = (World::new(), App::start());
        let machine = format!("[cache]\nmemory = \"{memory}\"\n");
        let prime = world.prime().with(&machine).project("shop", &app.project()).start();
        let paths: Vec<String> = (0..50).map(|number| format!("/100000?{number}")).collect();
        for path in &paths {
            get(&prime, path);
        }
        until_written(&prime, paths.len() * 100_000);
        for path in &paths {
            let again = get(&prime, path);
            assert!(again.header("cache-status").starts_with("opri; hit"), "{:?}", again.headers);
            assert_eq!(again.body, body(100_000));
        }
        assert_eq!(app.asked(), paths.len());
    }
}

#[test]
fn a_project_that_asks_for_ever_more_evicts_nobody_s_share() {
    // Once from memory, once from disk.
    for (cache, expected) in [("memory = \"4MiB\"\ndisk = \"0\"\n", 20), ("memory = \"0\"\ndisk = \"16MiB\"\n", 20)] {
        let (world, quiet, loud) = (World::new(), App::start(), App::start());
        let prime = world.prime().with(&format!("[cache]\n{cache}"));
        let prime = prime.project("quiet", &quiet.project()).project("loud", &loud.project()).start();
        let get = |project: &str, path: String| {
            let request = Request::get(format!("http://{project}.test{path}")).body(Full::default()).unwrap();
            prime.ask(request)
        };
        let pages = || (0..expected).map(|number| format!("/40000?{number}"));
        for page in pages() {
            get("quiet", page);
        }
        // Ten times what there is room for.
        for number in 0..1600 {
            get("loud", format!("/100000?{number}"));
        }
        for page in pages() {
            let again = get("quiet", page);
            assert!(again.header("cache-status").starts_with("opri; hit"), "{cache}: {:?}", again.headers);
            assert_eq!(again.body, body(40_000));
        }
        assert_eq!((quiet.asked(), loud.asked()), (expected, 1600), "{cache}");
    }
}

#[test]
fn what_is_too_large_for_the_memory_goes_to_disk_alone() {
    let (world, app) = (World::new(), App::start());
    let prime = world.prime().with("[cache]\nmemory = \"2MiB\"\n").project("shop", &app.project()).start();
    let length = 20_000_000;
    assert_eq!(get(&prime, &path(length)).body.len(), length);
    prime.until("it is written whole", || get(&prime, &path(length)).header("cache-status").starts_with("opri; hit"));
    let asked = app.asked();
    let again = get(&prime, &path(length));
    assert!(again.body == body(length) && app.asked() == asked, "{:?}", again.headers);
    kill(&prime);
    let part = ask(&prime, Method::GET, &path(length), &[("range", "bytes=5-9, 10000000-10000004")]);
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
    let whole = body(length);
    assert!(part.body.contains(&whole[5..10]) && part.body.contains(&whole[10_000_000..10_000_005]), "{}", part.body);
    assert_eq!(app.asked(), asked);
}

#[test]
fn what_was_changed_by_a_write_does_not_come_back_with_a_restart() {
    let (world, app) = (World::new(), App::start());
    let prime = world.prime().project("shop", &app.project()).start();
    get(&prime, "/1000?changed");
    get(&prime, "/1000?same");
    until_written(&prime, 2000);
    ask(&prime, Method::POST, "/1000?changed", &[]);
    // It is written after what was removed.
    get(&prime, "/100000");
    until_written(&prime, 102_000);
    kill(&prime);
    assert!(get(&prime, "/1000?same").header("cache-status").starts_with("opri; hit"));
    assert_eq!(get(&prime, "/1000?changed").header("cache-status"), "opri; fwd=miss; stored");
}

#[test]
fn what_was_purged_does_not_come_back_with_a_restart() {
    let (world, app) = (World::new(), App::start());
    let prime = world.prime().project("shop", &app.project()).start();
    app.says("Cache-Control: max-age=600\r\nSurrogate-Key: Blue sky\r\n");
    get(&prime, "/1000?blue");
    get(&prime, "/3000000?blue");
    app.says("Cache-Control: max-age=600\r\n");
    get(&prime, "/1000?plain");
    get(&prime, "/1000?url");
    until_written(&prime, 3_003_000);
    prime.does(&["purge", "shop", "--tag", "blue"]);
    prime.does(&["purge", "shop", "--url", "/1000?url"]);
    for _ in 0..2 {
        kill(&prime);
        assert!(get(&prime, "/1000?plain").header("cache-status").starts_with("opri; hit"));
    }
    for gone in ["/1000?blue", "/3000000?blue", "/1000?url"] {
        assert_eq!(get(&prime, gone).header("cache-status"), "opri; fwd=miss; stored", "{gone}");
    }
    assert!(get(&prime, "/1000?url").header("cache-status").starts_with("opri; hit"));
}

#[test]
fn what_has_become_stale_meanwhile_is_asked_about_or_stands_in() {
    let (world, app) = (World::new(), App::start());
    app.says("Cache-Control: max-age=0, stale-if-error=600\r\n");
    let prime = world.prime().project("shop", &app.project()).start();
    get(&prime, "/1000");
    get(&prime, "/3000000");
    until_written(&prime, 3_001_000);
    kill(&prime);
    for length in [1000, 3_000_000] {
        let fresh = get(&prime, &path(length));
        assert!(fresh.header("cache-status").starts_with("opri; fwd=stale; fwd-status=304"), "{:?}", fresh.headers);
        assert_eq!(fresh.body, body(length));
    }
    app.is_down.store(true, Ordering::SeqCst);
    for length in [1000, 3_000_000] {
        let spare = get(&prime, &path(length));
        assert_eq!((spare.status, &spare.body), (StatusCode::OK, &body(length)), "{:?}", spare.headers);
    }
}

#[test]
fn what_lies_on_disk_alone_is_renewed_there_and_stays_so_over_a_restart() {
    for (memory, lengths) in [("0", [1000, 3_000_000]), ("2MiB", [200_000, 3_000_000])] {
        let (world, app) = (World::new(), App::start());
        let machine = format!("[cache]\nmemory = \"{memory}\"\n");
        let prime = world.prime().with(&machine).project("shop", &app.project()).start();
        app.says("Cache-Control: max-age=600\r\nAge: 700\r\n");
        for length in lengths {
            get(&prime, &path(length));
        }
        until_written(&prime, lengths.iter().sum());
        app.says("Cache-Control: max-age=600\r\nX-Renewed: yes\r\n");
        for length in lengths {
            let renewed = get(&prime, &path(length));
            assert_eq!(renewed.header("cache-status"), "opri; fwd=stale; fwd-status=304; stored", "{length}");
            assert!(renewed.body == body(length));
        }
        until_written(&prime, 2 * lengths.iter().sum::<usize>());
        for _ in 0..2 {
            for length in lengths {
                let hit = get(&prime, &path(length));
                assert!(hit.header("cache-status").starts_with("opri; hit; ttl="), "{length}: {:?}", hit.headers);
                assert!(hit.header("x-renewed") == "yes" && hit.body == body(length), "{length}");
            }
            kill(&prime);
        }
        assert_eq!(app.asked(), 4, "and the app was not asked again");
    }
}

#[test]
fn a_damaged_directory_is_set_aside_and_a_new_one_begun() {
    let (world, app) = (World::new(), App::start());
    let prime = world.prime().project("shop", &app.project()).start();
    get(&prime, "/1000");
    until_written(&prime, 1000);
    let cache = world.path().join("state/cache");
    for entry in std::fs::read_dir(cache.join("objects")).unwrap() {
        std::fs::write(entry.unwrap().path(), "something else entirely").unwrap();
    }
    kill(&prime);
    assert_eq!(get(&prime, "/1000").header("cache-status"), "opri; fwd=miss; stored");
    assert!(cache.join("damaged").is_dir());
    assert!(prime.logs().contains("the cache on disk is damaged"), "{}", prime.logs());
    until_written(&prime, 1000);
    kill(&prime);
    assert!(get(&prime, "/1000").header("cache-status").starts_with("opri; hit"));
}

#[test]
fn a_damaged_block_of_a_long_body_reaches_nobody_and_the_app_is_asked_again() {
    let (world, app) = (World::new(), App::start());
    let prime = world.prime().project("shop", &app.project()).start();
    let length = 3_000_000;
    get(&prime, &path(length));
    until_written(&prime, length);
    // The next edge has judged every record when it serves: what is damaged afterwards it can only see as it sends it.
    kill(&prime);
    for way in [get, get2] {
        let asked = app.asked();
        damage(&prime);
        let whole = body(length);
        let before = ask(&prime, Method::GET, &path(length), &[("range", "bytes=0-99")]);
        assert_eq!((before.status, &before.body), (StatusCode::PARTIAL_CONTENT, &whole[..100].to_owned()));
        let torn = Request::get(format!("http://shop.test{}", path(length))).body(Full::default()).unwrap();
        assert!(prime.try_ask(torn).is_err(), "what has left before the damage was seen must not look whole");
        let again = way(&prime, &path(length));
        assert!((again.status, &again.body) == (StatusCode::OK, &whole), "{:?}", again.headers);
        assert_eq!((again.header("cache-status"), app.asked()), ("opri; fwd=miss; stored", asked + 1));
        until_written(&prime, 2 * length);
        kill(&prime);
    }
}

#[test]
fn a_full_disk_costs_what_would_be_stored_and_heals_by_itself() {
    let (world, app) = (World::new(), App::start());
    let Some(disk) = SmallDisk::mount(&world) else { return };
    let prime = world.prime().project("shop", &app.project()).start();
    get(&prime, "/1000?before");
    until_written(&prime, 1000);
    disk.fill();
    for number in 0..20 {
        let answer = get(&prime, &format!("/100000?{number}"));
        assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 100_000));
    }
    disk.make_room();
    let (full, mut number) = (on_disk(&prime), 0);
    prime.until("something is stored again", || {
        number += 1;
        get(&prime, &format!("/1000?again{number}"));
        on_disk(&prime) > full
    });
    kill(&prime);
    assert!(get(&prime, "/1000?before").header("cache-status").starts_with("opri; hit"));
    let again = (1..=number)
        .filter(|number| get(&prime, &format!("/1000?again{number}")).header("cache-status").starts_with("opri; hit"));
    assert!(again.count() > 0);
    drop(prime);
}

#[test]
fn conf_bounds_it_and_takes_it_away() {
    let (world, app) = (World::new(), App::start());
    let conf =
        |disk: &str| world.prime().with(&format!("[cache]\ndisk = \"{disk}\"\n")).project("shop", &app.project());
    let prime = conf("4MiB").start();
    for number in 0..100 {
        get(&prime, &format!("/100000?{number}"));
    }
    prime.until("the newest is written", || on_disk(&prime) > 3_000_000.0);
    assert!(on_disk(&prime) <= f64::from(4 << 20));
    conf("0").write("process");
    prime.does(&["reload"]);
    assert_eq!(on_disk(&prime), 0.0);
    assert!(!world.path().join("state/cache/objects").exists());
}

fn path(length: usize) -> String {
    format!("/{length}")
}

fn body(length: usize) -> String {
    (0..length).map(|number| char::from(b'a' + (number / 7 % 26) as u8)).collect()
}

fn get(prime: &Prime, path: &str) -> Answer {
    ask(prime, Method::GET, path, &[])
}

fn get2(prime: &Prime, path: &str) -> Answer {
    let request = Request::get(format!("https://shop.test{path}")).body(Full::default()).unwrap();
    let answer = prime.world.runtime.block_on(async {
        let stream = http::tls(prime.address("https"), "shop.test", &prime.root(), "h2").await?;
        http::send2(stream, request).await
    });
    answer.unwrap_or_else(|error| panic!("{error}\n{}", prime.logs()))
}

fn ask(prime: &Prime, method: Method, path: &str, fields: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(format!("http://shop.test{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    prime.ask(request.body(Full::default()).unwrap())
}

fn on_disk(prime: &Prime) -> f64 {
    let text = prime.metrics();
    let line = text.lines().find(|line| line.starts_with("opri_cache_bytes{tier=\"disk\"}"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

fn until_written(prime: &Prime, bytes: usize) {
    prime.until("all is on disk", || on_disk(prime) > bytes as f64);
}

/// Changes one byte in the middle of what lies on disk.
fn damage(prime: &Prime) {
    for entry in std::fs::read_dir(prime.world.path().join("state/cache/objects")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            let middle = file.metadata().unwrap().len() / 2;
            file.seek(SeekFrom::Start(middle)).unwrap();
            file.write_all(b"#").unwrap();
        }
    }
}

/// Kills the edge, and waits for the next one.
fn kill(prime: &Prime) {
    let edge = prime.status()["edge"]["pid"].as_u64().unwrap();
    assert!(Command::new("kill").args(["-9", &edge.to_string()]).status().unwrap().success());
    prime.until("another edge serves", || {
        let next = prime.status()["edge"]["pid"].as_u64();
        next.is_some_and(|next| next != edge)
            && prime.try_ask(Request::get("http://other.test").body(Full::default()).unwrap()).is_ok()
    });
}

/// Says as many bytes as its path does, and hangs up on everybody while it is down.
struct App {
    address: SocketAddr,
    is_down: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    fields: Arc<std::sync::Mutex<String>>,
}

impl App {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let fields = Arc::new(std::sync::Mutex::new("Cache-Control: max-age=600\r\n".to_owned()));
        let app = Self { address, is_down: Arc::default(), asked: Arc::default(), fields };
        let (is_down, asked, fields) = (app.is_down.clone(), app.asked.clone(), app.fields.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if !is_down.load(Ordering::SeqCst) {
                    asked.fetch_add(1, Ordering::SeqCst);
                    answer(stream, &fields.lock().unwrap());
                }
            }
        });
        app
    }

    fn project(&self) -> String {
        format!("upstream = \"{}\"\n", self.address)
    }

    fn says(&self, fields: &str) {
        *self.fields.lock().unwrap() = fields.to_owned();
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn answer(mut stream: TcpStream, fields: &str) {
    let mut head = [0; 4096];
    let read = stream.read(&mut head).unwrap_or(0);
    let head = String::from_utf8_lossy(&head[..read]).to_lowercase();
    let path = head.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
    let length: usize = path.split('?').next().and_then(|length| length.parse().ok()).unwrap_or(0);
    let status =
        if head.contains(&format!("\r\nif-none-match: \"{length}\"\r\n")) { "304 Not Modified" } else { "200 OK" };
    let fields = format!("HTTP/1.1 {status}\r\n{fields}ETag: \"{length}\"\r\nConnection: close\r\n");
    let rest = match status {
        "200 OK" => format!("Content-Length: {length}\r\n\r\n{}", body(length)),
        _ => "\r\n".to_owned(),
    };
    // Whoever asked may be gone.
    let _ = stream.write_all(format!("{fields}{rest}").as_bytes());
}
