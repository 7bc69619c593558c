//! A million small objects: what share of a skewed load a cache with room for one in twenty answers by itself, and what an
//! object costs beside its content where there is room for all.
//!
//! The load is this process' own: every request has a URL of its own, which no tool of Debian's says fast enough.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::gateway::{Door, Gateway, Recipe, Stage, free_address};
use crate::measure;
use crate::peers::directory;
use crate::running::{Interrupt, program};

pub const OBJECTS: usize = 1_000_000;
/// Bytes of an answer: body and head.
const CONTENT: u64 = 1024 + 190;
/// The room that every gateway is given: for one object in twenty.
pub const ROOM: u64 = OBJECTS as u64 / 20 * CONTENT;
/// The exponent of Zipf's law.
const SKEW: f64 = 0.9;
/// Requests before those that count, and those.
const WARM: usize = 500_000;
const COUNTED: usize = 300_000;
/// Requests that are sent before the first answer is read.
const AHEAD: usize = 32;
const PATIENCE: Duration = Duration::from_secs(30);

/// The part of the requests that the origin was not asked.
pub fn hit_ratio(interrupt: &Interrupt, stage: &Stage, address: SocketAddr) -> Result<f64, String> {
    let law = Zipf::new(OBJECTS, SKEW);
    let mut random = Random(1);
    let mut client = Client::connect(address)?;
    client.ask(interrupt, (0..WARM).map(|_| law.draw(random.next())))?;
    let before = stage.origin.served();
    client.ask(interrupt, (0..COUNTED).map(|_| law.draw(random.next())))?;
    Ok(1.0 - (stage.origin.served() - before) as f64 / COUNTED as f64)
}

/// Bytes that each of a million objects takes beside its content.
pub fn overhead(interrupt: &Interrupt, stage: &Stage, gateway: &Gateway) -> Result<f64, String> {
    let address = gateway.address(Door::Hit).ok_or("it has no such door")?;
    // A gateway ends a connection after so many requests.
    let ask = |objects: &mut dyn Iterator<Item = usize>| Client::connect(address)?.ask(interrupt, objects);
    let memory = || measure::memory(&gateway.processes()) * 1024.0;
    // What a full cache is kept in beside its objects grows with the first of them.
    ask(&mut (0..1000))?;
    let before = memory();
    ask(&mut (1000..OBJECTS / 2))?;
    ask(&mut (OBJECTS / 2..OBJECTS))?;
    let (after, asked) = (memory(), stage.origin.served());
    ask(&mut (0..OBJECTS).step_by(97))?;
    let again = stage.origin.served() - asked;
    if again > 0 {
        return Err(format!("it has not stored all: {again} were asked for again"));
    }
    Ok((after - before) / (OBJECTS - 1000) as f64 - CONTENT as f64)
}

/// How a peer is started with this room, or nothing when it is not installed.
pub type Start = fn(&Stage) -> Option<Recipe>;

/// Those of Debian's that store in memory and are told how much.
pub const PEERS: [(&str, Start); 2] = [("varnish", varnish), ("squid", squid)];

fn varnish(stage: &Stage) -> Option<Recipe> {
    let (program, directory, address) = (program("varnishd")?, directory("varnish"), free_address());
    let text = format!(
        "vcl 4.1;\nbackend tcp {{ .host = \"127.0.0.1\"; .port = \"{}\"; }}\nsub vcl_recv {{ return (hash); }}\n",
        stage.origin.address.port()
    );
    let (conf, work) = (directory.path().join("vcl"), directory.path().join("work"));
    std::fs::write(&conf, text).ok()?;
    let words = format!("-F -j none -T none -s malloc,{ROOM}b -t 86400 -f {} -n {}", conf.display(), work.display());
    let words = format!("{words} -a {address} -p thread_pools=1 -p timeout_idle=300");
    let arguments = words.split(' ').map(str::to_owned).collect();
    let doors = [(Door::Hit, address), (Door::Tcp, address)].into();
    Some(Recipe { name: "varnish", program, arguments, environment: Vec::new(), doors, directory })
}

/// With the eviction that its documentation recommends for hits by number.
fn squid(stage: &Stage) -> Option<Recipe> {
    let (program, directory, address) = (program("squid")?, directory("squid"), free_address());
    let origin = stage.origin.address;
    let text = format!(
        "http_port {address} accel defaultsite=localhost\ncache_peer {} parent {} 0 no-query originserver\n\
         http_access allow all\ncache_mem {ROOM} bytes\nmaximum_object_size_in_memory 64 KB\n\
         memory_replacement_policy heap GDSF\naccess_log none\ncache_log /dev/null\npid_filename none\n\
         cache_effective_user proxy\npinger_enable off\nshutdown_lifetime 0 seconds\nworkers 1\nmemory_cache_shared off\n",
        origin.ip(),
        origin.port()
    );
    let conf = directory.path().join("squid.conf");
    std::fs::write(&conf, text).ok()?;
    let arguments = ["-N", "-f", &conf.display().to_string()].map(str::to_owned).into();
    let doors = [(Door::Hit, address), (Door::Tcp, address)].into();
    Some(Recipe { name: "squid", program, arguments, environment: Vec::new(), doors, directory })
}

/// One connection, with requests sent ahead.
struct Client(TcpStream);

impl Client {
    fn connect(address: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
        stream
            .set_nodelay(true)
            .and_then(|()| stream.set_read_timeout(Some(PATIENCE)))
            .map_err(|error| error.to_string())?;
        Ok(Self(stream))
    }

    /// Asks for each of these objects.
    fn ask(&mut self, interrupt: &Interrupt, objects: impl Iterator<Item = usize>) -> Result<(), String> {
        let failed = |error: std::io::Error| error.to_string();
        let (mut objects, mut came) = (objects.peekable(), Vec::with_capacity(256 << 10));
        let mut buffer = vec![0; 256 << 10];
        while objects.peek().is_some() {
            interrupt.check();
            let mut requests = String::new();
            let mut waiting = 0;
            for object in objects.by_ref().take(AHEAD) {
                requests += &format!("GET /hit/1k?{object} HTTP/1.1\r\nHost: localhost\r\n\r\n");
                waiting += 1;
            }
            self.0.write_all(requests.as_bytes()).map_err(failed)?;
            while waiting > 0 {
                let read = self.0.read(&mut buffer).map_err(failed)?;
                if read == 0 {
                    return Err("it closes the connection".to_owned());
                }
                came.extend_from_slice(&buffer[..read]);
                while let Some(length) = answer(&came)? {
                    came.drain(..length);
                    waiting -= 1;
                }
            }
        }
        Ok(())
    }
}

/// The length of a whole answer.
fn answer(bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let lines = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let length =
        lines.split_once("\r\ncontent-length: ").and_then(|(_, rest)| rest.lines().next()?.parse::<usize>().ok());
    match length.filter(|_| lines.starts_with("http/1.1 200")) {
        Some(length) => Ok((bytes.len() >= head + 4 + length).then_some(head + 4 + length)),
        None => Err(format!("not what was asked for: {lines}")),
    }
}

/// How often each of so many objects is asked for.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(objects: usize, skew: f64) -> Self {
        let mut sum = 0.0;
        let sums = (1..=objects).map(|rank| {
            sum += (rank as f64).powf(-skew);
            sum
        });
        let mut sums: Vec<f64> = sums.collect();
        sums.iter_mut().for_each(|part| *part /= sum);
        Self(sums)
    }

    fn draw(&self, random: f64) -> usize {
        self.0.partition_point(|sum| *sum < random).min(self.0.len() - 1)
    }
}

/// The same load for all.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}
