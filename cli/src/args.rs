//! The command tree.

use crate::{
    ceremony, device, enroll, hsm, issuer, journal, key, list, principal, profile, revoke, runtime, service, show,
    status, token,
};
use clap::{Parser, Subcommand};

/// Sealwright: a certificate authority for manufactured devices.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "sealwright",
    version,
    arg_required_else_help = true,
    after_help = "Example:
  sealwright dev --dir ca                        in one terminal
  sealwright list certificates --dev ca          in another

Environment, where an option is not given:
  SEALWRIGHT_SERVER  --server      SEALWRIGHT_CERT  --cert
  SEALWRIGHT_TRUST   --trust       SEALWRIGHT_KEY   --key
  NO_COLOR           no colours

Exit codes:
  0  done
  1  failed
  2  the command line or one of its values is wrong
  3  not found
  4  refused: permission, policy, state or trust
  5  unavailable now; try again"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run a throw-away authority on loopback, for development
    Dev(service::dev::DevArgs),
    /// Make the authority: keys in the token, root and issuing CA, the first admin
    Init(service::init::InitArgs),
    /// Run the service
    Serve(service::serve::ServeArgs),
    /// Look for faults, and name the cure of each
    Doctor(service::doctor::DoctorArgs),
    /// Check or print the configuration
    #[command(subcommand)]
    Config(service::config::ConfigCommand),
    /// Revoke a certificate, or all live certificates of a device
    Revoke(Box<revoke::RevokeArgs>),
    /// Tell whether a certificate is good or revoked
    Status(status::StatusArgs),
    /// List certificates or devices
    #[command(subcommand)]
    List(list::ListCommand),
    /// Show one certificate or device
    #[command(subcommand)]
    Show(show::ShowCommand),
    /// Issuing CAs and the roots to trust
    #[command(subcommand)]
    Issuer(issuer::IssuerCommand),
    /// Certificate profiles
    #[command(subcommand)]
    Profile(profile::ProfileCommand),
    /// One-time enrollment tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// People and machines that may use this service
    #[command(subcommand)]
    Principal(principal::PrincipalCommand),
    /// Enroll a device with a certification request that exists already
    Enroll(Box<enroll::EnrollArgs>),
    /// The device's own side: make a key on it, get a certificate, renew in time
    #[command(subcommand)]
    Device(device::DeviceCommand),
    /// Verify, show or index the journal on the server's own machine
    #[command(subcommand)]
    Journal(journal::JournalCommand),
    /// The token: check it, show it, unlock its PIN, accept another in its place
    #[command(subcommand)]
    Hsm(hsm::HsmCommand),
    /// A process beside the service: starts signers, or holds the PKCS#11 module. Started by the service alone
    #[command(
        hide = true,
        after_help = "Example:
  sealwright signer keeper"
    )]
    Signer {
        /// Which of the two
        role: service::signer::Role,
    },
    /// Keys in the token, on the server's own machine: make, look at, prove and retire them
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// What people do together over a key: make a root, split the token's PIN
    #[command(subcommand)]
    Ceremony(ceremony::CeremonyCommand),
}

