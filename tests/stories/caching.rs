//! What is stored stands in for an app, and only as far as the app has said.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ::http::Request;
use http_body_util::Full;

use crate::world::World;

#[test]
fn a_page_stands_in_for_its_app_while_that_is_down_and_is_asked_about_afterwards() {
    let world = World::new();
    let app = App::start();
    let prime = world.prime().project("shop", &format!("upstream = \"{}\"\n", app.address)).start();
    let page = "http://shop.test/page";
    prime.says(page, "page 1");
    let first = prime.get(page);
    assert!(first.header("cache-status").starts_with("opri; fwd=stale; fwd-status=304; stored"), "{:?}", first.headers);
    app.is_down.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let spare = prime.get(page);
        assert_eq!((spare.status.as_u16(), spare.body.as_str()), (200, "page 1"), "{:?}", spare.headers);
        assert_eq!(spare.header("cache-status"), "opri; fwd=stale; detail=stale-if-error");
        for (method, range, status, body) in
            [("GET", "bytes=0-3", 206, "page"), ("HEAD", "", 200, ""), ("HEAD", "bytes=0-3", 200, "")]
        {
            let request = Request::builder().method(method).uri(page).header("range", range);
            let spare = prime.ask(request.body(Full::default()).unwrap());
            assert_eq!((spare.status.as_u16(), spare.body.as_str()), (status, body), "{:?}", spare.headers);
            assert_eq!(spare.header("cache-status"), "opri; fwd=stale; detail=stale-if-error");
        }
    }
    assert!(prime.get("http://shop.test/other").status.is_server_error(), "nothing stands in for it");
    let asked = app.asked.load(Ordering::SeqCst);
    app.is_down.store(false, Ordering::SeqCst);
    prime.eventually(page, |answer| answer.header("cache-status") == "opri; fwd=stale; fwd-status=304; stored");
    assert!(app.asked.load(Ordering::SeqCst) > asked);
    prime.does(&["purge", "shop", "--url", "/page"]);
    assert_eq!(prime.get(page).header("cache-status"), "opri; fwd=miss; stored");
}

/// Says `page 1` to whoever asks without having it, and hangs up on everybody while it is down.
struct App {
    address: SocketAddr,
    is_down: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl App {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (is_down, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let app = Self { address: listener.local_addr().unwrap(), is_down: is_down.clone(), asked: asked.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if !is_down.load(Ordering::SeqCst) {
                    asked.fetch_add(1, Ordering::SeqCst);
                    answer(stream);
                }
            }
        });
        app
    }
}

fn answer(mut stream: TcpStream) {
    let mut head = [0; 4096];
    let read = stream.read(&mut head).unwrap_or(0);
    let has_it = String::from_utf8_lossy(&head[..read]).to_lowercase().contains("\r\nif-none-match: \"1\"\r\n");
    let (status, end) =
        if has_it { ("304 Not Modified", "\r\n") } else { ("200 OK", "Content-Length: 6\r\n\r\npage 1") };
    let fields = "Cache-Control: max-age=0, stale-if-error=600\r\nETag: \"1\"\r\nConnection: close\r\n";
    // Whoever asked may be gone.
    let _ = stream.write_all(format!("HTTP/1.1 {status}\r\n{fields}{end}").as_bytes());
}
