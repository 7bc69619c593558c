//! The peers, each with the smallest fair configuration: one worker, connections to the origin kept, the client's address
//! and scheme passed on, no access log, and a cache in memory where it has one.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use tempfile::TempDir;

use crate::gateway::{Door, Recipe, Stage, free_address};
use crate::running::program;

const ALL: [Door; 5] = [Door::Hit, Door::Tcp, Door::Unix, Door::SecureHit, Door::SecureTcp];

/// A peer's name, the program that it is, and how its files are written.
pub type Peer = (&'static str, &'static str, fn(&Stage, &Place<'_>) -> Conf);

pub const PEERS: [Peer; 4] = [
    ("nginx", "nginx", nginx),
    ("haproxy", "haproxy", haproxy),
    ("varnish", "varnishd", varnish),
    ("caddy", "caddy", caddy),
];

/// Where a peer is to live.
pub struct Place<'p> {
    directory: &'p Path,
    addresses: BTreeMap<Door, SocketAddr>,
}

pub struct Conf {
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    /// The doors that it has; the others are not in Debian's package.
    doors: Vec<Door>,
}

/// How a peer is started, or nothing when it is not installed.
pub fn recipe(peer: Peer, stage: &Stage) -> Option<Recipe> {
    let (name, file, write) = peer;
    let program = program(file)?;
    let directory = directory(name);
    let place = Place { directory: directory.path(), addresses: ALL.map(|door| (door, free_address())).into() };
    place.write("chain.pem", &stage.pair.chain);
    place.write("key.pem", &stage.pair.key);
    place.write("both.pem", &format!("{}{}", stage.pair.chain, stage.pair.key));
    let conf = write(stage, &place);
    let doors = place.addresses.iter().filter(|(door, _)| conf.doors.contains(door)).map(|(d, a)| (*d, *a)).collect();
    Some(Recipe { name, program, arguments: conf.arguments, environment: conf.environment, doors, directory })
}

/// In memory where Debian mounts memory, so that no peer's cache is on a disk.
pub fn directory(name: &str) -> TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory } else { Path::new("/tmp") };
    tempfile::Builder::new().prefix(&format!("peers-{name}-")).tempdir_in(place).unwrap()
}

impl Place<'_> {
    fn write(&self, file: &str, text: &str) -> String {
        let path = self.path(file);
        fs::write(&path, text).unwrap();
        path
    }

    fn path(&self, file: &str) -> String {
        self.directory.join(file).display().to_string()
    }

    fn port(&self, door: Door) -> u16 {
        self.addresses[&door].port()
    }
}

/// Small files go out faster by `writev`, large ones by `sendfile`; larger buffers than its defaults more than halve what
/// it needs for 100 KB.
fn nginx(stage: &Stage, place: &Place<'_>) -> Conf {
    let server = |door: Door| {
        let upstream = if door == Door::Unix { "unix" } else { "tcp" };
        let secure = if door.is_secure() { " ssl http2" } else { "" };
        let cache = if matches!(door, Door::Hit | Door::SecureHit) { "proxy_cache hot;" } else { "" };
        let pass = format!("proxy_pass http://{upstream}; {cache}");
        format!(
            "server {{ listen 127.0.0.1:{}{secure}; location / {{ {pass} }} location /hit/1k {{ sendfile off; {pass} }} }}\n",
            place.port(door)
        )
    };
    let text = format!(
        "user root; daemon off; worker_processes 1; worker_rlimit_nofile 20000; pid nginx.pid; error_log stderr crit;\n\
         events {{ worker_connections 9000; }}\n\
         http {{\n\
         access_log off; sendfile on; tcp_nodelay on; keepalive_timeout 300s; keepalive_requests 1000000000;\n\
         open_file_cache max=1000 inactive=600s; open_file_cache_valid 600s; open_file_cache_min_uses 1;\n\
         proxy_cache_path cache levels=1:2 keys_zone=hot:10m max_size=256m inactive=1h use_temp_path=off;\n\
         proxy_temp_path temp; client_body_temp_path body; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
         proxy_http_version 1.1; proxy_buffer_size 16k; proxy_buffers 16 16k; proxy_busy_buffers_size 64k;\n\
         proxy_set_header Connection \"\"; proxy_set_header Host $host;\n\
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;\n\
         ssl_protocols TLSv1.3; ssl_certificate chain.pem; ssl_certificate_key key.pem;\n\
         upstream tcp {{ server {tcp}; keepalive 512; keepalive_requests 1000000000; keepalive_timeout 300s; }}\n\
         upstream unix {{ server unix:{unix}; keepalive 512; keepalive_requests 1000000000; keepalive_timeout 300s; }}\n\
         {servers} }}\n",
        tcp = stage.origin.address,
        unix = stage.origin.socket.display(),
        servers = ALL.map(server).concat(),
    );
    let conf = place.write("nginx.conf", &text);
    let prefix = place.directory.display().to_string();
    let arguments = ["-p", &prefix, "-e", "stderr", "-c", &conf].map(str::to_owned).into();
    Conf { arguments, environment: Vec::new(), doors: ALL.into() }
}

