//! `sealwright journal`: looks at the journal on the server's own machine, without the server.

use crate::{
    error::{Exit, Problem},
    output::{OutputArgs, fields},
    paging::LimitArgs,
    progress::Meter,
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use store::{
    OpenError, ShownRecord,
    verify::{Damage, Verified},
};

/// What about the journal.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum JournalCommand {
    /// Verify every record of the journal and the chain between them
    #[command(after_help = "Example:
  sealwright journal verify --dir /var/lib/sealwright

Changes nothing, and works while the server runs. Exit code 1 with the file, offset and record of the
first damage. Keep the printed checkpoint elsewhere, and give it with --checkpoint next time: only that
can show that the whole directory was replaced by an earlier copy of itself.")]
    Verify(VerifyArgs),
    /// Show the records of the journal, oldest first
    #[command(after_help = "Examples:
  sealwright journal show --dir /var/lib/sealwright --from 1200 --limit 20
  sealwright journal show --dir /var/lib/sealwright --all --output json

Changes nothing, and works while the server runs. Long values are shortened for people; JSON has
them whole.")]
    Show(ShowArgs),
    /// Drop the index and make it anew from the journal
    #[command(after_help = "Example:
  sealwright journal rebuild --dir /var/lib/sealwright

The server must be stopped. The journal is only read; every record is checked on the way.")]
    Rebuild(RebuildArgs),
}

/// Where the journal is.
#[derive(Clone, Debug, clap::Args)]
pub struct DirArgs {
    /// The server's data directory, or the directory of `sealwright dev`
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

impl DirArgs {
    /// The directory that holds `journal/`.
    fn store(&self) -> Result<PathBuf, Problem> {
        [self.dir.clone(), self.dir.join("data")].into_iter().find(|dir| dir.join("journal").is_dir()).ok_or_else(
            || {
                Problem::new(
                    Exit::NotFound,
                    format!("{} holds no journal", self.dir.display()),
                    "Give the directory that the configuration calls data_dir.",
                )
            },
        )
    }
}

/// Options of `journal verify`.
#[derive(Clone, Debug, clap::Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    dir: DirArgs,
    /// A checkpoint that an earlier run printed: the journal must still contain it
    #[arg(long, value_name = "RECORD:HASH", value_parser = parse_checkpoint)]
    checkpoint: Option<Checkpoint>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Options of `journal show`.
#[derive(Clone, Debug, clap::Args)]
pub struct ShowArgs {
    #[command(flatten)]
    dir: DirArgs,
    /// Begin with this record
    #[arg(long, value_name = "RECORD", default_value_t = 1)]
    from: u64,
    /// Only the records of this tenant
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    #[command(flatten)]
    limit: LimitArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Options of `journal rebuild`.
#[derive(Clone, Debug, clap::Args)]
pub struct RebuildArgs {
    #[command(flatten)]
    dir: DirArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// A record's number and its hash, which stands for everything before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Checkpoint {
    sequence: u64,
    hash: [u8; 32],
}

fn parse_checkpoint(text: &str) -> Result<Checkpoint, String> {
    let wrong = || "a checkpoint is a record's number, a colon and 64 hexadecimal digits".to_owned();
    let (sequence, digits) = text.split_once(':').ok_or_else(wrong)?;
    let mut hash = [0; 32];
    hex::decode_to_slice(digits, &mut hash).map_err(|_| wrong())?;
    Ok(Checkpoint { sequence: sequence.parse().map_err(|_| wrong())?, hash })
}

/// Runs the verb.
///
/// # Errors
/// What [`crate::error::explain`] explains.
pub fn run(command: JournalCommand) -> anyhow::Result<()> {
    match command {
        JournalCommand::Verify(args) => verify(&args),
        JournalCommand::Show(args) => show(&args),
        JournalCommand::Rebuild(args) => rebuild(&args),
    }
}

fn verify(args: &VerifyArgs) -> anyhow::Result<()> {
    let dir = args.dir.store()?;
    let mut meter = Meter::new();
    let found = store::verify::verify(&dir, &mut |progress| {
        let percent = progress.octets.saturating_mul(100).checked_div(progress.total_octets).unwrap_or(100);
        meter.show(|| format!("verified {} records, {percent} %", progress.records));
    });
    meter.clear();
    let found = match (found, args.checkpoint) {
        (Ok(verified), Some(checkpoint)) => holds(&dir, checkpoint)?.map(|()| verified),
        (found, _) => found,
    };
    args.output.result(|| verdict_json(&found), || found.as_ref().map(verdict).unwrap_or_default())?;
    found.map(|_| ()).map_err(|damage| damaged(damage.to_string()).into())
}

/// Whether the journal still has the record that the checkpoint names. The chain is verified already, so a hash says
/// the same of all records before it.
fn holds(dir: &Path, checkpoint: Checkpoint) -> anyhow::Result<Result<(), Damage>> {
    let record = store::read_records(dir, checkpoint.sequence)?.next().transpose()?;
    let what = match record {
        Some(record) if record.sequence == checkpoint.sequence && record.hash == checkpoint.hash => return Ok(Ok(())),
        Some(record) if record.sequence == checkpoint.sequence => "the record is not that of the checkpoint",
        _ => "the journal ends before the checkpoint, or never had it",
    };
    let segment = dir.join("journal");
    Ok(Err(Damage { segment, offset: 0, sequence: checkpoint.sequence, what: what.to_owned() }))
}

fn damaged(what: String) -> Problem {
    Problem::new(
        Exit::Failure,
        format!("the journal is damaged: {what}"),
        "Nothing was changed. Keep a copy of the directory, then restore the journal from the newest backup or replica.",
    )
}

fn verdict(v: &Verified) -> String {
    let unfinished = match v.unfinished_octets {
        0 => String::new(),
        octets => format!("{octets} octets at the end; never acknowledged, a running server or a crash left them"),
    };
    fields(&[
        ("Journal", "intact".to_owned()),
        ("Records", v.records.to_string()),
        ("Files", v.segments.to_string()),
        ("Checkpoint", format!("{}:{}", v.last_sequence, hex::encode(v.last_hash))),
        ("Unfinished", unfinished),
    ])
}

fn verdict_json(found: &Result<Verified, Damage>) -> Value {
    match found {
        Ok(v) => json!({
            "intact": true,
            "records": v.records,
            "segments": v.segments,
            "last_sequence": v.last_sequence,
            "last_hash": hex::encode(v.last_hash),
            "unfinished_octets": v.unfinished_octets,
            "damage": null,
        }),
        Err(d) => json!({
            "intact": false,
            "records": null,
            "segments": null,
            "last_sequence": null,
            "last_hash": null,
            "unfinished_octets": null,
            "damage": { "segment": d.segment.display().to_string(), "offset": d.offset, "sequence": d.sequence, "what": d.what },
        }),
    }
}

/// How many records are written at once.
const PAGE: usize = 256;

fn show(args: &ShowArgs) -> anyhow::Result<()> {
    let dir = args.dir.store()?;
    let mut list = args.output.list("records", &["RECORD", "TIME", "TENANT", "WHAT", "VALUES"]);
    let mut left = args.limit.limit();
    let mut page = Vec::new();
    let mut truncated = false;
    for record in store::read_records(&dir, args.from).map_err(opening)? {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                // What is before the damage is worth seeing.
                list.page(&page, record_json, record_row)?;
                return Err(opening(error).into());
            }
        };
        if args.tenant.as_ref().is_some_and(|tenant| *tenant != record.tenant) {
            continue;
        }
        if left == 0 {
            truncated = true;
            break;
        }
        left -= 1;
        page.push(record);
        if page.len() == PAGE {
            list.page(&page, record_json, record_row)?;
            page.clear();
        }
    }
    list.page(&page, record_json, record_row)?;
    Ok(list.end(truncated)?)
}

