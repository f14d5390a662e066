use super::*;
use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};
use std::collections::BTreeSet;

fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// The shares whose bit is set.
fn chosen(shares: &[Share], mask: u32) -> Vec<Share> {
    shares.iter().enumerate().filter(|(i, _)| mask & (1 << i) != 0).map(|(_, share)| share.clone()).collect()
}

fn sizes() -> impl Strategy<Value = (u8, u8)> {
    (2..=6u8).prop_flat_map(|count| (2..=count, Just(count)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_m_of_n_combine_and_fewer_do_not(pin in "\\PC{1,60}", (m, n) in sizes(), seed: u64) {
        let shares = split(&pin, m, n, &mut rng(seed)).unwrap();
        prop_assert_eq!(shares.len(), usize::from(n));
        for mask in 0..1u32 << n {
            let some = chosen(&shares, mask);
            let given = some.len() as u8;
            match combine(&some) {
                Ok(combined) => {
                    prop_assert!(given >= m);
                    prop_assert_eq!(&*combined, &pin);
                }
                Err(error) => {
                    prop_assert!(given < m);
                    let needed = if given == 0 { 2 } else { m };
                    prop_assert_eq!(error, ShareError::TooFew { needed, given });
                }
            }
        }
    }

    #[test]
    fn one_share_too_few_gives_nothing_even_to_who_forges_the_threshold(pin in "[0-9]{4,15}", seed: u64, m in 3..=6u8) {
        let mut shares = split(&pin, m, m, &mut rng(seed)).unwrap();
        shares.pop();
        for share in &mut shares {
            share.threshold = m - 1;
        }
        prop_assert_eq!(combine(&shares).unwrap_err(), ShareError::Disagree);
    }

    #[test]
    fn the_text_comes_back_from_file_and_paper(pin in "\\PC{1,60}", (m, n) in sizes(), seed: u64) {
        for share in split(&pin, m, n, &mut rng(seed)).unwrap() {
            prop_assert_eq!(&share.to_text().parse::<Share>().unwrap(), &share);
            prop_assert_eq!(&share.to_text().to_lowercase().parse::<Share>().unwrap(), &share);
            prop_assert_eq!(&share.to_paper().parse::<Share>().unwrap(), &share);
        }
    }

    #[test]
    fn one_wrong_digit_is_found(seed: u64, at: prop::sample::Index, digit in "[0-9a-f]") {
        let share = split("1234", 2, 3, &mut rng(seed)).unwrap().remove(1);
        let text = share.to_text();
        let at = at.index(text.len());
        let mut typed = text.to_string();
        typed.replace_range(at..=at, &digit);
        prop_assume!(typed != *text);
        let error = typed.parse::<Share>().unwrap_err();
        let named = matches!(
            error,
            ShareError::Syntax { .. } | ShareError::Checksum { .. } | ShareError::Version(_)
        );
        prop_assert!(named, "{error:?}");
    }

    #[test]
    fn nothing_that_is_typed_panics(text in "(SWPIN1)?[-0-9A-Fa-f \\PC]{0,200}") {
        let _ = text.parse::<Share>();
    }

    #[test]
    fn an_altered_share_never_gives_a_pin(seed: u64, at: prop::sample::Index, flip in 1..=255u8, extra in 0..=1u8) {
        let mut shares = split("correct horse", 3, 4, &mut rng(seed)).unwrap();
        shares.truncate(3 + usize::from(extra));
        let at = at.index(shares[1].data.len());
        shares[1].data[at] ^= flip;
        prop_assert_eq!(combine(&shares).unwrap_err(), ShareError::Disagree);
    }
}

#[test]
fn shares_of_two_sets_are_not_mixed() {
    let (a, b) = (split("1234", 2, 3, &mut rng(1)).unwrap(), split("1234", 2, 3, &mut rng(2)).unwrap());
    let error = combine(&[a[0].clone(), b[1].clone()]).unwrap_err();
    assert_eq!(error, ShareError::OtherSet { index: 2, set: b[1].set(), wanted: a[0].set() });
    // Whoever alters the name of the set as well is found by the check.
    let forged = Share { set: a[0].set, ..b[1].clone() };
    assert_eq!(combine(&[a[0].clone(), forged]).unwrap_err(), ShareError::Disagree);
    let error = combine(&[a[0].clone(), a[0].clone()]).unwrap_err();
    assert_eq!(error, ShareError::Twice { index: 1 });
}

#[test]
fn what_cannot_be_split_is_named() {
    let refused = |pin: &str, m, n| split(pin, m, n, &mut rng(1)).unwrap_err();
    assert_eq!(refused("1234", 1, 3), ShareError::Threshold { given: 1 });
    assert_eq!(refused("1234", 17, 17), ShareError::Threshold { given: 17 });
    assert_eq!(refused("1234", 3, 2), ShareError::Count { given: 2, threshold: 3 });
    assert_eq!(refused("1234", 3, 17), ShareError::Count { given: 17, threshold: 3 });
    assert_eq!(refused("", 2, 3), ShareError::Pin("is empty"));
    assert_eq!(refused(&"x".repeat(256), 2, 3), ShareError::Pin("is longer than 255 octets"));
    let longest = "x".repeat(255);
    let shares = split(&longest, 16, 16, &mut rng(1)).unwrap();
    assert_eq!(*combine(&shares).unwrap(), longest);
    assert!(shares[0].to_paper().len() < text::TEXT_MOST);
    assert_eq!(shares[15].to_paper().parse::<Share>().unwrap(), shares[15]);
}

#[test]
fn each_fault_of_the_text_is_named() {
    let good = split("1234", 2, 3, &mut rng(7)).unwrap().remove(0).to_text();
    let parts: Vec<&str> = good.split('-').collect();
    let with = |at: usize, text: &str| {
        let mut parts = parts.clone();
        parts[at] = text;
        parts.join("-").parse::<Share>().unwrap_err()
    };
    let syntax = |field, problem| ShareError::Syntax { field, problem };
    assert_eq!(with(0, "SWPIN2"), ShareError::Version("2".to_owned()));
    assert_eq!(with(0, "1234"), syntax("the beginning", "is not SWPIN1"));
    assert_eq!(with(1, "1"), syntax("the threshold", "is no possible number"));
    assert_eq!(with(1, "3"), ShareError::Checksum { index: 1 });
    assert_eq!(with(2, "+2"), syntax("the number", "is no possible number"));
    assert_eq!(with(2, "2"), ShareError::Checksum { index: 2 });
    assert_eq!(with(3, "0o"), syntax("the set", "has not the right number of digits"));
    assert_eq!(
        with(3, &parts[3].replace(&parts[3][..1], "o")),
        syntax("the set", "has something else than 0-9 and a-f")
    );
    assert_eq!(with(4, &parts[4][1..]), syntax("the data", "has not the right number of digits"));
    assert_eq!(with(5, "00000000"), ShareError::Checksum { index: 1 });
    assert_eq!(with(5, "00000000-"), syntax("the end", "has something behind the checksum"));
    assert_eq!(parts[..5].join("-").parse::<Share>().unwrap_err(), syntax("the checksum", "is missing"));
    assert_eq!("x".repeat(5000).parse::<Share>().unwrap_err(), syntax("the text", "is too long"));
}

#[test]
fn nothing_shows_a_secret_and_the_length_of_a_pin_is_hidden() {
    let shares = split("sesame99", 2, 3, &mut rng(3)).unwrap();
    let data = hex::encode(shares[0].data.as_slice());
    assert!(!format!("{:?}", shares[0]).contains(&data));
    let lengths: BTreeSet<usize> =
        (1..=15).map(|n| split(&"7".repeat(n), 2, 2, &mut rng(3)).unwrap()[0].data.len()).collect();
    assert_eq!(lengths.len(), 1);
}

/// The format is a promise: paper outlives programs. With every coefficient 1 the share at x is block + x, which can be
/// computed without the library; the expected text was computed by another program.
#[test]
fn the_format_stays_as_it_is() {
    let set = [1, 2, 3, 4, 5, 6, 7, 8];
    let block = block("1234", &set).unwrap();
    let share = |index: u8| Share {
        threshold: 2,
        index,
        set,
        data: Zeroizing::new(block.iter().map(|octet| octet ^ index).collect()),
    };
    assert_eq!(*combine(&[share(1), share(2)]).unwrap(), "1234");
    assert_eq!(
        *share(1).to_text(),
        "SWPIN1-2-1-0102030405060708-05303332350101010101010101010101a4337b31a0250ae9-69d41529"
    );
}
