//! Octets in JSON: hexadecimal. For `#[serde(with = "...")]`.

use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// Writes them.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(octets: &impl AsRef<[u8]>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&hex::encode(octets))
}

/// Reads them.
///
/// # Errors
/// Not hexadecimal, or not as many as the field has.
pub fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<Vec<u8>>>(from: D) -> Result<T, D::Error> {
    let octets = hex::decode(String::deserialize(from)?).map_err(D::Error::custom)?;
    let count = octets.len();
    T::try_from(octets).map_err(|_| D::Error::custom(format_args!("{count} octets are not the right number")))
}
