//! `sealwright ceremony combine-check`

use super::{secret, split::refused};
use crate::{
    error::Problem,
    output::{OutputArgs, fields},
};
use anyhow::Result;
use ceremony::shares::{self, SHARES_MOST, Share};
use serde_json::json;
use std::path::PathBuf;

/// A custodian who mistypes a share this often has another paper in the hand.
const ATTEMPTS: u8 = 5;

/// Options of `ceremony combine-check`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  sealwright ceremony combine-check
  sealwright ceremony combine-check --share-file share-1.txt --share-file share-3.txt

Without files each custodian types a share, unseen, in one line. More shares than are needed are checked as well: all
of them must agree. The PIN is neither shown nor tried on the token.")]
pub struct CombineArgs {
    /// A file with one share that only its owner can read; give it several times
    #[arg(long = "share-file", value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the verb.
///
/// # Errors
/// What [`crate::error::explain`] explains.
pub fn run(args: &CombineArgs) -> Result<()> {
    let given = if args.files.is_empty() { typed()? } else { read(&args.files)? };
    shares::combine(&given).map_err(refused)?;
    let (set, needed) = given.first().map(|share| (share.set(), share.threshold())).unwrap_or_default();
    let indices: Vec<u8> = given.iter().map(Share::index).collect();
    let as_json = || json!({ "recombines": true, "set": set, "threshold": needed, "shares": indices });
    let human = || {
        let list = indices.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
        fields(&[("Result", "the shares give the PIN".to_owned()), ("Set", set.clone()), ("Shares", list)])
    };
    Ok(args.output.result(as_json, human)?)
}

fn read(files: &[PathBuf]) -> Result<Vec<Share>> {
    let most = usize::from(SHARES_MOST);
    if files.len() > most {
        return Err(Problem::usage(format!("at most {most} shares belong together"), "Give those of one set.").into());
    }
    let share = |path: &PathBuf| {
        let text = secret::from_file(path)?;
        Ok(text.parse::<Share>().map_err(|e| Problem::usage(format!("{}: {e}", path.display()), ""))?)
    };
    files.iter().map(share).collect()
}

/// As many as the first one says are needed.
fn typed() -> Result<Vec<Share>> {
    let mut given: Vec<Share> = Vec::new();
    let mut needed = 1;
    while given.len() < needed {
        let share = typed_share(given.len() + 1)?;
        needed = usize::from(share.threshold());
        given.push(share);
        // What does not belong together is said at once, not after the last custodian.
        if let Err(error) = shares::combine(&given)
            && !matches!(error, shares::ShareError::TooFew { .. })
        {
            return Err(refused(error).into());
        }
    }
    Ok(given)
}

fn typed_share(which: usize) -> Result<Share> {
    let mut attempt = 1;
    loop {
        let text = secret::ask(&format!("Share of custodian {which}: "))?;
        match text.parse::<Share>() {
            Ok(share) => return Ok(share),
            Err(error) if attempt < ATTEMPTS => eprintln!("{error}"),
            Err(error) => return Err(refused(error).into()),
        }
        attempt += 1;
    }
}
