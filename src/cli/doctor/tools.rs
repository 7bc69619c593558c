//! What Prime needs of the machine: the Docker engine, git, room on the disk, a clock that is right.
//!
//! Used by `doctor`. Versions are judged by the faults that are known of older ones; a distribution may have mended its own.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Uri};
use tokio::process::Command;
use tokio::time::timeout;

use super::Finding;
use crate::control::conf::Conf;
use crate::control::https::Https;
use crate::control::runtime::{Engine, engine};
use crate::model::machine::{Machine, RuntimeChoice};

/// A tool that says its version takes milliseconds; a CA answers within seconds.
const LIMIT: Duration = Duration::from_secs(5);
/// A clock that is off by more has certificates judged wrongly, and hooks that say when they were made refused.
const CLOCK_OFF_MAX: Duration = Duration::from_secs(60);
/// `--object-format` came with it.
const GIT_LEAST: [u32; 3] = [2, 29, 0];
/// CVE-2025-48384.
const GIT_GOOD: [u32; 3] = [2, 43, 7];
/// API 1.41: the least that Prime asks for.
const ENGINE_LEAST: [u32; 3] = [20, 10, 0];
/// CVE-2025-31133, CVE-2025-52565, CVE-2025-52881: out of the container by its own image.
const RUNC_GOOD: [u32; 3] = [1, 2, 8];

pub async fn look(conf: &Conf) -> Vec<Finding> {
    let machine = &conf.machine;
    let mut findings = engines(machine).await;
    findings.push(git().await);
    findings.extend(room(machine));
    findings.push(clock(machine).await);
    findings
}

async fn engines(machine: &Machine) -> Vec<Finding> {
    if machine.runtime == RuntimeChoice::Process {
        return vec![Finding::ok("engine", "not asked for: apps run as plain processes")];
    }
    match (engine().await, machine.runtime) {
        (Ok(engine), _) => of_engine(&engine),
        (Err(error), RuntimeChoice::Auto) => {
            let says = format!("{error}; apps run as plain processes");
            vec![Finding::warn("engine", says, "install docker.io, or say runtime = \"process\" in prime.toml")]
        }
        (Err(error), _) => {
            let hint = "install docker.io and start it; its socket must be open to the user that runs `opri serve`";
            vec![Finding::fail("engine", error.to_string(), hint)]
        }
    }
}

fn of_engine(engine: &Engine) -> Vec<Finding> {
    let of = |what: &str, version: &str, least: [u32; 3], verdict: fn(&str, String, &str) -> Finding, hint: &str| {
        let says = format!("version {version}");
        match numbers(version).is_none_or(|numbers| numbers < least) {
            true => verdict(what, says, hint),
            false => Finding::ok(what, says),
        }
    };
    let engine_hint = "20.10 or newer is needed, 24 or newer is recommended";
    let mut findings = vec![of(
        "engine",
        &engine.version,
        ENGINE_LEAST,
        |what, says, hint| Finding::fail(what, says, hint),
        engine_hint,
    )];
    if let Some(runc) = &engine.runc {
        let hint = "before 1.2.8 an image could break out of its container: see that your distribution has mended it";
        findings.push(of("runc", runc, RUNC_GOOD, |what, says, hint| Finding::warn(what, says, hint), hint));
    }
    findings
}

async fn git() -> Finding {
    let hint = "install git 2.43.7 or newer, or one that your distribution has mended";
    let says = match said(Command::new("git").arg("--version")).await {
        Ok(says) => says,
        Err(why) => return Finding::fail("git", format!("it cannot be asked: {why}"), hint),
    };
    let version = says.trim_start_matches("git version ").trim().to_owned();
    match numbers(&version) {
        Some(numbers) if numbers >= GIT_GOOD => Finding::ok("git", format!("version {version}")),
        Some(numbers) if numbers < GIT_LEAST => Finding::fail("git", format!("version {version} is too old"), hint),
        _ => Finding::warn("git", format!("version {version}"), hint),
    }
}

/// What a command prints, within the limit.
async fn said(command: &mut Command) -> Result<String, String> {
    match timeout(LIMIT, command.kill_on_drop(true).output()).await {
        Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(output)) if !output.status.success() => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Ok(Ok(output)) => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
    }
}

