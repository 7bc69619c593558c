//! Floor 3: the words that a person types, one file a verb.
//!
//! The rule: what a verb prints for people goes to standard output, what went wrong to standard error, and the exit code
//! says which: 0 done, 1 failed, 2 usage, 3 not found, 4 refused, 5 timed out.

/// Prints a line for people. Whoever closed our standard output, as `head` does, has seen enough: that is no failure.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($words)*);
    }};
}

/// As `say`, and stays on the line.
macro_rules! say_on {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let mut out = std::io::stdout();
        let _ = write!(out, $($words)*).and_then(|()| out.flush());
    }};
}

mod access;
mod argument;
mod check;
mod client;
mod completions;
mod demo;
mod deploy;
mod doctor;
mod hold;
mod hook;
mod host;
mod list;
mod logs;
mod purge;
mod releases;
mod reload;
mod serve;
mod status;
mod table;
pub mod travis;
mod upgrade;
mod why;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::edge::Start;
use crate::link::{Purge, PurgeScope};
use crate::model::name::{BranchName, Commit, ProjectName, Site};
use crate::model::user::User;
use crate::report;

/// Hosts all of an organisation's web projects on one machine: CI-gated deploys, a caching gateway and automatic HTTPS.
#[derive(Debug, Parser)]
#[command(name = "opri", version, max_term_width = 100)]
pub struct Line {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, Args)]
pub struct Common {
    /// The conf directory [default: conf, then /etc/opri]
    #[arg(long, global = true, value_name = "DIR")]
    conf: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve what conf names, until Ctrl-C
    Serve,
    /// See the whole story on this machine: two projects, a push, a swap, and no visitor who notices
    Demo(demo::Options),
    /// Read conf and report everything that is wrong with it
    Check,
    /// Make a running Prime take conf as it is now
    Reload,
    /// Have the opri that is on disk now serve in place of the one that runs, without a connection noticing
    Upgrade,
    /// Show what runs
    Status,
    /// Say what this machine lacks to serve what conf names, and what to do
    Doctor,
    /// Host a project: write its file, deploy it, and say what to tell its CI
    Host {
        /// The project's name: a-z, 0-9 and -
        name: ProjectName,
        /// https://…, ssh://… or a directory
        repository: String,
        /// The address it shall be known under
        main_url: Option<String>,
    },
    /// List every site with its release and traffic
    List,
    /// Deploy a branch's head, or a commit of it, and follow it live
    Deploy {
        site: Site,
        commit: Option<Commit>,
        /// End what is being deployed there, or waits to be, before it serves
        #[arg(long, conflicts_with = "commit")]
        cancel: bool,
    },
    /// Bring an earlier release back without building it
    Rollback {
        site: Site,
        /// As `opri releases` lists it: r7 [default: the one before]
        #[arg(value_parser = argument::release_number)]
        release: Option<u64>,
    },
    /// Let a site's requests wait until it is resumed
    Pause {
        site: Site,
        /// How long one request may wait [default: 30s]
        #[arg(long, value_name = "TIME", value_parser = argument::span)]
        max: Option<Duration>,
    },
    /// Answer every request of a site with a page that says so
    Maintenance {
        site: Site,
        /// What the page says in place of the usual, or of the project's own errors/maintenance.html
        #[arg(short, long)]
        message: Option<String>,
    },
    /// End a pause or a maintenance
    Resume { site: Site },
    /// List what can be brought back
    Releases { site: Site },
    /// Print what an app or its build says, or what visitors asked for
    Logs {
        #[arg(required_unless_present = "access")]
        site: Option<Site>,
        /// Go on while there is more
        #[arg(short, long)]
        follow: bool,
        /// So many of the last lines [default: 1000; with --since all that match]
        #[arg(short = 'n', long)]
        lines: Option<usize>,
        /// The newest build instead of the app
        #[arg(long)]
        build: bool,
        /// The build of this release: r7
        #[arg(long, requires = "build", value_parser = argument::release_number)]
        release: Option<u64>,
        /// The requests instead: of one site, or of all
        #[arg(long, conflicts_with = "build")]
        access: bool,
        #[command(flatten)]
        filter: access::Filter,
    },
    /// Make stored responses unreachable
    Purge {
        /// A project, with all its branches, or one branch: shop/dev
        #[arg(value_parser = argument::project_or_branch)]
        name: (ProjectName, Option<BranchName>),
        #[command(flatten)]
        scope: Scope,
        /// Make them stale instead: the app is asked about them, and they stand in where it says that stale ones may
        #[arg(long)]
        soft: bool,
    },
    /// Say what would come of a request right now, and which word decides
    Why(why::Request),
    /// Show, test and replay webhooks
    Hook {
        #[command(subcommand)]
        verb: hook::Verb,
    },
    /// Print the completions of a shell
    Completions { shell: clap_complete::Shell },
    /// The data plane; started by `serve`
    #[command(hide = true)]
    Edge {
        #[arg(long)]
        state: PathBuf,
        #[arg(long)]
        await_sockets: bool,
        /// Begins while another edge serves that it is to replace
        #[arg(long, requires = "await_sockets")]
        beside: bool,
        /// Whom to become, as UID:GID
        #[arg(long, requires = "await_sockets")]
        user: Option<User>,
    },
    /// The app that `demo` deploys
    #[command(hide = true)]
    DemoApp,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Scope {
    /// A whole URL, or a path with its query
    #[arg(long, value_parser = argument::url)]
    url: Option<String>,
    /// Every path that begins so
    #[arg(long, value_parser = argument::prefix)]
    prefix: Option<String>,
    /// What the app has given this tag, in Surrogate-Key or Cache-Tag
    #[arg(long, value_parser = argument::tag)]
    tag: Option<String>,
    /// Everything
    #[arg(long)]
    all: bool,
}

impl Scope {
    fn meant(self) -> PurgeScope {
        match (self.url, self.prefix, self.tag) {
            (Some(url), ..) => PurgeScope::Url(url),
            (_, Some(prefix), _) => PurgeScope::Prefix(prefix),
            (.., Some(tag)) => PurgeScope::Tag(tag),
            _ => PurgeScope::All,
        }
    }
}

/// How a verb that did not do its work ends.
#[derive(Debug)]
pub enum Failure {
    /// Already told.
    Told(Exit),
    Said {
        exit: Exit,
        error: String,
        hint: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Refused = 4,
    TimedOut = 5,
}

impl Failure {
    pub fn new(error: impl ToString) -> Self {
        Failure::Said { exit: Exit::Failed, error: error.to_string(), hint: None }
    }