fn record_json(r: &ShownRecord) -> Value {
    json!({
        "sequence": r.sequence,
        "offset": r.offset,
        "time": r.time.to_string(),
        "tenant": r.tenant,
        "kind": r.kind,
        "values": r.fields.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect::<Vec<_>>(),
        "hash": hex::encode(r.hash),
    })
}

fn record_row(r: &ShownRecord) -> Vec<String> {
    let values: Vec<String> = r.fields.iter().map(|(name, value)| format!("{name}={}", shortened(value))).collect();
    vec![r.sequence.to_string(), r.time.to_string(), r.tenant.clone(), r.kind.to_owned(), values.join(" ")]
}

/// A SHA-256 in hexadecimal is whole; what is longer is shortened.
fn shortened(value: &str) -> String {
    if value.chars().count() <= 64 {
        return value.to_owned();
    }
    value.chars().take(32).chain("...".chars()).collect()
}

fn rebuild(args: &RebuildArgs) -> anyhow::Result<()> {
    let dir = args.dir.store()?;
    let mut meter = Meter::new();
    let rebuilt = store::rebuild(&dir, &mut |sequence| meter.show(|| format!("replayed {sequence} records")));
    meter.clear();
    let records = rebuilt.map_err(opening)?;
    let human = || format!("The index was made anew from {records} records.\n");
    Ok(args.output.result(|| json!({ "records": records }), human)?)
}