impl Command {
    /// Runs the verb to its end.
    ///
    /// # Errors
    /// What [`crate::error::explain`] explains.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Dev(args) => {
                service::dev::prepare(&args)?;
                runtime::service(service::dev::run(args))
            }
            Self::Init(args) => runtime::service(service::init::run(args)),
            Self::Serve(args) => runtime::service(service::serve::run(args)),
            Self::Doctor(args) => runtime::service(service::doctor::run(args)),
            Self::Config(command) => service::config::run(command),
            Self::Revoke(args) => runtime::client(revoke::run(*args)),
            Self::Status(args) => runtime::client(status::run(args)),
            Self::List(command) => runtime::client(list::run(command)),
            Self::Show(command) => runtime::client(show::run(command)),
            Self::Issuer(command) => runtime::client(issuer::run(command)),
            Self::Profile(command) => runtime::client(profile::run(command)),
            Self::Token(command) => runtime::client(token::run(command)),
            Self::Principal(command) => runtime::client(principal::run(command)),
            Self::Enroll(args) => runtime::client(enroll::run(*args)),
            Self::Device(command) => runtime::client(device::run(command)),
            Self::Journal(command) => journal::run(command),
            Self::Hsm(command) => hsm::run(command),
            Self::Signer { role } => service::signer::run(role),
            Self::Key(command) => key::run(command),
            Self::Ceremony(command) => ceremony::run(command),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use clap::{CommandFactory, error::ErrorKind};

    fn parse(line: &str) -> Result<Command, ErrorKind> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.command).map_err(|error| error.kind())
    }

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_an_example() {
        fn walk(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let help = command.get_after_help().or(command.get_after_long_help()).map(ToString::to_string);
            assert!(
                command.has_subcommands()
                    || help.is_some_and(|text| text.contains("Example") && text.contains(&path[1..])),
                "{path} has no example of itself"
            );
            command.get_subcommands().for_each(|sub| walk(sub, &path));
        }
        walk(&Cli::command(), "");
    }

    #[test]
    fn the_exit_codes_of_the_help_are_those_of_the_code() {
        use crate::error::Exit;
        let help = Cli::command().render_help().to_string();
        for (exit, text) in [
            (Exit::Failure, "failed"),
            (Exit::Usage, "the command line"),
            (Exit::NotFound, "not found"),
            (Exit::Refused, "refused"),
            (Exit::Unavailable, "unavailable"),
        ] {
            assert!(help.contains(&format!("{}  {text}", exit as u8)), "{text}");
        }
    }

    #[test]
    fn good_lines_are_understood() {
        for line in [
            "sealwright revoke 4f:01 --reason key-compromise --invalidity-date 2026-11-01 --comment x --yes",
            "sealwright revoke --device SN-1 --reason superseded",
            "sealwright revoke 4f --issuer i1 --reason keyCompromise --output json",
            "sealwright status 4F01 --dev target/dev --as auditor",
            "sealwright list certificates --state revoked --limit 5",
            "sealwright list certificates --all --output json --server h:1 --trust r --cert c --key k",
            "sealwright list devices --prefix SN-",
            "sealwright show certificate 4f --pem",
            "sealwright show device SN-1",
            "sealwright issuer list",
            "sealwright issuer trust --fingerprint",
            "sealwright profile show tls-client --toml",
            "sealwright token create --profile p --serial-number SN-1 --ttl 90m",
            "sealwright principal create line-3 --role station --out-dir d",
            "sealwright principal disable line-3 --yes",
            "sealwright principal list",
            "sealwright enroll --csr a.csr --serial-number SN-1 --out a.pem --idempotency-key k",
            "sealwright device renew --dir d",
            "sealwright device status --dir d --output json",
            "sealwright journal verify --dir d",
            "sealwright journal show --dir d --from 7 --all --output json",
            "sealwright journal rebuild --dir d",
            "sealwright key generate --algorithm P-256 --label l --purpose p --tenant default --by me",
            "sealwright key list --config c --output json",
            "sealwright key inspect 000102030405060708090a0b0c0d0e0f",
            "sealwright key attest 000102030405060708090a0b0c0d0e0f --nonce 0011223344556677 --out f",
            "sealwright key attest --verify f --nonce 0011223344556677 --certificate c",
            "sealwright key retire 000102030405060708090a0b0c0d0e0f --why w --destroy --label l --yes",
            "sealwright hsm check --uri pkcs11:token=t --module /m.so --pin-file p --environment A=b --environment C=d",
            "sealwright hsm check --config c --fast --seconds 5 --deadline 30s --output json",
            "sealwright hsm status --config c --output json",
            "sealwright hsm unlock",
            "sealwright hsm accept --why restored --by anna --yes",
            "sealwright ceremony split-pin --threshold 2 --shares 3 --out-dir d --pin-file p",
            "sealwright ceremony split-pin --threshold 2 --shares 3 --print",
            "sealwright ceremony root --script s --issuing-csr a --issuing-csr b --out-dir d --answers x",
            "sealwright ceremony root --example",
            "sealwright ceremony verify t --files d --expect 00",
            "sealwright ceremony combine-check --share-file a --share-file b",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
        }
    }

    #[test]
    fn bad_lines_are_refused() {
        for (line, kind) in [
            ("sealwright revoke --reason superseded", ErrorKind::MissingRequiredArgument),
            ("sealwright revoke 4f", ErrorKind::MissingRequiredArgument),
            ("sealwright revoke 4f --device d --reason superseded", ErrorKind::ArgumentConflict),
            ("sealwright revoke --device d --issuer i --reason superseded", ErrorKind::ArgumentConflict),
            ("sealwright revoke 4f --reason ca-compromise", ErrorKind::InvalidValue),
            ("sealwright revoke xy --reason superseded", ErrorKind::ValueValidation),
            ("sealwright list certificates --limit 0", ErrorKind::ValueValidation),
            ("sealwright list certificates --limit 5 --all", ErrorKind::ArgumentConflict),
            ("sealwright list devices --dev d --server h:1", ErrorKind::ArgumentConflict),
            ("sealwright list devices --as admin", ErrorKind::MissingRequiredArgument),
            ("sealwright show certificate 4f --pem --output json", ErrorKind::ArgumentConflict),
            ("sealwright token create --ttl 31d", ErrorKind::ValueValidation),
            ("sealwright token create --ttl 24", ErrorKind::ValueValidation),
            ("sealwright principal create Line/3 --role station --out-dir d", ErrorKind::ValueValidation),
            ("sealwright principal create x --role device --out-dir d", ErrorKind::InvalidValue),
            ("sealwright enroll --csr a", ErrorKind::MissingRequiredArgument),
            ("sealwright key generate --algorithm P-255 --label l --purpose p", ErrorKind::ValueValidation),
            ("sealwright key inspect 00", ErrorKind::ValueValidation),
            ("sealwright key attest", ErrorKind::MissingRequiredArgument),
            ("sealwright key attest --verify f --nonce 00", ErrorKind::ValueValidation),
            ("sealwright key retire 000102030405060708090a0b0c0d0e0f", ErrorKind::MissingRequiredArgument),
            (
                "sealwright key retire 000102030405060708090a0b0c0d0e0f --why w --label l",
                ErrorKind::MissingRequiredArgument,
            ),
            ("sealwright ceremony root --script s", ErrorKind::MissingRequiredArgument),
            ("sealwright hsm check --uri pkcs11:token=t --module /m.so", ErrorKind::MissingRequiredArgument),
            (
                "sealwright hsm check --uri pkcs11:token=t;pin-value=1 --module m --pin-file p",
                ErrorKind::ValueValidation,
            ),
            ("sealwright hsm check --pin-file p", ErrorKind::MissingRequiredArgument),
            ("sealwright hsm check --seconds 0", ErrorKind::ValueValidation),
            ("sealwright hsm accept", ErrorKind::MissingRequiredArgument),
            ("sealwright ceremony split-pin --threshold 2 --shares 3", ErrorKind::MissingRequiredArgument),
            ("sealwright ceremony split-pin --threshold 1 --shares 3 --print", ErrorKind::ValueValidation),
            ("sealwright ceremony split-pin --pin 1234 --threshold 2 --shares 3 --print", ErrorKind::UnknownArgument),
        ] {
            assert_eq!(parse(line).err(), Some(kind), "{line}");
        }
    }
}
