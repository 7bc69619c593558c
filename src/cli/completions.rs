//! `opri completions`: for bash, zsh, fish and others.

use clap::CommandFactory;

use super::{Done, Line};

pub fn run(shell: clap_complete::Shell) -> Done {
    clap_complete::generate(shell, &mut Line::command(), "opri", &mut std::io::stdout());
    Ok(())
}
