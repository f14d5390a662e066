//! What a token says about a private key, by name.

use std::collections::BTreeMap;

/// Attribute to value, for example `never_extractable` to true.
pub type Attributes = BTreeMap<String, bool>;

/// What a key must say that was made on its token, never left it and only signs.
const RULES: [(&str, bool); 7] = [
    ("sensitive", true),
    ("extractable", false),
    ("always_sensitive", true),
    ("never_extractable", true),
    ("local", true),
    ("sign", true),
    ("other_use", false),
];

/// The first attribute that is not as it must be; one that is not stated counts as wrong.
pub fn flaw(attributes: &Attributes) -> Option<&'static str> {
    RULES.into_iter().find(|(name, right)| attributes.get(*name) != Some(right)).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attribute_counts_and_so_does_its_absence() {
        let good: Attributes = RULES.into_iter().map(|(name, right)| (name.to_owned(), right)).collect();
        assert_eq!(flaw(&good), None);
        for (name, right) in RULES {
            let mut bad = good.clone();
            bad.insert(name.to_owned(), !right);
            assert_eq!(flaw(&bad), Some(name));
            bad.remove(name);
            assert_eq!(flaw(&bad), Some(name));
        }
    }
}