/// The first three numbers of a version, whatever follows.
fn numbers(version: &str) -> Option<[u32; 3]> {
    let mut parts = version.split('.').map(|part| {
        let digits = part.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(part.len());
        part[..digits].parse::<u32>().ok()
    });
    Some([parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)])
}

fn room(machine: &Machine) -> Vec<Finding> {
    let there = machine.state_dir.ancestors().find(|path| path.exists()).unwrap_or(&machine.state_dir);
    let hint = "releases, git mirrors, logs and the cache lie there: free some, or move `state_dir`";
    let Ok(disk) = rustix::fs::statvfs(there) else {
        return vec![Finding::fail("disk", format!("{} cannot be asked for its room", there.display()), hint)];
    };
    let free = disk.f_bavail * disk.f_frsize;
    let says = format!("{:.1} GiB are free at {}", free as f64 / f64::from(1 << 30), there.display());
    let of_room = match free {
        _ if free < ROOM_LEAST => Finding::fail("disk", says, hint),
        _ if free < machine.keep_free => {
            Finding::warn("disk", format!("{says}, less than `keep_free`: old releases are removed"), hint)
        }
        _ => Finding::ok("disk", says),
    };
    // Some file systems have no such number.
    let is_short = disk.f_files > 0 && disk.f_favail < disk.f_files / 50;
    let of_inodes =
        is_short.then(|| Finding::warn("disk", format!("only {} files more fit there", disk.f_favail), hint));
    [Some(of_room), of_inodes].into_iter().flatten().collect()
}

/// By the clock of the CA, where one can be reached, else by the kernel's own word (adjtimex(2), which timedatectl reads).
async fn clock(machine: &Machine) -> Finding {
    let hint = "have it kept right: `timedatectl set-ntp true`, or chrony";
    if let Some((whose, off)) = off_by(machine).await {
        let says = format!("{} s off, by the clock of {whose}", off.as_secs());
        return if off > CLOCK_OFF_MAX { Finding::fail("clock", says, hint) } else { Finding::ok("clock", says) };
    }
    match said(Command::new("timedatectl").args(["show", "--property=NTPSynchronized", "--value"])).await.as_deref() {
        Ok("yes") => Finding::ok("clock", "the kernel says that it is kept right"),
        Ok(_) => Finding::warn("clock", "the kernel says that nobody keeps it right", hint),
        Err(_) => Finding::warn("clock", "whether it is right cannot be told here", hint),
    }
}

/// How far this clock is from the one of the first CA that answers.
async fn off_by(machine: &Machine) -> Option<(String, Duration)> {
    let acme = machine.acme.as_ref()?;
    let https = Https::new(acme.root.as_deref(), LIMIT, 64 << 10).ok()?;
    let directory: Uri = acme.directories.first()?.parse().ok()?;
    let request = Request::get(directory.clone()).body(Bytes::new()).ok()?;
    let answer = https.send(request).await.ok()?;
    let theirs = httpdate::parse_http_date(answer.headers().get("date")?.to_str().ok()?).ok()?;
    let own = SystemTime::now();
    let off = own.duration_since(theirs).or_else(|_| theirs.duration_since(own)).ok()?;
    Some((directory.host()?.to_owned(), off))
}

/// With less not even a checkout fits.
const ROOM_LEAST: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (version, expected) in [
            ("20.10.24+dfsg1", Some([20, 10, 24])),
            ("1.1.5+ds1", Some([1, 1, 5])),
            ("2.39", Some([2, 39, 0])),
            ("2.47.3.windows.1", Some([2, 47, 3])),
            ("1.2.0-rc.3", Some([1, 2, 0])),
            ("", None),
            ("dev", None),
        ] {
            assert_eq!(numbers(version), expected, "{version}");
        }
        let engine = |version: &str, runc: &str| Engine { version: version.to_owned(), runc: Some(runc.to_owned()) };
        let verdicts =
            |version, runc| of_engine(&engine(version, runc)).iter().map(|one| one.verdict).collect::<Vec<_>>();
        use super::super::Verdict::{Fail, Ok, Warn};
        assert_eq!(verdicts("20.10.24+dfsg1", "1.1.5+ds1"), [Ok, Warn]);
        assert_eq!(verdicts("19.03.8", "1.3.3"), [Fail, Ok]);
        assert_eq!(verdicts("odd", "odd"), [Fail, Warn]);
    }
}
