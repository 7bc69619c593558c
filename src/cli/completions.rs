//! `opri completions`: for bash, zsh, fish and others.

use clap::CommandFactory;

use super::{Done, Line};

pub fn run(shell: clap_complete::Shell) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Line::command(), "opri", &mut script);
    say_on!("{}", String::from_utf8_lossy(&script));
    Ok(())
}
