//! `quipu man`: the manual page, and one for each command.

use std::path::PathBuf;

use clap::CommandFactory;
use clap_mangen::Man;

use crate::Arguments;
use crate::failure::{Failure, Result};
use crate::output::Output;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A directory for the pages of all commands; without it the page of `quipu` is printed:
    /// `quipu man | man -l -`
    to: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<()> {
    let command = Arguments::command();
    if let Some(to) = &args.to {
        let failed = |e| Failure::Other(format!("cannot write pages to {}: {e}", to.display()));
        return clap_mangen::generate_to(command, to).map_err(failed);
    }
    let mut page = Vec::new();
    Man::new(command).render(&mut page).map_err(|e| Failure::Other(e.to_string()))?;
    out.raw(&page)
}
