//! A token's epoch: a number in a data object of its own that each start of the service raises. A token that was put
//! back from a backup has an older one than the service has seen; its keys may sign for certificates that the service
//! knows nothing of, so a person must decide.

use crate::error::Trouble;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

const APPLICATION: &[u8] = b"sealwright";
const LABEL: &[u8] = b"sealwright epoch";

fn find(session: &Session) -> Result<Vec<ObjectHandle>, Trouble> {
    Ok(session.find_objects(&[
        Attribute::Class(ObjectClass::DATA),
        Attribute::Application(APPLICATION.to_vec()),
        Attribute::Label(LABEL.to_vec()),
    ])?)
}

/// The token's epoch; `None` when it has none. A cut while it was raised leaves two: the greater counts.
pub(crate) fn read(session: &Session) -> Result<Option<u64>, Trouble> {
    let mut epoch = None;
    for handle in find(session)? {
        for attribute in session.get_attributes(handle, &[AttributeType::Value])? {
            if let Attribute::Value(octets) = attribute
                && let Ok(octets) = <[u8; 8]>::try_from(octets)
            {
                epoch = epoch.max(Some(u64::from_be_bytes(octets)));
            }
        }
    }
    Ok(epoch)
}

/// Sets it. The new object is there before the old ones go.
pub(crate) fn write(session: &Session, epoch: u64) -> Result<(), Trouble> {
    let old = find(session)?;
    session.create_object(&[
        Attribute::Class(ObjectClass::DATA),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Application(APPLICATION.to_vec()),
        Attribute::Label(LABEL.to_vec()),
        Attribute::Value(epoch.to_be_bytes().to_vec()),
    ])?;
    for handle in old {
        session.destroy_object(handle)?;
    }
    Ok(())
}
