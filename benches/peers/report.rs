//! What was measured, as tables: what Prime was to reach stands beside what it did.

use crate::instructions::Counted;
use crate::latency::Paced;
use crate::lines::{Against, LARGE, LINES, Line, Tool};
use crate::memory::{FEW, MANY, Memory};
use crate::rounds::Samples;
use crate::table::{Table, figure, verdict};

/// With 10,000 hosts every line may cost this much of what it does with one.
const LARGE_RATIO: f64 = 1.05;
/// Kilobytes of an idle connection.
const PLAIN: f64 = 2.0;
const SECURE: f64 = 10.0;
/// Bytes of an object beside its content.
const OVERHEAD: f64 = 300.0;
/// The part of their memory that is to be back when connections have left.
const GIVEN_BACK: f64 = 0.8;

#[derive(Default)]
pub struct Results {
    pub conditions: Vec<String>,
    /// The gateways that ran, Prime first.
    pub names: Vec<&'static str>,
    pub samples: Samples,
    /// Whether over TLS, on which gateway.
    pub memory: Vec<(bool, &'static str, Memory)>,
    pub paced: Vec<Paced>,
    pub counted: Vec<Counted>,
    pub workers: Option<String>,
    /// The part of a skewed load that each answered by itself.
    pub ratios: Vec<(&'static str, f64)>,
    /// Bytes that Prime keeps beside a stored answer.
    pub overhead: Option<f64>,
}

impl Results {
    pub fn plain(&self) -> String {
        let tables = self.tables().iter().map(Table::plain).collect::<Vec<_>>().join("\n");
        format!("{}\n\n{tables}\n{}", self.conditions.join("\n"), self.remarks().join("\n"))
    }

    pub fn markdown(&self) -> String {
        let tables = self.tables().iter().map(Table::markdown).collect::<Vec<_>>().join("\n");
        let list = |lines: Vec<String>| lines.iter().map(|line| format!("* {line}")).collect::<Vec<_>>().join("\n");
        format!("{HEAD}\n{}\n{}\n\n{tables}", list(self.conditions.clone()), list(self.remarks()))
    }

    fn tables(&self) -> Vec<Table> {
        let all =
            [self.costs(), self.rates(), self.large(), self.idle(), self.latencies(), self.instructions(), self.many()];
        all.into_iter().filter(|table| !table.is_empty()).collect()
    }

    fn remarks(&self) -> Vec<String> {
        let repeated: usize = self.paced.iter().map(|paced| paced.discarded).sum();
        let latency = format!("{repeated} samples of latency discarded and taken again");
        let latency = (!self.paced.is_empty()).then_some(latency);
        let known = [self.samples.weather(), latency, self.handshakes(), self.workers.clone()];
        let failures = self.samples.failures.iter().chain(self.paced.iter().flat_map(|paced| &paced.failures));
        let failures = failures.map(|why| format!("NOT MEASURED: {why}"));
        known.into_iter().flatten().chain(failures).collect()
    }

    fn handshakes(&self) -> Option<String> {
        let line = self.measured().find(|line| line.tool == Tool::Handshakes)?;
        let said = |name| self.samples.cpu(line, name).map(|cpu| format!("{name} {:.0}", 1e6 / cpu));
        let all: Vec<String> = self.names.iter().copied().filter_map(said).collect();
        Some(format!("new TLS connections per second of CPU: {}", all.join(", ")))
    }

    fn measured(&self) -> impl Iterator<Item = &'static Line> {
        LINES.iter().filter(|line| !self.samples.of(line, line.prime).is_empty())
    }

    fn peers(&self) -> impl Iterator<Item = &'static str> {
        self.names.iter().copied().filter(|name| !name.starts_with("opri"))
    }

