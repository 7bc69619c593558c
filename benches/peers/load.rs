//! Load on a gateway by Debian's tools, as fast as it answers; tells how many right answers came.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::crowd::Crowd;
use crate::gateway::Door;
use crate::lines::{Line, Tool};
use crate::machine::LOAD;
use crate::prime::other_hosts;
use crate::running::{Interrupt, program};

/// Beyond its time, for a tool to start and to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// A part of the requests that may fail before a sample means nothing.
const FAILED_MAX: f64 = 0.001;

pub struct Load {
    pub crowd: Crowd,
    pub interrupt: Interrupt,
    wrk: PathBuf,
    h2load: PathBuf,
    /// Of scripts.
    directory: TempDir,
}

/// What a load had answered.
#[derive(Debug, Clone, Copy)]
pub struct Answered {
    pub requests: u64,
    pub seconds: f64,
}

impl Load {
    pub fn new(crowd: Crowd, interrupt: Interrupt) -> Result<Self, String> {
        let find = |name: &str, package: &str| {
            program(name).ok_or_else(|| format!("{name} is missing: apt-get install {package}"))
        };
        let (wrk, h2load) = (find("wrk", "wrk")?, find("h2load", "nghttp2-client")?);
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        Ok(Self { crowd, interrupt, wrk, h2load, directory })
    }

    /// Asks a line of the gateway that listens here, for whole seconds.
    pub fn run(&self, line: &Line, address: SocketAddr, seconds: u64) -> Result<Answered, String> {
        match line.tool {
            Tool::Wrk => self.wrk(&[], &[LOAD], line, address, seconds),
            Tool::Spread => self.wrk(&["-s", &self.spread(line)?], &[LOAD], line, address, seconds),
            Tool::H2load => self.h2load(line, address, seconds),
            Tool::Handshakes => {
                let requests = self.crowd.shake_hands(address, line.path, Duration::from_secs(seconds))?;
                Ok(Answered { requests, seconds: seconds as f64 })
            }
        }
    }

    /// `wrk` with further options, a thread for each of these cores.
    pub fn wrk(
        &self,
        options: &[&str],
        cores: &[usize],
        line: &Line,
        address: SocketAddr,
        seconds: u64,
    ) -> Result<Answered, String> {
        let mut command = Command::new(&self.wrk);
        let (threads, duration) = (cores.len().to_string(), seconds.to_string());
        let host = format!("Host: {}", line.door.host());
        command.args(options).args(["-c", "64", "-t", &threads, "-d", &duration, "-H", &host]);
        command.arg(url(line.door, address, line.path));
        let said = self.interrupt.run(&mut command, cores, Duration::from_secs(seconds) + PATIENCE)?;
        // `  81234 requests in 2.00s, 95.10MB read`
        let words: Vec<&str> = said.split_whitespace().collect();
        let at = words.windows(2).position(|two| two == ["requests", "in"]);
        let at = at.filter(|at| *at > 0).ok_or_else(|| format!("wrk said: {said}"))?;
        let requests: u64 = words[at - 1].parse().map_err(|_| format!("wrk said: {said}"))?;
        let seconds = words[at + 2].trim_end_matches(',').trim_end_matches('s').parse();
        let lines = said.lines().filter(|line| line.contains("Non-2xx") || line.contains("Socket errors"));
        let failed: u64 =
            lines.flat_map(|line| line.split([' ', ','])).filter_map(|word| word.parse::<u64>().ok()).sum();
        within(failed, requests)?;
        Ok(Answered { requests, seconds: seconds.map_err(|_| format!("wrk said: {said}"))? })
    }

    /// A script for `wrk` that asks one host after the other.
    fn spread(&self, line: &Line) -> Result<String, String> {
        let path = self.directory.path().join(format!("{}.lua", line.name));
        let hosts: Vec<String> = other_hosts().iter().map(|host| format!("\"{host}\"")).collect();
        let text = format!(
            "local hosts = {{{}}}\nlocal texts, at = {{}}, 0\n\
             function init() for n, host in ipairs(hosts) do texts[n] = wrk.format(\"GET\", \"{}\", {{Host = host}}) end end\n\
             function request() at = at % #texts + 1 return texts[at] end\n",
            hosts.join(","),
            line.path
        );
        std::fs::write(&path, text).map_err(|error| error.to_string())?;
        Ok(path.display().to_string())
    }

    fn h2load(&self, line: &Line, address: SocketAddr, seconds: u64) -> Result<Answered, String> {
        let duration = format!("-D{seconds}");
        let said =
            self.h2load_with(&["-c16", "-m16", &duration], line, address, Duration::from_secs(seconds) + PATIENCE)?;
        Ok(Answered { requests: said, seconds: seconds as f64 })
    }

    /// This many requests and not one more, over 8 connections.
    pub fn count(&self, requests: u64, line: &Line, address: SocketAddr) -> Result<(), String> {
        let count = format!("-n{requests}");
        let options: &[&str] =
            if line.tool == Tool::H2load { &["-c8", "-m16", &count] } else { &["-c8", "--h1", &count] };
        let answered = self.h2load_with(options, line, address, Duration::from_secs(120))?;
        if answered == requests { Ok(()) } else { Err(format!("{answered} of {requests} requests were answered")) }
    }

    fn h2load_with(
        &self,
        options: &[&str],
        line: &Line,
        address: SocketAddr,
        patience: Duration,
    ) -> Result<u64, String> {
        let mut command = Command::new(&self.h2load);
        let scheme = if line.door.is_secure() { "https" } else { "http" };
        let url = format!("{scheme}://{}:{}{}", line.door.host(), address.port(), line.path);
        command.args(options).arg(format!("--connect-to={address}")).arg(url);
        let said = self.interrupt.run(&mut command, &[LOAD], patience)?;
        // `requests: 90 total, 90 started, 90 done, 90 succeeded, 0 failed, 0 errored, 0 timeout`
        let line =
            said.lines().find(|line| line.starts_with("requests:")).ok_or_else(|| format!("h2load said: {said}"))?;
        let number = |name: &str| {
            let count =
                line.split([',', ':']).find_map(|part| part.trim().strip_suffix(name)?.trim().parse::<u64>().ok());
            count.ok_or_else(|| format!("h2load said: {line}"))
        };
        within(number("failed")? + number("errored")? + number("timeout")?, number("succeeded")?)?;
        number("succeeded")
    }
}

fn within(failed: u64, answered: u64) -> Result<(), String> {
    match failed as f64 > answered as f64 * FAILED_MAX || answered == 0 {
        true => Err(format!("{failed} requests failed, {answered} were answered")),
        false => Ok(()),
    }
}

/// `localhost` where a name must be in the TLS greeting, the address elsewhere.
fn url(door: Door, address: SocketAddr, path: &str) -> String {
    match door.is_secure() {
        true => format!("https://{}:{}{path}", door.host(), address.port()),
        false => format!("http://{address}{path}"),
    }
}
