//! `quipu completions`: for a shell to complete commands and options.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::Arguments;
use crate::failure::Result;
use crate::output::Output;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The shell; for bash the script belongs into ~/.local/share/bash-completion/completions/quipu
    shell: Shell,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "quipu", &mut script);
    out.raw(&script)
}