    /// Whom a line's target is about.
    fn rival(&self, line: &Line) -> Option<&'static str> {
        match line.against {
            Against::Only(name) => self.peers().find(|peer| *peer == name),
            Against::Best => {
                let cost = |peer: &&'static str| self.samples.cpu(line, peer).unwrap_or(f64::INFINITY);
                let measured = self.peers().filter(|peer| self.samples.cpu(line, peer).is_some());
                measured.min_by(|one, other| cost(one).total_cmp(&cost(other)))
            }
        }
    }

    fn costs(&self) -> Table {
        let note = "Microseconds of the gateway's processes for one request; less is better. The ratio is the median of the \
                    rounds' own ratios.";
        let head = ["line", "opri"].into_iter().chain(self.peers()).chain(["ratio", "to", "target", ""]);
        let mut table = Table::new("CPU time per request, µs", note, head);
        for line in self.measured() {
            let rival = self.rival(line);
            let ratio = rival.and_then(|rival| self.samples.ratio((line, line.prime), (line, rival)));
            let costs =
                std::iter::once(line.prime).chain(self.peers()).map(|name| figure(self.samples.cpu(line, name)));
            let target = line.target.map_or_else(|| "-".to_owned(), |target| format!("≤ {target}"));
            let judged = [figure(ratio), rival.unwrap_or("-").to_owned(), target, verdict(ratio, line.target)];
            table.row(std::iter::once(line.title.to_owned()).chain(costs).chain(judged).collect());
        }
        table
    }

    fn rates(&self) -> Table {
        let note =
            "The gateway has one core; where it is far from busy, the load generator and the origin are the limit.";
        let head = ["line", "opri"].into_iter().chain(self.peers());
        let mut table = Table::new("Requests per second, thousands", note, head);
        for line in self.measured() {
            let thousands = |name| self.samples.rate(line, name).map(|rate| rate / 1000.0);
            let rates = std::iter::once(line.prime).chain(self.peers()).map(|name| figure(thousands(name)));
            table.row(std::iter::once(line.title.to_owned()).chain(rates).collect());
        }
        table
    }

    fn large(&self) -> Table {
        let note =
            "The same requests to a Prime that serves 1,000 projects with 10,000 hosts and has 10,000 answers stored.";
        let head = ["line", "2 hosts, µs", "10,000 hosts, µs", "ratio", "target", ""];
        let mut table = Table::new("Many projects", note, head);
        for line in &LINES {
            let one = line.of_one_host();
            let Some(ratio) = self.samples.ratio((line, LARGE), (one, "opri")) else { continue };
            let costs = [figure(self.samples.cpu(one, "opri")), figure(self.samples.cpu(line, LARGE))];
            let judged = [figure(Some(ratio)), format!("≤ {LARGE_RATIO}"), verdict(Some(ratio), Some(LARGE_RATIO))];
            table.row(std::iter::once(line.title.to_owned()).chain(costs).chain(judged).collect());
        }
        table
    }

    fn idle(&self) -> Table {
        let (few, many) = (format!("{FEW}, MB"), format!("{MANY}, MB"));
        let head = [
            "",
            "at rest, MB",
            &few,
            &many,
            "2 s after",
            "12 s after",
            "KB each",
            "target",
            "",
            "given back",
            "target",
            "",
        ];
        let note =
            "Memory of all processes (Pss) with idle connections after one request each, and after all have left.";
        let mut table = Table::new("Memory of idle connections", note, head);
        for (is_secure, name, memory) in &self.memory {
            let kind = if *is_secure { "TLS" } else { "plain" };
            let is_ours = *name == "opri";
            let all = [memory.rest, memory.few, memory.many, memory.soon, memory.later];
            let target = is_ours.then_some(if *is_secure { SECURE } else { PLAIN });
            let kept = 1.0 - memory.given_back();
            let (goal, back) = match target {
                Some(target) => (format!("≤ {target}"), format!("≥ {:.0} %", GIVEN_BACK * 100.0)),
                None => ("-".to_owned(), "-".to_owned()),
            };
            let judged = [figure(Some(memory.of_one())), goal, verdict(Some(memory.of_one()), target)];
            let given = format!("{:.0} %", memory.given_back().max(0.0) * 100.0);
            let returned = [given, back, verdict(Some(kept), is_ours.then_some(1.0 - GIVEN_BACK))];
            let megabytes = all.map(|kilobytes| figure(Some(kilobytes / 1024.0)));
            table.row(
                std::iter::once(format!("{name}, {kind}")).chain(megabytes).chain(judged).chain(returned).collect(),
            );
        }
        table
    }

    /// Of a million objects.
    fn many(&self) -> Table {
        let title = "A million objects of 1 KB";
        let note = "Hits of a load by Zipf's law (0.9) in a cache with room for 5 %, at least those of every peer; and what \
                    an object takes beside body and head where there is room for all.";
        let mut table = Table::new(title, note, ["", "measured", "target", ""]);
        let ours = self.ratios.iter().find(|(name, _)| *name == "opri").map(|(_, ratio)| *ratio);
        let best = self.ratios.iter().filter(|(name, _)| *name != "opri").map(|(_, ratio)| *ratio).reduce(f64::max);
        for (name, ratio) in &self.ratios {
            let (target, verdict) = match *name {
                "opri" => (figure(best), verdict(ours.map(|ours| -ours), best.map(|best| -best))),
                _ => (String::new(), String::new()),
            };
            table.row(vec![format!("hits of {name}"), format!("{ratio:.3}"), target, verdict]);
        }
        if let Some(bytes) = self.overhead {
            let verdict = verdict(Some(bytes), Some(OVERHEAD));
            table.row(vec!["bytes beside content".to_owned(), figure(Some(bytes)), figure(Some(OVERHEAD)), verdict]);
        }
        table
    }

    fn latencies(&self) -> Table {
        let note = "Milliseconds from the moment that a request was due to the end of its answer, 32 connections, the same \
                    rate for all: half of what the slower of Prime and the best peer can do.";
        let head = ["line", "rate", "opri"].into_iter().chain(self.peers()).chain(["ratio to the best", "target", ""]);
        let mut table = Table::new("Latency at half the peak, ms", note, head);
        for paced in &self.paced {
            for (what, is_half) in [("p50", true), ("p99", false)] {
                let of = |name: &str| {
                    let found = paced.found.iter().find(|(gateway, ..)| *gateway == name);
                    found
                        .map(|(_, half, hundredth)| if is_half { *half } else { *hundredth })
                        .filter(|ms| ms.is_finite())
                };
                let best = self.peers().filter_map(of).min_by(f64::total_cmp);
                let ratio = of("opri").zip(best).map(|(ours, best)| ours / best);
                let all = std::iter::once("opri").chain(self.peers()).map(|name| figure(of(name)));
                let what = [format!("{}, {what}", paced.line.title), format!("{:.0}/s", paced.rate)];
                let judged = [figure(ratio), "≤ 1".to_owned(), verdict(ratio, Some(1.0))];
                table.row(what.into_iter().chain(all).chain(judged).collect());
            }
        }
        table
    }

    fn instructions(&self) -> Table {
        let note = "Of the gateway's own code, counted by callgrind, without the kernel. TLS runs there without the newest \
                    instructions of this processor.";
        let head = ["line", "opri", "nginx", "haproxy", "ratio to the best"];
        let mut table = Table::new("Instructions per request", note, head);
        for line in &LINES {
            let of = |name: &str| {
                let found = self.counted.iter().find(|c| c.line.name == line.name && c.gateway == name);
                found.map(|counted| counted.instructions)
            };
            let Some(ours) = of("opri") else { continue };
            let best = ["nginx", "haproxy"].into_iter().filter_map(of).min_by(f64::total_cmp);
            let all = ["opri", "nginx", "haproxy"].map(|name| figure(of(name)));
            table.row(
                std::iter::once(line.title.to_owned())
                    .chain(all)
                    .chain([figure(best.map(|best| ours / best))])
                    .collect(),
            );
        }
        table
    }
}

const HEAD: &str = "# The edge beside its peers\n\nWritten by `cargo bench --bench peers -- --write --instructions`. Every \
gateway has one worker on one core;\nthe load and the origin have the other. Peers have no access log; Prime runs with \
log, metrics and policy as it does by default.\n";
