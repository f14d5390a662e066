//! `sealwright ceremony split-pin`

use super::secret;
use crate::{
    error::{Exit, Problem},
    output::{OutputArgs, fields},
    service::init::private_dir,
};
use anyhow::Result;
use ceremony::shares::{self, Share};
use serde_json::json;
use std::{
    io::{self, BufRead, IsTerminal, Write},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// Options of `ceremony split-pin`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("to").required(true),
    after_help = "Examples:
  sealwright ceremony split-pin --threshold 2 --shares 3 --out-dir /media/shares
  sealwright ceremony split-pin --threshold 3 --shares 5 --pin-file /run/pin --print | lp

Any --threshold of the shares give the PIN; fewer say nothing about it. Hand each share to one custodian, and run
`sealwright ceremony combine-check` before the PIN itself is destroyed. The token's PIN is not changed."
)]
pub struct SplitArgs {
    /// How many shares are needed: 2 to 16
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u8).range(2..=16))]
    threshold: u8,
    /// How many shares are made: at most 16
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=16))]
    shares: u8,
    /// A file with the PIN that only its owner can read; without it the PIN is asked for
    #[arg(long, value_name = "FILE")]
    pin_file: Option<PathBuf>,
    /// Write each share to a file of its own in this folder
    #[arg(long, value_name = "DIR", group = "to")]
    out_dir: Option<PathBuf>,
    /// Show one share after the other for paper; not to a terminal: one page each
    #[arg(long, group = "to", conflicts_with = "output")]
    print: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the verb.
///
/// # Errors
/// What [`crate::error::explain`] explains.
pub fn run(args: &SplitArgs) -> Result<()> {
    let given = match &args.pin_file {
        Some(path) => secret::from_file(path)?,
        None => asked_twice()?,
    };
    let pin = secret::trimmed(&given);
    let made = shares::split(pin, args.threshold, args.shares, &mut rand::rng()).map_err(refused)?;
    // Nobody may find out later that the shares are no good.
    if *shares::combine(&made).map_err(refused)? != *pin {
        return Err(Problem::new(Exit::Failure, "the shares do not give the PIN again", "Report this.").into());
    }
    match &args.out_dir {
        Some(dir) => to_folder(args, dir, &made),
        None => Ok(to_paper(&made, args.shares)?),
    }
}

/// Why shares were refused.
pub fn refused(error: shares::ShareError) -> Problem {
    Problem::usage(error.to_string(), "")
}

fn asked_twice() -> Result<Zeroizing<String>> {
    let pin = secret::ask("PIN of the PKCS#11 token: ")?;
    if *secret::ask("The same again: ")? != *pin {
        return Err(Problem::usage("the two PINs differ", "Run the command again; nothing was made.").into());
    }
    Ok(pin)
}

fn to_folder(args: &SplitArgs, dir: &Path, made: &[Share]) -> Result<()> {
    private_dir(dir)?;
    let mut files = Vec::new();
    for share in made {
        let path = dir.join(format!("share-{}-of-{}-{}.txt", share.index(), args.shares, share.set()));
        secret::to_file(&path, &Zeroizing::new(format!("{}\n", *share.to_text())))?;
        files.push(path);
    }
    let set = made.first().map(Share::set).unwrap_or_default();
    let as_json = || json!({ "set": set, "threshold": args.threshold, "shares": args.shares, "files": files });
    let human = || {
        let mut lines = vec![("Set", set.clone()), ("Needed", format!("{} of {}", args.threshold, args.shares))];
        lines.extend(files.iter().map(|path| ("Share", path.display().to_string())));
        fields(&lines)
    };
    Ok(args.output.result(as_json, human)?)
}

fn to_paper(made: &[Share], count: u8) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let terminal = out.is_terminal();
    for share in made {
        if terminal {
            eprint!("Share {} of {count}: only its custodian looks at the screen now. Enter shows it.", share.index());
            io::stdin().lock().read_line(&mut String::new())?;
        }
        out.write_all(page(share, count).as_bytes())?;
        if terminal {
            eprint!("Write it down, compare it, then press Enter; the screen is cleared.");
            io::stdin().lock().read_line(&mut String::new())?;
            // The screen and what was scrolled out of it.
            out.write_all(b"\x1b[2J\x1b[3J\x1b[H")?;
        } else {
            // Form feed: each share on a page of its own.
            out.write_all(b"\x0c")?;
        }
        out.flush()?;
    }
    Ok(())
}

fn page(share: &Share, count: u8) -> Zeroizing<String> {
    Zeroizing::new(format!(
        "Sealwright PIN share {} of {count}, set {}, any {} of them are needed.\n\
         Keep it secret. Spaces and line ends do not matter when it is typed.\n\n{}\n",
        share.index(),
        share.set(),
        share.threshold(),
        *share.to_paper()
    ))
}
