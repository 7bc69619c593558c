//! One rule of a cache as data: requests one after the other, what the app answers to each if it is asked, and who must have
//! answered.
//!
//! In lines of both sides `{now-60}` stands for the date a minute ago, `{850-60}` and `{asc-60}` for the same in the older forms.

use std::time::{Duration, SystemTime};

use super::SHOP;

#[derive(Debug, Clone)]
pub struct Row {
    pub rule: &'static str,
    pub host: &'static str,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone)]
pub struct Step {
    pub method: &'static str,
    /// Behind the row's own path.
    pub path: &'static str,
    /// The request's own lines.
    pub asks: &'static str,
    pub status: u16,
    /// Lines of the app's answer; its body names row and step.
    pub answers: &'static str,
    pub from: From,
    /// In place of the status of what comes, and then without its body.
    pub told: Option<u16>,
    /// Lines that the client must get, and beginnings of lines that it must not get.
    pub gets: Vec<&'static str>,
    pub lacks: Vec<&'static str>,
    /// In place of `path`, what the app must be asked for behind the row's own path.
    pub under: Option<&'static str>,
    /// Lines that the app must see, and beginnings of those that it must not.
    pub shows: Vec<&'static str>,
    pub hides: Vec<&'static str>,
}

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The app, by what it says at this step.
    App,
    /// Nobody is asked; what the app said at this step comes, counted from 0.
    Store(usize),
    /// The app is asked, and what it said at that step comes.
    Renewed(usize),
    /// The gateway, with this status and without asking.
    Edge(u16),
}

impl Row {
    pub fn new(rule: &'static str) -> Self {
        Self { rule, host: SHOP, steps: Vec::new() }
    }

    pub fn at(self, host: &'static str) -> Self {
        Self { host, ..self }
    }

    /// A request with these lines.
    pub fn ask(mut self, method: &'static str, path: &'static str, asks: &'static str) -> Self {
        let (status, answers, from) = (200, "", From::App);
        let [gets, lacks, shows, hides] = [const { Vec::new() }; 4];
        self.steps.push(Step {
            method,
            path,
            asks,
            status,
            answers,
            from,
            told: None,
            under: None,
            gets,
            lacks,
            shows,
            hides,
        });
        self
    }

    pub fn get(self, asks: &'static str) -> Self {
        self.ask("GET", "", asks)
    }

    /// What the app answers to it if it is asked.
    pub fn app(mut self, status: u16, answers: &'static str) -> Self {
        (self.last().status, self.last().answers) = (status, answers);
        self
    }

    pub fn from(mut self, from: From) -> Self {
        self.last().from = from;
        self
    }

    pub fn told(mut self, status: u16) -> Self {
        self.last().told = Some(status);
        self
    }

    pub fn under(mut self, target: &'static str) -> Self {
        self.last().under = Some(target);
        self
    }

    pub fn gets(mut self, line: &'static str) -> Self {
        self.last().gets.push(line);
        self
    }

    pub fn lacks(mut self, line: &'static str) -> Self {
        self.last().lacks.push(line);
        self
    }

    pub fn shows(mut self, line: &'static str) -> Self {
        self.last().shows.push(line);
        self
    }

    pub fn hides(mut self, line: &'static str) -> Self {
        self.last().hides.push(line);
        self
    }

    fn last(&mut self) -> &mut Step {
        self.steps.last_mut().unwrap()
    }
}

/// A row of two equal requests: the first is answered so by the app, and the second as it says.
pub fn twice(rule: &'static str, asks: &'static str, status: u16, answers: &'static str, from: From) -> Row {
    Row::new(rule).get(asks).app(status, answers).get(asks).app(status, answers).from(from)
}

/// Names and values of some lines, with their dates in place.
pub fn fields(lines: &str) -> Vec<(String, String)> {
    let lines = lines.lines().map(dated);
    lines
        .map(|line| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned())).unwrap())
        .collect()
}

/// The line with what stands for a date replaced by it.
fn dated(line: &str) -> String {
    let mut line = line.to_owned();
    for form in ["now", "850", "asc"] {
        while let Some(at) = line.find(&format!("{{{form}")) {
            let end = at + line[at..].find('}').unwrap();
            let seconds: i64 = line[at + 4..end].parse().unwrap_or(0);
            let away = Duration::from_secs(seconds.unsigned_abs());
            let now = SystemTime::now();
            let date = time::OffsetDateTime::from(if seconds < 0 { now - away } else { now + away });
            let format = match form {
                "now" => "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT",
                "850" => "[weekday], [day]-[month repr:short]-[year repr:last_two] [hour]:[minute]:[second] GMT",
                _ => "[weekday repr:short] [month repr:short] [day padding:space] [hour]:[minute]:[second] [year]",
            };
            let format = time::format_description::parse_borrowed::<2>(format).unwrap();
            line.replace_range(at..=end, &date.format(&format).unwrap());
        }
    }
    line
}
