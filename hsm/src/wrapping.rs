//! The key under which others may leave a token: it must be one that gives nothing away to who has the user's PIN.

use crate::error::Trouble;
use crate::{HsmError, KeyId};
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

/// What the token says about a wrapping key. An attribute that is absent counts as the bad value.
#[derive(Debug, PartialEq, Eq)]
struct Wrapping {
    is_secret: bool,
    trusted: bool,
    sensitive: bool,
    extractable: bool,
    decrypt: bool,
    unwrap: bool,
}

impl Wrapping {
    fn read(session: &Session, handle: ObjectHandle, is_secret: bool) -> Result<Self, Trouble> {
        let wanted = [
            AttributeType::Trusted,
            AttributeType::Sensitive,
            AttributeType::Extractable,
            AttributeType::Decrypt,
            AttributeType::Unwrap,
        ];
        let mut found =
            Self { is_secret, trusted: false, sensitive: false, extractable: true, decrypt: true, unwrap: true };
        for attribute in session.get_attributes(handle, &wanted)? {
            match attribute {
                Attribute::Trusted(v) => found.trusted = v,
                Attribute::Sensitive(v) => found.sensitive = v,
                Attribute::Extractable(v) => found.extractable = v,
                Attribute::Decrypt(v) => found.decrypt = v,
                Attribute::Unwrap(v) => found.unwrap = v,
                _ => {}
            }
        }
        Ok(found)
    }

    /// Only the security officer can say that a key is trusted. The rest keeps his word worth something: with a secret
    /// key that also decrypts or unwraps, anybody with the user's PIN wraps a key and has it in the clear a call later.
    fn flaw(&self) -> Option<&'static str> {
        let secret = |holds: bool| !self.is_secret || holds;
        let rules = [
            (self.trusted, "its CKA_TRUSTED is false; have the security officer set it, then run this again"),
            (secret(self.sensitive), "its CKA_SENSITIVE is false: it can be read; make another"),
            (secret(!self.extractable), "its CKA_EXTRACTABLE is true: it can leave the token; make another"),
            (secret(!self.decrypt), "its CKA_DECRYPT is true: what it wraps it can decrypt here; make another"),
            (
                secret(!self.unwrap),
                "its CKA_UNWRAP is true: what it wraps it can unwrap here; only the token that \
              restores needs that; make another",
            ),
        ];
        rules.into_iter().find(|(holds, _)| !holds).map(|(_, flaw)| flaw)
    }
}

/// Refuses unless exactly one object has this id and wraps, and that is trusted.
pub(crate) fn trusted(session: &Session, id: &KeyId) -> Result<(), Trouble> {
    let mut found = Vec::new();
    for (class, is_secret) in [(ObjectClass::SECRET_KEY, true), (ObjectClass::PUBLIC_KEY, false)] {
        let wanted = [Attribute::Class(class), Attribute::Id(id.as_bytes().to_vec()), Attribute::Wrap(true)];
        for handle in session.find_objects(&wanted)? {
            found.push(Wrapping::read(session, handle, is_secret)?);
        }
    }
    let flaw = match &found[..] {
        [] => Some("the token has no secret or public key with this CKA_ID whose CKA_WRAP is true; make it first"),
        [one] => one.flaw(),
        _ => Some("several objects with this CKA_ID can wrap; give each an id of its own"),
    };
    match flaw {
        Some(reason) => Err(HsmError::WrappingKey { id: *id, reason: reason.into() }.into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapping_key_that_gives_its_charges_away_is_refused() {
        let good = || Wrapping {
            is_secret: true,
            trusted: true,
            sensitive: true,
            extractable: false,
            decrypt: false,
            unwrap: false,
        };
        assert_eq!(good().flaw(), None);
        for bad in [
            Wrapping { trusted: false, ..good() },
            Wrapping { sensitive: false, ..good() },
            Wrapping { extractable: true, ..good() },
            Wrapping { decrypt: true, ..good() },
            Wrapping { unwrap: true, ..good() },
        ] {
            assert!(bad.flaw().is_some(), "{bad:?}");
            // A public key can do none of this.
            let public = Wrapping { is_secret: false, ..bad };
            assert_eq!(public.flaw().is_some(), !public.trusted);
        }
    }
}