fn opening(error: OpenError) -> Problem {
    let what = error.to_string();
    match error {
        OpenError::Locked(path) => Problem::new(
            Exit::Refused,
            format!("{} is in use by another process", path.display()),
            "Stop the server, then run the command again.",
        ),
        OpenError::Missing(_) => Problem::new(Exit::NotFound, what, "Check --dir."),
        OpenError::Damaged { place, what } => damaged(format!("{what} in {place}")),
        OpenError::Version { .. } => Problem::new(Exit::Failure, what, "Nothing was changed."),
        OpenError::Io { path, source } => Problem::file(&path, &source),
        OpenError::Index(_) => {
            Problem::new(Exit::Failure, what, "The journal is untouched; check the disk, then try again.")
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::output::Format;
    use ca_core::{
        id::{IdempotencyKey, ProfileName, TenantId},
        time::UnixTime,
    };
    use std::{fs, num::NonZeroU64};
    use store::{CreateToken, OpenOptions, Store};

    fn records(dir: &Path, names: std::ops::Range<u8>) -> Store {
        let (store, _) = Store::open(dir, OpenOptions { create: true, ..Default::default() }).unwrap();
        for n in names {
            let token = CreateToken {
                tenant: TenantId::default_tenant(),
                token_id: format!("t{n}"),
                secret_sha256: [n; 32],
                profile: ProfileName::new("tls-client").unwrap(),
                device: None,
                expires_at: UnixTime::from_secs(2_000_000_000),
                by: "op".to_owned(),
                idempotency_key: IdempotencyKey::new(format!("k{n}")).unwrap(),
                request_sha256: [n; 32],
            };
            store.commit(token, UnixTime::from_secs(1_900_000_000)).unwrap();
        }
        store
    }

    fn verify_args(dir: &Path, checkpoint: Option<Checkpoint>) -> VerifyArgs {
        let output = OutputArgs { output: Format::Json };
        VerifyArgs { dir: DirArgs { dir: dir.to_owned() }, checkpoint, output }
    }

    fn exit(result: anyhow::Result<()>) -> Exit {
        crate::error::explain(&result.unwrap_err()).exit
    }

    #[test]
    fn a_flipped_bit_is_located_and_an_intact_journal_is_not_accused() {
        let dir = tempfile::tempdir().unwrap();
        // As `sealwright dev` lays it out.
        let data = dir.path().join("data");
        records(&data, 0..20).close();
        verify(&verify_args(dir.path(), None)).unwrap();
        verify(&verify_args(&data, None)).unwrap();

        let file = fs::read_dir(data.join("journal"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|extension| extension == "swj"))
            .unwrap();
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, &bytes).unwrap();
        let error = verify(&verify_args(&data, None)).unwrap_err();
        let problem = crate::error::explain(&error);
        assert_eq!(problem.exit, Exit::Failure);
        assert!(problem.what.contains(".swj at byte "), "{problem:?}");
    }

    #[test]
    fn a_checkpoint_shows_an_earlier_copy() {
        let dir = tempfile::tempdir().unwrap();
        records(dir.path(), 0..3).close();
        let earlier = store::verify::verify(dir.path(), &mut |_| {}).unwrap();
        records(dir.path(), 3..6).close();
        let now = store::verify::verify(dir.path(), &mut |_| {}).unwrap();
        let point = |v: &Verified| Checkpoint { sequence: v.last_sequence, hash: v.last_hash };
        verify(&verify_args(dir.path(), Some(point(&earlier)))).unwrap();
        verify(&verify_args(dir.path(), Some(point(&now)))).unwrap();
        let later = Checkpoint { sequence: now.last_sequence + 1, ..point(&now) };
        assert_eq!(exit(verify(&verify_args(dir.path(), Some(later)))), Exit::Failure);
        let other = Checkpoint { hash: [0; 32], ..point(&earlier) };
        assert_eq!(exit(verify(&verify_args(dir.path(), Some(other)))), Exit::Failure);
        let printed = format!("{}:{}", now.last_sequence, hex::encode(now.last_hash));
        assert!(verdict(&now).contains(&printed));
        assert_eq!(parse_checkpoint(&printed), Ok(point(&now)));
        assert!(parse_checkpoint("7").is_err() && parse_checkpoint("7:ab").is_err());
    }

    #[test]
    fn rebuilding_needs_a_stopped_server() {
        let dir = tempfile::tempdir().unwrap();
        let store = records(dir.path(), 0..3);
        let args = RebuildArgs { dir: DirArgs { dir: dir.path().to_owned() }, output: OutputArgs::default() };
        assert_eq!(exit(rebuild(&args)), Exit::Refused);
        store.close();
        rebuild(&args).unwrap();
        let nothing = RebuildArgs { dir: DirArgs { dir: dir.path().join("absent") }, ..args };
        assert_eq!(exit(rebuild(&nothing)), Exit::NotFound);
    }

    #[test]
    fn records_have_a_stable_form() {
        let dir = tempfile::tempdir().unwrap();
        records(dir.path(), 0..2).close();
        let all: Vec<ShownRecord> = store::read_records(dir.path(), 1).unwrap().map(Result::unwrap).collect();
        let token = all.iter().find(|r| r.fields.contains(&("token_id", "t1".to_owned()))).unwrap();
        let value = record_json(token);
        assert_eq!(value["tenant"], "default");
        assert_eq!(value["time"], "2030-03-17T17:46:40Z");
        assert!(value["values"].as_array().unwrap().contains(&json!({ "name": "token_id", "value": "t1" })));
        assert!(record_row(token).last().unwrap().contains("token_id=t1"));
        assert_eq!(shortened(&"a".repeat(64)).len(), 64);
        assert_eq!(shortened(&"a".repeat(65)).len(), 35);
        let limit = LimitArgs { limit: NonZeroU64::MIN, all: false };
        let dir = DirArgs { dir: dir.path().to_owned() };
        show(&ShowArgs { dir, from: 1, tenant: None, limit, output: OutputArgs { output: Format::Json } }).unwrap();
    }
}