    pub fn hinted(error: impl ToString, hint: impl ToString) -> Self {
        Failure::Said { exit: Exit::Failed, error: error.to_string(), hint: Some(hint.to_string()) }
    }
}

type Done = Result<(), Failure>;

/// Reads the line, does what it says, and tells how it ended.
pub fn main() -> ExitCode {
    let line = Line::parse();
    match run(line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Told(exit)) => ExitCode::from(exit as u8),
        Err(Failure::Said { exit, error, hint }) => {
            report::print_text(&error, hint.as_deref());
            ExitCode::from(exit as u8)
        }
    }
}

fn run(line: Line) -> Done {
    let Line { verb, common } = line;
    match verb {
        Verb::Serve => serve::run(&conf_dir(&common)?),
        Verb::Demo(options) => demo::run(options),
        Verb::Check if check::run(&conf_dir(&common)?, common.json) => Ok(()),
        Verb::Check => Err(Failure::Told(Exit::Failed)),
        Verb::Reload => reload::run(&common),
        Verb::Upgrade => upgrade::run(&common),
        Verb::Status => status::run(&common),
        Verb::Doctor => doctor::run(&common),
        Verb::Host { name, repository, main_url } => host::run(&common, &name, &repository, main_url.as_deref()),
        Verb::List => list::run(&common),
        Verb::Deploy { site, cancel: true, .. } => deploy::cancel(&common, site),
        Verb::Deploy { site, commit, .. } => deploy::deploy(&common, site, commit),
        Verb::Rollback { site, release } => deploy::rollback(&common, site, release),
        Verb::Pause { site, max } => hold::pause(&common, site, max),
        Verb::Maintenance { site, message } => hold::maintenance(&common, site, message),
        Verb::Resume { site } => hold::resume(&common, site),
        Verb::Releases { site } => releases::run(&common, &site),
        Verb::Logs { site, follow, lines, access: true, filter, .. } => {
            access::run(&common, &filter.query(site, follow, lines))
        }
        Verb::Logs { site: Some(site), follow, lines, build, release, .. } => {
            logs::run(&common, &site, &logs::Wanted { follow, lines, build, release })
        }
        Verb::Logs { site: None, .. } => Err(Failure::Told(Exit::Usage)),
        Verb::Purge { name: (project, branch), scope, soft } => {
            purge::run(&common, &Purge { project, branch, scope: scope.meant(), is_soft: soft })
        }
        Verb::Why(request) => why::run(&common, request),
        Verb::Hook { verb } => hook::run(&common, verb),
        Verb::Completions { shell } => completions::run(shell),
        Verb::Edge { state, await_sockets, beside, user } => {
            let start = match (await_sockets, beside) {
                (_, true) => Start::Beside,
                (true, false) => Start::Led,
                (false, false) => Start::Alone,
            };
            serve::edge(state, start, user)
        }
        Verb::DemoApp => demo::app(),
    }
}

/// `--conf`, else `conf` here, else `/etc/opri`.
fn conf_dir(common: &Common) -> Result<PathBuf, Failure> {
    if let Some(dir) = &common.conf {
        return Ok(dir.clone());
    }
    let usual = [Path::new("conf"), Path::new("/etc/opri")];
    let found = usual.into_iter().find(|dir| dir.join("prime.toml").exists());
    found.map(Path::to_path_buf).ok_or_else(|| Failure::Said {
        exit: Exit::NotFound,
        error: "no conf directory is here: neither conf/prime.toml nor /etc/opri/prime.toml exists".to_owned(),
        hint: Some("name it with --conf DIR, or begin with `opri demo`".to_owned()),
    })
}

/// Prints a value as JSON, for `--json`.
fn print_json<T: serde::Serialize>(value: &T) -> Done {
    say!("{}", serde_json::to_string_pretty(value).map_err(Failure::new)?);
    Ok(())
}

/// A runtime for a verb that waits for one thing after another.
fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    runtime.block_on(future)
}