fn haproxy(stage: &Stage, place: &Place<'_>) -> Conf {
    let pair = place.path("both.pem");
    let frontend = |door: Door| {
        let (backend, scheme) = (if door == Door::Unix { "unix" } else { "tcp" }, scheme(door));
        let secure = match door.is_secure() {
            true => format!(" ssl crt {pair} alpn h2,http/1.1 ssl-min-ver TLSv1.3"),
            false => String::new(),
        };
        let (look, store) = match door {
            Door::Hit | Door::SecureHit => ("http-request cache-use hot\n", "http-response cache-store hot\n"),
            _ => ("", ""),
        };
        format!(
            "frontend {door:?}\nbind 127.0.0.1:{}{secure}\n{look}http-request set-header X-Forwarded-Proto {scheme}\n\
             {store}default_backend {backend}\n",
            place.port(door)
        )
    };
    let text = format!(
        "global\nmaxconn 9000\nnbthread 1\n\
         defaults\nmode http\noption forwardfor\nhttp-reuse always\ntimeout connect 5s\ntimeout client 300s\n\
         timeout server 60s\ntimeout http-request 10s\ntimeout http-keep-alive 300s\n\
         cache hot\ntotal-max-size 256\nmax-object-size 1000000\nmax-age 3600\n\
         backend tcp\nserver origin {tcp} pool-max-conn 512\n\
         backend unix\nserver origin unix@{unix} pool-max-conn 512\n{frontends}",
        tcp = stage.origin.address,
        unix = stage.origin.socket.display(),
        frontends = ALL.map(frontend).concat(),
    );
    let conf = place.write("haproxy.cfg", &text);
    let arguments = ["-db", "-f", &conf].map(str::to_owned).into();
    Conf { arguments, environment: Vec::new(), doors: ALL.into() }
}

/// Debian's Varnish has no TLS.
fn varnish(stage: &Stage, place: &Place<'_>) -> Conf {
    let doors = [Door::Hit, Door::Tcp, Door::Unix];
    let text = format!(
        "vcl 4.1;\nbackend tcp {{ .host = \"127.0.0.1\"; .port = \"{port}\"; }}\nbackend unix {{ .path = \"{unix}\"; }}\n\
         sub vcl_recv {{\n  set req.http.X-Forwarded-Proto = \"http\";\n  set req.backend_hint = tcp;\n\
         if (local.socket == \"Hit\") {{ return (hash); }}\n\
         if (local.socket == \"Unix\") {{ set req.backend_hint = unix; }}\n  return (pass);\n}}\n",
        port = stage.origin.address.port(),
        unix = stage.origin.socket.display(),
    );
    let conf = place.write("hot.vcl", &text);
    let work = place.path("work");
    let mut arguments: Vec<String> =
        ["-F", "-j", "none", "-T", "none", "-s", "malloc,256m", "-t", "120", "-f", &conf, "-n", &work]
            .map(str::to_owned)
            .into();
    for parameter in ["thread_pools=1", "timeout_idle=300", "default_grace=10"] {
        arguments.extend(["-p".to_owned(), parameter.to_owned()]);
    }
    for door in doors {
        arguments.extend(["-a".to_owned(), format!("{door:?}={}", place.addresses[&door])]);
    }
    Conf { arguments, environment: Vec::new(), doors: doors.into() }
}

/// Debian's Caddy has no cache.
fn caddy(stage: &Stage, place: &Place<'_>) -> Conf {
    let doors = [Door::Tcp, Door::Unix, Door::SecureTcp];
    let site = |door: Door| {
        let (tls, host) = match door.is_secure() {
            true => ("tls chain.pem key.pem {\nprotocols tls1.3\n}\n", door.host()),
            false => ("", ""),
        };
        let upstream = match door {
            Door::Unix => format!("unix/{}", stage.origin.socket.display()),
            _ => stage.origin.address.to_string(),
        };
        format!(
            "{}://{host}:{} {{\nbind 127.0.0.1\n{tls}reverse_proxy {upstream} {{\ntransport http {{\nversions 1.1\n\
             compression off\nkeepalive 300s\nkeepalive_idle_conns 512\nkeepalive_idle_conns_per_host 512\n}}\n}}\n}}\n",
            scheme(door),
            place.port(door)
        )
    };
    let text = format!(
        "{{\nadmin off\nauto_https off\nlog {{\nlevel ERROR\n}}\nservers {{\nprotocols h1 h2\n}}\n}}\n{}",
        doors.map(site).concat()
    );
    let conf = place.write("Caddyfile", &text);
    let home = place.directory.display().to_string();
    let arguments = ["run", "--config", &conf, "--adapter", "caddyfile"].map(str::to_owned).into();
    let environment = ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"].map(|name| (name, home.clone())).into();
    Conf { arguments, environment, doors: doors.into() }
}

fn scheme(door: Door) -> &'static str {
    if door.is_secure() { "https" } else { "http" }
}
